//! Whether a node may act for the sessions that it owns: a decision alone, without clock or network.
//!
//! Every age is counted from the moment at which this member asked, never from the arrival of an answer: a process that
//! was frozen, or a network that delayed, delivers old answers as if they were new. So what is concluded here can be too
//! careful, and never too bold.

use std::time::{Duration, Instant};

use super::witness::LogPosition;
use tandem_planted::{Bug, planted};

/// Whether a node may act for the sessions it owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// A majority stands behind the leader, and this member is among those who acknowledge it.
    Quorum,
    /// No contact with a majority for a lease, and nothing can have been committed behind this member's back: an owner may go
    /// on.
    NoLeader,
    /// No contact with a majority, while others may have one: start nothing.
    Isolated,
}

impl Authority {
    /// For people and programs: `quorum`, `no_leader` or `isolated`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::NoLeader => "no_leader",
            Self::Isolated => "isolated",
        }
    }
}

/// What a leader answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderAnswer {
    /// When it was asked.
    pub asked: Instant,
    /// How long before its answer a majority had acknowledged it.
    pub quorum_age: Duration,
    /// How long before its answer it had sent what this member acknowledged last.
    pub acknowledged_age: Duration,
    /// No entry after this one was committed before its answer.
    pub committed: u64,
}

impl LeaderAnswer {
    /// The latest moment at which a majority, this member among it, certainly stood behind the leader.
    #[must_use]
    pub fn contact(&self) -> Option<Instant> {
        self.asked.checked_sub(self.quorum_age.max(self.acknowledged_age))
    }
}

/// What a front end's member answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrontEndAnswer {
    /// When it was asked.
    pub asked: Instant,
    pub standing: FrontEndStanding,
}

/// What a front end's member says of the lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrontEndStanding {
    /// It leads with a majority, or has acknowledged a leader within a lease.
    HearsLeader,
    HearsNone,
    /// It has stopped, since so long: it gives nobody a majority, and this is the last entry that it can have acknowledged.
    Stopped {
        since: Duration,
        last: LogPosition,
    },
}

/// How long what was told is relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reliance {
    /// How long a majority's acknowledgement keeps others from electing another leader.
    pub lease: Duration,
    /// How long after the question a front end's answer counts.
    pub answer: Duration,
}

/// The last contact of one member with a majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuorumContact {
    latest: Option<Instant>,
    /// The latest at which this member held everything that was committed.
    caught_up: Option<Instant>,
}

impl QuorumContact {
    /// This member leads, and a majority acknowledged it at this moment.
    pub fn note_own(&mut self, acknowledged: Instant) {
        self.latest = self.latest.max(Some(acknowledged));
        self.caught_up = self.caught_up.max(Some(acknowledged));
    }

    /// The leader's answer, and where this member's log ended before the question.
    pub fn note(&mut self, answer: &LeaderAnswer, last_index: u64) {
        let contact = answer.contact();
        self.latest = self.latest.max(contact);
        if answer.committed <= last_index {
            self.caught_up = self.caught_up.max(contact);
        }
    }

    #[must_use]
    pub fn latest(&self) -> Option<Instant> {
        self.latest
    }

    /// How long ago; `None`: never.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.latest.map(|latest| now.saturating_duration_since(latest))
    }

    /// What the node may do now. `front_ends`: the latest answer of each; `last`: where this member's log ends.
    #[must_use]
    pub fn authority(
        &self,
        front_ends: &[FrontEndAnswer],
        last: LogPosition,
        reliance: Reliance,
        now: Instant,
    ) -> Authority {
        if self.age(now).is_some_and(|age| age < reliance.lease) {
            return Authority::Quorum;
        }
        let mut fresh = front_ends
            .iter()
            .filter(|answer| now.saturating_duration_since(answer.asked) < reliance.answer)
            .peekable();
        let is_harmless = fresh.peek().is_some() && fresh.all(|answer| self.is_harmless(answer, last));
        if is_harmless || planted(Bug::IsolatedNodeGoesOn) {
            Authority::NoLeader
        } else {
            Authority::Isolated
        }
    }

    /// Whether nothing can have been committed with this front end and without this node.
    fn is_harmless(&self, answer: &FrontEndAnswer, last: LogPosition) -> bool {
        match answer.standing {
            FrontEndStanding::HearsLeader => false,
            FrontEndStanding::HearsNone => true,
            FrontEndStanding::Stopped {
                since,
                last: acknowledged,
            } => {
                let stopped = answer.asked.checked_sub(since);
                let caught_up_since =
                    self.caught_up.is_some() && self.caught_up > stopped && stopped.is_some();
                last >= acknowledged || caught_up_since
            }
        }
    }
}

/// Whether the quorum that a member has found counts: its state may lack what was committed while it had none, its own loss
/// for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Return {
    /// There was no quorum last time.
    #[default]
    Away,
    /// There is one again since this contact. The state is not known yet to hold everything that was committed before.
    Since(Instant),
    Complete,
}

impl Return {
    /// What the node may do. `found`: by its contacts alone; `contact`: the latest of them; `as_of`: the latest moment of which
    /// its state is known to be.
    pub fn authority(
        &mut self,
        found: Authority,
        contact: Option<Instant>,
        as_of: Option<Instant>,
    ) -> Authority {
        *self = match (found, *self, contact) {
            (Authority::Quorum, Self::Away, Some(contact)) => Self::Since(contact),
            (Authority::Quorum, _, _) => *self,
            (Authority::NoLeader | Authority::Isolated, _, _) => Self::Away,
        };
        if let Self::Since(contact) = *self
            && as_of >= Some(contact)
        {
            *self = Self::Complete;
        }
        match (found, *self) {
            (Authority::Quorum, Self::Away | Self::Since(_)) => Authority::Isolated,
            (_, _) => found,
        }
    }
}

/// The latest moment of which a member knows that its state holds everything that was committed before.
///
/// A member that starts, or was cut off, reads in its log what was true long ago. Who acts on what a state says asks first
/// whether it was confirmed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateAsOf {
    /// This member's state gets there, and then it is of that moment.
    pending: Option<(u64, Instant)>,
    latest: Option<Instant>,
}

impl StateAsOf {
    /// A leader with a majority at this moment: no entry after `committed` had been committed by then.
    pub fn note(&mut self, committed: u64, contact: Instant) {
        // One after the other, under load a state is always some entries behind the latest answer; but a later answer that asks for
        // less is better.
        if self.pending.is_none_or(|(pending, _)| committed <= pending) {
            self.pending = Some((committed, contact));
        }
    }

    /// The state ends at this entry.
    pub fn reached(&mut self, applied: u64) {
        if let Some((_, contact)) = self.pending.take_if(|(committed, _)| *committed <= applied) {
            self.latest = self.latest.max(Some(contact));
        }
    }

    #[must_use]
    pub fn latest(&self) -> Option<Instant> {
        self.latest
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    const RELIANCE: Reliance = Reliance {
        lease: Duration::from_millis(500),
        answer: Duration::from_millis(600),
    };
    const LAST: LogPosition = LogPosition { term: 3, index: 20 };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn leader(asked: Instant, quorum_age: u64, acknowledged_age: u64) -> LeaderAnswer {
        LeaderAnswer {
            asked,
            quorum_age: ms(quorum_age),
            acknowledged_age: ms(acknowledged_age),
            committed: LAST.index,
        }
    }

    fn front_end(asked: Instant, standing: FrontEndStanding) -> FrontEndAnswer {
        FrontEndAnswer { asked, standing }
    }

    fn start() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn an_answer_counts_from_the_question_and_by_the_older_of_its_two_ages() {
        let asked = start();
        for (answer, until) in [
            (leader(asked, 0, 0), 500),
            (leader(asked, 100, 0), 400),
            (leader(asked, 0, 300), 200),
            (leader(asked, 450, 300), 50),
        ] {
            let mut contact = QuorumContact::default();
            contact.note(&answer, LAST.index);
            let authority = |after| contact.authority(&[], LAST, RELIANCE, asked + ms(after));
            assert_eq!(authority(until - 1), Authority::Quorum, "{answer:?}");
            assert_eq!(authority(until), Authority::Isolated, "{answer:?}");
        }
    }

    #[test]
    fn a_leader_without_a_majority_of_its_own_gives_none() {
        let asked = start();
        let mut contact = QuorumContact::default();
        contact.note(&leader(asked, 500, 0), LAST.index);
        assert_eq!(contact.authority(&[], LAST, RELIANCE, asked), Authority::Isolated);
    }

    #[test]
    fn an_answer_that_lay_in_the_socket_of_a_frozen_process_proves_nothing() {
        let asked = start();
        let mut contact = QuorumContact::default();
        contact.note(&leader(asked, 0, 0), LAST.index);
        let thawed = asked + Duration::from_secs(30);
        assert_eq!(
            contact.authority(&[], LAST, RELIANCE, thawed),
            Authority::Isolated
        );
        contact.note(&leader(thawed, 10, 10), LAST.index);
        contact.note(&leader(asked + ms(60), 0, 0), LAST.index);
        assert_eq!(
            contact.age(thawed),
            Some(ms(10)),
            "an older answer takes nothing back"
        );
    }

    #[test]
    fn a_node_goes_on_while_every_front_end_that_answers_hears_no_leader() {
        let now = start();
        let contact = QuorumContact::default();
        let none = front_end(now, FrontEndStanding::HearsNone);
        let hears = front_end(now, FrontEndStanding::HearsLeader);
        let authority =
            |answers: &[FrontEndAnswer], after| contact.authority(answers, LAST, RELIANCE, now + ms(after));
        assert_eq!(authority(&[], 0), Authority::Isolated);
        assert_eq!(authority(&[none], 599), Authority::NoLeader);
        assert_eq!(authority(&[none], 600), Authority::Isolated);
        assert_eq!(authority(&[none, hears], 0), Authority::Isolated);
        assert_eq!(authority(&[none, none], 0), Authority::NoLeader);
    }

    #[test]
    fn beside_a_stopped_witness_a_node_goes_on_that_holds_what_it_acknowledged() {
        let now = start();
        let contact = QuorumContact::default();
        for (term, index, expected) in [
            (3, 20, Authority::NoLeader),
            (3, 21, Authority::Isolated),
            (2, 90, Authority::NoLeader),
            (4, 1, Authority::Isolated),
        ] {
            let standing = FrontEndStanding::Stopped {
                since: ms(5000),
                last: LogPosition { term, index },
            };
            let answers = [front_end(now, standing)];
            assert_eq!(
                contact.authority(&answers, LAST, RELIANCE, now),
                expected,
                "{standing:?}"
            );
        }
    }

    #[test]
    fn beside_a_stopped_witness_a_node_goes_on_that_was_caught_up_after_the_stop() {
        let now = start();
        let standing = FrontEndStanding::Stopped {
            since: ms(5000),
            last: LogPosition { term: 3, index: 99 },
        };
        let answers = [front_end(now, standing)];
        for (contact_age, committed, expected) in [
            (4900, 20, Authority::NoLeader),
            (4900, 21, Authority::Isolated),
            (5100, 20, Authority::Isolated),
        ] {
            let mut contact = QuorumContact::default();
            let answer = LeaderAnswer {
                committed,
                ..leader(now - ms(contact_age), 0, 0)
            };
            contact.note(&answer, LAST.index);
            assert_eq!(contact.authority(&answers, LAST, RELIANCE, now), expected);
        }
    }

    #[test]
    fn who_was_away_has_no_quorum_before_its_state_holds_what_was_committed_meanwhile() {
        use Authority::{Isolated, NoLeader, Quorum};
        let (mut returns, contact) = (Return::default(), start());
        let (before, later) = (Some(contact - ms(1)), Some(contact + ms(60)));
        let contact = Some(contact);
        for (found, latest, as_of, expected) in [
            (Quorum, contact, None, Isolated),
            (Quorum, later, before, Isolated),
            (Quorum, later, contact, Quorum),
            (Quorum, later, contact, Quorum),
            (NoLeader, later, contact, NoLeader),
            (Quorum, later, contact, Isolated),
            (Isolated, later, contact, Isolated),
            (Quorum, later, later, Quorum),
        ] {
            let authority = returns.authority(found, latest, as_of);
            assert_eq!(authority, expected, "{found:?} {latest:?} {as_of:?}");
        }
    }

    #[test]
    fn a_state_is_of_the_moment_whose_last_entry_it_has_reached() {
        let (mut as_of, asked) = (StateAsOf::default(), start());
        as_of.note(20, asked);
        as_of.reached(19);
        assert_eq!(as_of.latest(), None);
        as_of.note(30, asked + ms(60));
        as_of.reached(20);
        assert_eq!(as_of.latest(), Some(asked));
        as_of.reached(30);
        assert_eq!(
            as_of.latest(),
            Some(asked),
            "nothing of the later answer was kept"
        );
        as_of.note(30, asked + ms(120));
        as_of.reached(31);
        assert_eq!(as_of.latest(), Some(asked + ms(120)));
        as_of.note(40, asked + ms(130));
        as_of.note(31, asked);
        as_of.reached(31);
        assert_eq!(
            as_of.latest(),
            Some(asked + ms(120)),
            "an older answer takes nothing back"
        );
    }
}
