//! Sessions and the monitors of their devices: which session watches what, and who is told what a monitor reports.

use std::collections::{BTreeSet, VecDeque};

use tandem_cluster::SessionKey;

use crate::csta::{CstaErrorCode, Event, MonitorRequest, Request, Response, Service, SnapshotRequest};
use crate::cti::monitor::MonitorFailure;
use crate::cti::{
    CtiConnectionId, CtiFailure, MonitorInput, MonitorKey, MonitorLimits, MonitorOutput, MonitorPriority,
    Monitors,
};

use super::links::{Asker, CtiPurpose};
use super::session::{Link, Progress, Session};
use super::{Gateway, GatewayConfig, Now, Report};

/// The monitors of this node, and those at its CTI managers that no session watches.
#[derive(Debug)]
pub(super) struct Watching {
    pub(super) monitors: Monitors,
    /// Monitors that are being stopped though they were never ours: their MonitorStart was given up, and carried
    /// out all the same.
    strays: BTreeSet<(CtiConnectionId, String)>,
}

impl Watching {
    pub(super) fn new(config: &GatewayConfig) -> Self {
        Self {
            monitors: Monitors::new(MonitorLimits {
                starts_in_flight_max: config.resumptions_in_flight_max,
                // As many again may be stopping.
                monitors_max: config.sessions_max.saturating_mul(2),
            }),
            strays: BTreeSet::new(),
        }
    }
}

impl Gateway {
    /// The client asks for events. The CTI manager is asked for them unless another session of the device was first.
    pub(super) fn start_client_monitor(&mut self, key: &SessionKey, now: Now) {
        let session = self.known_mut(key);
        match session.link {
            Link::Down => {
                let error = CstaErrorCode::RESOURCE_OUT_OF_SERVICE;
                self.answer_error(key, Some(Service::MonitorStart), error, now);
            }
            Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
                session.progress = Progress::WaitingForLink;
            }
            Link::Up { connection } => {
                session.progress = Progress::WaitingForMonitor;
                session.link = Link::StartingMonitor { connection };
                self.watch(key, now);
            }
        }
    }

    /// Asks for the monitor of the session's device. Said again it may find a higher priority.
    pub(super) fn watch(&mut self, key: &SessionKey, now: Now) {
        let session = self.sessions.known(key);
        let Link::StartingMonitor { connection } = session.link else {
            return;
        };
        let device = session.record.device.clone();
        let subscribed = MonitorInput::Subscribed {
            subscriber: key.clone(),
            key: MonitorKey { connection, device },
            priority: priority_of(session),
        };
        self.tell_monitors(subscribed, now);
    }

    /// The last one who watches a device has its monitor stopped.
    pub(super) fn unwatch(&mut self, key: &SessionKey) {
        let subscriber = key.clone();
        let outputs = self
            .watching
            .monitors
            .handle(MonitorInput::Unsubscribed { subscriber });
        for output in outputs {
            // Nobody else hears of it.
            if let MonitorOutput::Stop { key, cross_ref_id } = output {
                self.ask_monitor_stop(key, cross_ref_id);
            }
        }
    }

    fn tell_monitors(&mut self, input: MonitorInput, now: Now) {
        for output in self.watching.monitors.handle(input) {
            match output {
                MonitorOutput::Start { key } => self.ask_monitor_start(key),
                MonitorOutput::Stop { key, cross_ref_id } => self.ask_monitor_stop(key, cross_ref_id),
                MonitorOutput::Started { subscriber, .. } => self.monitor_started(&subscriber, now),
                MonitorOutput::Joined { subscriber, .. } => self.read_snapshot(&subscriber),
                MonitorOutput::Failed {
                    subscriber,
                    key,
                    failure,
                } => self.monitor_failed(&subscriber, key.connection, &failure, now),
                MonitorOutput::Lost { subscriber, key } => {
                    self.resumption_failed(&subscriber, key.connection, now);
                }
            }
        }
    }

    fn ask_monitor_start(&mut self, key: MonitorKey) {
        let connection = key.connection;
        let device = key.device.clone();
        self.submit(
            connection,
            Asker::MonitorStart(key),
            Request::Monitor(MonitorRequest::Start { device }),
        );
    }

    fn ask_monitor_stop(&mut self, key: MonitorKey, cross_ref_id: String) {
        let connection = key.connection;
        self.submit(
            connection,
            Asker::MonitorStop(key),
            Request::Monitor(MonitorRequest::Stop { cross_ref_id }),
        );
    }

    pub(super) fn monitor_start_answered(
        &mut self,
        key: MonitorKey,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        let result = result.and_then(|response| match response {
            Response::MonitorStart { cross_ref_id } => Ok(cross_ref_id),
            Response::RequestSystemStatus { .. }
            | Response::GetCstaFeatures(_)
            | Response::SnapshotDevice { .. }
            | Response::SnapshotCall { .. }
            | Response::NewCall { .. }
            | Response::Done(_) => Err(CtiFailure::WrongResponse),
        });
        self.tell_monitors(MonitorInput::StartAnswered { key, result }, now);
    }

    pub(super) fn monitor_stop_answered(&mut self, key: MonitorKey, now: Now) {
        self.tell_monitors(MonitorInput::StopAnswered { key }, now);
    }

    pub(super) fn stray_stop_answered(&mut self, connection: CtiConnectionId, cross_ref_id: String) {
        self.watching.strays.remove(&(connection, cross_ref_id));
    }

    /// A client that has just asked sees for itself how things are; one that was told of calls before is told what
    /// it missed.
    fn monitor_started(&mut self, key: &SessionKey, now: Now) {
        let session = self.known_mut(key);
        let Link::StartingMonitor { connection } = session.link else {
            return;
        };
        if !session.progress.is_waiting_for_monitor() {
            return self.read_snapshot(key);
        }
        session.link = Link::Up { connection };
        session.resumptions_failed = 0;
        self.client_monitor_started(key, now);
    }

    fn read_snapshot(&mut self, key: &SessionKey) {
        let session = self.known_mut(key);
        let Link::StartingMonitor { connection } = session.link else {
            return;
        };
        session.link = Link::ReadingSnapshot {
            connection,
            meanwhile: VecDeque::new(),
            found: None,
        };
        let device = session.record.device.clone();
        let request = Request::Snapshot(SnapshotRequest::Device { device });
        self.ask(key, connection, CtiPurpose::ResumeSnapshot, request);
    }

    fn monitor_failed(
        &mut self,
        key: &SessionKey,
        connection: CtiConnectionId,
        failure: &MonitorFailure,
        now: Now,
    ) {
        let session = self.known_mut(key);
        if !session.progress.is_waiting_for_monitor() {
            return self.resumption_failed(key, connection, now);
        }
        session.link = Link::Up { connection };
        let error = match failure {
            MonitorFailure::TooMany => CstaErrorCode::RESOURCE_LIMIT_EXCEEDED,
            MonitorFailure::NotStarted(failure) => failure.error_code(),
        };
        self.answer_error(key, Some(Service::MonitorStart), error, now);
    }

    /// Monitors end with their connection. The caller gives another connection to the sessions that watched.
    pub(super) fn forget_monitors_of(&mut self, connection: CtiConnectionId) {
        let _lost = self
            .watching
            .monitors
            .handle(MonitorInput::ConnectionLost { connection });
        self.watching.strays.retain(|(place, _)| *place != connection);
        // What is still said of them came too late.
        self.cti_requests
            .retain(|_, asker| !asker.is_about_monitor_of(connection));
    }

    pub(super) fn cti_monitor_stopped(
        &mut self,
        connection: CtiConnectionId,
        cross_ref_id: String,
        now: Now,
    ) {
        let stopped = MonitorInput::StoppedByCtiManager {
            connection,
            cross_ref_id,
        };
        self.tell_monitors(stopped, now);
    }

    /// Tells every session that watches the device, each under its own call and device ids.
    pub(super) fn cti_event(&mut self, connection: CtiConnectionId, event: &Event) {
        let cross_ref_id = &event.monitor_cross_ref_id;
        let monitors = &self.watching.monitors;
        if !monitors.knows(connection, cross_ref_id) {
            return self.stop_stray(connection, cross_ref_id);
        }
        let subscribers: Vec<SessionKey> = monitors.subscribers(connection, cross_ref_id).cloned().collect();
        for key in subscribers {
            self.deliver(&key, event.clone());
        }
    }

    fn deliver(&mut self, key: &SessionKey, event: Event) {
        let events_max = self.config.events_per_session_max;
        let session = self.known_mut(key);
        let Link::ReadingSnapshot { meanwhile, .. } = &mut session.link else {
            return self.take_event(key, event);
        };
        if meanwhile.len() < events_max {
            meanwhile.push_back(event);
        } else {
            self.report(Report::EventDropped);
        }
    }

    /// Once for all the events that may come of it. While a MonitorStart is unanswered the monitor may turn out to
    /// be ours: the next event will tell.
    fn stop_stray(&mut self, connection: CtiConnectionId, cross_ref_id: &str) {
        self.report(Report::EventOfUnknownMonitor);
        let watching = &mut self.watching;
        if watching.monitors.is_starting_any(connection) || watching.strays.len() >= STRAYS_MAX {
            return;
        }
        let cross_ref_id = cross_ref_id.to_owned();
        if watching.strays.insert((connection, cross_ref_id.clone())) {
            let asker = Asker::StrayStop {
                connection,
                cross_ref_id: cross_ref_id.clone(),
            };
            self.submit(
                connection,
                asker,
                Request::Monitor(MonitorRequest::Stop { cross_ref_id }),
            );
        }
    }
}

/// Sessions whose users wait, or are on the phone, come first.
pub(super) fn priority_of(session: &Session) -> MonitorPriority {
    if session.requests.is_empty() && session.calls.is_empty() {
        MonitorPriority::Background
    } else {
        MonitorPriority::Traffic
    }
}

/// Monitors that no session watches and that are being stopped, at a time.
const STRAYS_MAX: usize = 1024;
