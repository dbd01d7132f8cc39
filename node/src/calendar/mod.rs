//! Calendar subscriptions: which user is read where, and what his calendar says now (CAL-1 to CAL-4, CAL-8 to CAL-10).
//!
//! Owns the subscriptions of this node's users, the patience with each Client Access Server, and the times at which
//! presence changes. Does not own assignments (the replicated state does), connections or the clock.
//! What always holds: a user is subscribed before his calendar is read; throttling, per-user errors and restarts of
//! ours move nobody; what is published last stays until something better is known.

mod explain;
mod input;
mod output;
mod settings;
mod timeline;

use std::time::Instant;

use tandem_shared::cluster::NodeId;

use crate::exchange::ews::SubscriptionId;
use crate::gateway::Now;

pub use explain::{
    BreakerState, CallbackVerdict, Census, DeliveryKind, Explanation, GatewayHealth, SubscriptionState,
};
pub use input::{CalendarUser, Input, StreamEnd};
pub use output::{AffinityKey, Output, Report, RequestId, StreamId};
pub use settings::{CalendarSettings, Delivery};
pub use timeline::{Timeline, edge_offset};

/// Limits of one node's calendars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarsConfig {
    pub node: NodeId,
    /// Enabled users in the cluster; more are not looked after, which is reported.
    pub users_max: usize,
    /// Users named in one entry of the log.
    pub users_per_entry_max: usize,
    /// `MaxEntriesReturned` of a CalendarView.
    pub entries_max: u16,
}

impl CalendarsConfig {
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            users_max: 1_000_000,
            users_per_entry_max: 500,
            entries_max: 500,
        }
    }
}

/// The calendars of one node.
#[derive(Debug)]
pub struct Calendars {
    config: CalendarsConfig,
    settings: CalendarSettings,
}

impl Calendars {
    #[must_use]
    pub fn new(config: CalendarsConfig, settings: CalendarSettings, _seed: u64) -> Self {
        Self { config, settings }
    }

    /// Takes in what happened and returns what to do, in order.
    #[must_use]
    pub fn handle(&mut self, input: Input, _now: Now) -> Vec<Output> {
        if let Input::Settings(settings) = input {
            self.settings = settings;
        }
        Vec::new()
    }

    /// When `handle` next wants `DeadlineReached`. It never lies far ahead while an edge is awaited, so that a clock
    /// that was set is noticed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// Whether a callback of this user's `attempt` to subscribe is wanted. Of a user of another node: yes, while he
    /// is enabled.
    #[must_use]
    pub fn callback_verdict(
        &self,
        _user: &str,
        _attempt: u64,
        _subscription: &SubscriptionId,
    ) -> CallbackVerdict {
        CallbackVerdict::Keep
    }

    /// `None`: nobody of this name is enabled.
    #[must_use]
    pub fn explain(&self, _user: &str) -> Option<Explanation> {
        None
    }

    /// In configured order.
    #[must_use]
    pub fn gateway_statuses(&self) -> Vec<GatewayHealth> {
        Vec::new()
    }

    #[must_use]
    pub fn census(&self) -> Census {
        let _ = &self.config;
        Census::default()
    }
}
