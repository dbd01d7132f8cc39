//! Sessions that this node hands to another one while both live.
//!
//! A session leaves at a moment when nothing is under way in it: no request, no event, no write. What comes while its
//! move is being committed waits; afterwards its new owner has it.

use std::time::Duration;

use tandem_cluster::{Applied, Command, NodeId, SessionKey};

use super::one_session::OneSession;
use super::proposals::{Outcome, Waiter};
use super::session::{QueuedRequest, Session};
use super::{Gateway, Now, Report};

impl Gateway {
    /// An administrator, or the plan of a rebalancing, wants the session moved. It may be gone by now.
    pub(super) fn hand_over(&mut self, key: &SessionKey, to: NodeId, now: Now) {
        if let Some(mut one) = self.one_session(key, now) {
            one.hand_over(to);
        }
    }

    /// The session may be gone already: what the state says of it comes first, or follows at once.
    pub(super) fn hand_over_committed(&mut self, key: &SessionKey, outcome: &Outcome, now: Now) {
        let moved = match outcome {
            Outcome::Applied(Applied::Session(record)) => record.owner != self.config.node,
            Outcome::Applied(_) | Outcome::TimedOut => false,
        };
        if moved {
            return self.report(Report::SessionRebalanced { key: key.clone() });
        }
        if let Some(one) = self.one_session(key, now) {
            one.session.is_leaving = false;
            self.release_held(key, now);
        }
    }

    /// A request of a session that is about to be another node's.
    pub(super) fn hold_while_leaving(&mut self, key: &SessionKey, queued: QueuedRequest, now: Now) {
        if let Err(queued) = self.ownership.hold(key, queued, now.instant) {
            self.answers().refuse_for_now(&queued);
        }
    }

    pub(super) fn send_held_back(&mut self, key: &SessionKey) {
        let held = self.ownership.take(key);
        let mut answers = self.answers();
        held.iter().for_each(|queued| answers.send_to_owner(key, queued));
    }
}

impl OneSession<'_> {
    /// Does nothing while the session is busy: whoever wants it moved asks again.
    fn hand_over(&mut self, to: NodeId) {
        let key = self.session.key().clone();
        let is_written = !self.proposals.has_update(&key);
        if to != self.config.node && is_written && self.session.may_leave(self.now) {
            let command = Command::Adopt {
                key: key.clone(),
                from_epoch: self.session.epoch(),
                to,
            };
            self.session.is_leaving = self.propose(Waiter::HandOver(key), command);
        }
    }
}

impl Session {
    fn may_leave(&self, now: Now) -> bool {
        self.is_established()
            && self.is_replicated()
            && !self.is_leaving
            && self.requests.is_empty()
            && self.events.is_empty()
            && self.unanswered.is_none()
            && self.call_expected_until.is_none()
            && self.link.is_settled()
            && self.expires_at > now.instant + EXPIRES_SOON
    }
}

/// A session that is about to expire ends where it is.
const EXPIRES_SOON: Duration = Duration::from_secs(10);
