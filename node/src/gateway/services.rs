//! The CSTA services of a client, one request at a time (RCC-6).

use tandem_cluster::command::SessionUpdate;
use tandem_cluster::{Authority, CallRecord, Command, SessionKey};

use crate::csta::service::Repetition;
use crate::csta::{
    CallRequest, ConnectionIdentifier, CstaErrorCode, CstaMessage, DecodeError, Features, MonitorRequest,
    Request, Response, Service, SnapshotConnection, SnapshotRequest, SystemRequest, SystemStatus, decode,
    label,
};
use crate::cti::{CtiFailure, RequestToken};
use crate::sip::transaction;

use super::commands::check_arguments;
use super::monitoring::{CtiPurpose, CtiWaiter};
use super::one_session::OneSession;
use super::opening::is_csta;
use super::proposals::{Outcome, RequestNumber, Waiter};
use super::session::{Link, Progress, QueuedRequest};
use super::snapshot::call_state;
use super::translation::{is_same_line, translate_request};
use super::{Gateway, Now, Report, View};

impl Gateway {
    /// What came of a request's command. The session may be gone by now.
    pub(super) fn request_committed(
        &mut self,
        key: &SessionKey,
        committed: RequestNumber,
        outcome: Outcome,
        view: View<'_>,
        now: Now,
    ) {
        let one = self.one_session(key, now);
        let is_doubtful = one.is_some_and(|mut one| one.request_committed(committed, outcome));
        if is_doubtful {
            self.look_up_session(key, view, now);
        }
    }
}

impl OneSession<'_> {
    /// The first request of the queue is an INFO: which service, and may it begin.
    pub(super) fn begin_service(&mut self, queued: &QueuedRequest) {
        if queued.request.body.is_empty() {
            return self.refuse_first(400, &[]);
        }
        if !is_csta(&queued.request) {
            return self.refuse_first(415, &[("Accept", crate::csta::CONTENT_TYPE)]);
        }
        match decode(&queued.request.body) {
            Ok(CstaMessage::Request(request)) => self.begin_csta(queued, request),
            // Well-formed, and a request of ours but for its contents.
            Err(DecodeError::Missing { .. } | DecodeError::InvalidValue { .. }) => {
                self.answer_error(None, CstaErrorCode::INVALID_PARAMETER);
            }
            Ok(
                CstaMessage::Response(_)
                | CstaMessage::Error(_)
                | CstaMessage::Event(_)
                | CstaMessage::OtherEvent { .. }
                | CstaMessage::OtherResponse { .. }
                | CstaMessage::ApplicationSession(_),
            )
            | Err(_) => self.refuse_first(400, &[]),
        }
    }

    fn begin_csta(&mut self, queued: &QueuedRequest, request: Request) {
        match request {
            Request::System(request) => self.begin_system(&request),
            Request::Monitor(request) => self.begin_monitor(&request),
            Request::Snapshot(request) => self.begin_snapshot(request),
            Request::Call(request) => self.begin_call(queued, request),
            Request::Unsupported { .. } => self.answer_error(None, CstaErrorCode::SERVICE_NOT_SUPPORTED),
        }
    }

    fn begin_system(&mut self, request: &SystemRequest) {
        let response = match request {
            SystemRequest::RequestSystemStatus { .. } => Response::RequestSystemStatus {
                status: SystemStatus::Normal,
            },
            SystemRequest::GetCstaFeatures { .. } => Response::GetCstaFeatures(Features::implemented()),
            SystemRequest::SystemStatus { .. } => {
                let error = CstaErrorCode::SERVICE_NOT_SUPPORTED;
                return self.answer_error(Some(Service::SystemStatus), error);
            }
        };
        self.answer(&response);
    }

    fn begin_monitor(&mut self, request: &MonitorRequest) {
        let record = &self.session.record;
        let monitor = &record.monitor;
        match request {
            MonitorRequest::Start { device } if !is_same_line(device, &record.line) => {
                let error = CstaErrorCode::INVALID_MONITOR_OBJECT;
                self.answer_error(Some(Service::MonitorStart), error);
            }
            MonitorRequest::Start { .. } if monitor.active => {
                let cross_ref_id = monitor.cross_ref_id.clone();
                self.answer(&Response::MonitorStart { cross_ref_id });
            }
            MonitorRequest::Start { .. } => self.start_client_monitor(),
            MonitorRequest::Stop { cross_ref_id }
                if *cross_ref_id != monitor.cross_ref_id || !monitor.active =>
            {
                let error = CstaErrorCode::INVALID_MONITOR_CROSS_REF_ID;
                self.answer_error(Some(Service::MonitorStop), error);
            }
            MonitorRequest::Stop { .. } => self.monitor_stopped_by_client(),
        }
    }

    fn begin_snapshot(&mut self, request: SnapshotRequest) {
        let line = &self.session.record.line;
        let (service, error) = match &request {
            SnapshotRequest::Device { device } if is_same_line(device, line) => {
                return self.ask_cti(Request::Snapshot(request));
            }
            SnapshotRequest::Device { .. } => (Service::SnapshotDevice, CstaErrorCode::INVALID_DEVICE),
            SnapshotRequest::Call { .. } => (Service::SnapshotCall, CstaErrorCode::SERVICE_NOT_SUPPORTED),
        };
        self.answer_error(Some(service), error);
    }

    fn begin_call(&mut self, queued: &QueuedRequest, request: CallRequest) {
        if let Err(error) = check_arguments(&self.session.record.line, &request) {
            return self.answer_error(Some(request.service()), error);
        }
        match request.service().row().repetition {
            Repetition::Allowed => self.ask_cti(Request::Call(request)),
            Repetition::Forbidden { intent, .. } => self.begin_command(queued, request, intent),
        }
    }

    /// The session may wait for another command by now. Returns whether it has to be looked up whose the session is.
    fn request_committed(&mut self, committed: RequestNumber, outcome: Outcome) -> bool {
        match self.session.progress.clone() {
            Progress::WaitingForIntent { number, request } if number == committed => {
                self.intent_committed(request, outcome)
            }
            // Existing sessions keep working without quorum.
            Progress::WaitingForCommit { number, response } if number == committed => {
                self.monitor_settled(&response, outcome != Outcome::TimedOut);
                false
            }
            Progress::WaitingForIntent { .. }
            | Progress::WaitingForCommit { .. }
            | Progress::Idle
            | Progress::WaitingForLink
            | Progress::WaitingForMonitor
            | Progress::WaitingForCti { .. }
            | Progress::WaitingForEvidence { .. } => false,
        }
    }

    /// Puts a client's request to the CTI manager.
    pub(super) fn ask_cti(&mut self, request: Request) {
        let connection = match &self.session.link {
            Link::Down => {
                let error = CstaErrorCode::RESOURCE_OUT_OF_SERVICE;
                return self.answer_error(request.service(), error);
            }
            Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
                // Its intent is written; begun anew it would meet it and find out by snapshot.
                self.session.progress = Progress::WaitingForLink;
                return;
            }
            Link::Up { connection } => *connection,
        };
        let translated = translate_request(self.session, &request);
        let token = self.ask(connection, CtiPurpose::Service, translated);
        self.session.progress = Progress::WaitingForCti { token, request };
    }

    /// A CTI manager has answered the session.
    pub(super) fn cti_answered(
        &mut self,
        token: RequestToken,
        waiter: &CtiWaiter,
        result: Result<Response, CtiFailure>,
    ) {
        match waiter.purpose {
            CtiPurpose::Service => self.service_answered(token, result),
            CtiPurpose::ResumeSnapshot => self.snapshot_resumed(waiter.connection, result),
            CtiPurpose::ResumeParties => self.parties_told(waiter.connection, result),
        }
    }

    /// The first request of the queue has its answer, unless that comes too late for it.
    pub(super) fn service_answered(&mut self, token: RequestToken, result: Result<Response, CtiFailure>) {
        if self.session.progress.cti_request() != Some(token) {
            return;
        }
        match std::mem::replace(&mut self.session.progress, Progress::Idle) {
            Progress::WaitingForCti { request, .. } => self.cti_result(&request, result),
            Progress::WaitingForEvidence {
                request, evidence, ..
            } => self.evidence_arrived(&request, evidence, result),
            Progress::Idle
            | Progress::WaitingForLink
            | Progress::WaitingForMonitor
            | Progress::WaitingForIntent { .. }
            | Progress::WaitingForCommit { .. } => {}
        }
    }

    fn cti_result(&mut self, request: &Request, result: Result<Response, CtiFailure>) {
        match (result, request) {
            (Ok(Response::SnapshotDevice { connections }), _) => self.answer_snapshot(connections),
            (Ok(Response::NewCall { call, .. }), Request::Call(request)) => {
                self.answer_made_call(request, &call.call_id);
            }
            (Ok(response), _) => self.answer(&response),
            // What only reads is asked again where the session goes on.
            (Err(CtiFailure::LinkLost | CtiFailure::NotInService), _)
                if !request.service().is_some_and(Service::changes_pbx) =>
            {
                self.session.progress = Progress::WaitingForLink;
            }
            (Err(failure), _) => self.answer_error(request.service(), failure.error_code()),
        }
    }

    /// The client is told once it is written.
    pub(super) fn client_monitor_started(&mut self) {
        let number = self.proposals.request_number();
        self.session.record.monitor.active = true;
        let response = Response::MonitorStart {
            cross_ref_id: self.session.record.monitor.cross_ref_id.clone(),
        };
        self.session.progress = Progress::WaitingForCommit {
            number,
            response: response.clone(),
        };
        let key = self.session.key().clone();
        let command = Command::SessionUpdated {
            key: key.clone(),
            epoch: self.session.epoch(),
            update: SessionUpdate {
                monitor_active: Some(true),
                ..SessionUpdate::default()
            },
        };
        let has_quorum = self.authority == Authority::Quorum;
        let waits = has_quorum && self.propose(Waiter::Request(key, number), command);
        if !waits {
            self.monitor_settled(&response, false);
        }
    }

    /// The client is answered. What could not be written follows with the updates.
    fn monitor_settled(&mut self, response: &Response, is_written: bool) {
        if !is_written {
            self.update(|update| update.monitor_active = Some(true));
        }
        self.answer(response);
    }

    fn monitor_stopped_by_client(&mut self) {
        self.session.record.monitor.active = false;
        self.session.events.clear();
        self.session.link = match self.session.link.connection() {
            Some(connection) => Link::Up { connection },
            None => Link::Down,
        };
        self.monitoring.unwatch(self.session.key());
        self.update(|update| update.monitor_active = Some(false));
        self.answer(&Response::Done(Service::MonitorStop));
    }

    /// The client knows these calls from now on.
    fn answer_snapshot(&mut self, connections: Vec<SnapshotConnection>) {
        let session = &*self.session;
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
            call.connection = ConnectionIdentifier::new(call_id, session.record.line.clone());
            shown.push(call);
        }
        // Without a monitor nobody would ever take the calls out again.
        if session.record.monitor.active {
            for (call_id, record) in told {
                self.note_call(&call_id, Some(record));
            }
        }
        self.answer(&Response::SnapshotDevice { connections: shown });
    }

    pub(super) fn answer(&mut self, response: &Response) {
        let (service, body) = (Some(response.service()), response.encode());
        self.note_result(service, &body);
        self.answer_body(service, &body);
    }

    /// `service` is `None` when it is not known which one was asked for.
    pub(super) fn answer_error(&mut self, service: Option<Service>, error: CstaErrorCode) {
        let body = error.encode();
        self.note_result(service, &body);
        self.report(Report::CstaError {
            service: label(service),
            error,
        });
        self.answer_body(service, &body);
    }

    /// The SIP transaction worked, whatever the service came to: 200.
    pub(super) fn answer_body(&mut self, service: Option<Service>, body: &str) {
        let queued = self.session.take_first();
        let bytes = transaction::with_csta(&queued.request, body);
        self.answers().send(&queued, bytes, label(service), 200);
    }

    fn refuse_first(&mut self, status: u16, extra_headers: &[(&str, &str)]) {
        let queued = self.session.take_first();
        let key = self.session.key().as_str();
        let bytes = transaction::plain(&queued.raw, status, key, extra_headers);
        self.answers().send(&queued, bytes, "INFO", status);
    }
}
