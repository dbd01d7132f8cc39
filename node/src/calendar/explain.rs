//! What an administrator is told about the calendars of this node: about one user, about every CAS, and in numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_cluster::{Assignment, CalendarPresence, CasId};

use tandem_exchange::ews::{FailureClass, Mailbox};

/// The answer to a push callback (docs/spec/ews.md §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackVerdict {
    /// `OK`: the subscription goes on.
    Keep,
    /// `Unsubscribe`: it is no longer wanted.
    Unsubscribe,
}

/// How Exchange reports one user's changes.
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

/// The state of a user's subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubscriptionState {
    /// Another node owns this calendar.
    Elsewhere,
    /// The cluster has not assigned a CAS to the user yet.
    Unassigned,
    /// Waits until its next try.
    Waiting,
    /// Subscribe waits in the queue of the CAS.
    Queued,
    /// Subscribe was sent.
    Asked,
    /// Subscribed, and nothing heard yet.
    Unconfirmed,
    Live,
    /// Failed here; the cluster was asked for another CAS.
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

/// Everything that this node knows about one user's calendar. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub user: String,
    /// The primary address, adopted or configured.
    pub mailbox: Mailbox,
    /// CAS, since when, why, and the epoch.
    pub assignment: Option<Assignment>,
    pub subscription: SubscriptionState,
    pub delivery: Option<DeliveryKind>,
    pub subscribed_at_ms: Option<u64>,
    /// When the subscription was last heard from.
    pub last_heard_ms: Option<u64>,
    /// When Exchange last reported a change.
    pub last_event_ms: Option<u64>,
    pub last_read_ms: Option<u64>,
    /// Until when the calendar is known.
    pub known_until_ms: Option<u64>,
    pub next_read_ms: Option<u64>,
    pub published: Option<CalendarPresence>,
    /// When the next change of state is published, spread included.
    pub next_edge_ms: Option<u64>,
    pub next_retry_ms: Option<u64>,
    /// The failure that is being waited out.
    pub trouble: Option<FailureClass>,
    /// Push callbacks never came: the CAS cannot reach the notification port.
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

/// How this node sees one CAS. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CasHealth {
    pub cas: CasId,
    /// `false`: removed, and its users have not all left yet.
    pub configured: bool,
    /// The rotation stops here.
    pub takes_users: bool,
    pub breaker: BreakerState,
    pub breaker_since_ms: Option<u64>,
    /// Only this CAS refuses the account.
    pub refuses_account: bool,
    /// Users of this node at this CAS.
    pub users: usize,
    /// Of them, those with a working subscription.
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
    /// Owned by this node.
    pub users_owned: usize,
    /// This node's users, by subscription state.
    pub subscriptions: BTreeMap<SubscriptionState, usize>,
    pub deliveries: BTreeMap<DeliveryKind, usize>,
    /// This node's users whose calendar has been read.
    pub calendars_known: usize,
    pub streams: usize,
    pub requests_queued: usize,
    pub requests_in_flight: usize,
    pub proposals_in_flight: usize,
    /// Users for whom another CAS was requested, by cause.
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
