//! Watchers of presence: who holds whose subscription, and who inherits it (RFC 6665).

use std::collections::BTreeMap;

use super::ClusterState;
use crate::cluster::command::{Applied, Change, Refusal};
use crate::cluster::node::{NodeId, successor};
use crate::cluster::presence::WatcherRecord;
use crate::cluster::session::{Epoch, SessionKey};

impl ClusterState {
    #[must_use]
    pub fn watcher(&self, key: &SessionKey) -> Option<&WatcherRecord> {
        self.watchers.get(key)
    }

    #[must_use]
    pub fn watchers(&self) -> &BTreeMap<SessionKey, WatcherRecord> {
        &self.watchers
    }

    /// A refresh under an older epoch comes from a former owner.
    pub(super) fn set_watcher(&mut self, record: WatcherRecord, changes: &mut Vec<Change>) -> Applied {
        if !self.is_live(record.owner) {
            return Applied::Refused(Refusal::UnknownNode);
        }
        match self.watchers.get(&record.key) {
            Some(known) if known.epoch != record.epoch || known.owner != record.owner => {
                return Applied::Refused(Refusal::StaleEpoch);
            }
            None if self.watchers.len() >= self.limits.sessions_max => {
                return Applied::Refused(Refusal::LimitReached);
            }
            Some(_) | None => {}
        }
        changes.push(Change::WatcherChanged(record.key.clone()));
        self.watchers.insert(record.key.clone(), record);
        Applied::Done
    }

    pub(super) fn remove_watcher(
        &mut self,
        key: &SessionKey,
        epoch: Epoch,
        changes: &mut Vec<Change>,
    ) -> Applied {
        match self.watchers.get(key) {
            None => Applied::Done,
            Some(known) if known.epoch != epoch => Applied::Refused(Refusal::StaleEpoch),
            Some(known) => {
                let owner = known.owner;
                self.watchers.remove(key);
                changes.push(Change::WatcherRemoved {
                    key: key.clone(),
                    owner,
                });
                Applied::Done
            }
        }
    }

    pub(super) fn adopt_watcher(
        &mut self,
        key: &SessionKey,
        from_epoch: Epoch,
        to: NodeId,
        changes: &mut Vec<Change>,
    ) -> Applied {
        if !self.is_live(to) {
            return Applied::Refused(Refusal::UnknownNode);
        }
        match self.watchers.get(key) {
            None => Applied::Refused(Refusal::UnknownSession),
            Some(known) if known.epoch != from_epoch || known.owner == to => Applied::Done,
            Some(_) => {
                self.give_watcher(key, to, changes);
                Applied::Done
            }
        }
    }

    /// Watchers whose owner is not live go to their heirs; without a live node they stay.
    pub(super) fn hand_over_watchers(&mut self, changes: &mut Vec<Change>) {
        let live: Vec<NodeId> = self.live_nodes().collect();
        let orphans: Vec<SessionKey> = self
            .watchers
            .values()
            .filter(|watcher| !live.contains(&watcher.owner))
            .map(|watcher| watcher.key.clone())
            .collect();
        for key in orphans {
            if let Some(heir) = successor(&key, live.iter().copied()) {
                self.give_watcher(&key, heir, changes);
            }
        }
    }

    /// In its last epoch there is no CSeq number left for an heir: the watcher subscribes anew when it expires.
    fn give_watcher(&mut self, key: &SessionKey, to: NodeId, changes: &mut Vec<Change>) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        if watcher.epoch >= Epoch::MAX {
            let owner = watcher.owner;
            self.watchers.remove(key);
            changes.push(Change::WatcherRemoved {
                key: key.clone(),
                owner,
            });
            return;
        }
        watcher.owner = to;
        watcher.epoch = Epoch(watcher.epoch.0 + 1);
        changes.push(Change::WatcherMoved { key: key.clone(), to });
    }
}
