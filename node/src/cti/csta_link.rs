//! One link to a CTI manager: application session, heartbeat, requests and their answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::invocations::Invocations;
use super::link_framer::{Frame, FrameTooLarge, LinkFramer};
use super::{CtiFailure, CtiSettings, LinkFailure, OUTSTANDING_MAX, RequestToken};
use crate::csta::{
    self, ApplicationSession, CstaErrorCode, CstaMessage, DecodeError, Event, MonitorRequest, Request,
    Response, Service, SystemRequest, SystemStatus,
};

/// A link from the moment TCP stands until it fails. Whatever fails it, the owner drops it and calls
/// [`CstaLink::into_unanswered`].
#[derive(Debug)]
pub(super) struct CstaLink {
    settings: Arc<CtiSettings>,
    phase: Phase,
    framer: LinkFramer,
    invocations: Invocations<Purpose>,
    /// In the order of their deadlines, since all have the same time. (One that came in after that time was made
    /// shorter may wait as long as those before it.)
    waiting: VecDeque<Waiting>,
    next_heartbeat: Option<Instant>,
    session: Option<Session>,
    counters: LinkCounters,
}

/// What a link has counted; carried on to the next link of the same connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Answers to nothing that is outstanding: late ones, or invented ones.
    pub unknown_responses: u64,
    /// Documents that could not be read.
    pub undecodable: u64,
    /// Events of kinds that are not passed on.
    pub other_events: u64,
    pub requests_timed_out: u64,
    pub heartbeats_failed: u64,
    /// Of the last heartbeat that was answered.
    pub heartbeat_latency: Option<Duration>,
    pub heartbeat_answered_at: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum LinkOutput {
    Write(Bytes),
    InService,
    Answered {
        token: RequestToken,
        result: Result<Response, CtiFailure>,
    },
    Event(Event),
    MonitorStopped {
        cross_ref_id: String,
    },
    Failed(LinkFailure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    StartingSession,
    FirstHeartbeat,
    InService,
}

#[derive(Debug)]
enum Purpose {
    Request { token: RequestToken, request: Request },
    Heartbeat { sent_at: Instant },
    SessionStart,
    SessionReset,
}

#[derive(Debug)]
struct Waiting {
    token: RequestToken,
    request: Request,
    deadline: Instant,
}

#[derive(Debug)]
struct Session {
    id: String,
    duration_secs: u32,
    next_reset: Option<Instant>,
    resets_missed: u32,
}

impl CstaLink {
    pub(super) fn new(settings: Arc<CtiSettings>, counters: LinkCounters) -> Self {
        Self {
            settings,
            phase: Phase::StartingSession,
            framer: LinkFramer::default(),
            invocations: Invocations::default(),
            waiting: VecDeque::new(),
            next_heartbeat: None,
            session: None,
            counters,
        }
    }

    pub(super) fn change_settings(&mut self, settings: Arc<CtiSettings>) {
        self.settings = settings;
    }

    pub(super) fn is_in_service(&self) -> bool {
        self.phase == Phase::InService
    }

    pub(super) fn counters(&self) -> LinkCounters {
        self.counters
    }

    pub(super) fn outstanding(&self) -> usize {
        self.invocations.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let session_reset = self.session.as_ref().and_then(|session| session.next_reset);
        let waiting = self.waiting.front().map(|waiting| waiting.deadline);
        [
            self.invocations.next_deadline(),
            self.next_heartbeat,
            session_reset,
            waiting,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// TCP stands: log in if the CTI manager wants it, then ask how it is.
    pub(super) fn opened(&mut self, now: Instant) -> Vec<LinkOutput> {
        let mut outputs = Vec::new();
        match self.settings.application_session.clone() {
            Some(session) => {
                let start = ApplicationSession::Start {
                    application_id: session.application_id,
                    requested_duration_secs: session.duration_secs,
                };
                self.send_session(&start, Purpose::SessionStart, now, &mut outputs);
            }
            None => self.begin_service(now, &mut outputs),
        }
        outputs
    }

    pub(super) fn received(&mut self, bytes: &[u8], now: Instant) -> Vec<LinkOutput> {
        let mut outputs = Vec::new();
        self.framer.push(bytes);
        while let Some(frame) = self.framer.next_frame() {
            match frame {
                Ok(frame) => self.take_frame(&frame, now, &mut outputs),
                Err(error) => outputs.push(LinkOutput::Failed(LinkFailure::Framing(error))),
            }
            // What stands behind the cause of a failure is not looked at.
            if matches!(outputs.last(), Some(LinkOutput::Failed(_))) {
                break;
            }
        }
        outputs
    }

    pub(super) fn submit(&mut self, token: RequestToken, request: Request, now: Instant) -> Vec<LinkOutput> {
        let mut outputs = Vec::new();
        let deadline = now + self.settings.request_timeout;
        if !self.is_in_service() {
            outputs.push(LinkOutput::Answered {
                token,
                result: Err(CtiFailure::NotInService),
            });
        } else if self.has_room() && self.waiting.is_empty() {
            self.send_request(
                Waiting {
                    token,
                    request,
                    deadline,
                },
                &mut outputs,
            );
        } else if self.waiting.len() < self.settings.waiting_max {
            self.waiting.push_back(Waiting {
                token,
                request,
                deadline,
            });
        } else {
            outputs.push(LinkOutput::Answered {
                token,
                result: Err(CtiFailure::QueueFull),
            });
        }
        outputs
    }

    pub(super) fn deadline_reached(&mut self, now: Instant) -> Vec<LinkOutput> {
        let mut outputs = Vec::new();
        while let Some(purpose) = self.invocations.end_overdue(now) {
            self.give_up(purpose, now, &mut outputs);
            if matches!(outputs.last(), Some(LinkOutput::Failed(_))) {
                return outputs;
            }
        }
        self.expire_waiting(now, &mut outputs);
        if self.next_heartbeat.is_some_and(|at| at <= now) {
            self.send_heartbeat(now, &mut outputs);
        }
        if self
            .session
            .as_ref()
            .and_then(|session| session.next_reset)
            .is_some_and(|at| at <= now)
        {
            self.reset_session(now, &mut outputs);
        }
        self.send_waiting(&mut outputs);
        outputs
    }

    /// Ends the application session at the CTI manager, where there is one.
    pub(super) fn farewell(&mut self, now: Instant) -> Vec<LinkOutput> {
        let mut outputs = Vec::new();
        if let Some(session) = self.session.take() {
            let stop = ApplicationSession::Stop {
                session_id: session.id,
            };
            self.send_session(&stop, Purpose::SessionReset, now, &mut outputs);
        }
        outputs
    }

    /// Every request that will get no answer any more, with the reason.
    pub(super) fn into_unanswered(self) -> Vec<(RequestToken, CtiFailure)> {
        let sent = self
            .invocations
            .into_purposes()
            .filter_map(|purpose| match purpose {
                Purpose::Request { token, .. } => Some((token, CtiFailure::LinkLost)),
                Purpose::Heartbeat { .. } | Purpose::SessionStart | Purpose::SessionReset => None,
            });
        let waiting = self
            .waiting
            .into_iter()
            .map(|waiting| (waiting.token, CtiFailure::NotInService));
        sent.chain(waiting).collect()
    }

    fn take_frame(&mut self, frame: &Frame, now: Instant, outputs: &mut Vec<LinkOutput>) {
        match csta::decode(&frame.body) {
            Ok(CstaMessage::Request(request)) => answer(frame.invoke_id, request, outputs),
            Ok(CstaMessage::Response(response)) => self.complete(frame.invoke_id, Ok(response), now, outputs),
            Ok(CstaMessage::Error(error)) => self.complete(frame.invoke_id, Err(error), now, outputs),
            Ok(CstaMessage::Event(event)) => outputs.push(LinkOutput::Event(event)),
            Ok(CstaMessage::OtherEvent { .. }) => self.counters.other_events += 1,
            Ok(CstaMessage::OtherResponse { .. }) => self.counters.unknown_responses += 1,
            Ok(CstaMessage::ApplicationSession(message)) => {
                self.take_session(frame.invoke_id, message, now, outputs);
            }
            Err(error) => self.take_undecodable(frame.invoke_id, error, outputs),
        }
    }

    fn complete(
        &mut self,
        invoke_id: u16,
        answer: Result<Response, CstaErrorCode>,
        now: Instant,
        outputs: &mut Vec<LinkOutput>,
    ) {
        match self.invocations.end(invoke_id) {
            Some(Purpose::Request { token, request }) => {
                let result = match answer {
                    Ok(response) if request.service() == Some(response.service()) => Ok(response),
                    Ok(_) => Err(CtiFailure::WrongResponse),
                    Err(code) => Err(CtiFailure::Refused(code)),
                };
                outputs.push(LinkOutput::Answered { token, result });
                self.send_waiting(outputs);
            }
            Some(Purpose::Heartbeat { sent_at }) => self.heartbeat_answered(sent_at, &answer, now, outputs),
            // Not an answer to these: a CTI manager without ECMA-354 refuses the log-in like this.
            Some(Purpose::SessionStart | Purpose::SessionReset) => {
                outputs.push(LinkOutput::Failed(LinkFailure::SessionRefused));
            }
            None => self.counters.unknown_responses += 1,
        }
    }

    /// An error is an answer too: the CTI manager lives.
    fn heartbeat_answered(
        &mut self,
        sent_at: Instant,
        answer: &Result<Response, CstaErrorCode>,
        now: Instant,
        outputs: &mut Vec<LinkOutput>,
    ) {
        self.counters.heartbeat_latency = Some(now.saturating_duration_since(sent_at));
        self.counters.heartbeat_answered_at = Some(now);
        self.next_heartbeat = Some(now.max(sent_at + self.settings.heartbeat_interval));
        if let Ok(Response::RequestSystemStatus { status }) = answer
            && !status.is_usable()
        {
            outputs.push(LinkOutput::Failed(LinkFailure::SwitchNotUsable));
        } else if self.phase == Phase::FirstHeartbeat {
            self.phase = Phase::InService;
            outputs.push(LinkOutput::InService);
        }
    }

    /// Only the answer to a request ends here; a heartbeat's is waited for until its time is up.
    fn take_undecodable(&mut self, invoke_id: u16, error: DecodeError, outputs: &mut Vec<LinkOutput>) {
        self.counters.undecodable += 1;
        let Some(&Purpose::Request { token, .. }) = self.invocations.get(invoke_id) else {
            return;
        };
        self.invocations.end(invoke_id);
        outputs.push(LinkOutput::Answered {
            token,
            result: Err(CtiFailure::Undecodable(error)),
        });
        self.send_waiting(outputs);
    }

    fn take_session(
        &mut self,
        invoke_id: u16,
        message: ApplicationSession,
        now: Instant,
        outputs: &mut Vec<LinkOutput>,
    ) {
        match message {
            ApplicationSession::Started {
                session_id,
                actual_duration_secs,
            } => {
                self.session_started(invoke_id, session_id, actual_duration_secs, now, outputs);
            }
            ApplicationSession::TimerReset { actual_duration_secs } => {
                self.session_reset(invoke_id, actual_duration_secs, now);
            }
            ApplicationSession::StartRefused { .. } | ApplicationSession::TimerResetRefused { .. } => {
                outputs.push(LinkOutput::Failed(LinkFailure::SessionRefused));
            }
            ApplicationSession::Terminated => {
                outputs.push(LinkOutput::Failed(LinkFailure::SessionTerminated));
            }
            ApplicationSession::Stopped | ApplicationSession::StopRefused => {}
            ApplicationSession::Start { .. }
            | ApplicationSession::ResetTimer { .. }
            | ApplicationSession::Stop { .. } => {
                write(invoke_id, &CstaErrorCode::SERVICE_NOT_SUPPORTED.encode(), outputs);
            }
        }
    }

    fn session_started(
        &mut self,
        invoke_id: u16,
        id: String,
        duration_secs: u32,
        now: Instant,
        outputs: &mut Vec<LinkOutput>,
    ) {
        if !matches!(self.invocations.get(invoke_id), Some(Purpose::SessionStart)) {
            self.counters.unknown_responses += 1;
            return;
        }
        self.invocations.end(invoke_id);
        let next_reset = Some(now + half(duration_secs));
        self.session = Some(Session {
            id,
            duration_secs,
            next_reset,
            resets_missed: 0,
        });
        self.begin_service(now, outputs);
    }

    fn session_reset(&mut self, invoke_id: u16, duration_secs: u32, now: Instant) {
        let expected = matches!(self.invocations.get(invoke_id), Some(Purpose::SessionReset));
        match &mut self.session {
            Some(session) if expected => {
                session.duration_secs = duration_secs;
                session.next_reset = Some(now + half(duration_secs));
                session.resets_missed = 0;
                self.invocations.end(invoke_id);
            }
            Some(_) | None => self.counters.unknown_responses += 1,
        }
    }

    fn give_up(&mut self, purpose: Purpose, now: Instant, outputs: &mut Vec<LinkOutput>) {
        match purpose {
            Purpose::Request { token, .. } => {
                self.counters.requests_timed_out += 1;
                outputs.push(LinkOutput::Answered {
                    token,
                    result: Err(CtiFailure::TimedOut),
                });
            }
            Purpose::Heartbeat { .. } => {
                self.counters.heartbeats_failed += 1;
                outputs.push(LinkOutput::Failed(LinkFailure::HeartbeatTimedOut));
            }
            Purpose::SessionStart => outputs.push(LinkOutput::Failed(LinkFailure::SessionTimedOut)),
            Purpose::SessionReset => self.session_reset_missed(now, outputs),
        }
    }

    fn expire_waiting(&mut self, now: Instant, outputs: &mut Vec<LinkOutput>) {
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.deadline <= now)
        {
            let Some(Waiting { token, .. }) = self.waiting.pop_front() else {
                return;
            };
            self.counters.requests_timed_out += 1;
            outputs.push(LinkOutput::Answered {
                token,
                result: Err(CtiFailure::ExpiredInQueue),
            });
        }
    }

    /// The session lasts as long again as it took to the first reset, so one may be missed.
    fn session_reset_missed(&mut self, now: Instant, outputs: &mut Vec<LinkOutput>) {
        let Some(session) = &mut self.session else { return };
        session.resets_missed += 1;
        if session.resets_missed < RESETS_MISSED_MAX {
            session.next_reset = Some(now);
        } else {
            outputs.push(LinkOutput::Failed(LinkFailure::SessionTimedOut));
        }
    }

    fn begin_service(&mut self, now: Instant, outputs: &mut Vec<LinkOutput>) {
        self.phase = Phase::FirstHeartbeat;
        self.send_heartbeat(now, outputs);
    }

    fn send_heartbeat(&mut self, now: Instant, outputs: &mut Vec<LinkOutput>) {
        self.next_heartbeat = None;
        let deadline = now + self.settings.heartbeat_timeout;
        let document = Request::System(SystemRequest::RequestSystemStatus { line: None }).encode();
        if let Some(id) = self
            .invocations
            .begin(deadline, Purpose::Heartbeat { sent_at: now })
        {
            write(id, &document, outputs);
        }
    }

    fn reset_session(&mut self, now: Instant, outputs: &mut Vec<LinkOutput>) {
        let Some(session) = &mut self.session else { return };
        session.next_reset = None;
        let reset = ApplicationSession::ResetTimer {
            session_id: session.id.clone(),
            requested_duration_secs: session.duration_secs,
        };
        self.send_session(&reset, Purpose::SessionReset, now, outputs);
    }

    fn send_session(
        &mut self,
        message: &ApplicationSession,
        purpose: Purpose,
        now: Instant,
        outputs: &mut Vec<LinkOutput>,
    ) {
        if let Some(id) = self
            .invocations
            .begin(now + self.settings.heartbeat_timeout, purpose)
        {
            write(id, &message.encode(), outputs);
        }
    }

    fn send_waiting(&mut self, outputs: &mut Vec<LinkOutput>) {
        while self.has_room() {
            let Some(waiting) = self.waiting.pop_front() else {
                return;
            };
            self.send_request(waiting, outputs);
        }
    }

    fn has_room(&self) -> bool {
        self.invocations.len() < self.settings.outstanding_max.clamp(1, OUTSTANDING_MAX)
    }

    fn send_request(&mut self, waiting: Waiting, outputs: &mut Vec<LinkOutput>) {
        let Waiting {
            token,
            request,
            deadline,
        } = waiting;
        let document = request.encode();
        let id = self
            .invocations
            .begin(deadline, Purpose::Request { token, request });
        // Cannot be `None`: `has_room` has kept ids free.
        let Some(id) = id else {
            return outputs.push(LinkOutput::Answered {
                token,
                result: Err(CtiFailure::QueueFull),
            });
        };
        match Frame::write(id, &document) {
            Ok(bytes) => outputs.push(LinkOutput::Write(bytes)),
            Err(FrameTooLarge { .. }) => {
                self.invocations.end(id);
                outputs.push(LinkOutput::Answered {
                    token,
                    result: Err(CtiFailure::TooLarge),
                });
            }
        }
    }
}

/// The CTI manager asks. Some drop the link when SystemStatus stays without an answer.
fn answer(invoke_id: u16, request: Request, outputs: &mut Vec<LinkOutput>) {
    let normal = Response::RequestSystemStatus {
        status: SystemStatus::Normal,
    };
    match request {
        Request::System(SystemRequest::RequestSystemStatus { .. }) => {
            write(invoke_id, &normal.encode(), outputs)
        }
        Request::System(SystemRequest::SystemStatus { status }) => {
            write(
                invoke_id,
                &Response::Done(Service::SystemStatus).encode(),
                outputs,
            );
            if !status.is_usable() {
                outputs.push(LinkOutput::Failed(LinkFailure::SwitchNotUsable));
            }
        }
        Request::Monitor(MonitorRequest::Stop { cross_ref_id }) => {
            write(invoke_id, &Response::Done(Service::MonitorStop).encode(), outputs);
            outputs.push(LinkOutput::MonitorStopped { cross_ref_id });
        }
        Request::System(SystemRequest::GetCstaFeatures { .. })
        | Request::Monitor(MonitorRequest::Start { .. })
        | Request::Snapshot(_)
        | Request::Call(_)
        | Request::Unsupported { .. } => {
            write(invoke_id, &CstaErrorCode::SERVICE_NOT_SUPPORTED.encode(), outputs);
        }
    }
}

/// For documents of ours that are small whatever happens.
fn write(invoke_id: u16, document: &str, outputs: &mut Vec<LinkOutput>) {
    if let Ok(bytes) = Frame::write(invoke_id, document) {
        outputs.push(LinkOutput::Write(bytes));
    }
}

/// ECMA-354: a session is kept up by a reset at half of its duration. A duration of 0 would have us do nothing else.
fn half(duration_secs: u32) -> Duration {
    Duration::from_secs(u64::from(duration_secs.max(SESSION_SECS_MIN))) / 2
}

const RESETS_MISSED_MAX: u32 = 2;
const SESSION_SECS_MIN: u32 = 2;
