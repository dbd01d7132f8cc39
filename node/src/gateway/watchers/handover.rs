//! Watchers that change hands: taken over from a node that is gone, or left to another one.

use std::collections::BTreeSet;

use tandem_cluster::{Command, Epoch, SessionKey, WatcherRecord};

use super::super::ownership::Verdict;
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
            return self.answers().refuse_unknown(&queued);
        }
        match self.watchers.ownership.hold(&key, queued, now.instant) {
            Ok(true) => self.look_up_watcher(&key, view, now),
            Ok(false) => {}
            Err(queued) => self.answers().refuse_for_now(&queued),
        }
    }

    /// Whose the watcher is by the state, and what follows.
    pub(super) fn look_up_watcher(&mut self, key: &SessionKey, view: View<'_>, now: Now) {
        let record = view.state.watcher(key);
        let owner = record.map(|record| record.owner);
        if owner.is_some_and(|owner| owner != self.config.node) {
            self.leave_watcher(key, now);
        }
        match (self.watchers.ownership.verdict(key, owner, now.instant), record) {
            (Verdict::Own, Some(record)) => self.adopt_watcher(record.clone(), view, now),
            (Verdict::Claim, Some(record)) => self.propose_watcher_adoption(key, record.epoch, now),
            (Verdict::SendBack, _) => self.send_held_watcher_back(key),
            (Verdict::Leave, _) => {}
            (Verdict::Unknown | Verdict::Own | Verdict::Claim, _) => {
                // What is still to be written of a watcher is not in the state yet.
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

    fn propose_watcher_adoption(&mut self, key: &SessionKey, from_epoch: Epoch, now: Now) {
        let adopted = Command::WatcherAdopted {
            key: key.clone(),
            from_epoch,
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
        if self.watchers.ownership.adoption_answered(key) && outcome.says_who_owns() {
            self.look_up_watcher(key, view, now);
        }
    }

    /// The watcher has another owner, or its subscription is over.
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
                if self.watchers.ownership.is_anothers(key, now.instant) {
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
        let concerned = known.chain(self.watchers.ownership.held_keys());
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

    /// The watcher goes on from its record, and is told the present state at once: what it was told last is not in the record.
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
        self.watchers.ownership.came_back(&key);
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

    /// Another node goes on with the watcher, which is sent nothing from here.
    fn leave_watcher(&mut self, key: &SessionKey, now: Now) {
        if self.forget_watcher(key).is_some() {
            self.watchers.ownership.left(key, now.instant);
            self.report(Report::Watcher(WatcherReport::MovedAway));
        }
    }

    fn release_held_watcher(&mut self, key: &SessionKey, now: Now) {
        for queued in self.watchers.ownership.take(key) {
            self.resubscribe(key, &queued, now);
        }
    }

    fn release_unknown_watcher(&mut self, key: &SessionKey) {
        let held = self.watchers.ownership.take(key);
        let mut answers = self.answers();
        held.iter().for_each(|queued| answers.refuse_unknown(queued));
    }

    fn send_held_watcher_back(&mut self, key: &SessionKey) {
        let held = self.watchers.ownership.take(key);
        let mut answers = self.answers();
        held.iter().for_each(|queued| answers.send_to_owner(key, queued));
    }
}
