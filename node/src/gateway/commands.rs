//! Commands that change the PBX: written down before they are carried out, and never carried out twice
//! (ARCHITECTURE.md §4).

use tandem_cluster::Authority;
use tandem_cluster::{Applied, CallRecord, CallState, Command, IntentOperation, IntentRecord, Refusal};
use tandem_planted::{Bug, planted};

use crate::csta::service::{Evidence, Intent, ParameterKind, Repetition};
use crate::csta::{
    Argument, CallRequest, ConnectionIdentifier, CstaErrorCode, Request, Response, Service,
    SnapshotConnection, SnapshotRequest,
};
use crate::cti::CtiFailure;

use super::monitoring::CtiPurpose;
use super::one_session::OneSession;
use super::proposals::{Outcome, Waiter};
use super::session::{Link, Progress, QueuedRequest, Session};
use super::snapshot::call_state;
use super::translation::{dialled_number, directory_number, is_same_line};
use super::{CLOSING_COMMIT_TIMEOUT, Report};

impl OneSession<'_> {
    /// What changes the PBX is written down before it is done, so that nobody does it twice.
    pub(super) fn begin_command(&mut self, queued: &QueuedRequest, request: CallRequest, intent: Intent) {
        let service = Some(request.service());
        // A place at the CTI managers comes first: without one, nothing needs to be written.
        match &self.session.link {
            Link::Down => return self.answer_error(service, CstaErrorCode::RESOURCE_OUT_OF_SERVICE),
            Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
                self.session.progress = Progress::WaitingForLink;
                return;
            }
            Link::Up { .. } => {}
        }
        // Without quorum the owner goes on, but what a lost node did is not to be read then.
        if self.authority == Authority::NoLeader && !queued.resent {
            return self.ask_cti(Request::Call(request));
        }
        let key = self.session.key().clone();
        let command = Command::Intent {
            key: key.clone(),
            epoch: self.session.epoch(),
            request: queued.key(),
            operation: operation(intent, &request),
            decided_at_ms: self.now.cluster_ms,
        };
        let number = self.proposals.request_number();
        if !self.propose(Waiter::Request(key, number), command) {
            return self.answer_error(service, CstaErrorCode::PERFORMANCE_LIMIT_EXCEEDED);
        }
        if planted(Bug::CommandNotHeldForIntent) {
            return self.ask_cti(Request::Call(request));
        }
        self.session.progress = Progress::WaitingForIntent { number, request };
    }

    /// Returns whether it has to be looked up whose the session is.
    pub(super) fn intent_committed(&mut self, request: CallRequest, outcome: Outcome) -> bool {
        let service = Some(request.service());
        match outcome {
            Outcome::Applied(Applied::Done) => self.ask_cti(Request::Call(request)),
            Outcome::Applied(Applied::IntentKnown(intent)) => self.intent_known(request, &intent),
            Outcome::Applied(Applied::Refused(Refusal::LimitReached)) => {
                self.answer_error(service, CstaErrorCode::RESOURCE_LIMIT_EXCEEDED);
            }
            Outcome::TimedOut if self.authority == Authority::NoLeader && !self.session.first().resent => {
                self.ask_cti(Request::Call(request));
            }
            Outcome::TimedOut | Outcome::Applied(_) => {
                self.answer_error(service, CstaErrorCode::RESOURCE_OUT_OF_SERVICE);
                return true;
            }
        }
        false
    }

    /// The request was begun before, perhaps by a node that is gone (ARCHITECTURE.md §4).
    fn intent_known(&mut self, request: CallRequest, intent: &IntentRecord) {
        let service = request.service();
        // A Via without branch comes again with the same CSeq number: another request, unless the front end says so.
        let first = self.session.first();
        let same = first.resent || first.raw.via_branch().is_some();
        let evidence = match service.row().repetition {
            Repetition::Forbidden { evidence, .. } if same => evidence,
            Repetition::Forbidden { .. } | Repetition::Allowed => {
                return self.ask_cti(Request::Call(request));
            }
        };
        self.report(Report::IntentRepeated {
            service: service.name(),
            known_result: intent.result.is_some(),
        });
        if let Some(body) = &intent.result {
            return self.answer_body(Some(service), body);
        }
        let Link::Up { connection } = self.session.link else {
            return self.answer_error(Some(service), CstaErrorCode::RESOURCE_OUT_OF_SERVICE);
        };
        let device = self.session.record.device.clone();
        let snapshot = Request::Snapshot(SnapshotRequest::Device { device });
        let token = self.ask(connection, CtiPurpose::Service, snapshot);
        self.session.progress = Progress::WaitingForEvidence {
            token,
            request,
            evidence,
        };
    }

    /// A call was made that the client is to know of: by its number, and by the id that the client has for it.
    pub(super) fn answer_made_call(&mut self, request: &CallRequest, pbx_call_id: &str) {
        let session = &*self.session;
        let call_id = session.client_call_id(pbx_call_id);
        // Byte for byte the line URI: a client compares it and else ignores every event of the call.
        let call = ConnectionIdentifier::new(call_id.clone(), session.record.line.clone());
        let over_another_connection = session.first().resent;
        if session.record.monitor.active {
            let record = CallRecord {
                pbx_call_id: pbx_call_id.to_owned(),
                state: CallState::Initiated,
                calling: directory_number(&session.record.device).to_owned(),
                called: request.number().and_then(dialled_number).unwrap_or_default(),
            };
            self.note_call(&call_id, Some(record));
        }
        self.session.call_expected_until = None;
        let service = request.service();
        self.answer(&Response::NewCall { service, call });
        if over_another_connection {
            self.session.events_not_before = Some(self.now.instant + ANSWER_HEAD_START);
        }
    }

    /// A command that was begun and never answered is not executed again: the snapshot tells what came of it.
    pub(super) fn evidence_arrived(
        &mut self,
        request: &CallRequest,
        evidence: Evidence,
        result: Result<Response, CtiFailure>,
    ) {
        let service = request.service();
        let Ok(Response::SnapshotDevice { connections }) = result else {
            return self.answer_error(Some(service), CstaErrorCode::RESOURCE_OUT_OF_SERVICE);
        };
        let state = request
            .call()
            .and_then(|call| state_of(self.session, &call.call_id, &connections));
        let was_carried_out = match evidence {
            Evidence::NewCall => {
                return match unknown_outgoing_call(self.session, &connections) {
                    Some(call_id) => self.answer_made_call(request, &call_id),
                    None => self.answer_error(Some(service), CstaErrorCode::RESOURCE_OUT_OF_SERVICE),
                };
            }
            Evidence::CallAnswered => matches!(state, Some(CallState::Connected | CallState::Hold)),
            Evidence::CallGone => state.is_none(),
        };
        if was_carried_out {
            self.answer(&Response::Done(service));
        } else {
            self.answer_error(Some(service), CstaErrorCode::INVALID_CONNECTION_STATE);
        }
    }

    /// Writes down what came of a command that changes the PBX. Nobody waits for it, so that it is left out where there
    /// is no room.
    pub(super) fn note_result(&mut self, service: Option<Service>, body: &str) {
        if !service.is_some_and(Service::changes_pbx) || self.authority == Authority::NoLeader {
            return;
        }
        let command = Command::IntentResult {
            key: self.session.key().clone(),
            request: self.session.first().key(),
            body: body.to_owned(),
        };
        let deadline = self.now.instant + CLOSING_COMMIT_TIMEOUT;
        let _ = self.proposals.push(Waiter::Nobody, command, deadline);
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
