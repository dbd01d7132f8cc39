//! Who owns a session, or a watcher, that a request names: this node, another one, or nobody (ARCHITECTURE.md §5).
//!
//! Owns the requests that are held until that is decided, and which of this node's own have been left to others a moment
//! ago. Does not own sessions, watchers or the log: it says what follows, and the caller does it. Sessions and watchers
//! have one [`Ownership`] each.
//!
//! What always holds: the number of held requests is bounded, and each is held for a bounded time; one adoption of a
//! key is proposed at a time; what was left to another node is claimed only for a request that says that its owner
//! cannot be reached.

mod departed;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tandem_cluster::{NodeId, SessionKey};

use super::session::QueuedRequest;
use departed::Departed;

#[derive(Debug)]
pub(super) struct Ownership {
    node: NodeId,
    requests_max: usize,
    /// How long a request is held.
    wait: Duration,
    held: BTreeMap<SessionKey, Held>,
    held_requests: usize,
    departed: Departed,
}

/// The requests for one key.
#[derive(Debug)]
struct Held {
    requests: VecDeque<QueuedRequest>,
    until: Instant,
    adopting: bool,
}

/// What follows from the owner that the state names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This node owns it.
    Own,
    /// Another live node owns it, and a front end does not know it yet: its requests go back.
    SendBack,
    /// Its owner does not answer: an adoption is proposed.
    Claim,
    /// Another node owns it, and nobody asks for it here or an adoption is under way.
    Leave,
    /// Nobody owns it.
    Unknown,
}

impl Ownership {
    /// For node `node`: `requests_max` requests are held, in all, each for `wait`.
    pub(super) fn new(node: NodeId, requests_max: usize, wait: Duration) -> Self {
        Self {
            node,
            requests_max,
            wait,
            held: BTreeMap::new(),
            held_requests: 0,
            departed: Departed::default(),
        }
    }

    /// Holds a request. Returns whether it is the first one for its key, or the request itself when there is no room.
    pub(super) fn hold(
        &mut self,
        key: &SessionKey,
        queued: QueuedRequest,
        now: Instant,
    ) -> Result<bool, Box<QueuedRequest>> {
        if self.held_requests >= self.requests_max {
            return Err(Box::new(queued));
        }
        self.held_requests += 1;
        let until = now + self.wait;
        let held = self.held.entry(key.clone()).or_insert_with(|| Held {
            requests: VecDeque::new(),
            until,
            adopting: false,
        });
        held.requests.push_back(queued);
        Ok(held.requests.len() == 1)
    }

    /// Takes out the requests that were held for `key`, in the order of their arrival.
    pub(super) fn take(&mut self, key: &SessionKey) -> VecDeque<QueuedRequest> {
        let requests = self.held.remove(key).map(|held| held.requests);
        let requests = requests.unwrap_or_default();
        self.held_requests -= requests.len();
        requests
    }

    /// Takes out the requests that have been held for long enough.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<QueuedRequest> {
        let overdue = self.held.iter().filter(|(_, held)| held.until <= now);
        let overdue: Vec<SessionKey> = overdue.map(|(key, _)| key.clone()).collect();
        overdue.iter().flat_map(|key| self.take(key)).collect()
    }

    /// Says what follows when the state names `owner`. After [`Verdict::Claim`] the caller proposes an adoption, and
    /// hands its outcome to [`Self::adoption_answered`].
    pub(super) fn verdict(&mut self, key: &SessionKey, owner: Option<NodeId>, now: Instant) -> Verdict {
        match owner {
            None => Verdict::Unknown,
            Some(owner) if owner == self.node => Verdict::Own,
            Some(_) if self.is_anothers(key, now) => Verdict::SendBack,
            Some(_) => match self.held.get_mut(key) {
                Some(held) if !held.adopting => {
                    held.adopting = true;
                    Verdict::Claim
                }
                Some(_) | None => Verdict::Leave,
            },
        }
    }

    /// An adoption was decided, or not in time. Returns whether requests still wait for it.
    pub(super) fn adoption_answered(&mut self, key: &SessionKey) -> bool {
        let held = self.held.get_mut(key);
        held.map(|held| held.adopting = false).is_some()
    }

    /// Left to a node that lives: a request that the front end sent here in ignorance of it goes back. One that it
    /// sends *again* comes because the new owner cannot be reached.
    pub(super) fn is_anothers(&self, key: &SessionKey, now: Instant) -> bool {
        let is_marked = |held: &Held| held.requests.iter().any(|queued| queued.resent);
        self.departed.has_left(key, now) && !self.held.get(key).is_some_and(is_marked)
    }

    /// This node has given it to another one.
    pub(super) fn left(&mut self, key: &SessionKey, now: Instant) {
        self.departed.left(key, now);
    }

    pub(super) fn came_back(&mut self, key: &SessionKey) {
        self.departed.came_back(key);
    }

    /// The keys that requests are held for.
    pub(super) fn held_keys(&self) -> impl Iterator<Item = &SessionKey> {
        self.held.keys()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.held.values().map(|held| held.until).min()
    }

    /// # Panics
    /// When held requests are miscounted.
    pub(super) fn check_invariants(&self) {
        let held: usize = self.held.values().map(|held| held.requests.len()).sum();
        assert_eq!(self.held_requests, held, "held requests are miscounted");
        assert!(
            held <= self.requests_max,
            "more requests are held than there is room for"
        );
    }
}

#[cfg(test)]
mod tests;
