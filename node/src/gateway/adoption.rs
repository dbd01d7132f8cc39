//! Sessions that change hands: taken over from a node that is gone, or left to another one (ARCHITECTURE.md §5).

use std::collections::BTreeSet;
use std::time::Duration;

use tandem_cluster::{Command, Epoch, SessionKey, SessionRecord};

use crate::sip::session_timer;

use super::ownership::Verdict;
use super::proposals::{Outcome, Waiter};
use super::session::{Link, QueuedRequest, Session, Stage};
use super::{AdoptionPolicy, EndReason, Gateway, KnownSession, Now, Report, View};

impl Gateway {
    /// A request of a dialog that is not ours: whose is it?
    pub(super) fn hold_request(&mut self, key: &SessionKey, queued: QueuedRequest, view: View<'_>, now: Now) {
        if self.config.adoption == AdoptionPolicy::Disabled {
            return self.answers().refuse_unknown(&queued);
        }
        match self.ownership.hold(key, queued, now.instant) {
            Ok(true) => self.look_up_session(key, view, now),
            Ok(false) => {}
            Err(queued) => self.answers().refuse_for_now(&queued),
        }
    }

    /// Whose the session is by the state, and what follows.
    pub(super) fn look_up_session(&mut self, key: &SessionKey, view: View<'_>, now: Now) {
        let known = KnownSession::look_up(key, view.state);
        let owner = known.as_ref().map(|known| known.record.owner);
        if let Some(known) = &known
            && known.record.owner != self.config.node
        {
            self.leave_session(key, &known.record, now);
        }
        match (self.ownership.verdict(key, owner, now.instant), known) {
            (Verdict::Own, Some(known)) => self.adopt(known, now),
            (Verdict::Claim, Some(known)) => self.propose_adoption(key, known.record.epoch, now),
            (Verdict::SendBack, _) => self.send_held_back(key),
            (Verdict::Leave, _) => {}
            (Verdict::Unknown | Verdict::Own | Verdict::Claim, _) => {
                self.release_unknown(key);
                if self.sessions.get(key).is_some_and(Session::is_replicated) {
                    self.drop_session(key, None);
                }
            }
        }
    }

    /// The front end sent the session's request here: its owner is gone, or soon will be.
    fn propose_adoption(&mut self, key: &SessionKey, from_epoch: Epoch, now: Now) {
        let command = Command::Adopt {
            key: key.clone(),
            from_epoch,
            to: self.config.node,
        };
        let deadline = now.instant + self.config.commit_timeout;
        // Without room the requests are given up at their deadline.
        let _ = self
            .proposals
            .push(Waiter::Adoption(key.clone()), command, deadline);
    }

    pub(super) fn adoption_committed(
        &mut self,
        key: &SessionKey,
        outcome: &Outcome,
        view: View<'_>,
        now: Now,
    ) {
        // Ours now, or gone elsewhere after all: the state tells.
        if self.ownership.adoption_answered(key) && outcome.says_who_owns() {
            self.look_up_session(key, view, now);
        }
    }

    /// The session is this node's: it goes on from the record.
    fn adopt(&mut self, known: KnownSession, now: Now) {
        let record = *known.record;
        let key = record.key.clone();
        match self.sessions.get_mut(&key) {
            Some(session) if session.epoch() >= record.epoch => {
                // One that was served without quorum is written at last, no matter which change told of it.
                session.replicated = true;
                self.unreplicated.forget(&key);
                return self.release_held(&key, now);
            }
            Some(_) => self.drop_session(&key, None),
            // The dialog is over, and the log is about to hear of it.
            None if self.proposals.closes(&key, record.epoch) => return self.release_unknown(&key),
            None => {}
        }
        if self.config.adoption == AdoptionPolicy::Disabled || self.sessions.len() >= self.config.sessions_max
        {
            return;
        }
        self.ownership.came_back(&key);
        self.report(Report::SessionMovedHere {
            key: key.clone(),
            user: record.user.clone(),
            epoch: record.epoch.0,
        });
        let mut session = Session::new(
            record,
            Stage::Established,
            Link::Down,
            now.instant,
            now.cluster_ms,
        );
        // A node that is gone may have answered a refresh that it had no time to write, or one that waits somewhere comes late.
        let interval = session_timer::lifetime_ms(session.record.session_interval_secs);
        session.expires_at = now.instant + Duration::from_millis(interval);
        session.call_expected_until = known.call_begun.then(|| now.instant + REPEATED_COMMAND_WAIT);
        self.insert_session(session);
        self.sessions.claim_unclaimed_client(&key);
        self.release_held(&key, now);
        self.relink(&key, now);
    }

    pub(super) fn release_held(&mut self, key: &SessionKey, now: Now) {
        for queued in self.ownership.take(key) {
            self.enqueue(key, queued, now);
        }
    }

    fn release_unknown(&mut self, key: &SessionKey) {
        let held = self.ownership.take(key);
        let mut answers = self.answers();
        held.iter().for_each(|queued| answers.refuse_unknown(queued));
    }

    pub(super) fn session_changed(&mut self, key: SessionKey, known: Option<KnownSession>, now: Now) {
        match known {
            Some(known) if known.record.owner == self.config.node => self.adopt(known, now),
            Some(known) => {
                self.leave_session(&key, &known.record, now);
                if self.ownership.is_anothers(&key, now.instant) {
                    self.send_held_back(&key);
                }
            }
            // Closed: by this node, which knows, or over its head.
            None => {
                if self.sessions.get(&key).is_some_and(Session::is_established) {
                    self.drop_session(&key, None);
                }
                self.release_unknown(&key);
            }
        }
    }

    /// RCC-16: a client that opens anew at another node has given up the session it had here.
    pub(super) fn session_opened_somewhere(&mut self, record: &SessionRecord, now: Now) {
        if record.owner == self.config.node {
            // One that was served without quorum is written at last; one that this node gave up because its copy of
            // the state had fallen behind comes back.
            let record = Box::new(record.clone());
            let call_begun = false;
            return self.adopt(KnownSession { record, call_begun }, now);
        }
        // This node's own, which has moved on since: that is no other session of its client.
        if self.sessions.contains(&record.key) {
            return self.leave_session(&record.key, record, now);
        }
        if let Some(old) = self.sessions.of_client_of(record).cloned() {
            self.end_session(&old, EndReason::Replaced, super::Farewell::Silent, now);
        }
    }

    /// Whatever has become of sessions unheard: each that the state does not give to this node is looked up, and
    /// goes the way it would have gone had its change been told. An opening waits for its own commit.
    pub(super) fn state_replaced(&mut self, sessions: Vec<KnownSession>, view: View<'_>, now: Now) {
        let owned: BTreeSet<&SessionKey> = sessions.iter().map(|known| &known.record.key).collect();
        let established = self.sessions.values().filter(|session| session.is_established());
        let concerned = established.map(Session::key).chain(self.ownership.held_keys());
        let elsewhere: BTreeSet<SessionKey> = concerned.filter(|key| !owned.contains(key)).cloned().collect();
        for known in sessions {
            self.adopt(known, now);
        }
        for key in elsewhere {
            self.look_up_session(&key, view, now);
        }
    }

    /// The cluster has given this node's sessions to others. One that was served without quorum and is in no log yet
    /// is nobody else's, and stays.
    pub(super) fn declared_lost(&mut self, now: Now) {
        let known = self.sessions.values().filter(|session| session.is_replicated());
        let known: Vec<(SessionKey, bool)> = known
            .map(|session| (session.key().clone(), session.is_established()))
            .collect();
        for (key, is_established) in known {
            self.drop_session(&key, None);
            if !is_established {
                // It may be committed all the same, and its client has been told that it is not.
                self.close_record(&key, Epoch::FIRST, now);
            }
        }
        self.forget_watchers();
    }

    /// Another node owns the session, whether or not this one did until now.
    fn leave_session(&mut self, key: &SessionKey, record: &SessionRecord, now: Now) {
        if let Some(session) = self.sessions.get(key) {
            if session.is_leaving {
                self.ownership.left(key, now.instant);
            }
            self.drop_session(key, Some(record));
        }
    }

    /// Another node goes on with the session, by that record, or nobody does: nothing is said to the client.
    fn drop_session(&mut self, key: &SessionKey, record: Option<&SessionRecord>) {
        let session = self.remove_session(key);
        self.proposals.forget(key);
        if let Stage::Opening(opening) = &session.stage {
            self.answers().refuse_opening_for_now(&opening.request);
        }
        let has_begun = session.progress.may_have_changed_something();
        for (place, queued) in session.requests.iter().enumerate() {
            match record {
                // For its client nothing has happened yet: the new owner carries it out.
                Some(_) if place > 0 || !has_begun => self.answers().send_to_owner(key, queued),
                Some(_) | None => self.answers().refuse_for_now(queued),
            }
        }
        let report = match record {
            Some(record) => Report::SessionMovedAway {
                key: key.clone(),
                to: Some(record.owner),
            },
            None => Report::SessionEnded {
                key: key.clone(),
                user: session.record.user,
                reason: EndReason::Closed,
            },
        };
        self.report(report);
    }
}

/// How long the events of a call that a client may have asked for wait for it to ask again.
const REPEATED_COMMAND_WAIT: Duration = Duration::from_secs(2);
