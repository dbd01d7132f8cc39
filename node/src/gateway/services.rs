//! The CSTA services of a client, one request at a time (RCC-6).

use tandem_shared::cluster::command::SessionUpdate;
use tandem_shared::cluster::{
    Applied, CallRecord, CallState, Command, IntentOperation, IntentRecord, Refusal, SessionKey,
};
use tandem_shared::io::raft::Authority;
use tandem_shared::sip::Uri;

use crate::csta::{
    ConnectionIdentifier, CstaErrorCode, CstaMessage, Features, Request, Response, SnapshotConnection,
    SystemStatus, decode,
};
use crate::cti::{CtiConnectionId, CtiFailure, RequestToken};
use crate::sip::transaction;

use super::links::{CtiPurpose, CtiWaiter};
use super::opening::is_csta;
use super::proposals::{Outcome, Waiter};
use super::session::{Link, Progress, QueuedRequest, Session};
use super::snapshot::call_state;
use super::{Gateway, Now, Report};

impl Gateway {
    /// The first request of the queue is an INFO: which service, and may it begin.
    pub(super) fn begin_service(&mut self, key: &SessionKey, queued: &QueuedRequest, now: Now) {
        if queued.request.body.is_empty() {
            return self.refuse_first(key, 400, &[]);
        }
        if !is_csta(&queued.request) {
            return self.refuse_first(key, 415, &[("Accept", crate::csta::CONTENT_TYPE)]);
        }
        match decode(&queued.request.body) {
            Ok(CstaMessage::Request(request)) => self.begin_csta(key, queued, request, now),
            Ok(
                CstaMessage::Response(_)
                | CstaMessage::Error(_)
                | CstaMessage::Event(_)
                | CstaMessage::OtherEvent { .. }
                | CstaMessage::OtherResponse { .. }
                | CstaMessage::ApplicationSession(_),
            )
            | Err(_) => self.refuse_first(key, 400, &[]),
        }
    }

    fn begin_csta(&mut self, key: &SessionKey, queued: &QueuedRequest, request: Request, now: Now) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let line = &session.record.line;
        let monitor = &session.record.monitor;
        match &request {
            Request::RequestSystemStatus { .. } => {
                let status = SystemStatus::Normal;
                self.answer(key, &request, &Response::RequestSystemStatus { status }, now);
            }
            Request::GetCstaFeatures { .. } => {
                self.answer(
                    key,
                    &request,
                    &Response::GetCstaFeatures(Features::implemented()),
                    now,
                );
            }
            Request::MonitorStart { device } if !is_same_line(device, line) => {
                self.answer_error(key, &request, CstaErrorCode::INVALID_MONITOR_OBJECT, now);
            }
            Request::MonitorStart { .. } if monitor.active => {
                let cross_ref_id = monitor.cross_ref_id.clone();
                self.answer(key, &request, &Response::MonitorStart { cross_ref_id }, now);
            }
            Request::MonitorStop { cross_ref_id }
                if *cross_ref_id != monitor.cross_ref_id || !monitor.active =>
            {
                self.answer_error(key, &request, CstaErrorCode::INVALID_MONITOR_CROSS_REF_ID, now);
            }
            Request::MonitorStop { .. } => self.monitor_stopped_by_client(key, &request, now),
            Request::SnapshotDevice { device } if !is_same_line(device, line) => {
                self.answer_error(key, &request, CstaErrorCode::INVALID_DEVICE, now);
            }
            Request::MonitorStart { .. } | Request::SnapshotDevice { .. } => self.ask_cti(key, request, now),
            Request::MakeCall { .. } | Request::AnswerCall { .. } | Request::ClearConnection { .. } => {
                match check_command(session, &request) {
                    Ok(operation) => self.begin_command(key, queued, request, operation, now),
                    Err(error) => self.answer_error(key, &request, error, now),
                }
            }
            Request::SnapshotCall { .. } | Request::SystemStatus { .. } | Request::Unsupported { .. } => {
                self.answer_error(key, &request, CstaErrorCode::SERVICE_NOT_SUPPORTED, now);
            }
        }
    }

    /// What changes the PBX is written down before it is done, so that nobody does it twice.
    fn begin_command(
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
            Link::Queued { .. } | Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
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
            decided_at_ms: now.unix_ms,
        };
        let deadline = now.instant + self.config.commit_timeout;
        if !self
            .proposals
            .push(Waiter::Request(key.clone()), command, deadline)
        {
            return self.answer_error(key, &request, CstaErrorCode::PERFORMANCE_LIMIT_EXCEEDED, now);
        }
        if let Some(session) = self.session_mut(key) {
            session.progress = Progress::WaitingForIntent {
                request,
                decided_at_ms: now.unix_ms,
            };
        }
    }

    pub(super) fn request_committed(&mut self, key: &SessionKey, outcome: Outcome, now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        match session.progress.clone() {
            Progress::WaitingForIntent {
                request,
                decided_at_ms,
            } => {
                self.intent_committed(key, request, decided_at_ms, outcome, now);
            }
            // Existing sessions keep working without quorum: what could not be written follows with the updates.
            Progress::WaitingForCommit(response) => {
                if outcome == Outcome::TimedOut {
                    self.note_monitor(key, true, now);
                }
                let request = Request::MonitorStart {
                    device: String::new(),
                };
                self.answer(key, &request, &response, now);
            }
            Progress::Idle
            | Progress::WaitingForLink
            | Progress::WaitingForCti { .. }
            | Progress::WaitingForEvidence { .. } => {}
        }
    }

    fn intent_committed(
        &mut self,
        key: &SessionKey,
        request: Request,
        decided_at_ms: u64,
        outcome: Outcome,
        now: Now,
    ) {
        let resent = self.first_is_resent(key);
        match outcome {
            Outcome::Applied(Applied::Done) => self.ask_cti(key, request, now),
            // Our own word, heard twice: the first attempt was committed after all.
            Outcome::Applied(Applied::IntentKnown(intent))
                if intent.decided_at_ms == decided_at_ms && intent.result.is_none() =>
            {
                self.ask_cti(key, request, now);
            }
            Outcome::Applied(Applied::IntentKnown(intent)) => self.intent_known(key, request, &intent, now),
            Outcome::Applied(Applied::Refused(Refusal::LimitReached)) => {
                self.answer_error(key, &request, CstaErrorCode::RESOURCE_LIMIT_EXCEEDED, now);
            }
            Outcome::TimedOut if self.authority == Authority::NoLeader && !resent => {
                self.ask_cti(key, request, now)
            }
            Outcome::TimedOut | Outcome::Applied(_) => {
                self.answer_error(key, &request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
                self.outputs.push(super::Output::ReadSession { key: key.clone() });
            }
        }
    }

    /// The request was begun before, perhaps by a node that is gone (architecture §3).
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
        let Some(Link::Up { connection, .. }) = self.sessions.get(key).map(|session| session.link.clone())
        else {
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

    /// Puts a client's request to the CTI manager.
    fn ask_cti(&mut self, key: &SessionKey, request: Request, now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let connection = match &session.link {
            Link::Down => {
                return self.answer_error(key, &request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
            }
            Link::Queued { .. } | Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
                // Its intent is written; begun anew it would meet it and find out by snapshot.
                session.progress = Progress::WaitingForLink;
                return;
            }
            Link::Up { connection, .. } => *connection,
        };
        let translated = translate_request(session, &request);
        let token = self.ask(key, connection, CtiPurpose::Service, translated);
        if let Some(session) = self.session_mut(key) {
            session.progress = Progress::WaitingForCti { token, request };
        }
    }

    pub(super) fn service_answered(
        &mut self,
        token: RequestToken,
        waiter: &CtiWaiter,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        let key = &waiter.session;
        let Some(session) = self.session_mut(key) else {
            return;
        };
        if session.progress.cti_request() != Some(token) {
            return;
        }
        match std::mem::replace(&mut session.progress, Progress::Idle) {
            Progress::WaitingForCti { request, .. } => {
                self.cti_result(key, waiter.connection, request, result, now)
            }
            Progress::WaitingForEvidence { request, .. } => self.evidence_arrived(key, &request, result, now),
            Progress::Idle
            | Progress::WaitingForLink
            | Progress::WaitingForIntent { .. }
            | Progress::WaitingForCommit(_) => {}
        }
    }

    fn cti_result(
        &mut self,
        key: &SessionKey,
        connection: CtiConnectionId,
        request: Request,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        match result {
            Ok(Response::MonitorStart { cross_ref_id }) => {
                self.client_monitor_started(key, connection, cross_ref_id, now);
            }
            Ok(Response::SnapshotDevice { connections }) => {
                self.answer_snapshot(key, &request, connections, now)
            }
            Ok(Response::MakeCall { calling_device }) => {
                self.answer_made_call(key, &request, &calling_device.call_id, now);
            }
            Ok(
                response @ (Response::AnswerCall
                | Response::ClearConnection
                | Response::MonitorStop
                | Response::SnapshotCall { .. }
                | Response::SystemStatus
                | Response::RequestSystemStatus { .. }
                | Response::GetCstaFeatures(_)),
            ) => self.answer(key, &request, &response, now),
            // What only reads is asked again where the session goes on.
            Err(CtiFailure::LinkLost | CtiFailure::NotInService) if !changes_pbx(&request) => {
                if let Some(session) = self.session_mut(key) {
                    session.progress = Progress::WaitingForLink;
                }
            }
            Err(failure) => self.answer_error(key, &request, failure.error_code(), now),
        }
    }

    fn client_monitor_started(
        &mut self,
        key: &SessionKey,
        connection: CtiConnectionId,
        pbx_id: String,
        now: Now,
    ) {
        self.links
            .monitors
            .insert((connection, pbx_id.clone()), key.clone());
        let unreplicated = self.authority != Authority::Quorum;
        let deadline = now.instant + self.config.commit_timeout;
        let Some(session) = self.session_mut(key) else {
            return;
        };
        session.link = Link::Up {
            connection,
            cross_ref_id: Some(pbx_id),
        };
        session.record.monitor.active = true;
        let epoch = session.epoch();
        let response = Response::MonitorStart {
            cross_ref_id: session.record.monitor.cross_ref_id.clone(),
        };
        session.progress = Progress::WaitingForCommit(response);
        let update = SessionUpdate {
            monitor_active: Some(true),
            ..SessionUpdate::default()
        };
        let command = Command::SessionUpdated {
            key: key.clone(),
            epoch,
            update,
        };
        let waits = !unreplicated
            && self
                .proposals
                .push(Waiter::Request(key.clone()), command, deadline);
        if !waits {
            self.request_committed(key, Outcome::TimedOut, now);
        }
    }

    fn monitor_stopped_by_client(&mut self, key: &SessionKey, request: &Request, now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let link = session.link.clone();
        session.record.monitor.active = false;
        session.events.clear();
        session.link = match link.connection() {
            Some(connection) => Link::Up {
                connection,
                cross_ref_id: None,
            },
            None => Link::Down,
        };
        self.links.resuming.remove(key);
        self.stop_monitor(&link);
        self.note_monitor(key, false, now);
        self.answer(key, request, &Response::MonitorStop, now);
    }

    fn note_monitor(&mut self, key: &SessionKey, active: bool, now: Now) {
        if let Some(epoch) = self.sessions.get(key).map(Session::epoch) {
            self.proposals.update(key, epoch, now.instant, |update| {
                update.monitor_active = Some(active)
            });
        }
    }

    /// The client knows these calls from now on.
    fn answer_snapshot(
        &mut self,
        key: &SessionKey,
        request: &Request,
        connections: Vec<SnapshotConnection>,
        now: Now,
    ) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let line = session.record.line.clone();
        let mut shown = Vec::with_capacity(connections.len());
        let mut told = Vec::new();
        for mut call in connections {
            let pbx_call_id = call.connection.call_id.clone();
            let call_id = session.client_call_id(&pbx_call_id);
            if let Some(state) = call_state(&call.states) {
                let known = session.calls.get(&call_id);
                let record = CallRecord {
                    pbx_call_id,
                    state,
                    calling: known.map_or_else(String::new, |call| call.calling.clone()),
                    called: known.map_or_else(String::new, |call| call.called.clone()),
                };
                told.push((call_id.clone(), record));
            }
            call.connection = ConnectionIdentifier::new(call_id, line.clone());
            shown.push(call);
        }
        for (call_id, record) in told {
            // Without a monitor nobody would ever take the call out again.
            if self
                .sessions
                .get(key)
                .is_some_and(|session| session.record.monitor.active)
            {
                self.note_call(key, &call_id, Some(record), now);
            }
        }
        self.answer(
            key,
            request,
            &Response::SnapshotDevice { connections: shown },
            now,
        );
    }

    fn answer_made_call(&mut self, key: &SessionKey, request: &Request, pbx_call_id: &str, now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let call_id = session.client_call_id(pbx_call_id);
        let called = match request {
            Request::MakeCall {
                called_directory_number,
                ..
            } => dialled_number(called_directory_number),
            _ => None,
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
    fn evidence_arrived(
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

    pub(super) fn answer(&mut self, key: &SessionKey, request: &Request, response: &Response, now: Now) {
        let body = response.encode();
        self.note_result(key, request, &body, now);
        self.answer_body(key, request, &body);
    }

    pub(super) fn answer_error(
        &mut self,
        key: &SessionKey,
        request: &Request,
        error: CstaErrorCode,
        now: Now,
    ) {
        let body = error.encode();
        self.note_result(key, request, &body, now);
        self.report(Report::CstaError {
            service: request.name(),
            error,
        });
        self.answer_body(key, request, &body);
    }

    /// The SIP transaction worked, whatever the service came to: 200.
    fn answer_body(&mut self, key: &SessionKey, request: &Request, body: &str) {
        let Some(queued) = self.take_first(key) else {
            return;
        };
        let bytes = transaction::with_csta(&queued.request, body);
        self.send_answer(&queued, bytes);
        self.report(Report::Answered {
            service: request.name(),
            status: 200,
        });
    }

    fn note_result(&mut self, key: &SessionKey, request: &Request, body: &str, now: Now) {
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

    fn refuse_first(&mut self, key: &SessionKey, status: u16, extra_headers: &[(&str, &str)]) {
        let Some(queued) = self.take_first(key) else {
            return;
        };
        let bytes = transaction::plain(&queued.raw, status, key.as_str(), extra_headers);
        self.send_answer(&queued, bytes);
        self.report(Report::Answered {
            service: "INFO",
            status,
        });
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
fn check_command(session: &Session, request: &Request) -> Result<IntentOperation, CstaErrorCode> {
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

/// The client's device and call ids, in the CTI manager's terms.
fn translate_request(session: &Session, request: &Request) -> Request {
    let device = session.record.device.clone();
    let connection = |connection: &ConnectionIdentifier| {
        ConnectionIdentifier::new(session.pbx_call_id(&connection.call_id), device.clone())
    };
    match request {
        Request::MonitorStart { .. } => Request::MonitorStart { device },
        Request::SnapshotDevice { .. } => Request::SnapshotDevice { device },
        Request::MakeCall {
            called_directory_number,
            auto_originate,
            ..
        } => Request::MakeCall {
            calling_device: device,
            called_directory_number: dialled_number(called_directory_number).unwrap_or_default(),
            auto_originate: *auto_originate,
        },
        Request::AnswerCall { call_to_be_answered } => Request::AnswerCall {
            call_to_be_answered: connection(call_to_be_answered),
        },
        Request::ClearConnection {
            connection_to_be_cleared,
        } => Request::ClearConnection {
            connection_to_be_cleared: connection(connection_to_be_cleared),
        },
        Request::RequestSystemStatus { .. }
        | Request::GetCstaFeatures { .. }
        | Request::MonitorStop { .. }
        | Request::SnapshotCall { .. }
        | Request::SystemStatus { .. }
        | Request::Unsupported { .. } => request.clone(),
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

fn changes_pbx(request: &Request) -> bool {
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

/// What the PBX dials for a called number: the digits of a `tel:` URI, the user of a `sip:` URI.
fn dialled_number(text: &str) -> Option<String> {
    let number = match Uri::parse(text) {
        Ok(Uri::Tel(tel)) => tel.number,
        Ok(Uri::Sip(sip)) => sip.user?,
        Ok(Uri::Other(_)) | Err(_) => text.to_owned(),
    };
    // RFC 3966 §3: visual separators mean nothing.
    let number: String = number
        .chars()
        .filter(|character| !matches!(character, '-' | '.' | '(' | ')' | ' '))
        .collect();
    let dialable = |character: char| character.is_ascii_digit() || matches!(character, '+' | '*' | '#');
    (!number.is_empty() && number.len() <= NUMBER_BYTES_MAX && number.chars().all(dialable)).then_some(number)
}

/// Clients write the line URI as they were given it; the number decides.
fn is_same_line(text: &str, line: &str) -> bool {
    text == line || dialled_number(text).is_some_and(|number| dialled_number(line) == Some(number))
}

/// `4711;device=SEP0001` → `4711`: a device as the CTI managers name it, without what tells it from its siblings.
pub(super) fn directory_number(device: &str) -> &str {
    device.split(';').next().unwrap_or(device)
}

/// How much earlier an answer on a connection of re-sent requests leaves than an event on another one.
const ANSWER_HEAD_START: std::time::Duration = std::time::Duration::from_millis(50);
const NUMBER_BYTES_MAX: usize = 64;
