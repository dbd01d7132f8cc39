//! What the CTI managers do and say, told to the sessions.

use crate::cti::{ConnectionStatus, CtiInput};

use super::monitoring::{News, Notice};
use super::{Gateway, Now, Report};

impl Gateway {
    /// The CTI connections, for the metrics.
    pub fn cti_statuses(&self) -> impl Iterator<Item = ConnectionStatus<'_>> {
        self.monitoring.statuses()
    }

    pub(super) fn cti(&mut self, input: CtiInput, now: Now) {
        let outputs = self.monitoring.take_in(input, now.instant);
        self.outputs.extend(outputs);
    }

    pub(super) fn cti_deadline(&mut self, now: Now) {
        let outputs = self.monitoring.deadline_reached(now.instant);
        self.outputs.extend(outputs);
    }

    /// Everything is handed over.
    pub(super) fn stop_links(&mut self, now: Now) {
        let outputs = self.monitoring.stop(now.instant);
        self.outputs.extend(outputs);
    }

    pub(super) fn hand_over_requests(&mut self, now: Now) {
        let outputs = self.monitoring.hand_over_requests(now.instant);
        self.outputs.extend(outputs);
    }

    pub(super) fn take_news(&mut self, news: News, now: Now) {
        match news {
            News::Answered {
                token,
                waiter,
                result,
            } => {
                if let Some(mut one) = self.one_session(&waiter.session, now) {
                    one.cti_answered(token, &waiter, result);
                }
            }
            News::Event { event, subscribers } => {
                for key in subscribers {
                    self.known_session(&key, now).deliver((*event).clone());
                }
            }
            News::EventOfUnknownMonitor => self.report(Report::EventOfUnknownMonitor),
            News::Notices => {}
            News::InService { connection } => {
                self.report(Report::CtiInService { connection });
                self.cti_in_service(now);
            }
            News::OutOfService { connection, reason } => {
                self.report(Report::CtiOutOfService { connection, reason });
                self.cti_out_of_service(connection, now);
            }
        }
        self.take_notices(now);
    }

    /// Tells sessions what has become of the monitors that they have asked for.
    pub(super) fn take_notices(&mut self, now: Now) {
        while let Some(notice) = self.monitoring.next_notice() {
            match notice {
                Notice::Started { subscriber } => self.known_session(&subscriber, now).monitor_started(),
                Notice::Joined { subscriber } => self.known_session(&subscriber, now).read_snapshot(),
                Notice::Failed {
                    subscriber,
                    connection,
                    failure,
                } => self
                    .known_session(&subscriber, now)
                    .monitor_failed(connection, &failure),
                Notice::Lost {
                    subscriber,
                    connection,
                } => self.known_session(&subscriber, now).resumption_failed(connection),
            }
        }
    }
}
