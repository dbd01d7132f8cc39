//! Reports of the calendars: a log line where an operator needs one, and a metric for everything.

use std::collections::BTreeMap;

use tandem_cluster::CasId;
use tracing::{debug, error, info, warn};

use crate::calendar::Report;
use crate::metrics::CalendarMetrics;

/// A CAS that fails takes thousands of subscriptions with it: they make a summary line now and then, not thousands of
/// lines.
pub(super) struct Reports {
    metrics: CalendarMetrics,
    since_last: BTreeMap<CasId, Sums>,
}

#[derive(Default)]
struct Sums {
    subscribed: u64,
    lost: u64,
    moving: u64,
}

impl Reports {
    pub(super) fn new(metrics: CalendarMetrics) -> Self {
        Self {
            metrics,
            since_last: BTreeMap::new(),
        }
    }

    pub(super) fn report(&mut self, report: &Report) {
        self.metrics.record(report);
        match report {
            Report::Subscribed { user, cas } => {
                self.sums(cas).subscribed += 1;
                debug!(user, %cas, "subscribed");
            }
            Report::SubscriptionLost { user, cas, class } => {
                self.sums(cas).lost += 1;
                debug!(user, %cas, ?class, "subscription lost");
            }
            Report::Moving { user, cas, cause } => {
                self.sums(cas).moving += 1;
                debug!(user, %cas, cause, "another CAS requested");
            }
            Report::Unsubscribed { user } => debug!(user, "unsubscribed"),
            Report::Failed {
                cas,
                operation,
                class,
            } => debug!(%cas, operation, ?class, "request to the CAS failed"),
            Report::Edge { due_ms, published_ms } => debug!(due_ms, published_ms, "calendar state changed"),
            Report::Throttled { cas, for_ } => {
                info!(%cas, ?for_, "CAS throttles requests");
            }
            Report::FellBackToStreaming { user } => {
                info!(user, "no push callback came; falling back to streaming")
            }
            Report::Deaf { user, cas } => {
                info!(user, %cas, "stale subscription: the calendar changed but no notification arrived");
            }
            Report::NotificationPortUnreachable { user, cas } => {
                warn!(user, %cas, "no push callback came: check that the CAS can reach exchange.push.advertise");
            }
            Report::MailboxUnavailable { user, reason } => {
                warn!(user, reason, "mailbox unavailable")
            }
            Report::RightsMissing { user, reason } => {
                warn!(user, reason, "the service account may not read this calendar");
            }
            Report::BreakerOpened { cas } => {
                warn!(%cas, "CAS circuit breaker opened; reassigning its users")
            }
            Report::BreakerClosed { cas } => {
                info!(%cas, "CAS circuit breaker closed; it answers again")
            }
            Report::CredentialRefused { cas, reason } => {
                error!(%cas, reason, "Exchange rejected the service account; retrying once a minute");
            }
            Report::CredentialRefusedByOne { cas, reason } => {
                error!(%cas, reason, "only this CAS rejects the service account");
            }
            Report::RequestRefused { user, cas, reason } => {
                error!(user, %cas, reason, "CAS rejected a request of this node as invalid");
            }
            Report::CredentialAccepted => info!("Exchange accepts the service account"),
            Report::Assigned { cas, reason } => debug!(%cas, ?reason, "a user was assigned"),
            Report::CalledBack(outcome) => debug!(?outcome, "push callback"),
            Report::CallbackDropped => {
                debug!("too many callbacks wait to be passed on; one was dropped");
            }
            Report::CasOffered {
                count,
                is_taken: true,
            } => {
                info!(
                    count,
                    "the cluster adopted the gateways of the configuration file"
                );
            }
            Report::CasOffered {
                count,
                is_taken: false,
            } => {
                warn!(
                    count,
                    "the cluster refused the gateways of the configuration file"
                );
            }
            Report::UsersLeftOut { count } => {
                error!(count, "more calendars are enabled than this cluster can follow");
            }
        }
    }

    /// The summary lines.
    pub(super) fn summarize(&mut self) {
        for (cas, sums) in std::mem::take(&mut self.since_last) {
            let Sums {
                subscribed,
                lost,
                moving,
            } = sums;
            info!(%cas, subscribed, lost, moving, "subscriptions");
        }
    }

    fn sums(&mut self, cas: &CasId) -> &mut Sums {
        self.since_last.entry(cas.clone()).or_default()
    }
}
