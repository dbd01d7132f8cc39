//! CL-4: sessions that were opened while the cluster had no quorum.
//!
//! Owns which of this node's sessions the replicated state has not taken in, and since when there is no quorum. What
//! always holds: their number and the time in which they may be opened are bounded, and once there is a quorum again each
//! is taken in, or ended with a BYE, so that its client opens another one.

use std::collections::BTreeSet;
use std::time::Instant;

use tandem_cluster::{Applied, Authority, SessionKey};

use super::output::EndReason;
use super::proposals::Outcome;
use super::{Farewell, Gateway, Now, WithoutQuorum};

#[derive(Debug, Default)]
pub(super) struct Unreplicated {
    sessions: BTreeSet<SessionKey>,
    since: Option<Instant>,
}

impl Unreplicated {
    pub(super) fn note_authority(&mut self, authority: Authority, now: Instant) {
        match authority {
            Authority::Quorum => self.since = None,
            Authority::NoLeader | Authority::Isolated => {
                self.since.get_or_insert(now);
            }
        }
    }

    pub(super) fn forget(&mut self, key: &SessionKey) {
        self.sessions.remove(key);
    }

    pub(super) fn sessions(&self) -> &BTreeSet<SessionKey> {
        &self.sessions
    }
}

impl Gateway {
    /// Whether one more session may be opened now without a quorum.
    pub(super) fn may_open_without_quorum(&self, now: Now) -> bool {
        let within_time = self.unreplicated.since.is_some_and(|since| {
            now.instant.saturating_duration_since(since) < self.config.without_quorum_max
        });
        self.authority == Authority::NoLeader
            && self.config.new_sessions_without_quorum == WithoutQuorum::Serve
            && self.unreplicated.sessions.len() < self.config.sessions_without_quorum_max
            && within_time
    }

    /// The session is served before its commit, which waits for a quorum.
    pub(super) fn note_unreplicated(&mut self, key: &SessionKey) {
        self.unreplicated.sessions.insert(key.clone());
    }

    /// There is a quorum again, and this is its answer.
    pub(super) fn merged(&mut self, key: &SessionKey, outcome: &Outcome, now: Now) {
        let is_taken_in = match outcome {
            Outcome::Applied(Applied::Done) => true,
            Outcome::Applied(Applied::AlreadyOpened { session, .. }) => session == key,
            Outcome::Applied(_) | Outcome::TimedOut => false,
        };
        self.unreplicated.forget(key);
        match self.one_session(key, now) {
            Some(one) if is_taken_in => one.session.replicated = true,
            Some(_) => self.end_session(key, EndReason::NotTakenIn, Farewell::Bye, now),
            None => {}
        }
    }
}

/// A batch is proposed again and again until there is a quorum.
pub(super) const UNREPLICATED_COMMIT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
