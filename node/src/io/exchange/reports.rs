//! What the calendars report: a line in the log where an operator wants one, and a count of everything.

use std::collections::BTreeMap;

use tandem_shared::cluster::CasId;
use tracing::{debug, error, info, warn};

use crate::calendar::Report;
use crate::metrics::CalendarMetrics;

/// A gateway that fails takes thousands of subscriptions with it: they make one line every now and then, not
/// thousands.
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
            Report::Subscribed { user, gateway } => {
                self.sums(gateway).subscribed += 1;
                debug!(user, %gateway, "subscribed");
            }
            Report::SubscriptionLost { user, gateway, class } => {
                self.sums(gateway).lost += 1;
                debug!(user, %gateway, ?class, "subscription lost");
            }
            Report::Moving { user, gateway, cause } => {
                self.sums(gateway).moving += 1;
                debug!(user, %gateway, cause, "another gateway is asked for");
            }
            Report::Unsubscribed { user } => debug!(user, "unsubscribed"),
            Report::Failed {
                gateway,
                operation,
                class,
            } => debug!(%gateway, operation, ?class, "a request failed"),
            Report::Edge { due_ms, published_ms } => debug!(due_ms, published_ms, "a calendar changed"),
            Report::Throttled { gateway, for_ } => {
                info!(%gateway, ?for_, "the gateway asks for fewer requests");
            }
            Report::FellBackToStreaming { user } => info!(user, "no callback came: changes are streamed"),
            Report::Deaf { user, gateway } => {
                info!(user, %gateway, "the subscription told of nothing although the calendar changed");
            }
            Report::NotificationPortUnreachable { user, gateway } => {
                warn!(user, %gateway, "no callback came: can the gateway reach exchange.push.advertise?");
            }
            Report::MailboxUnavailable { user, reason } => {
                warn!(user, reason, "the mailbox is not available")
            }
            Report::RightsMissing { user, reason } => {
                warn!(user, reason, "the account may not read this calendar");
            }
            Report::BreakerOpened { gateway } => warn!(%gateway, "the gateway fails: its users get others"),
            Report::BreakerClosed { gateway } => info!(%gateway, "the gateway answers again"),
            Report::CredentialRefused { gateway, reason } => {
                error!(%gateway, reason, "Exchange refuses the account: nothing is asked until it is mended, but once a minute");
            }
            Report::CredentialRefusedByOne { gateway, reason } => {
                error!(%gateway, reason, "this gateway alone refuses the account");
            }
            Report::RequestRefused {
                user,
                gateway,
                reason,
            } => {
                error!(user, %gateway, reason, "the gateway does not accept what this node asks");
            }
            Report::CredentialAccepted => info!("Exchange accepts the account"),
            Report::UsersLeftOut { count } => {
                error!(count, "more calendars are enabled than can be kept");
            }
        }
    }

    /// The lines that stand for many.
    pub(super) fn summarize(&mut self) {
        for (gateway, sums) in std::mem::take(&mut self.since_last) {
            let Sums {
                subscribed,
                lost,
                moving,
            } = sums;
            info!(%gateway, subscribed, lost, moving, "subscriptions");
        }
    }

    fn sums(&mut self, gateway: &CasId) -> &mut Sums {
        self.since_last.entry(gateway.clone()).or_default()
    }
}
