//! The lane to one CAS: what waits for it, how much is under way, and how it has behaved recently.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tandem_cluster::{CasGateway, CasId};

use super::breaker::Breaker;
use super::job::{Farewell, Job, Urgency};
use super::pace::Pace;
use super::settings::CalendarSettings;
use super::user::UserKey;

/// A CAS, by its index in the table of lanes. A name keeps its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneId(pub u16);

#[derive(Debug)]
pub(super) struct Lane {
    pub id: CasId,
    /// `None`: named by an assignment, and not configured (any more).
    pub cas: Option<CasGateway>,
    /// This node's users here.
    pub members: BTreeSet<UserKey>,
    pub subscribed: usize,
    queues: [VecDeque<Job>; Urgency::COUNT],
    pub in_flight: usize,
    pub pace: Pace,
    pub breaker: Breaker,
    pub refusal: Option<Refusal>,
    pub bulk: Bulk,
    pub sweep: Sweep,
    /// When a request was last answered: an idle CAS is probed now and then.
    pub heard_at: Option<Instant>,
    pub probe_at: Option<Instant>,
    pub probe_in_flight: bool,
    /// Another CAS failed, and this one may have gone down with it.
    pub probe_wanted: bool,
    /// When the users of an open breaker begin to be moved.
    pub evacuate_at: Option<Instant>,
    /// What was proposed about the breaker since the log last reported the CAS.
    pub breaker_told: Option<bool>,
    pub counters: Counters,
}

/// Only this CAS refuses the account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal {
    pub probe_at: Instant,
    pub times: u32,
}

/// Users whose free/busy is to be read, a hundred in one request.
#[derive(Debug)]
pub(super) struct Bulk {
    /// Before they are subscribed.
    pub first: BTreeSet<UserKey>,
    /// After that: the read that counts.
    pub settled: BTreeSet<UserKey>,
    /// When the subscribed ones stop waiting for more users to join the request.
    pub settle_at: Option<Instant>,
    /// Mailboxes in one request; fewer where the CAS found it too much.
    pub mailboxes_max: usize,
    pub failures: u32,
    pub retry_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Sweep {
    pub after: Option<UserKey>,
    pub next_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub requests: u64,
    pub failures: u64,
    pub throttled: u64,
    /// Requests that found the queue full.
    pub refused: u64,
    pub last_success_ms: Option<u64>,
    pub last_latency: Option<Duration>,
    pub last_failure: Option<(u64, String)>,
}

impl Lane {
    pub(super) fn new(id: CasId, settings: &CalendarSettings) -> Self {
        Self {
            id,
            cas: None,
            members: BTreeSet::new(),
            subscribed: 0,
            queues: Default::default(),
            in_flight: 0,
            pace: Pace::new(settings.concurrency, settings.concurrency_max),
            breaker: Breaker::default(),
            refusal: None,
            bulk: Bulk::default(),
            sweep: Sweep::default(),
            heard_at: None,
            probe_at: None,
            probe_in_flight: false,
            probe_wanted: false,
            evacuate_at: None,
            breaker_told: None,
            counters: Counters::default(),
        }
    }

    /// A CAS with a new address is tried at once.
    pub(super) fn configure(&mut self, cas: CasGateway, now: Instant) {
        let endpoint = self.cas.as_ref().map(|known| &known.endpoint);
        if endpoint != Some(&cas.endpoint) {
            self.breaker.probe_soon(now);
            self.refusal = None;
        }
        self.cas = Some(cas);
        self.breaker_told = None;
    }

    /// `Err` when the queue is full.
    pub(super) fn enqueue(&mut self, job: Job, urgency: Urgency, queue_max: usize) -> Result<(), Job> {
        if self.queued() >= queue_max {
            self.counters.refused += 1;
            return Err(job);
        }
        if let Some(queue) = self.queues.get_mut(urgency.index()) {
            queue.push_back(job);
        }
        Ok(())
    }

    /// If the queue is full, the subscription ends by itself, because its events are not fetched.
    pub(super) fn queue_farewell(&mut self, farewell: Farewell, queue_max: usize) {
        let job = Job::Unsubscribe(Box::new(farewell));
        drop(self.enqueue(job, Urgency::Farewell, queue_max));
    }

    pub(super) fn take(&mut self, urgency: Urgency) -> Option<Job> {
        self.queues.get_mut(urgency.index())?.pop_front()
    }

    pub(super) fn queued(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    pub(super) fn has_work(&self) -> bool {
        self.queued() > 0 || !self.bulk.first.is_empty() || !self.bulk.settled.is_empty()
    }

    /// Many users wait for it: requests that can be combined are combined.
    pub(super) fn is_crowded(&self) -> bool {
        self.queued() > self.pace.concurrency() * 4
    }

    pub(super) fn is_configured(&self) -> bool {
        self.cas.is_some()
    }

    /// Whether the cluster may give users to it, as far as this node knows.
    pub(super) fn takes_users(&self) -> bool {
        self.cas.as_ref().is_some_and(CasGateway::takes_users) && self.breaker.is_closed()
    }

    /// Nothing refers to it any more.
    pub(super) fn is_vacant(&self) -> bool {
        !self.is_configured() && self.members.is_empty() && self.in_flight == 0 && self.queued() == 0
    }
}

impl Default for Bulk {
    fn default() -> Self {
        Self {
            first: BTreeSet::new(),
            settled: BTreeSet::new(),
            settle_at: None,
            mailboxes_max: tandem_exchange::ews::Operation::AVAILABILITY_MAILBOXES_MAX,
            failures: 0,
            retry_at: None,
        }
    }
}
