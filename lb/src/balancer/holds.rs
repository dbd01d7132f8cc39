//! Holds dialogs whose re-sent requests are unanswered: later requests of the dialog wait, or they could overtake an earlier
//! one that another node is about to repeat.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use tandem_planted::{Bug, planted};
use tandem_sip::RawMessage;

/// Waiting requests by To-tag; bounded in number.
#[derive(Debug)]
pub(super) struct Holds {
    dialogs: HashMap<Bytes, Hold>,
    waiting: usize,
    waiting_max: usize,
    /// No waiting request is overdue before this.
    earliest: Option<Instant>,
}

#[derive(Debug, Default)]
struct Hold {
    /// Re-sent requests without an answer.
    unanswered: usize,
    waiting: VecDeque<(Instant, RawMessage)>,
}

impl Holds {
    #[must_use]
    pub(super) fn new(waiting_max: usize) -> Self {
        Self {
            dialogs: HashMap::new(),
            waiting: 0,
            waiting_max,
            earliest: None,
        }
    }

    #[must_use]
    pub(super) fn is_held(&self, tag: &[u8]) -> bool {
        self.dialogs.contains_key(tag)
    }

    /// Counts one more request of the dialog that is to be sent again.
    pub(super) fn begin(&mut self, tag: &Bytes) {
        self.dialogs.entry(tag.clone()).or_default().unanswered += 1;
    }

    /// Counts one of them as answered, and returns the waiting requests if it was the last.
    pub(super) fn end(&mut self, tag: &[u8]) -> VecDeque<(Instant, RawMessage)> {
        let Some(hold) = self.dialogs.get_mut(tag) else {
            return VecDeque::new();
        };
        hold.unanswered -= 1;
        if hold.unanswered > 0 {
            return VecDeque::new();
        }
        let waiting = self
            .dialogs
            .remove(tag)
            .map(|hold| hold.waiting)
            .unwrap_or_default();
        self.waiting -= waiting.len();
        waiting
    }

    /// Lets a request wait, at most until `until`; `false` when there is no room.
    pub(super) fn wait(&mut self, tag: &[u8], request: &RawMessage, until: Instant) -> bool {
        let limit = self.limit();
        match self.dialogs.get_mut(tag) {
            Some(hold) if self.waiting < limit => {
                hold.waiting.push_back((until, request.clone()));
                self.waiting += 1;
                self.earliest.get_or_insert(until);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Removes the requests that have waited for too long.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<RawMessage> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        for hold in self.dialogs.values_mut() {
            let in_time = hold.waiting.partition_point(|(until, _)| *until <= now);
            overdue.extend(hold.waiting.drain(..in_time).map(|(_, request)| request));
        }
        self.waiting -= overdue.len();
        let fronts = self.dialogs.values().filter_map(|hold| hold.waiting.front());
        self.earliest = fronts.map(|&(until, _)| until).min();
        overdue
    }

    #[must_use]
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    #[must_use]
    pub(super) fn is_full(&self) -> bool {
        self.waiting > 0 && self.waiting >= self.limit()
    }

    fn limit(&self) -> usize {
        self.waiting_max + usize::from(planted(Bug::LimitOffByOne))
    }

    #[must_use]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The held dialogs by To-tag, with the number of unanswered requests that hold each.
    pub(super) fn dialogs(&self) -> impl Iterator<Item = (&Bytes, usize)> {
        self.dialogs.iter().map(|(tag, hold)| (tag, hold.unanswered))
    }

    /// Checks the waiting requests.
    ///
    /// # Panics
    /// When they are miscounted, over the limit or without a deadline.
    pub(super) fn check_invariants(&self) {
        let waiting: usize = self.dialogs.values().map(|hold| hold.waiting.len()).sum();
        assert_eq!(self.waiting, waiting, "waiting requests are miscounted");
        assert!(self.waiting <= self.waiting_max, "too many requests wait");
        for hold in self.dialogs.values() {
            assert!(hold.unanswered > 0, "a dialog is held for nothing");
            assert!(hold.waiting.iter().map(|(until, _)| until).is_sorted());
            let first = hold.waiting.front().map(|&(until, _)| until);
            assert!(
                first.is_none_or(|first| self.earliest.is_some_and(|earliest| earliest <= first)),
                "a request waits behind another without a deadline"
            );
        }
    }
}
