//! The CSTA services of a client, one request at a time (RCC-6).

use tandem_cluster::Authority;
use tandem_cluster::command::SessionUpdate;
use tandem_cluster::{CallRecord, Command, SessionKey};

use crate::csta::{
    ConnectionIdentifier, CstaErrorCode, CstaMessage, DecodeError, Features, Request, Response,
    SnapshotConnection, SystemStatus, decode,
};
use crate::cti::{CtiFailure, RequestToken};
use crate::sip::transaction;

use super::commands::{changes_pbx, check_command};
use super::links::{CtiPurpose, CtiWaiter};
use super::opening::is_csta;
use super::proposals::{Outcome, RequestNumber, Waiter};
use super::session::{Link, Progress, QueuedRequest, Session};
use super::snapshot::call_state;
use super::translation::{is_same_line, translate_request};
use super::{Gateway, Now, Report, View};

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
            // Well-formed, and a request of ours but for its contents.
            Err(DecodeError::Missing { .. } | DecodeError::InvalidValue { .. }) => {
                let service = String::new();
                let request = Request::Unsupported { service };
                self.answer_error(key, &request, CstaErrorCode::INVALID_PARAMETER, now);
            }
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
            Request::MonitorStart { .. } => self.start_client_monitor(key, request, now),
            Request::SnapshotDevice { .. } => self.ask_cti(key, request, now),
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

    /// What came of a request's command. The session may wait for another one by now.
    pub(super) fn request_committed(
        &mut self,
        key: &SessionKey,
        committed: RequestNumber,
        outcome: Outcome,
        view: View<'_>,
        now: Now,
    ) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        match session.progress.clone() {
            Progress::WaitingForIntent { number, request } if number == committed => {
                self.intent_committed(key, request, outcome, view, now);
            }
            // Existing sessions keep working without quorum.
            Progress::WaitingForCommit { number, response } if number == committed => {
                self.monitor_settled(key, &response, outcome != Outcome::TimedOut, now);
            }
            Progress::WaitingForIntent { .. }
            | Progress::WaitingForCommit { .. }
            | Progress::Idle
            | Progress::WaitingForLink
            | Progress::WaitingForMonitor(_)
            | Progress::WaitingForCti { .. }
            | Progress::WaitingForEvidence { .. } => {}
        }
    }

    /// Puts a client's request to the CTI manager.
    pub(super) fn ask_cti(&mut self, key: &SessionKey, request: Request, now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let connection = match &session.link {
            Link::Down => {
                return self.answer_error(key, &request, CstaErrorCode::RESOURCE_OUT_OF_SERVICE, now);
            }
            Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
                // Its intent is written; begun anew it would meet it and find out by snapshot.
                session.progress = Progress::WaitingForLink;
                return;
            }
            Link::Up { connection } => *connection,
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
            Progress::WaitingForCti { request, .. } => self.cti_result(key, request, result, now),
            Progress::WaitingForEvidence { request, .. } => self.evidence_arrived(key, &request, result, now),
            Progress::Idle
            | Progress::WaitingForLink
            | Progress::WaitingForMonitor(_)
            | Progress::WaitingForIntent { .. }
            | Progress::WaitingForCommit { .. } => {}
        }
    }

    fn cti_result(
        &mut self,
        key: &SessionKey,
        request: Request,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        match result {
            Ok(Response::SnapshotDevice { connections }) => {
                self.answer_snapshot(key, &request, connections, now)
            }
            Ok(Response::MakeCall { calling_device }) => {
                self.answer_made_call(key, &request, &calling_device.call_id, now);
            }
            Ok(
                response @ (Response::AnswerCall
                | Response::ClearConnection
                | Response::MonitorStart { .. }
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

    /// The client is told once it is written.
    pub(super) fn client_monitor_started(&mut self, key: &SessionKey, now: Now) {
        let unreplicated = self.authority != Authority::Quorum;
        let deadline = now.instant + self.config.commit_timeout;
        let number = self.proposals.request_number();
        let Some(session) = self.session_mut(key) else {
            return;
        };
        session.record.monitor.active = true;
        let epoch = session.epoch();
        let response = Response::MonitorStart {
            cross_ref_id: session.record.monitor.cross_ref_id.clone(),
        };
        session.progress = Progress::WaitingForCommit {
            number,
            response: response.clone(),
        };
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
                .push(Waiter::Request(key.clone(), number), command, deadline);
        if !waits {
            self.monitor_settled(key, &response, false, now);
        }
    }

    /// The client is answered. What could not be written follows with the updates.
    fn monitor_settled(&mut self, key: &SessionKey, response: &Response, is_written: bool, now: Now) {
        if !is_written {
            self.note_monitor(key, true, now);
        }
        let request = Request::MonitorStart {
            device: String::new(),
        };
        self.answer(key, &request, response, now);
    }

    fn monitor_stopped_by_client(&mut self, key: &SessionKey, request: &Request, now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        session.record.monitor.active = false;
        session.events.clear();
        session.link = match session.link.connection() {
            Some(connection) => Link::Up { connection },
            None => Link::Down,
        };
        self.unwatch(key);
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
    pub(super) fn answer_body(&mut self, key: &SessionKey, request: &Request, body: &str) {
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
}
