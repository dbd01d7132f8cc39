//! Sessions that change hands: taken over from a node that is gone, or left to another one (ARCHITECTURE.md §5).

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tandem_cluster::{Command, Epoch, SessionKey, SessionRecord};

use crate::sip::transaction;

use super::proposals::{Outcome, Waiter};
use super::session::{Link, QueuedRequest, Session, Stage};
use super::{AdoptionPolicy, EndReason, Gateway, KnownSession, Now, Report, View, client_key};

/// Requests for a session that is not this node's yet.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) requests: VecDeque<QueuedRequest>,
    pub(super) until: Instant,
    pub(super) adopting: bool,
}

impl Gateway {
    /// A request of a dialog that is not ours: whose is it?
    pub(super) fn hold_request(&mut self, key: &SessionKey, queued: QueuedRequest, view: View<'_>, now: Now) {
        if self.config.adoption == AdoptionPolicy::Disabled {
            return self.refuse_unknown(&queued);
        }
        if self.held_requests >= self.config.requests_held_max {
            return self.refuse_for_now(&queued);
        }
        self.held_requests += 1;
        if let Some(held) = self.held.get_mut(key) {
            held.requests.push_back(queued);
            return;
        }
        let held = Held {
            requests: VecDeque::from([queued]),
            until: now.instant + self.config.commit_timeout,
            adopting: false,
        };
        self.held.insert(key.clone(), held);
        self.look_up_session(key, view, now);
    }

    /// Whose the session is by the state, and what follows.
    pub(super) fn look_up_session(&mut self, key: &SessionKey, view: View<'_>, now: Now) {
        let Some(known) = KnownSession::look_up(key, view.state) else {
            self.release_unknown(key);
            if self.sessions.get(key).is_some_and(Session::is_replicated) {
                self.drop_session(key, None);
            }
            return;
        };
        if known.record.owner == self.config.node {
            return self.adopt(known, now);
        }
        let record = known.record;
        if self.sessions.contains_key(key) {
            self.leave_session(key, &record, now);
        }
        if self.is_anothers(key, now) {
            return self.send_held_back(key);
        }
        self.propose_adoption(key, &record, now);
    }

    /// The front end sent the session's request here: its owner is gone, or soon will be.
    fn propose_adoption(&mut self, key: &SessionKey, record: &SessionRecord, now: Now) {
        let Some(held) = self.held.get_mut(key) else {
            return;
        };
        if std::mem::replace(&mut held.adopting, true) {
            return;
        }
        let command = Command::Adopt {
            key: key.clone(),
            from_epoch: record.epoch,
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
        if let Some(held) = self.held.get_mut(key) {
            held.adopting = false;
        }
        // Ours now, or gone elsewhere after all: the state tells.
        if self.held.contains_key(key) && outcome.says_who_owns() {
            self.look_up_session(key, view, now);
        }
    }

    /// The session is this node's: it goes on from the record.
    fn adopt(&mut self, known: KnownSession, now: Now) {
        let record = *known.record;
        let key = record.key.clone();
        match self.sessions.get_mut(&key) {
            Some(session) if session.epoch() >= record.epoch => {
                // One that was served without quorum is written at last, whoever told of it.
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
        self.departed.came_back(&key);
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
        session.call_expected_until = known.call_begun.then(|| now.instant + REPEATED_COMMAND_WAIT);
        if let Some(client) = client_key(&session) {
            self.by_client.entry(client).or_insert_with(|| key.clone());
        }
        self.insert_session(session);
        self.release_held(&key, now);
        self.relink(&key, now);
    }

    pub(super) fn release_held(&mut self, key: &SessionKey, now: Now) {
        let Some(held) = self.held.remove(key) else {
            return;
        };
        self.held_requests -= held.requests.len();
        for queued in held.requests {
            self.enqueue(key, queued, now);
        }
    }

    fn release_unknown(&mut self, key: &SessionKey) {
        let Some(held) = self.held.remove(key) else {
            return;
        };
        self.held_requests -= held.requests.len();
        for queued in &held.requests {
            self.refuse_unknown(queued);
        }
    }

    pub(super) fn refuse_unknown(&mut self, queued: &QueuedRequest) {
        let bytes = transaction::plain(&queued.raw, 481, "", &[]);
        self.send_answer(queued, bytes);
        self.report(Report::Answered {
            service: "unknown_dialog",
            status: 481,
        });
    }

    pub(super) fn give_up_held(&mut self, now: Now) {
        let overdue: Vec<SessionKey> = self
            .held
            .iter()
            .filter(|(_, held)| held.until <= now.instant)
            .map(|(key, _)| key.clone())
            .collect();
        for key in overdue {
            if let Some(held) = self.held.remove(&key) {
                self.held_requests -= held.requests.len();
                for queued in &held.requests {
                    self.refuse_for_now(queued);
                }
            }
        }
    }

    pub(super) fn session_changed(&mut self, key: SessionKey, known: Option<KnownSession>, now: Now) {
        match known {
            Some(known) if known.record.owner == self.config.node => self.adopt(known, now),
            Some(known) => {
                self.leave_session(&key, &known.record, now);
                if self.is_anothers(&key, now) {
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
        if self.sessions.contains_key(&record.key) {
            return self.leave_session(&record.key, record, now);
        }
        let Ok(caller) = crate::sip::dialog::Caller::of(&record.dialog.remote_identity) else {
            return;
        };
        let Some(endpoint_id) = caller.endpoint_id else {
            return;
        };
        if let Some(old) = self.by_client.get(&(caller.uri, endpoint_id)).cloned() {
            self.end_session(&old, EndReason::Replaced, super::Farewell::Silent, now);
        }
    }

    /// Whatever has become of sessions unheard: each that the state does not give to this node is looked up, and
    /// goes the way it would have gone had its change been told. An opening waits for its own commit.
    pub(super) fn state_replaced(&mut self, sessions: Vec<KnownSession>, view: View<'_>, now: Now) {
        let owned: BTreeSet<&SessionKey> = sessions.iter().map(|known| &known.record.key).collect();
        let established = self.sessions.values().filter(|session| session.is_established());
        let concerned = established.map(Session::key).chain(self.held.keys());
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

    fn leave_session(&mut self, key: &SessionKey, record: &SessionRecord, now: Now) {
        if self.sessions.get(key).is_some_and(|session| session.is_leaving) {
            self.departed.left(key, now.instant);
        }
        self.drop_session(key, Some(record));
    }

    /// Another node goes on with the session: nothing is said to the client.
    fn drop_session(&mut self, key: &SessionKey, record: Option<&SessionRecord>) {
        let Some(session) = self.remove_session(key) else {
            return;
        };
        self.proposals.forget(key);
        if let Stage::Opening(opening) = &session.stage {
            self.refuse_opening_for_now(&opening.request);
        }
        let has_begun = session.progress.may_have_changed_something();
        for (place, queued) in session.requests.iter().enumerate() {
            match record {
                // For its client nothing has happened yet: the new owner carries it out.
                Some(_) if place > 0 || !has_begun => self.send_back(key, queued),
                Some(_) | None => self.refuse_for_now(queued),
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
