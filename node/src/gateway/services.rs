//! The CSTA services of a client, one request at a time (RCC-6).

use tandem_cluster::Authority;
use tandem_cluster::command::SessionUpdate;
use tandem_cluster::{CallRecord, Command, SessionKey};

use crate::csta::service::Repetition;
use crate::csta::{
    CallRequest, ConnectionIdentifier, CstaErrorCode, CstaMessage, DecodeError, Features, MonitorRequest,
    Request, Response, Service, SnapshotConnection, SnapshotRequest, SystemRequest, SystemStatus, decode,
    label,
};
use crate::cti::{CtiFailure, RequestToken};
use crate::sip::transaction;

use super::commands::check_arguments;
use super::monitoring::CtiPurpose;
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
                self.answer_error(key, None, CstaErrorCode::INVALID_PARAMETER, now);
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
        match request {
            Request::System(request) => self.begin_system(key, &request, now),
            Request::Monitor(request) => self.begin_monitor(key, request, now),
            Request::Snapshot(request) => self.begin_snapshot(key, request, now),
            Request::Call(request) => self.begin_call(key, queued, request, now),
            Request::Unsupported { .. } => {
                self.answer_error(key, None, CstaErrorCode::SERVICE_NOT_SUPPORTED, now);
            }
        }
    }

    fn begin_system(&mut self, key: &SessionKey, request: &SystemRequest, now: Now) {
        let response = match request {
            SystemRequest::RequestSystemStatus { .. } => Response::RequestSystemStatus {
                status: SystemStatus::Normal,
            },
            SystemRequest::GetCstaFeatures { .. } => Response::GetCstaFeatures(Features::implemented()),
            SystemRequest::SystemStatus { .. } => {
                let error = CstaErrorCode::SERVICE_NOT_SUPPORTED;
                return self.answer_error(key, Some(Service::SystemStatus), error, now);
            }
        };
        self.answer(key, &response, now);
    }

    fn begin_monitor(&mut self, key: &SessionKey, request: MonitorRequest, now: Now) {
        let session = self.sessions.known(key);
        let monitor = &session.record.monitor;
        match &request {
            MonitorRequest::Start { device } if !is_same_line(device, &session.record.line) => {
                let error = CstaErrorCode::INVALID_MONITOR_OBJECT;
                self.answer_error(key, Some(Service::MonitorStart), error, now);
            }
            MonitorRequest::Start { .. } if monitor.active => {
                let cross_ref_id = monitor.cross_ref_id.clone();
                self.answer(key, &Response::MonitorStart { cross_ref_id }, now);
            }
            MonitorRequest::Start { .. } => self.start_client_monitor(key, now),
            MonitorRequest::Stop { cross_ref_id }
                if *cross_ref_id != monitor.cross_ref_id || !monitor.active =>
            {
                let error = CstaErrorCode::INVALID_MONITOR_CROSS_REF_ID;
                self.answer_error(key, Some(Service::MonitorStop), error, now);
            }
            MonitorRequest::Stop { .. } => self.monitor_stopped_by_client(key, now),
        }
    }

    fn begin_snapshot(&mut self, key: &SessionKey, request: SnapshotRequest, now: Now) {
        let line = &self.sessions.known(key).record.line;
        let refused = match &request {
            SnapshotRequest::Device { device } if is_same_line(device, line) => {
                return self.ask_cti(key, Request::Snapshot(request), now);
            }
            SnapshotRequest::Device { .. } => (Service::SnapshotDevice, CstaErrorCode::INVALID_DEVICE),
            SnapshotRequest::Call { .. } => (Service::SnapshotCall, CstaErrorCode::SERVICE_NOT_SUPPORTED),
        };
        let (service, error) = refused;
        self.answer_error(key, Some(service), error, now);
    }

    fn begin_call(&mut self, key: &SessionKey, queued: &QueuedRequest, request: CallRequest, now: Now) {
        let line = &self.sessions.known(key).record.line;
        if let Err(error) = check_arguments(line, &request) {
            return self.answer_error(key, Some(request.service()), error, now);
        }
        match request.service().row().repetition {
            Repetition::Allowed => self.ask_cti(key, Request::Call(request), now),
            Repetition::Forbidden { intent, .. } => self.begin_command(key, queued, request, intent, now),
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
            | Progress::WaitingForMonitor
            | Progress::WaitingForCti { .. }
            | Progress::WaitingForEvidence { .. } => {}
        }
    }

    /// Puts a client's request to the CTI manager.
    pub(super) fn ask_cti(&mut self, key: &SessionKey, request: Request, now: Now) {
        let session = self.known_mut(key);
        let connection = match &session.link {
            Link::Down => {
                let error = CstaErrorCode::RESOURCE_OUT_OF_SERVICE;
                return self.answer_error(key, request.service(), error, now);
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
        self.known_mut(key).progress = Progress::WaitingForCti { token, request };
    }

    pub(super) fn service_answered(
        &mut self,
        token: RequestToken,
        key: &SessionKey,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        if session.progress.cti_request() != Some(token) {
            return;
        }
        match std::mem::replace(&mut session.progress, Progress::Idle) {
            Progress::WaitingForCti { request, .. } => self.cti_result(key, &request, result, now),
            Progress::WaitingForEvidence {
                request, evidence, ..
            } => self.evidence_arrived(key, &request, evidence, result, now),
            Progress::Idle
            | Progress::WaitingForLink
            | Progress::WaitingForMonitor
            | Progress::WaitingForIntent { .. }
            | Progress::WaitingForCommit { .. } => {}
        }
    }

    fn cti_result(
        &mut self,
        key: &SessionKey,
        request: &Request,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        match (result, request) {
            (Ok(Response::SnapshotDevice { connections }), _) => self.answer_snapshot(key, connections, now),
            (Ok(Response::NewCall { call, .. }), Request::Call(request)) => {
                self.answer_made_call(key, request, &call.call_id, now);
            }
            (Ok(response), _) => self.answer(key, &response, now),
            // What only reads is asked again where the session goes on.
            (Err(CtiFailure::LinkLost | CtiFailure::NotInService), _)
                if !request.service().is_some_and(Service::changes_pbx) =>
            {
                if let Some(session) = self.session_mut(key) {
                    session.progress = Progress::WaitingForLink;
                }
            }
            (Err(failure), _) => self.answer_error(key, request.service(), failure.error_code(), now),
        }
    }

    /// The client is told once it is written.
    pub(super) fn client_monitor_started(&mut self, key: &SessionKey, now: Now) {
        let unreplicated = self.authority != Authority::Quorum;
        let deadline = now.instant + self.config.commit_timeout;
        let number = self.proposals.request_number();
        let session = self.known_mut(key);
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
        self.answer(key, response, now);
    }

    fn monitor_stopped_by_client(&mut self, key: &SessionKey, now: Now) {
        let session = self.known_mut(key);
        session.record.monitor.active = false;
        session.events.clear();
        session.link = match session.link.connection() {
            Some(connection) => Link::Up { connection },
            None => Link::Down,
        };
        self.monitoring.unwatch(key);
        self.note_monitor(key, false, now);
        self.answer(key, &Response::Done(Service::MonitorStop), now);
    }

    fn note_monitor(&mut self, key: &SessionKey, active: bool, now: Now) {
        if let Some(epoch) = self.sessions.get(key).map(Session::epoch) {
            self.proposals.update(key, epoch, now.instant, |update| {
                update.monitor_active = Some(active)
            });
        }
    }

    /// The client knows these calls from now on.
    fn answer_snapshot(&mut self, key: &SessionKey, connections: Vec<SnapshotConnection>, now: Now) {
        let session = self.known_mut(key);
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
            if self.sessions.known(key).record.monitor.active {
                self.note_call(key, &call_id, Some(record), now);
            }
        }
        self.answer(key, &Response::SnapshotDevice { connections: shown }, now);
    }

    pub(super) fn answer(&mut self, key: &SessionKey, response: &Response, now: Now) {
        let (service, body) = (Some(response.service()), response.encode());
        self.note_result(key, service, &body, now);
        self.answer_body(key, service, &body);
    }

    /// `service` is `None` when it is not known which one was asked for.
    pub(super) fn answer_error(
        &mut self,
        key: &SessionKey,
        service: Option<Service>,
        error: CstaErrorCode,
        now: Now,
    ) {
        let body = error.encode();
        self.note_result(key, service, &body, now);
        self.report(Report::CstaError {
            service: label(service),
            error,
        });
        self.answer_body(key, service, &body);
    }

    /// The SIP transaction worked, whatever the service came to: 200.
    pub(super) fn answer_body(&mut self, key: &SessionKey, service: Option<Service>, body: &str) {
        let Some(queued) = self.take_first(key) else {
            return;
        };
        let bytes = transaction::with_csta(&queued.request, body);
        self.answers().send(&queued, bytes, label(service), 200);
    }

    fn refuse_first(&mut self, key: &SessionKey, status: u16, extra_headers: &[(&str, &str)]) {
        let Some(queued) = self.take_first(key) else {
            return;
        };
        let bytes = transaction::plain(&queued.raw, status, key.as_str(), extra_headers);
        self.answers().send(&queued, bytes, "INFO", status);
    }
}
