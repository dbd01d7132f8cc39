//! Requests to a CAS, and which of them goes first.

use std::time::Instant;

use super::lane::LaneId;
use super::user::UserKey;
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{Mailbox, TimeWindow};

#[derive(Debug)]
pub(super) enum Job {
    Subscribe(UserKey),
    /// The step of the user's reading decides: GetFolder or FindItem.
    Read(UserKey),
    /// GetEvents.
    Events(UserKey),
    Unsubscribe(Box<Farewell>),
    Availability {
        purpose: BulkPurpose,
        users: Box<[UserKey]>,
    },
    /// GetFolder of any user: does the CAS answer?
    Probe(UserKey),
}

/// Ends a streaming or pull subscription that is no longer wanted. Its user may be gone.
#[derive(Debug)]
pub(super) struct Farewell {
    pub subscription: Box<str>,
    pub mailbox: Mailbox,
    pub affinity: AffinityKey,
    pub tries: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BulkPurpose {
    /// Before the users are subscribed, so that presence is right in seconds.
    First,
    /// After that, nothing can be missed.
    Settled,
    /// To find stale subscriptions.
    Sweep,
}

/// In order of urgency. Bulk availability goes between farewells and changes, sweeps go last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    Farewell,
    /// A calendar has changed.
    Changed,
    Subscribe,
    /// Refreshes of what is already known.
    Refresh,
}

impl Urgency {
    pub(super) const COUNT: usize = 4;

    pub(super) fn index(self) -> usize {
        match self {
            Self::Farewell => 0,
            Self::Changed => 1,
            Self::Subscribe => 2,
            Self::Refresh => 3,
        }
    }
}

/// A request that will be answered.
#[derive(Debug)]
pub(super) struct Flight {
    pub lane: LaneId,
    pub job: Job,
    pub sent_at: Instant,
    /// Of a Subscribe.
    pub attempt: u64,
    /// Of FindItem and GetUserAvailability.
    pub window: TimeWindow,
    pub operation: &'static str,
    /// Whom it impersonates: a Subscribe that is no longer wanted when it is answered is withdrawn.
    pub mailbox: Option<Mailbox>,
    pub affinity: AffinityKey,
}
