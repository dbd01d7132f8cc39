//! Sessions and the monitors of their devices: which session watches what, and who is told what a monitor reports.

use std::collections::VecDeque;

use tandem_cluster::SessionKey;

use crate::csta::{CstaErrorCode, Event, Request, Service, SnapshotRequest};
use crate::cti::monitor::MonitorFailure;
use crate::cti::{CtiConnectionId, MonitorKey, MonitorPriority};

use super::monitoring::CtiPurpose;
use super::session::{Link, Progress, Session};
use super::{Gateway, Now, Report};

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
        let monitor = MonitorKey { connection, device };
        self.monitoring.watch(key, monitor, priority_of(session));
        self.take_notices(now);
    }

    /// A client that has just asked sees for itself how things are; one that was told of calls before is told what
    /// it missed.
    pub(super) fn monitor_started(&mut self, key: &SessionKey, now: Now) {
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

    pub(super) fn read_snapshot(&mut self, key: &SessionKey) {
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

    pub(super) fn monitor_failed(
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

    /// An event for a session that watches the device. The session is told under its own call and device ids.
    pub(super) fn deliver(&mut self, key: &SessionKey, event: Event) {
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
}

/// Sessions whose users wait, or are on the phone, come first.
pub(super) fn priority_of(session: &Session) -> MonitorPriority {
    if session.requests.is_empty() && session.calls.is_empty() {
        MonitorPriority::Background
    } else {
        MonitorPriority::Traffic
    }
}
