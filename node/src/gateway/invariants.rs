//! What must hold after every `handle`; checked in debug builds and simulations.

use super::Gateway;
#[cfg(test)]
use super::session::{Link, Progress, Session};
#[cfg(test)]
use crate::cti::{CtiConnectionId, MonitorKey};

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
        self.sessions.check_invariants();
        self.ownership.check_invariants();
        self.monitoring.check_invariants();
        assert!(
            self.monitoring.monitors().subscribers_count() <= self.sessions.len(),
            "a session that is gone watches a device"
        );
        for key in self.unreplicated.sessions() {
            let session = self.sessions.get(key);
            assert!(
                session.is_some_and(|session| !session.is_replicated()),
                "{key} is said to be served without a quorum"
            );
        }
        self.watchers.check_invariants();
        #[cfg(test)]
        self.check_sessions();
    }

    /// Every session, one by one: for tests, whose sessions are few.
    #[cfg(test)]
    fn check_sessions(&self) {
        for session in self.sessions.values() {
            let key = session.key();
            assert!(
                session.requests.len() <= self.config.requests_per_session_max,
                "{key} has too many requests"
            );
            assert!(
                session.events.len() <= self.config.events_per_session_max,
                "{key} has too many events"
            );
            assert!(
                session.progress == Progress::Idle || !session.requests.is_empty(),
                "{key} carries out a request that it does not have"
            );
            self.check_watching(session);
        }
        let watching = self
            .sessions
            .values()
            .filter(|session| watched_at(session).is_some());
        assert_eq!(
            watching.count(),
            self.monitoring.monitors().subscribers_count(),
            "sessions and subscribers disagree"
        );
    }

    /// A session watches its own device at its own connection, and its events flow when it thinks so.
    #[cfg(test)]
    fn check_watching(&self, session: &Session) {
        let key = session.key();
        let monitors = self.monitoring.monitors();
        let expected = watched_at(session).map(|connection| MonitorKey {
            connection,
            device: session.record.device.clone(),
        });
        assert_eq!(
            monitors.subscription(key),
            expected.as_ref(),
            "{key} watches something else"
        );
        let starting = matches!(session.link, Link::StartingMonitor { .. });
        assert_eq!(
            monitors.is_active(key),
            expected.is_some() && !starting,
            "{key} is wrong about its events"
        );
        assert_eq!(
            session.progress.is_waiting_for_monitor(),
            expected.is_some() && !session.record.monitor.active,
            "{key} watches for nobody"
        );
    }
}

#[cfg(test)]
fn watched_at(session: &Session) -> Option<CtiConnectionId> {
    match session.link {
        Link::Down => None,
        Link::StartingMonitor { connection } | Link::ReadingSnapshot { connection, .. } => Some(connection),
        Link::Up { connection } => session.record.monitor.active.then_some(connection),
    }
}
