//! CL-4: sessions that were opened while the cluster had no quorum.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tandem_cluster::{Applied, Authority, SessionKey};

use super::output::EndReason;
use super::proposals::Outcome;
use super::{Farewell, Gateway, Now, WithoutQuorum};

/// Owns which of this node's sessions the replicated state has not taken in, and since when there is no quorum.
///
/// What always holds: their number and the time in which they may be opened are bounded, and once there is a quorum
/// again each is taken in, or ended with a BYE, so that its client opens another one.
#[derive(Debug)]
pub(super) struct Unreplicated {
    policy: WithoutQuorum,
    sessions_max: usize,
    /// How long after the loss of the quorum sessions may be opened.
    time_max: Duration,
    authority: Authority,
    since: Option<Instant>,
    sessions: BTreeSet<SessionKey>,
}

impl Unreplicated {
    pub(super) fn new(policy: WithoutQuorum, sessions_max: usize, time_max: Duration) -> Self {
        Self {
            policy,
            sessions_max,
            time_max,
            authority: Authority::Isolated,
            since: None,
            sessions: BTreeSet::new(),
        }
    }

    pub(super) fn note_authority(&mut self, authority: Authority, now: Instant) {
        self.authority = authority;
        match authority {
            Authority::Quorum => self.since = None,
            Authority::NoLeader | Authority::Isolated => {
                self.since.get_or_insert(now);
            }
        }
    }

    /// Whether one more session may be opened now without a quorum. An isolated node opens none: others may have one.
    pub(super) fn may_open(&self, now: Instant) -> bool {
        let is_in_time = |since| now.saturating_duration_since(since) < self.time_max;
        self.authority == Authority::NoLeader
            && self.policy == WithoutQuorum::Serve
            && self.sessions.len() < self.sessions_max
            && self.since.is_some_and(is_in_time)
    }

    /// The session is served before its commit, which waits for a quorum.
    pub(super) fn opened(&mut self, key: &SessionKey) {
        self.sessions.insert(key.clone());
    }

    /// The session is taken in, or over.
    pub(super) fn forget(&mut self, key: &SessionKey) {
        self.sessions.remove(key);
    }

    pub(super) fn sessions(&self) -> &BTreeSet<SessionKey> {
        &self.sessions
    }
}

impl Gateway {
    /// There is a quorum again, and this is its answer about a session that was opened without one.
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
pub(super) const UNREPLICATED_COMMIT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    const TIME_MAX: Duration = Duration::from_secs(300);

    fn unreplicated(policy: WithoutQuorum) -> (Unreplicated, Instant) {
        (Unreplicated::new(policy, 2, TIME_MAX), Instant::now())
    }

    #[test]
    fn sessions_are_opened_without_a_quorum_only_where_that_is_configured_and_nobody_else_can_have_one() {
        for (policy, authority, may_open) in [
            (WithoutQuorum::Serve, Authority::NoLeader, true),
            (WithoutQuorum::Serve, Authority::Isolated, false),
            (WithoutQuorum::Serve, Authority::Quorum, false),
            (WithoutQuorum::Refuse, Authority::NoLeader, false),
        ] {
            let (mut unreplicated, now) = unreplicated(policy);
            assert!(!unreplicated.may_open(now));
            unreplicated.note_authority(authority, now);
            assert_eq!(unreplicated.may_open(now), may_open, "{policy:?}, {authority:?}");
        }
    }

    #[test]
    fn no_more_are_opened_than_there_is_room_for_until_one_is_taken_in() {
        let (mut unreplicated, now) = unreplicated(WithoutQuorum::Serve);
        unreplicated.note_authority(Authority::NoLeader, now);
        let keys = ["n1-a", "n1-b"].map(SessionKey::new);
        keys.iter().for_each(|key| unreplicated.opened(key));
        assert!(!unreplicated.may_open(now));
        unreplicated.forget(&keys[0]);
        assert!(unreplicated.may_open(now));
        assert_eq!(unreplicated.sessions(), &BTreeSet::from([keys[1].clone()]));
    }

    #[test]
    fn the_time_counts_from_the_loss_of_the_quorum_and_starts_anew_after_it_was_back() {
        let (mut unreplicated, start) = unreplicated(WithoutQuorum::Serve);
        unreplicated.note_authority(Authority::Isolated, start);
        let later = start + TIME_MAX / 2;
        unreplicated.note_authority(Authority::NoLeader, later);
        assert!(unreplicated.may_open(later));
        let too_late = start + TIME_MAX;
        assert!(!unreplicated.may_open(too_late));
        unreplicated.note_authority(Authority::Quorum, too_late);
        unreplicated.note_authority(Authority::NoLeader, too_late);
        assert!(unreplicated.may_open(too_late));
    }
}
