//! The outstanding requests of one link: their invoke ids and when their time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// A table of at most 9998 entries: invoke ids 1 to 9998 (9999 is that of events).
#[derive(Debug)]
pub(super) struct Invocations<Purpose> {
    outstanding: BTreeMap<u16, (Instant, Purpose)>,
    by_deadline: BTreeSet<(Instant, u16)>,
    /// The id given last. Ids go round, so that one comes back as late as possible after its request timed out.
    last_id: u16,
}

impl<Purpose> Default for Invocations<Purpose> {
    fn default() -> Self {
        Self {
            outstanding: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            last_id: 0,
        }
    }
}

impl<Purpose> Invocations<Purpose> {
    /// Takes the next free invoke id; `None` when all are taken.
    pub(super) fn begin(&mut self, deadline: Instant, purpose: Purpose) -> Option<u16> {
        let after = self.last_id + 1..=LAST_ID;
        let wrapped = FIRST_ID..=self.last_id;
        let id = after
            .chain(wrapped)
            .find(|id| !self.outstanding.contains_key(id))?;
        self.last_id = id;
        self.outstanding.insert(id, (deadline, purpose));
        self.by_deadline.insert((deadline, id));
        Some(id)
    }

    pub(super) fn get(&self, id: u16) -> Option<&Purpose> {
        self.outstanding.get(&id).map(|(_, purpose)| purpose)
    }

    pub(super) fn end(&mut self, id: u16) -> Option<Purpose> {
        let (deadline, purpose) = self.outstanding.remove(&id)?;
        self.by_deadline.remove(&(deadline, id));
        Some(purpose)
    }

    /// One whose time is up at `now`; call again until there is none.
    pub(super) fn end_overdue(&mut self, now: Instant) -> Option<Purpose> {
        let (deadline, id) = *self.by_deadline.first()?;
        if deadline > now { None } else { self.end(id) }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// All of them, by id.
    pub(super) fn into_purposes(self) -> impl Iterator<Item = Purpose> {
        self.outstanding.into_values().map(|(_, purpose)| purpose)
    }
}

const FIRST_ID: u16 = 1;
const LAST_ID: u16 = 9998;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_go_round_and_skip_those_that_are_taken() {
        let now = Instant::now();
        let mut invocations = Invocations::default();
        let ids: Vec<u16> = (0..9998).map(|_| invocations.begin(now, ()).unwrap()).collect();
        assert_eq!((ids[0], ids[9997]), (1, 9998));
        assert_eq!(invocations.begin(now, ()), None);
        invocations.end(17);
        invocations.end(4);
        assert_eq!(invocations.begin(now, ()), Some(4));
        assert_eq!(invocations.begin(now, ()), Some(17));
    }

    #[test]
    fn the_overdue_end_in_the_order_of_their_deadlines() {
        let now = Instant::now();
        let mut invocations = Invocations::default();
        invocations.begin(now + Duration::from_secs(2), "second");
        invocations.begin(now + Duration::from_secs(1), "first");
        invocations.begin(now + Duration::from_secs(9), "not yet");
        let later = now + Duration::from_secs(2);
        assert_eq!(invocations.next_deadline(), Some(now + Duration::from_secs(1)));
        let ended: Vec<_> = std::iter::from_fn(|| invocations.end_overdue(later)).collect();
        assert_eq!((ended, invocations.len()), (vec!["first", "second"], 1));
    }
}
