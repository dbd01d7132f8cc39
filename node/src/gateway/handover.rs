//! Sessions that this node hands to another one while both live.
//!
//! A session leaves at a moment when nothing is under way in it: no request, no event, no write. What comes while its
//! move is being committed waits; afterwards its new owner has it.

use std::collections::VecDeque;
use std::time::Duration;

use tandem_cluster::{Applied, Command, NodeId, SessionKey};

use crate::sip::transaction;

use super::adoption::Held;
use super::proposals::{Outcome, Waiter};
use super::session::{QueuedRequest, Session};
use super::{Gateway, Now, Report};

impl Gateway {
    /// Does nothing while the session is busy: whoever wants it moved asks again.
    pub(super) fn hand_over(&mut self, key: &SessionKey, to: NodeId, now: Now) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        if to == self.config.node || !session.may_leave(now) || self.proposals.has_update(key) {
            return;
        }
        let command = Command::Adopt {
            key: key.clone(),
            from_epoch: session.epoch(),
            to,
        };
        let deadline = now.instant + self.config.commit_timeout;
        if self
            .proposals
            .push(Waiter::HandOver(key.clone()), command, deadline)
            && let Some(session) = self.sessions.get_mut(key)
        {
            session.is_leaving = true;
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
        if let Some(session) = self.session_mut(key) {
            session.is_leaving = false;
            self.release_held(key, now);
        }
    }

    /// A request of a session that is about to be another node's.
    pub(super) fn hold_while_leaving(&mut self, key: &SessionKey, queued: QueuedRequest, now: Now) {
        if self.held_requests >= self.config.requests_held_max {
            return self.refuse_for_now(&queued);
        }
        self.held_requests += 1;
        let until = now.instant + self.config.commit_timeout;
        let held = self.held.entry(key.clone()).or_insert_with(|| Held {
            requests: VecDeque::new(),
            until,
            adopting: false,
        });
        held.requests.push_back(queued);
    }

    /// Left to a node that lives: a request that the front end sent here in ignorance of it goes back. One that it
    /// sends *again* comes because the new owner cannot be reached, so the session is taken back.
    pub(super) fn is_anothers(&self, key: &SessionKey, now: Now) -> bool {
        let marked = |held: &Held| held.requests.iter().any(|queued| queued.resent);
        self.departed.has_left(key, now.instant) && !self.held.get(key).is_some_and(marked)
    }

    /// 503 to the front end, which asks the owner instead; no client sees it.
    pub(super) fn send_held_back(&mut self, key: &SessionKey) {
        let Some(held) = self.held.remove(key) else {
            return;
        };
        self.held_requests -= held.requests.len();
        for queued in &held.requests {
            self.send_back(key, queued);
        }
    }

    pub(super) fn send_back(&mut self, key: &SessionKey, queued: &QueuedRequest) {
        let bytes = transaction::plain(&queued.raw, 503, key.as_str(), &[NOT_OWNER]);
        self.send_answer(queued, bytes);
        self.report(Report::Answered {
            service: "not_owner",
            status: 503,
        });
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

/// What tells this answer from any other 503.
pub(super) const NOT_OWNER: (&str, &str) = ("Warning", "399 tandem-node \"another node owns the dialog\"");
/// A session that is about to expire ends where it is.
const EXPIRES_SOON: Duration = Duration::from_secs(10);
