//! Watchers of presence: which node owns whose subscription, and which one succeeds it (RFC 6665).

use std::sync::Arc;

use imbl::OrdMap;

use super::ClusterState;
use crate::command::{Applied, Change, Refusal, WatcherChange};
use crate::node::{NodeId, successor};
use crate::presence::WatcherRecord;
use crate::session::{Epoch, SessionKey};

impl ClusterState {
    #[must_use]
    pub fn watcher(&self, key: &SessionKey) -> Option<&WatcherRecord> {
        self.watchers.get(key).map(Arc::as_ref)
    }

    #[must_use]
    pub fn watchers(&self) -> &OrdMap<SessionKey, Arc<WatcherRecord>> {
        &self.watchers
    }

    /// The watchers that `node` owns, in order of their keys.
    pub fn watchers_of(&self, node: NodeId) -> impl Iterator<Item = &WatcherRecord> + '_ {
        self.watchers
            .values()
            .map(Arc::as_ref)
            .filter(move |watcher| watcher.owner == node)
    }

    /// What the owner reports of its watcher. Under another epoch it comes from a former owner, or about a watcher
    /// that has been given away since.
    pub(super) fn set_watcher(&mut self, record: WatcherRecord, changes: &mut Vec<Change>) -> Applied {
        match self.watchers.get(&record.key) {
            Some(known) if **known == record => return Applied::Done,
            Some(known) if known.epoch != record.epoch || known.owner != record.owner => {
                return Applied::Refused(Refusal::StaleEpoch);
            }
            None if self.watchers.len() >= self.limits.sessions_max || record.epoch > Epoch::MAX => {
                return Applied::Refused(Refusal::LimitReached);
            }
            Some(_) | None => {}
        }
        if !self.is_live(record.owner) {
            return Applied::Refused(Refusal::UnknownNode);
        }
        changes.push(Change::Watcher(WatcherChange::Written(record.key.clone())));
        self.watchers.insert(record.key.clone(), record.into());
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
            Some(_) => {
                self.forget_watcher(key, changes);
                Applied::Done
            }
        }
    }

    /// Changes nothing when the watcher has moved on since `from_epoch`, or is the adopter's already.
    pub(super) fn adopt_watcher(
        &mut self,
        key: &SessionKey,
        from_epoch: Epoch,
        to: NodeId,
        changes: &mut Vec<Change>,
    ) -> Applied {
        match self.watchers.get(key) {
            None => Applied::Refused(Refusal::UnknownSession),
            Some(known) if known.epoch != from_epoch || known.owner == to => Applied::Done,
            Some(_) if !self.is_live(to) => Applied::Refused(Refusal::UnknownNode),
            Some(known) if known.epoch >= Epoch::MAX => Applied::Refused(Refusal::LimitReached),
            Some(_) => {
                self.give_watcher(key, to, changes);
                Applied::Done
            }
        }
    }

    /// Of these watchers, with their owners, those of `replaced` and those whose owner is not live go to their successors,
    /// the new incarnation of `replaced` among them. Without a live node they stay.
    pub(super) fn give_watchers_without_owner(
        &mut self,
        watchers: Vec<(SessionKey, NodeId)>,
        replaced: Option<NodeId>,
        changes: &mut Vec<Change>,
    ) {
        let live: Vec<NodeId> = self.live_nodes().collect();
        for (key, owner) in watchers {
            let has_owner = replaced != Some(owner) && live.contains(&owner);
            if !has_owner && let Some(successor) = successor(&key, live.iter().copied()) {
                self.give_watcher(&key, successor, changes);
            }
        }
    }

    /// The one place where an owner changes. In its last epoch there is no CSeq number left for a successor:
    /// the subscription is forgotten, and the watcher subscribes anew when a refresh is refused.
    fn give_watcher(&mut self, key: &SessionKey, to: NodeId, changes: &mut Vec<Change>) {
        let Some(watcher) = self.watchers.get_mut(key) else {
            return;
        };
        if watcher.epoch >= Epoch::MAX {
            return self.forget_watcher(key, changes);
        }
        let watcher = Arc::make_mut(watcher);
        let from = std::mem::replace(&mut watcher.owner, to);
        watcher.epoch = watcher.epoch.next();
        changes.push(Change::Watcher(WatcherChange::Moved {
            key: key.clone(),
            from,
            to,
        }));
    }

    fn forget_watcher(&mut self, key: &SessionKey, changes: &mut Vec<Change>) {
        if let Some(watcher) = self.watchers.remove(key) {
            changes.push(Change::Watcher(WatcherChange::Removed {
                key: watcher.key.clone(),
                owner: watcher.owner,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        apply_all, cluster_of, draining, key, lost, registered, small_limits, watched, watcher,
    };
    use super::*;
    use crate::command::Command;

    fn adopted(from_epoch: Epoch, to: u64) -> Command {
        Command::WatcherAdopted {
            key: key(1, 1),
            from_epoch,
            to: NodeId(to),
        }
    }

    fn removed(epoch: Epoch) -> Command {
        let key = key(1, 1);
        Command::WatcherRemoved { key, epoch }
    }

    #[test]
    fn a_refresh_under_an_older_epoch_is_refused() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [watched(1, 1), adopted(Epoch::FIRST, 2)]);
        let (applied, changes) = state.apply(watched(1, 1));
        assert_eq!(
            (applied, changes),
            (Applied::Refused(Refusal::StaleEpoch), Vec::new())
        );
        assert_eq!(
            state.apply(removed(Epoch::FIRST)).0,
            Applied::Refused(Refusal::StaleEpoch)
        );
        assert_eq!(state.owner_of(&key(1, 1)), Some(NodeId(2)));
    }

    #[test]
    fn watchers_of_a_lost_node_go_to_their_successors_under_the_next_epoch() {
        let mut state = cluster_of(3);
        apply_all(&mut state, (0..300).map(|number| watched(1 + number % 3, number)));
        let changes = apply_all(&mut state, [lost(2, 1)]);
        assert_eq!(changes[0], Change::Node(NodeId(2)));
        assert_eq!(changes.len(), 101);
        for change in &changes[1..] {
            let Change::Watcher(WatcherChange::Moved { key, from, to }) = change else {
                panic!("{change:?}");
            };
            let live = [NodeId(1), NodeId(3)];
            let record = state.watcher(key).unwrap();
            assert_eq!((*from, Some(*to)), (NodeId(2), successor(key, live)));
            assert_eq!((record.owner, record.epoch), (*to, Epoch(1)));
        }
        assert_eq!(state.watchers_of(NodeId(2)).count(), 0);
        assert_eq!(state.moved_sessions().count(), 100);
    }

    #[test]
    fn a_nodes_new_incarnation_does_not_go_on_with_the_numbers_of_the_former_one() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [watched(1, 1), registered(1, 2)]);
        let record = state.watcher(&key(1, 1)).unwrap();
        assert_eq!((record.owner, record.epoch), (NodeId(1), Epoch(1)));
    }

    #[test]
    fn without_a_live_node_watchers_wait_for_the_first_that_registers() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [watched(1, 1), draining(1, 1), lost(1, 1)]);
        assert_eq!(state.owner_of(&key(1, 1)), Some(NodeId(1)));
        let changes = apply_all(&mut state, [registered(2, 1)]);
        assert_eq!(changes.len(), 2);
        assert_eq!(state.owner_of(&key(1, 1)), Some(NodeId(2)));
    }

    #[test]
    fn of_two_nodes_that_adopt_at_once_the_first_wins() {
        let mut state = cluster_of(3);
        apply_all(
            &mut state,
            [watched(1, 1), adopted(Epoch::FIRST, 2), adopted(Epoch::FIRST, 3)],
        );
        assert_eq!(state.owner_of(&key(1, 1)), Some(NodeId(2)));
        assert_eq!(
            state.apply(adopted(Epoch(1), 9)).0,
            Applied::Refused(Refusal::UnknownNode)
        );
        assert_eq!(state.apply(removed(Epoch(1))).0, Applied::Done);
        let unknown = Applied::Refused(Refusal::UnknownSession);
        assert_eq!(state.apply(adopted(Epoch(1), 3)).0, unknown);
    }

    #[test]
    fn in_its_last_epoch_a_subscription_is_forgotten_instead_of_moved() {
        let mut state = cluster_of(2);
        let mut record = watcher(1, 1);
        record.epoch = Epoch::MAX;
        let record = Box::new(record);
        apply_all(&mut state, [Command::WatcherSet { record }]);
        assert_eq!(
            state.apply(adopted(Epoch::MAX, 2)).0,
            Applied::Refused(Refusal::LimitReached)
        );
        apply_all(&mut state, [lost(1, 1)]);
        assert_eq!(state.watchers().len(), 0);
    }

    #[test]
    fn watchers_are_bounded_and_known_ones_may_refresh_at_the_bound() {
        let mut state = cluster_of(1);
        let bound = small_limits().sessions_max as u64;
        apply_all(&mut state, (0..bound).map(|number| watched(1, number)));
        assert_eq!(
            state.apply(watched(1, bound)).0,
            Applied::Refused(Refusal::LimitReached)
        );
        let mut record = watcher(1, 0);
        record.expires_at_ms += 1;
        let record = Box::new(record);
        assert_eq!(
            state.apply(Command::WatcherSet { record }).1,
            [Change::Watcher(WatcherChange::Written(key(1, 0)))]
        );
    }
}
