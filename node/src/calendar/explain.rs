//! What the calendars of this node tell an administrator: of one user, of every gateway, and in numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_shared::cluster::{Assignment, CalendarPresence, CasId};

use crate::exchange::ews::{FailureClass, Mailbox};

/// What is to be answered to a push callback (docs/spec/ews.md §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackVerdict {
    /// `OK`: the subscription goes on.
    Keep,
    /// `Unsubscribe`: nobody wants it any more.
    Unsubscribe,
}

/// How Exchange tells of one user's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryKind {
    Push,
    Streaming,
    Pull,
}

impl DeliveryKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Streaming => "streaming",
            Self::Pull => "pull",
        }
    }
}

/// Where a user's subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubscriptionState {
    /// Another node keeps this calendar.
    Elsewhere,
    /// The cluster has not given the user a gateway yet.
    Unassigned,
    /// Waits until its next try.
    Waiting,
    /// Subscribe waits for its turn at the gateway.
    Queued,
    /// Subscribe was sent.
    Asked,
    /// Subscribed, and nothing heard yet.
    Unconfirmed,
    Live,
    /// Failed here; the cluster is asked for another gateway.
    Moving,
}

impl SubscriptionState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Unassigned => "unassigned",
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Asked => "asked",
            Self::Unconfirmed => "unconfirmed",
            Self::Live => "live",
            Self::Moving => "moving",
        }
    }
}

/// Everything that is known of one user's calendar on this node. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub user: String,
    /// The primary address, adopted or configured.
    pub mailbox: Mailbox,
    /// Gateway, since when, why, and the epoch.
    pub assignment: Option<Assignment>,
    pub subscription: SubscriptionState,
    pub delivery: Option<DeliveryKind>,
    pub subscribed_at_ms: Option<u64>,
    /// When the subscription last gave a sign of life.
    pub last_heard_ms: Option<u64>,
    /// When Exchange last told of a change.
    pub last_event_ms: Option<u64>,
    pub last_read_ms: Option<u64>,
    /// How far the calendar is known.
    pub known_until_ms: Option<u64>,
    pub next_read_ms: Option<u64>,
    pub published: Option<CalendarPresence>,
    /// When the next change of state is published, spread included.
    pub next_edge_ms: Option<u64>,
    pub next_retry_ms: Option<u64>,
    /// The failure that is being waited out.
    pub trouble: Option<FailureClass>,
    /// Push callbacks never came: the notification port cannot be reached from the gateway.
    pub push_unreachable: bool,
    /// Moves in a row that did not help.
    pub moves: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BreakerState {
    Closed,
    Open,
    /// One probe is under way.
    HalfOpen,
}

impl BreakerState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How this node gets on with one gateway. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayHealth {
    pub gateway: CasId,
    /// `false`: removed, and its users have not all left yet.
    pub configured: bool,
    /// The rotation stops here.
    pub takes_users: bool,
    pub breaker: BreakerState,
    pub breaker_since_ms: Option<u64>,
    /// This gateway alone refuses the account.
    pub refuses_account: bool,
    /// Users of this node at this gateway.
    pub users: usize,
    /// Of them, those whose subscription lives.
    pub subscribed: usize,
    /// Of them, those whose push callbacks never came.
    pub push_unreachable: usize,
    pub streams: usize,
    pub queued: usize,
    pub in_flight: usize,
    /// Requests that may be in flight now.
    pub concurrency: usize,
    pub back_off_until_ms: Option<u64>,
    pub requests: u64,
    pub failures: u64,
    pub throttled: u64,
    /// Requests that found the queue full.
    pub refused: u64,
    pub last_success_ms: Option<u64>,
    pub last_latency: Option<Duration>,
    pub last_failure_ms: Option<u64>,
    pub last_failure: Option<String>,
}

/// In numbers, for the metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// Enabled in the whole cluster.
    pub users_enabled: usize,
    /// Kept by this node.
    pub users_owned: usize,
    /// Of this node's users, by state of their subscription.
    pub subscriptions: BTreeMap<SubscriptionState, usize>,
    pub deliveries: BTreeMap<DeliveryKind, usize>,
    /// Of this node's users, those whose calendar has been read.
    pub calendars_known: usize,
    pub streams: usize,
    pub requests_queued: usize,
    pub requests_in_flight: usize,
    pub proposals_in_flight: usize,
    /// Users for whom another gateway was asked, by cause.
    pub moves_by_cause: BTreeMap<&'static str, u64>,
    pub edges_published: u64,
    /// Of them, those published more than a second after they were due.
    pub edges_late: u64,
    pub credential_refused: bool,
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub moves_by_cause: BTreeMap<&'static str, u64>,
    pub edges_published: u64,
    pub edges_late: u64,
}
