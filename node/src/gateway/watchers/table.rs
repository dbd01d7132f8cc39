//! The watchers of this node, by key and by presentity, and when each of them wants time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use tandem_cluster::SessionKey;
use tandem_sip::TransactionKey;

use crate::presence::Composed;

use super::Watcher;

/// A user who is watched.
#[derive(Debug, Default)]
pub(super) struct Presentity {
    pub(super) watchers: BTreeSet<SessionKey>,
    /// As it was looked at last.
    pub(super) composed: Option<Composed>,
}

#[derive(Debug, Default)]
pub(super) struct WatcherTable {
    watchers: BTreeMap<SessionKey, Watcher>,
    presentities: BTreeMap<String, Presentity>,
    deadlines: BTreeSet<(Instant, SessionKey)>,
    indexed: HashMap<SessionKey, Instant>,
}

impl WatcherTable {
    pub(super) fn len(&self) -> usize {
        self.watchers.len()
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<&Watcher> {
        self.watchers.get(key)
    }

    /// Whoever changes what a deadline depends on has it indexed anew.
    pub(super) fn get_mut(&mut self, key: &SessionKey) -> Option<&mut Watcher> {
        self.watchers.get_mut(key)
    }

    /// The watcher, whom the caller has found before in the same step.
    ///
    /// # Panics
    /// When it is not there: the gateway has lost track of what it owns.
    pub(super) fn known_mut(&mut self, key: &SessionKey) -> &mut Watcher {
        let watcher = self.watchers.get_mut(key);
        watcher.expect("a handler is called only for a watcher of this node")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&SessionKey, &Watcher)> {
        self.watchers.iter()
    }

    /// The watcher whose subscription this very request began.
    pub(super) fn begun_by(&self, opening: &TransactionKey) -> Option<&SessionKey> {
        self.watchers
            .iter()
            .find(|(_, watcher)| watcher.opening.as_ref() == Some(opening))
            .map(|(key, _)| key)
    }

    pub(super) fn insert(&mut self, watcher: Watcher) {
        let key = watcher.record.key.clone();
        self.presentities
            .entry(watcher.record.presentity.clone())
            .or_default()
            .watchers
            .insert(key.clone());
        self.watchers.insert(key, watcher);
    }

    /// A user without a watcher is of no interest any more.
    pub(super) fn remove(&mut self, key: &SessionKey) -> Option<Watcher> {
        let watcher = self.watchers.remove(key)?;
        self.forget_deadline(key);
        let user = &watcher.record.presentity;
        if let Some(presentity) = self.presentities.get_mut(user) {
            presentity.watchers.remove(key);
            if presentity.watchers.is_empty() {
                self.presentities.remove(user);
            }
        }
        Some(watcher)
    }

    pub(super) fn presentities(&self) -> impl Iterator<Item = &String> {
        self.presentities.keys()
    }

    pub(super) fn presentity(&self, user: &str) -> Option<&Presentity> {
        self.presentities.get(user)
    }

    /// The user's presence, as it was looked at last for their watchers.
    pub(super) fn known_presence(&self, user: &str) -> Option<Composed> {
        self.presentities.get(user)?.composed
    }

    pub(super) fn presentity_mut(&mut self, user: &str) -> Option<&mut Presentity> {
        self.presentities.get_mut(user)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Those whose time has come; their deadlines are to be indexed anew.
    pub(super) fn due_watchers(&mut self, now: Instant) -> Vec<SessionKey> {
        let mut due = Vec::new();
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, key)) = self.deadlines.pop_first()
        {
            self.indexed.remove(&key);
            due.push(key);
        }
        due
    }

    pub(super) fn index_deadline(&mut self, key: &SessionKey, now: Instant) {
        let wanted = self.watchers.get(key).map(|watcher| watcher.next_deadline(now));
        if self.indexed.get(key) == wanted.as_ref() {
            return;
        }
        self.forget_deadline(key);
        if let Some(at) = wanted {
            self.deadlines.insert((at, key.clone()));
            self.indexed.insert(key.clone(), at);
        }
    }

    fn forget_deadline(&mut self, key: &SessionKey) {
        if let Some(at) = self.indexed.remove(key) {
            self.deadlines.remove(&(at, key.clone()));
        }
    }

    /// # Panics
    /// When the indexes disagree with the watchers.
    pub(super) fn check_invariants(&self) {
        assert_eq!(
            self.deadlines.len(),
            self.indexed.len(),
            "deadlines of watchers and their index disagree"
        );
        let indexed: usize = self
            .presentities
            .values()
            .map(|presentity| presentity.watchers.len())
            .sum();
        assert_eq!(
            indexed,
            self.watchers.len(),
            "watchers and the index by presentity disagree"
        );
        assert!(
            self.presentities
                .values()
                .all(|presentity| !presentity.watchers.is_empty()),
            "a user whom nobody watches"
        );
    }
}
