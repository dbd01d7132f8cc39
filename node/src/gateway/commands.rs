//! Commands that change the PBX: written down before they are carried out, and never carried out twice
//! (ARCHITECTURE.md §4).

use tandem_cluster::Authority;
use tandem_cluster::{
    Applied, CallRecord, CallState, Command, IntentOperation, IntentRecord, Refusal, SessionKey,
};
use tandem_planted::{Bug, planted};

use crate::csta::{ConnectionIdentifier, CstaErrorCode, Request, Response, SnapshotConnection};
use crate::cti::CtiFailure;

use super::links::CtiPurpose;
use super::proposals::{Outcome, Waiter};
use super::session::{Link, Progress, QueuedRequest, Session};
use super::snapshot::call_state;
use super::translation::{dialled_number, directory_number, is_same_line};
use super::{Gateway, Now, Report, View};

impl Gateway {
    /// What changes the PBX is written down before it is done, so that nobody does it twice.
    pub(super) fn begin_command(
        &mut self,
        key: &SessionKey,
        queued: &QueuedRequest,
        request: Request,
        operation: IntentOperation,
        now: Now,
    ) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        // A place at the CTI managers comes first: without one, nothing needs to be written.
        match &session.link {
            Link::Down => {
                return self.answer_error(key, &request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
            }
            Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
                session.progress = Progress::WaitingForLink;
                return;
            }
            Link::Up { .. } => {}
        }
        let epoch = session.epoch();
        // Without quorum the owner goes on, but what a lost node did is not to be read then.
        if self.authority == Authority::NoLeader && !queued.resent {
            return self.ask_cti(key, request, now);
        }
        let command = Command::Intent {
            key: key.clone(),
            epoch,
            request: queued.key(),
            operation,
            decided_at_ms: now.cluster_ms,
        };
        let deadline = now.instant + self.config.commit_timeout;
        let number = self.proposals.request_number();
        if !self
            .proposals
            .push(Waiter::Request(key.clone(), number), command, deadline)
        {
            return self.answer_error(key, &request, CstaErrorCode::PERFORMANCE_LIMIT_EXCEEDED, now);
        }
        if planted(Bug::CommandNotHeldForIntent) {
            return self.ask_cti(key, request, now);
        }
        if let Some(session) = self.session_mut(key) {
            session.progress = Progress::WaitingForIntent { number, request };
        }
    }

    pub(super) fn intent_committed(
        &mut self,
        key: &SessionKey,
        request: Request,
        outcome: Outcome,
        view: View<'_>,
        now: Now,
    ) {
        let resent = self.first_is_resent(key);
        match outcome {
            Outcome::Applied(Applied::Done) => self.ask_cti(key, request, now),
            Outcome::Applied(Applied::IntentKnown(intent)) => self.intent_known(key, request, &intent, now),
            Outcome::Applied(Applied::Refused(Refusal::LimitReached)) => {
                self.answer_error(key, &request, CstaErrorCode::RESOURCE_LIMIT_EXCEEDED, now);
            }
            Outcome::TimedOut if self.authority == Authority::NoLeader && !resent => {
                self.ask_cti(key, request, now)
            }
            Outcome::TimedOut | Outcome::Applied(_) => {
                self.answer_error(key, &request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
                self.look_up_session(key, view, now);
            }
        }
    }

    /// The request was begun before, perhaps by a node that is gone (ARCHITECTURE.md §4).
    fn intent_known(&mut self, key: &SessionKey, request: Request, intent: &IntentRecord, now: Now) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        // A Via without branch comes again with the same CSeq number: another request, unless the front end says so.
        let same = session
            .requests
            .front()
            .is_some_and(|queued| queued.resent || queued.raw.via_branch().is_some());
        if !same {
            return self.ask_cti(key, request, now);
        }
        self.report(Report::IntentRepeated {
            service: request.name(),
            known_result: intent.result.is_some(),
        });
        if let Some(body) = &intent.result {
            return self.answer_body(key, &request, body);
        }
        let Some(Link::Up { connection }) = self.sessions.get(key).map(|session| session.link.clone()) else {
            return self.answer_error(key, &request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
        };
        let device = self.device_of(key);
        let token = self.ask(
            key,
            connection,
            CtiPurpose::Service,
            Request::SnapshotDevice { device },
        );
        if let Some(session) = self.session_mut(key) {
            session.progress = Progress::WaitingForEvidence { token, request };
        }
    }

    pub(super) fn answer_made_call(
        &mut self,
        key: &SessionKey,
        request: &Request,
        pbx_call_id: &str,
        now: Now,
    ) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let call_id = session.client_call_id(pbx_call_id);
        let called = if let Request::MakeCall {
            called_directory_number,
            ..
        } = request
        {
            dialled_number(called_directory_number)
        } else {
            None
        };
        let record = CallRecord {
            pbx_call_id: pbx_call_id.to_owned(),
            state: CallState::Initiated,
            calling: directory_number(&session.record.device).to_owned(),
            called: called.unwrap_or_default(),
        };
        let line = session.record.line.clone();
        let over_another_connection = session.requests.front().is_some_and(|queued| queued.resent);
        if self
            .sessions
            .get(key)
            .is_some_and(|session| session.record.monitor.active)
        {
            self.note_call(key, &call_id, Some(record), now);
        }
        if let Some(session) = self.session_mut(key) {
            session.call_expected_until = None;
        }
        // Byte for byte the line URI: a client compares it and else ignores every event of the call.
        let calling_device = ConnectionIdentifier::new(call_id, line);
        self.answer(key, request, &Response::MakeCall { calling_device }, now);
        if over_another_connection && let Some(session) = self.session_mut(key) {
            session.events_not_before = Some(now.instant + ANSWER_HEAD_START);
        }
    }

    /// A command that was begun and never answered is not executed again: the snapshot tells what came of it.
    pub(super) fn evidence_arrived(
        &mut self,
        key: &SessionKey,
        request: &Request,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        let Ok(Response::SnapshotDevice { connections }) = result else {
            return self.answer_error(key, request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
        };
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let state_of = |call_id: &str| {
            let pbx_call_id = session.pbx_call_id(call_id);
            let found = connections
                .iter()
                .find(|call| call.connection.call_id == pbx_call_id);
            found.and_then(|call| call_state(&call.states))
        };
        match request {
            Request::MakeCall { .. } => match unknown_outgoing_call(session, &connections) {
                Some(call_id) => self.answer_made_call(key, request, &call_id, now),
                None => self.answer_error(key, request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now),
            },
            Request::AnswerCall { call_to_be_answered } => match state_of(&call_to_be_answered.call_id) {
                Some(CallState::Connected | CallState::Hold) => {
                    self.answer(key, request, &Response::AnswerCall, now)
                }
                Some(_) | None => {
                    self.answer_error(key, request, CstaErrorCode::INVALID_CONNECTION_STATE, now)
                }
            },
            Request::ClearConnection {
                connection_to_be_cleared,
            } => match state_of(&connection_to_be_cleared.call_id) {
                None => self.answer(key, request, &Response::ClearConnection, now),
                Some(_) => self.answer_error(key, request, CstaErrorCode::INVALID_CONNECTION_STATE, now),
            },
            Request::RequestSystemStatus { .. }
            | Request::GetCstaFeatures { .. }
            | Request::MonitorStart { .. }
            | Request::MonitorStop { .. }
            | Request::SnapshotDevice { .. }
            | Request::SnapshotCall { .. }
            | Request::SystemStatus { .. }
            | Request::Unsupported { .. } => self.ask_cti(key, request.clone(), now),
        }
    }

    pub(super) fn note_result(&mut self, key: &SessionKey, request: &Request, body: &str, now: Now) {
        if !changes_pbx(request) || self.authority == Authority::NoLeader {
            return;
        }
        let Some(queued) = self
            .sessions
            .get(key)
            .and_then(|session| session.requests.front())
        else {
            return;
        };
        let command = Command::IntentResult {
            key: key.clone(),
            request: queued.key(),
            body: body.to_owned(),
        };
        self.push_unwaited(command, now);
    }

    fn first_is_resent(&self, key: &SessionKey) -> bool {
        let first = self
            .sessions
            .get(key)
            .and_then(|session| session.requests.front());
        first.is_some_and(|queued| queued.resent)
    }

    fn device_of(&self, key: &SessionKey) -> String {
        self.sessions
            .get(key)
            .map_or_else(String::new, |session| session.record.device.clone())
    }
}

/// Whether the request may be carried out at all, and what is written of it.
pub(super) fn check_command(session: &Session, request: &Request) -> Result<IntentOperation, CstaErrorCode> {
    let line = &session.record.line;
    let own = |connection: &ConnectionIdentifier| {
        let device = connection.device_id.as_deref();
        if device.is_none_or(|device| is_same_line(device, line)) {
            Ok(connection.call_id.clone())
        } else {
            Err(CstaErrorCode::PRIVILEGE_VIOLATION)
        }
    };
    match request {
        Request::MakeCall { calling_device, .. } if !is_same_line(calling_device, line) => {
            Err(CstaErrorCode::INVALID_CALLING_DEVICE)
        }
        Request::MakeCall {
            called_directory_number,
            ..
        } => dialled_number(called_directory_number)
            .map(|called| IntentOperation::MakeCall { called })
            .ok_or(CstaErrorCode::INVALID_CALLED_DEVICE),
        Request::AnswerCall { call_to_be_answered } => {
            own(call_to_be_answered).map(|call_id| IntentOperation::AnswerCall { call_id })
        }
        Request::ClearConnection {
            connection_to_be_cleared,
        } => own(connection_to_be_cleared).map(|call_id| IntentOperation::ClearConnection { call_id }),
        Request::RequestSystemStatus { .. }
        | Request::GetCstaFeatures { .. }
        | Request::MonitorStart { .. }
        | Request::MonitorStop { .. }
        | Request::SnapshotDevice { .. }
        | Request::SnapshotCall { .. }
        | Request::SystemStatus { .. }
        | Request::Unsupported { .. } => Err(CstaErrorCode::SERVICE_NOT_SUPPORTED),
    }
}

/// A call of the device's own making that the client has not heard of: what its repeated MakeCall must have made.
fn unknown_outgoing_call(session: &Session, connections: &[SnapshotConnection]) -> Option<String> {
    connections
        .iter()
        .filter(|call| {
            matches!(
                call_state(&call.states),
                Some(
                    CallState::Initiated
                        | CallState::Originated
                        | CallState::Delivered
                        | CallState::Connected
                        | CallState::Failed
                )
            )
        })
        .map(|call| call.connection.call_id.clone())
        .find(|call_id| {
            let told = session.record.calls.values();
            let incoming = session.calls.values().any(|call| {
                call.pbx_call_id == *call_id && call.called == directory_number(&session.record.device)
            });
            !incoming && told.into_iter().all(|call| call.pbx_call_id != *call_id)
        })
}

pub(super) fn changes_pbx(request: &Request) -> bool {
    match request {
        Request::MakeCall { .. } | Request::AnswerCall { .. } | Request::ClearConnection { .. } => true,
        Request::RequestSystemStatus { .. }
        | Request::GetCstaFeatures { .. }
        | Request::MonitorStart { .. }
        | Request::MonitorStop { .. }
        | Request::SnapshotDevice { .. }
        | Request::SnapshotCall { .. }
        | Request::SystemStatus { .. }
        | Request::Unsupported { .. } => false,
    }
}

/// How much earlier an answer on a connection of re-sent requests leaves than an event on another one.
const ANSWER_HEAD_START: std::time::Duration = std::time::Duration::from_millis(50);
