//! Commands that change the PBX: written down before they are carried out, and never carried out twice
//! (ARCHITECTURE.md §4).

use tandem_cluster::Authority;
use tandem_cluster::{
    Applied, CallRecord, CallState, Command, IntentOperation, IntentRecord, Refusal, SessionKey,
};
use tandem_planted::{Bug, planted};

use crate::csta::service::{Evidence, Intent, ParameterKind, Repetition};
use crate::csta::{
    Argument, CallRequest, ConnectionIdentifier, CstaErrorCode, Request, Response, Service,
    SnapshotConnection, SnapshotRequest,
};
use crate::cti::CtiFailure;

use super::monitoring::CtiPurpose;
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
        request: CallRequest,
        intent: Intent,
        now: Now,
    ) {
        let service = Some(request.service());
        let session = self.known_mut(key);
        // A place at the CTI managers comes first: without one, nothing needs to be written.
        match &session.link {
            Link::Down => {
                return self.answer_error(key, service, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
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
            return self.ask_cti(key, Request::Call(request), now);
        }
        let command = Command::Intent {
            key: key.clone(),
            epoch,
            request: queued.key(),
            operation: operation(intent, &request),
            decided_at_ms: now.cluster_ms,
        };
        let deadline = now.instant + self.config.commit_timeout;
        let number = self.proposals.request_number();
        if !self
            .proposals
            .push(Waiter::Request(key.clone(), number), command, deadline)
        {
            return self.answer_error(key, service, CstaErrorCode::PERFORMANCE_LIMIT_EXCEEDED, now);
        }
        if planted(Bug::CommandNotHeldForIntent) {
            return self.ask_cti(key, Request::Call(request), now);
        }
        self.known_mut(key).progress = Progress::WaitingForIntent { number, request };
    }

    pub(super) fn intent_committed(
        &mut self,
        key: &SessionKey,
        request: CallRequest,
        outcome: Outcome,
        view: View<'_>,
        now: Now,
    ) {
        let resent = self.first_is_resent(key);
        let service = Some(request.service());
        match outcome {
            Outcome::Applied(Applied::Done) => self.ask_cti(key, Request::Call(request), now),
            Outcome::Applied(Applied::IntentKnown(intent)) => self.intent_known(key, request, &intent, now),
            Outcome::Applied(Applied::Refused(Refusal::LimitReached)) => {
                self.answer_error(key, service, CstaErrorCode::RESOURCE_LIMIT_EXCEEDED, now);
            }
            Outcome::TimedOut if self.authority == Authority::NoLeader && !resent => {
                self.ask_cti(key, Request::Call(request), now)
            }
            Outcome::TimedOut | Outcome::Applied(_) => {
                self.answer_error(key, service, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
                self.look_up_session(key, view, now);
            }
        }
    }

    /// The request was begun before, perhaps by a node that is gone (ARCHITECTURE.md §4).
    fn intent_known(&mut self, key: &SessionKey, request: CallRequest, intent: &IntentRecord, now: Now) {
        let service = request.service();
        let session = self.sessions.known(key);
        // A Via without branch comes again with the same CSeq number: another request, unless the front end says so.
        let same = session
            .requests
            .front()
            .is_some_and(|queued| queued.resent || queued.raw.via_branch().is_some());
        let evidence = match service.row().repetition {
            Repetition::Forbidden { evidence, .. } if same => evidence,
            Repetition::Forbidden { .. } | Repetition::Allowed => {
                return self.ask_cti(key, Request::Call(request), now);
            }
        };
        self.report(Report::IntentRepeated {
            service: service.name(),
            known_result: intent.result.is_some(),
        });
        if let Some(body) = &intent.result {
            return self.answer_body(key, Some(service), body);
        }
        let Some(Link::Up { connection }) = self.sessions.get(key).map(|session| session.link.clone()) else {
            return self.answer_error(key, Some(service), CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
        };
        let device = self.device_of(key);
        let token = self.ask(
            key,
            connection,
            CtiPurpose::Service,
            Request::Snapshot(SnapshotRequest::Device { device }),
        );
        self.known_mut(key).progress = Progress::WaitingForEvidence {
            token,
            request,
            evidence,
        };
    }

    /// A call was made that the client is to know of: by its number, and by the id that the client has for it.
    pub(super) fn answer_made_call(
        &mut self,
        key: &SessionKey,
        request: &CallRequest,
        pbx_call_id: &str,
        now: Now,
    ) {
        let session = self.known_mut(key);
        let call_id = session.client_call_id(pbx_call_id);
        let record = CallRecord {
            pbx_call_id: pbx_call_id.to_owned(),
            state: CallState::Initiated,
            calling: directory_number(&session.record.device).to_owned(),
            called: request.number().and_then(dialled_number).unwrap_or_default(),
        };
        let line = session.record.line.clone();
        let over_another_connection = session.requests.front().is_some_and(|queued| queued.resent);
        if self.sessions.known(key).record.monitor.active {
            self.note_call(key, &call_id, Some(record), now);
        }
        let session = self.known_mut(key);
        session.call_expected_until = None;
        // Byte for byte the line URI: a client compares it and else ignores every event of the call.
        let call = ConnectionIdentifier::new(call_id, line);
        let service = request.service();
        self.answer(key, &Response::NewCall { service, call }, now);
        if over_another_connection && let Some(session) = self.session_mut(key) {
            session.events_not_before = Some(now.instant + ANSWER_HEAD_START);
        }
    }

    /// A command that was begun and never answered is not executed again: the snapshot tells what came of it.
    pub(super) fn evidence_arrived(
        &mut self,
        key: &SessionKey,
        request: &CallRequest,
        evidence: Evidence,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        let service = request.service();
        let Ok(Response::SnapshotDevice { connections }) = result else {
            return self.answer_error(key, Some(service), CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
        };
        let session = self.sessions.known(key);
        let state = request
            .call()
            .and_then(|call| state_of(session, &call.call_id, &connections));
        let was_carried_out = match evidence {
            Evidence::NewCall => {
                return match unknown_outgoing_call(session, &connections) {
                    Some(call_id) => self.answer_made_call(key, request, &call_id, now),
                    None => {
                        self.answer_error(key, Some(service), CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now)
                    }
                };
            }
            Evidence::CallAnswered => matches!(state, Some(CallState::Connected | CallState::Hold)),
            Evidence::CallGone => state.is_none(),
        };
        if was_carried_out {
            self.answer(key, &Response::Done(service), now);
        } else {
            self.answer_error(key, Some(service), CstaErrorCode::INVALID_CONNECTION_STATE, now);
        }
    }

    pub(super) fn note_result(&mut self, key: &SessionKey, service: Option<Service>, body: &str, now: Now) {
        if !service.is_some_and(Service::changes_pbx) || self.authority == Authority::NoLeader {
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

/// Whether the request may be carried out at all: a client commands its own line, and no other.
pub(super) fn check_arguments(line: &str, request: &CallRequest) -> Result<(), CstaErrorCode> {
    for (parameter, argument) in request.arguments() {
        match (&parameter.kind, argument) {
            (ParameterKind::OwnDevice(error), Argument::Device(device)) if !is_same_line(device, line) => {
                return Err(error.clone());
            }
            (ParameterKind::Number(error), Argument::Number(number)) if dialled_number(number).is_none() => {
                return Err(error.clone());
            }
            (_, Argument::Call(call)) if !is_at_line(call, line) => {
                return Err(CstaErrorCode::PRIVILEGE_VIOLATION);
            }
            _ => {}
        }
    }
    Ok(())
}

/// A client may name the call alone.
fn is_at_line(call: &ConnectionIdentifier, line: &str) -> bool {
    let device = call.device_id.as_deref();
    device.is_none_or(|device| is_same_line(device, line))
}

/// What is written of the request before it is carried out.
fn operation(intent: Intent, request: &CallRequest) -> IntentOperation {
    let call_id = || {
        request
            .call()
            .map_or_else(String::new, |call| call.call_id.clone())
    };
    match intent {
        Intent::MakeCall => IntentOperation::MakeCall {
            called: request.number().and_then(dialled_number).unwrap_or_default(),
        },
        Intent::AnswerCall => IntentOperation::AnswerCall { call_id: call_id() },
        Intent::ClearConnection => IntentOperation::ClearConnection { call_id: call_id() },
    }
}

/// How the client's call stands in a snapshot; `None`: the device takes no part in it.
fn state_of(session: &Session, call_id: &str, connections: &[SnapshotConnection]) -> Option<CallState> {
    let pbx_call_id = session.pbx_call_id(call_id);
    let found = connections
        .iter()
        .find(|call| call.connection.call_id == pbx_call_id);
    found.and_then(|call| call_state(&call.states))
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

/// How much earlier an answer on a connection of re-sent requests leaves than an event on another one.
const ANSWER_HEAD_START: std::time::Duration = std::time::Duration::from_millis(50);
