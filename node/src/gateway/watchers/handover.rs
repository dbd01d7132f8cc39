//! Watchers that change hands: taken over from a node that is gone, or left to another one.

use std::collections::{BTreeSet, VecDeque};

use tandem_cluster::{Command, SessionKey, WatcherRecord};

use crate::sip::transaction;

use super::super::adoption::Held;
use super::super::handover::NOT_OWNER;
use super::super::proposals::{Outcome, Waiter};
use super::super::session::QueuedRequest;
use super::super::{AdoptionPolicy, Gateway, Now, Report, View};
use super::{Watcher, WatcherReport};

impl Gateway {
    /// A SUBSCRIBE with a To-tag: of a watcher of ours, or of one who may become it.
    pub(in crate::gateway) fn resubscribe_arrived(
        &mut self,
        queued: QueuedRequest,
        view: View<'_>,
        now: Now,
    ) {
        let tag = queued.raw.to_tag().unwrap_or_default();
        let key = SessionKey::new(String::from_utf8_lossy(tag));
        if self.watchers.table.get(&key).is_some() {
            return self.resubscribe(&key, &queued, now);
        }
        if self.config.adoption == AdoptionPolicy::Disabled {
            return self.refuse_unknown(&queued);
        }
        if self.watchers.held_requests >= self.config.requests_held_max {
            return self.refuse_for_now(&queued);
        }
        self.watchers.held_requests += 1;
        let held = self.watchers.held.entry(key.clone()).or_insert_with(|| Held {
            requests: VecDeque::new(),
            until: now.instant + self.config.commit_timeout,
            adopting: false,
        });
        held.requests.push_back(queued);
        if held.requests.len() == 1 {
            self.look_up_watcher(&key, view, now);
        }
    }

    /// Whose the watcher is by the state, and what follows.
    pub(super) fn look_up_watcher(&mut self, key: &SessionKey, view: View<'_>, now: Now) {
        match view.state.watcher(key) {
            Some(record) if record.owner == self.config.node => {
                self.adopt_watcher(record.clone(), view, now);
            }
            Some(record) => {
                self.leave_watcher(key, now);
                self.ask_for_watcher(key, record, now);
            }
            None => {
                // What is still to be written of him is not in the state yet.
                let is_gone = |watcher: &Watcher| watcher.is_written;
                let gone =
                    self.watchers.table.get(key).is_some_and(is_gone) && !self.proposals.has_watcher(key);
                if gone {
                    self.forget_watcher(key);
                }
                self.release_unknown_watcher(key);
            }
        }
    }

    /// Left to a node that lives: what the front end sent here in ignorance of it goes back. What it sends *again*
    /// comes because the owner cannot be reached.
    fn ask_for_watcher(&mut self, key: &SessionKey, record: &WatcherRecord, now: Now) {
        let has_left = self.watchers.departed.has_left(key, now.instant);
        let Some(held) = self.watchers.held.get_mut(key) else {
            return;
        };
        if has_left && !held.requests.iter().any(|queued| queued.resent) {
            return self.send_held_watcher_back(key);
        }
        if std::mem::replace(&mut held.adopting, true) {
            return;
        }
        let adopted = Command::WatcherAdopted {
            key: key.clone(),
            from_epoch: record.epoch,
            to: self.config.node,
        };
        let deadline = now.instant + self.config.commit_timeout;
        // Without room the requests are given up at their deadline.
        let _ = self
            .proposals
            .push(Waiter::WatcherAdoption(key.clone()), adopted, deadline);
    }

    /// Ours now, or another's after all: the state tells.
    pub(in crate::gateway) fn watcher_adoption_committed(
        &mut self,
        key: &SessionKey,
        outcome: &Outcome,
        view: View<'_>,
        now: Now,
    ) {
        let Some(held) = self.watchers.held.get_mut(key) else {
            return;
        };
        held.adopting = false;
        if outcome.says_who_owns() {
            self.look_up_watcher(key, view, now);
        }
    }

    /// He has changed hands, or his subscription is over.
    pub(in crate::gateway) fn watcher_changed(
        &mut self,
        key: &SessionKey,
        record: Option<WatcherRecord>,
        view: View<'_>,
        now: Now,
    ) {
        match record {
            Some(record) if record.owner == self.config.node => self.adopt_watcher(record, view, now),
            Some(_) => {
                self.leave_watcher(key, now);
                let has_held = self.watchers.held.contains_key(key);
                if has_held && self.watchers.departed.has_left(key, now.instant) {
                    self.send_held_watcher_back(key);
                }
            }
            // Ended by this node, which knows, or over its head.
            None => {
                self.forget_watcher(key);
                self.release_unknown_watcher(key);
            }
        }
    }

    /// Any number of changes may have gone unheard, or this node has just registered: these are its watchers. Each
    /// that the state does not give to it is looked up, as [`Gateway::state_replaced`] does with sessions.
    pub(in crate::gateway) fn watchers_replaced(
        &mut self,
        records: Vec<WatcherRecord>,
        view: View<'_>,
        now: Now,
    ) {
        let owned: BTreeSet<&SessionKey> = records.iter().map(|record| &record.key).collect();
        let known = self.watchers.table.iter().map(|(key, _)| key);
        let concerned = known.chain(self.watchers.held.keys());
        let elsewhere: BTreeSet<SessionKey> = concerned.filter(|key| !owned.contains(key)).cloned().collect();
        for record in records {
            self.adopt_watcher(record, view, now);
        }
        for key in elsewhere {
            self.look_up_watcher(&key, view, now);
        }
        self.all_presence_changed(view, now);
    }

    /// The cluster has given this node's watchers to others.
    pub(in crate::gateway) fn forget_watchers(&mut self) {
        let keys: Vec<SessionKey> = self.watchers.table.iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.forget_watcher(&key);
        }
    }

    /// He goes on from the record: with the present state at once, since nobody knows what he was told last.
    fn adopt_watcher(&mut self, record: WatcherRecord, view: View<'_>, now: Now) {
        let key = record.key.clone();
        match self.watchers.table.get(&key) {
            Some(watcher) if watcher.record.epoch >= record.epoch => {
                return self.release_held_watcher(&key, now);
            }
            Some(_) => drop(self.forget_watcher(&key)),
            None => {}
        }
        // The subscription is over, and the log is about to hear of it.
        if self.proposals.has_watcher(&key) {
            return self.release_unknown_watcher(&key);
        }
        let is_full = self.watchers.table.len() >= self.config.watchers.watchers_max;
        if self.config.adoption == AdoptionPolicy::Disabled || is_full {
            return;
        }
        self.watchers.departed.came_back(&key);
        let user = record.presentity.clone();
        let mut watcher = Watcher::new(record, now);
        watcher.is_written = true;
        self.watchers.table.insert(watcher);
        self.touched.insert(key.clone());
        self.report(Report::Watcher(WatcherReport::MovedHere));
        self.release_held_watcher(&key, now);
        if self.directory.user(&user).is_none() {
            return self.end_watching_of_removed_users(now);
        }
        self.look_at_presence(&user, view, now);
    }

    /// Another node goes on with him: nothing is said to him here.
    fn leave_watcher(&mut self, key: &SessionKey, now: Now) {
        if self.forget_watcher(key).is_some() {
            self.watchers.departed.left(key, now.instant);
            self.report(Report::Watcher(WatcherReport::MovedAway));
        }
    }

    fn release_held_watcher(&mut self, key: &SessionKey, now: Now) {
        for queued in self.take_held_watcher(key) {
            self.resubscribe(key, &queued, now);
        }
    }

    fn release_unknown_watcher(&mut self, key: &SessionKey) {
        for queued in self.take_held_watcher(key) {
            self.refuse_unknown(&queued);
        }
    }

    /// 503 to the front end, which asks the owner instead; no client sees it.
    fn send_held_watcher_back(&mut self, key: &SessionKey) {
        for queued in self.take_held_watcher(key) {
            let bytes = transaction::plain(&queued.raw, 503, key.as_str(), &[NOT_OWNER]);
            self.send_answer(&queued, bytes);
            self.report(Report::Answered {
                service: "not_owner",
                status: 503,
            });
        }
    }

    pub(super) fn give_up_held_watchers(&mut self, now: Now) {
        let overdue = self.watchers.held.iter();
        let overdue = overdue.filter(|(_, held)| held.until <= now.instant);
        let overdue: Vec<SessionKey> = overdue.map(|(key, _)| key.clone()).collect();
        for key in overdue {
            for queued in self.take_held_watcher(&key) {
                self.refuse_for_now(&queued);
            }
        }
    }

    fn take_held_watcher(&mut self, key: &SessionKey) -> VecDeque<QueuedRequest> {
        let held = self.watchers.held.remove(key).map(|held| held.requests);
        let requests = held.unwrap_or_default();
        self.watchers.held_requests -= requests.len();
        requests
    }
}
