//! A session and the monitor of its device: asked for, running, or refused; and the events that it brings.

use std::collections::VecDeque;

use crate::csta::{CstaErrorCode, Event, Request, Service, SnapshotRequest};
use crate::cti::monitor::MonitorFailure;
use crate::cti::{CtiConnectionId, MonitorKey};

use super::Report;
use super::monitoring::CtiPurpose;
use super::one_session::OneSession;
use super::session::{Link, Progress};

impl OneSession<'_> {
    /// The client asks for events. The CTI manager is asked for them unless another session of the device was first.
    pub(super) fn start_client_monitor(&mut self) {
        match self.session.link {
            Link::Down => {
                let error = CstaErrorCode::RESOURCE_OUT_OF_SERVICE;
                self.answer_error(Some(Service::MonitorStart), error);
            }
            Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. } => {
                self.session.progress = Progress::WaitingForLink;
            }
            Link::Up { connection } => {
                self.session.progress = Progress::WaitingForMonitor;
                self.session.link = Link::StartingMonitor { connection };
                self.watch();
            }
        }
    }

    /// Asks for the monitor of the session's device, if it wants to be started. Asked again it may find a higher
    /// priority.
    pub(super) fn watch(&mut self) {
        if let Link::StartingMonitor { connection } = self.session.link {
            let device = self.session.record.device.clone();
            let monitor = MonitorKey { connection, device };
            let (key, priority) = (self.session.key(), self.session.priority());
            self.monitoring.watch(key, monitor, priority);
        }
    }

    /// A client that has just asked sees for itself how things are; one that was told of calls before is told what
    /// it missed.
    pub(super) fn monitor_started(&mut self) {
        if !self.session.progress.is_waiting_for_monitor() {
            return self.read_snapshot();
        }
        self.session.link.monitor_started();
        self.session.resumptions_failed = 0;
        self.client_monitor_started();
    }

    pub(super) fn read_snapshot(&mut self) {
        let connection = self.session.link.monitor_started();
        self.session.link = Link::ReadingSnapshot {
            connection,
            meanwhile: VecDeque::new(),
            found: None,
        };
        let device = self.session.record.device.clone();
        let request = Request::Snapshot(SnapshotRequest::Device { device });
        self.ask(connection, CtiPurpose::ResumeSnapshot, request);
    }

    pub(super) fn monitor_failed(&mut self, connection: CtiConnectionId, failure: &MonitorFailure) {
        if !self.session.progress.is_waiting_for_monitor() {
            return self.resumption_failed(connection);
        }
        self.session.link = Link::Up { connection };
        let error = match failure {
            MonitorFailure::TooMany => CstaErrorCode::RESOURCE_LIMIT_EXCEEDED,
            MonitorFailure::NotStarted(failure) => failure.error_code(),
        };
        self.answer_error(Some(Service::MonitorStart), error);
    }

    /// An event of the session's device. While a snapshot is read, events wait: it tells how things were before.
    pub(super) fn deliver(&mut self, event: Event) {
        let Link::ReadingSnapshot { meanwhile, .. } = &mut self.session.link else {
            return self.take_event(event);
        };
        if meanwhile.len() < self.config.events_per_session_max {
            meanwhile.push_back(event);
        } else {
            self.report(Report::EventDropped);
        }
    }
}
