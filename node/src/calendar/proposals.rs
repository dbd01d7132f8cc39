//! Commands for the log: many users in one entry, one entry at a time.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::lane::LaneId;
use super::user::UserKey;

#[derive(Debug, Default)]
pub(super) struct Proposals {
    next: u64,
    in_flight: Option<(u64, Purpose)>,
    /// After a failure.
    retry_at: Option<Instant>,
    /// Users without a CAS.
    pub assigns: BTreeSet<UserKey>,
    /// Users who need another one.
    pub moves: VecDeque<(UserKey, MoveCause)>,
    /// Users of this node who are no longer enabled, by name.
    pub departed: BTreeSet<String>,
    budget: Budget,
}

/// What the entry in flight was for.
#[derive(Debug)]
pub(super) enum Purpose {
    Breaker {
        lane: LaneId,
        open: bool,
    },
    Assign(Vec<UserKey>),
    Move(Vec<(UserKey, MoveCause)>),
    Depart(Vec<String>),
    /// The CAS of the configuration file.
    Offer,
    /// Callbacks for users of other nodes.
    PassOn,
}

/// Why a user needs another CAS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoveCause {
    /// The subscription was lost.
    Lost,
    /// Three attempts failed.
    Failed,
    /// The CAS cannot reach the mailbox's store.
    Store,
    /// The account may not impersonate at this CAS.
    Denied,
    /// The CAS is down.
    Breaker,
}

impl MoveCause {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Failed => "failed",
            Self::Store => "store",
            Self::Denied => "denied",
            Self::Breaker => "breaker",
        }
    }
}

impl Proposals {
    pub(super) fn may_propose(&mut self, now: Instant) -> bool {
        self.retry_at = self.retry_at.filter(|at| *at > now);
        self.in_flight.is_none() && self.retry_at.is_none()
    }

    pub(super) fn in_flight(&self) -> usize {
        usize::from(self.in_flight.is_some())
    }

    pub(super) fn begin(&mut self, purpose: Purpose) -> u64 {
        self.next += 1;
        self.in_flight = Some((self.next, purpose));
        self.next
    }

    pub(super) fn finish(&mut self, proposal: u64) -> Option<Purpose> {
        match self.in_flight.take() {
            Some((known, purpose)) if known == proposal => {
                self.retry_at = None;
                Some(purpose)
            }
            other => {
                self.in_flight = other;
                None
            }
        }
    }

    pub(super) fn retry_later(&mut self, now: Instant) {
        self.retry_at = Some(now + RETRY_AFTER);
    }

    /// How many users may be moved now.
    pub(super) fn moves_allowed(&mut self, per_second: u32, now: Instant) -> usize {
        self.budget.available(per_second, now)
    }

    pub(super) fn moved(&mut self, count: usize) {
        self.budget.spend(count);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.in_flight.is_some() {
            return None;
        }
        let moves = (!self.moves.is_empty() && self.budget.left == 0)
            .then_some(self.budget.full_at)
            .flatten();
        [self.retry_at, moves].into_iter().flatten().min()
    }
}

/// Moves at a bounded rate, in few entries: once a second, as many as a second allows.
#[derive(Debug, Default)]
struct Budget {
    full_at: Option<Instant>,
    left: usize,
}

impl Budget {
    fn available(&mut self, per_second: u32, now: Instant) -> usize {
        if self.full_at.is_none_or(|at| at <= now) {
            self.left = usize::try_from(per_second.max(1)).unwrap_or(usize::MAX);
            self.full_at = Some(now + SECOND);
        }
        self.left
    }

    fn spend(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }
}

const SECOND: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_secs(1);
