//! Invariants that must hold after every `handle`, checked in debug builds and simulations.

use std::collections::BTreeMap;

use super::pending::{EntryId, Place};
use super::{Balancer, Phase};

/// Decides which calls of `handle` are checked. The larger the table, the less often it is checked, so that the average cost
/// per call is that of a small table.
#[derive(Debug, Default)]
pub(super) struct Checks {
    saved: usize,
}

impl Checks {
    /// Whether enough calls have passed for a check of `items` items.
    fn are_due(&mut self, items: usize) -> bool {
        self.saved += ITEMS_PER_CALL;
        let due = self.saved >= items;
        if due {
            self.saved = 0;
        }
        due
    }
}

impl Balancer {
    /// Checks the invariants when a check is due.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub(super) fn check_now_and_then(&mut self) {
        let items = self.pending.len() + self.holds.waiting() + self.pairs.iter().count();
        if self.checks.are_due(items) {
            self.check_invariants();
        }
    }

    fn check_invariants(&self) {
        assert!(self.outputs.is_empty(), "an output was not returned");
        self.pending.check_invariants();
        self.pairs.check_invariants();
        self.holds.check_invariants();
        self.suspects.check_invariants();
        if self.phase == Phase::Closed {
            assert_eq!(self.pending.len(), 0, "a closed connection has requests");
            return;
        }
        self.check_places();
        self.check_holds();
        self.check_deadlines();
        assert!(self.unanswered() <= self.pending.len() + self.holds.waiting());
    }

    /// A request at a node is carried by a pair with that node, and each pair carries as many requests as it counts.
    fn check_places(&self) {
        let mut carried = BTreeMap::new();
        for (id, entry) in self.pending.iter() {
            let Place::At { pair, node } = entry.place else {
                continue;
            };
            let carrier = self.pairs.get(pair);
            assert!(
                carrier.is_some_and(|carrier| carrier.node == node),
                "{id:?} is at {node} by {pair}, which does not lead there"
            );
            assert_eq!(
                entry.tried.last(),
                Some(&node),
                "{id:?} is at a node that it was not given to"
            );
            *carried.entry(pair).or_insert(0) += 1;
        }
        for (id, pair) in self.pairs.iter() {
            let carried = carried.get(&id).copied().unwrap_or(0);
            assert_eq!(pair.unanswered, carried, "{id} miscounts its unanswered requests");
        }
    }

    /// A dialog is held by as many requests as it counts, and each of them is still unanswered.
    fn check_holds(&self) {
        let mut holding = BTreeMap::new();
        for (id, entry) in self.pending.iter().filter(|(_, entry)| entry.holds_dialog) {
            let tag = entry.dialog_tag();
            assert!(
                entry.is_unanswered() && tag.is_some(),
                "{id:?} holds a dialog for nothing"
            );
            *holding.entry(tag).or_insert(0) += 1;
        }
        for (tag, unanswered) in self.holds.dialogs() {
            let holding = holding.remove(&Some(tag));
            assert_eq!(
                holding,
                Some(unanswered),
                "a dialog is held for another number of requests"
            );
        }
        assert!(holding.is_empty(), "a request holds a dialog that is not held");
    }

    /// Nothing waits without a deadline.
    fn check_deadlines(&self) {
        let next = self.next_deadline();
        let waiting = self
            .pending
            .iter()
            .filter_map(|(id, entry)| until(id, entry.place));
        for (id, until) in waiting {
            assert!(
                next.is_some_and(|next| next <= until),
                "{id:?} waits without a deadline"
            );
        }
        let open = self.pending.len() + self.holds.waiting();
        assert!(
            open == 0 || next.is_some(),
            "requests are remembered without a deadline"
        );
    }
}

fn until(id: EntryId, place: Place) -> Option<(EntryId, std::time::Instant)> {
    match place {
        Place::Waiting { until } => Some((id, until)),
        Place::At { .. } | Place::Answered { .. } | Place::AnsweredHere => None,
    }
}

/// More items than most connections ever have: those are checked after every call.
const ITEMS_PER_CALL: usize = 64;
