//! What must hold after every `handle`; checked in debug builds and simulations.

use super::Gateway;
#[cfg(test)]
use super::session::Link;
use super::session::Stage;

impl Gateway {
    /// # Panics
    /// When the gateway contradicts itself.
    pub(super) fn check_invariants(&self) {
        assert!(self.touched.is_empty(), "something was touched and not looked at");
        assert!(self.pairs.is_consistent(), "the tables of pairs disagree");
        assert!(
            self.proposals.entries() <= self.proposals.entries_max(),
            "more is to be written than there is room for"
        );
        assert_eq!(
            self.deadlines.len(),
            self.indexed_deadlines.len(),
            "deadlines and their index disagree"
        );
        assert_eq!(
            self.held_requests,
            self.held.values().map(|held| held.requests.len()).sum::<usize>(),
            "held requests are miscounted"
        );
        assert!(
            self.links
                .resuming
                .iter()
                .all(|key| self.sessions.contains_key(key)),
            "a session that is gone is being resumed"
        );
        self.check_openings();
        #[cfg(test)]
        self.check_sessions();
    }

    fn check_openings(&self) {
        for key in self.openings.values() {
            let opening = self
                .sessions
                .get(key)
                .is_some_and(|session| matches!(session.stage, Stage::Opening(_)));
            assert!(opening, "{key} is said to be opening");
        }
    }

    /// Every session, one by one: for tests, whose sessions are few.
    #[cfg(test)]
    fn check_sessions(&self) {
        for (key, session) in &self.sessions {
            assert_eq!(key, session.key(), "a session under another's key");
            assert!(
                session.requests.len() <= self.config.requests_per_session_max,
                "{key} has too many requests"
            );
            assert!(
                session.events.len() <= self.config.events_per_session_max,
                "{key} has too many events"
            );
            assert!(self.indexed_deadlines.contains_key(key), "{key} has no deadline");
            let resuming = matches!(
                session.link,
                Link::StartingMonitor { .. } | Link::ReadingSnapshot { .. }
            );
            assert_eq!(
                resuming,
                self.links.resuming.contains(key),
                "{key} is miscounted among those that resume"
            );
        }
    }
}
