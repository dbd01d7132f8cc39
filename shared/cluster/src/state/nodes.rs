//! The set of nodes, and what happens to sessions when it changes.

use std::net::SocketAddr;

use super::ClusterState;
use super::portions::Rest;
use crate::command::{Applied, Change, Refusal};
use crate::node::{NodeId, NodeRecord, NodeState, successor};
use crate::session::{Epoch, SessionKey};
use tandem_planted::{Bug, planted};

impl ClusterState {
    #[must_use]
    pub fn nodes(&self) -> &std::collections::BTreeMap<NodeId, NodeRecord> {
        &self.nodes
    }

    /// The nodes that may be given sessions, in order of their ids.
    pub fn live_nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        let live = self.nodes.values().filter(|node| node.state == NodeState::Live);
        live.map(|node| node.id)
    }

    #[must_use]
    pub fn is_live(&self, node: NodeId) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|record| record.state == NodeState::Live)
    }

    /// A registration makes the node live whatever it was before. The same incarnation registering again
    /// while it is live changes nothing; a new one first gives up what the former one owned.
    pub(super) fn register_node(
        &mut self,
        id: NodeId,
        sip_address: SocketAddr,
        incarnation: u64,
        changes: &mut Vec<Change>,
        rest: &mut Rest,
    ) -> Applied {
        let former = self.nodes.get(&id);
        if former.is_none() && self.nodes.len() >= NODES_MAX {
            return Applied::Refused(Refusal::LimitReached);
        }
        let record = NodeRecord {
            id,
            sip_address,
            incarnation,
            state: NodeState::Live,
        };
        if former == Some(&record) {
            return Applied::Done;
        }
        let same_incarnation = former.is_some_and(|former| former.incarnation == incarnation);
        self.nodes.insert(id, record);
        changes.push(Change::Node(id));
        let replaced = (!same_incarnation).then_some(id);
        // Those of nodes that went while no other was live have waited for this registration.
        let owners: Vec<NodeId> = self.owned.keys().copied().collect();
        for owner in owners {
            if replaced == Some(owner) || !self.is_live(owner) {
                self.hand_over(owner, rest);
            }
        }
        rest.hand_over_watchers(replaced);
        if let Some(id) = replaced {
            rest.forget_breakers_of(id);
        }
        Applied::Done
    }

    /// Takes a node out of the live ones, for good (`Lost`) or for a planned stop (`Draining`). For an earlier
    /// incarnation of the node, or for one that is lost already, it changes nothing.
    pub(super) fn retire_node(
        &mut self,
        id: NodeId,
        incarnation: u64,
        state: NodeState,
        changes: &mut Vec<Change>,
        rest: &mut Rest,
    ) -> Applied {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Applied::Refused(Refusal::UnknownNode);
        };
        let is_earlier = node.incarnation != incarnation && !planted(Bug::LossOfAnyIncarnation);
        if is_earlier || node.state == NodeState::Lost || node.state == state {
            return Applied::Done;
        }
        node.state = state;
        changes.push(Change::Node(id));
        self.hand_over(id, rest);
        rest.hand_over_watchers(None);
        rest.forget_breakers_of(id);
        Applied::Done
    }

    /// Has the sessions of `from` go to their successors. Without a live node they stay.
    fn hand_over(&mut self, from: NodeId, rest: &mut Rest) {
        if self.candidates().is_empty() {
            return;
        }
        // All of them go, so the index is taken as a whole and not emptied key by key.
        if let Some(keys) = self.owned.remove(&from) {
            rest.hand_over_sessions(keys);
        }
    }

    /// Gives each of these sessions to its successor under the next epoch.
    pub(super) fn give_to_successors(&mut self, keys: Vec<SessionKey>, changes: &mut Vec<Change>) {
        let candidates = self.candidates();
        for key in keys {
            if let Some(successor) = successor(&key, candidates.iter().copied()) {
                self.give(&key, successor, changes);
            }
        }
    }

    /// Those among whom a session finds its successor.
    fn candidates(&self) -> Vec<NodeId> {
        if planted(Bug::SuccessorAmongAll) {
            return self.nodes.keys().copied().collect();
        }
        self.live_nodes().collect()
    }

    /// A session in its last epoch has no CSeq number left for a successor: it ends, and its client opens anew.
    fn give(&mut self, key: &SessionKey, to: NodeId, changes: &mut Vec<Change>) {
        let in_last_epoch = self
            .sessions
            .get(key)
            .is_some_and(|session| session.epoch >= Epoch::MAX);
        if in_last_epoch {
            self.remove_session(key, changes);
        } else {
            self.change_owner(key, to, changes);
        }
    }
}

/// Far above what one Raft group can hold; a bound all the same.
pub(super) const NODES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::test_support::{
        apply_all, cluster_of, draining, key, lost, opened, registered, small_limits,
    };
    use super::*;
    use crate::command::SessionChange;

    #[test]
    fn sessions_of_a_lost_node_go_to_their_successors_in_order_with_their_epochs_raised() {
        let mut state = cluster_of(3);
        apply_all(&mut state, (0..300).map(|number| opened(1 + number % 3, number)));
        let changes = apply_all(&mut state, [lost(2, 1)]);
        assert_eq!(changes[0], Change::Node(NodeId(2)));
        let mut successors = BTreeMap::<NodeId, u32>::new();
        let mut moved = Vec::new();
        for change in &changes[1..] {
            let Change::Session(SessionChange::Moved { key, from, to, epoch }) = change else {
                panic!("{change:?}");
            };
            assert_eq!(
                (*from, *epoch, state.owner_of(key)),
                (NodeId(2), Epoch(1), Some(*to))
            );
            *successors.entry(*to).or_default() += 1;
            moved.push(key.clone());
        }
        assert!(moved.is_sorted());
        assert_eq!(moved.len(), 100);
        assert!(successors.keys().eq(&[NodeId(1), NodeId(3)]), "{successors:?}");
        assert!(
            successors.values().all(|count| (30..=70).contains(count)),
            "{successors:?}"
        );
        assert_eq!(state.session_count_of(NodeId(2)), 0);
        assert_eq!(state.moved_sessions().count(), 100);
    }

    #[test]
    fn a_loss_of_an_earlier_incarnation_is_ignored() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [registered(1, 2), opened(1, 1)]);
        let before = state.clone();
        assert_eq!(state.apply(lost(1, 1)), (Applied::Done, Vec::new()));
        assert_eq!(state, before);
        assert_eq!(
            state.apply(lost(9, 1)),
            (Applied::Refused(Refusal::UnknownNode), Vec::new())
        );
    }

    #[test]
    fn a_loss_told_twice_moves_sessions_once() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1), lost(1, 1)]);
        assert_eq!(state.apply(lost(1, 1)), (Applied::Done, Vec::new()));
        assert_eq!(state.session(&key(1, 1)).unwrap().epoch, Epoch(1));
    }

    #[test]
    fn a_registration_told_twice_changes_nothing() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1)]);
        let before = state.clone();
        assert_eq!(state.apply(registered(1, 1)), (Applied::Done, Vec::new()));
        assert_eq!(state, before);
    }

    #[test]
    fn a_node_that_restarts_before_its_loss_was_noticed_gives_up_what_its_former_incarnation_owned() {
        let mut state = cluster_of(2);
        apply_all(&mut state, (0..50).map(|number| opened(1, number)));
        let changes = apply_all(&mut state, [registered(1, 2)]);
        assert_eq!(changes.len(), 51);
        assert!(state.sessions().all(|session| session.epoch == Epoch(1)));
        assert!(state.session_count_of(NodeId(1)) > 0, "it may succeed itself");
        assert!(state.session_count_of(NodeId(2)) > 0);
    }

    #[test]
    fn without_a_live_node_sessions_wait_for_the_first_that_registers() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1), opened(2, 2), lost(1, 1), lost(2, 1)]);
        assert_eq!(state.live_nodes().count(), 0);
        assert_eq!(
            state.session_count_of(NodeId(2)),
            2,
            "the last one keeps what it had"
        );
        let changes = apply_all(&mut state, [registered(3, 1)]);
        assert_eq!(changes.len(), 3);
        assert_eq!(state.session_count_of(NodeId(3)), 2);
    }

    #[test]
    fn a_node_that_drains_hands_over_and_takes_nothing_new_until_it_registers_again() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1), draining(1, 1)]);
        assert_eq!(state.owner_of(&key(1, 1)), Some(NodeId(2)));
        assert_eq!(
            state.apply(opened(1, 2)).0,
            Applied::Refused(Refusal::UnknownNode)
        );
        apply_all(&mut state, [lost(1, 1)]);
        assert_eq!(state.nodes()[&NodeId(1)].state, NodeState::Lost);
        apply_all(&mut state, [draining(1, 1)]);
        assert_eq!(
            state.nodes()[&NodeId(1)].state,
            NodeState::Lost,
            "who is lost does not drain"
        );
        apply_all(&mut state, [registered(1, 1)]);
        assert_eq!(state.apply(opened(1, 2)).0, Applied::Done);
    }

    #[test]
    fn the_last_node_keeps_its_sessions_while_it_drains() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [opened(1, 1), draining(1, 1)]);
        assert_eq!(state.owner_of(&key(1, 1)), Some(NodeId(1)));
    }

    #[test]
    fn a_session_in_its_last_epoch_ends_instead_of_moving() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1)]);
        let mut incarnation = 1;
        while state.session(&key(1, 1)).unwrap().epoch < Epoch::MAX {
            incarnation += 1;
            apply_all(
                &mut state,
                [registered(1, incarnation), registered(2, incarnation)],
            );
        }
        let owner = state.owner_of(&key(1, 1)).unwrap();
        let changes = apply_all(&mut state, [lost(owner.0, incarnation)]);
        assert_eq!(
            changes,
            [
                Change::Node(owner),
                Change::Session(SessionChange::Closed {
                    key: key(1, 1),
                    owner
                })
            ]
        );
    }

    #[test]
    fn the_set_of_nodes_is_bounded() {
        let mut state = ClusterState::new(small_limits());
        for id in 1..=NODES_MAX as u64 {
            assert_eq!(state.apply(registered(id, 1)).0, Applied::Done);
        }
        assert_eq!(
            state.apply(registered(999, 1)).0,
            Applied::Refused(Refusal::LimitReached)
        );
        assert_eq!(
            state.apply(registered(1, 2)).0,
            Applied::Done,
            "a known node may always come back"
        );
    }
}
