//! The set of nodes, and what happens to sessions when it changes.

use std::net::SocketAddr;

use super::ClusterState;
use crate::cluster::command::{Applied, Change, Refusal};
use crate::cluster::node::{NodeId, NodeRecord, NodeState, successor};
use crate::cluster::session::{Epoch, SessionKey};

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

    /// A registration makes the node live whatever it was before. The same life registering again while it is
    /// live changes nothing; a new life first gives up what the former one owned.
    pub(super) fn register_node(
        &mut self,
        id: NodeId,
        sip_address: SocketAddr,
        incarnation: u64,
        changes: &mut Vec<Change>,
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
        let same_life = former.is_some_and(|former| former.incarnation == incarnation);
        self.nodes.insert(id, record);
        changes.push(Change::NodeChanged(id));
        if !same_life {
            self.hand_over(id, changes);
        }
        self.hand_over_orphans(changes);
        Applied::Done
    }

    /// Takes a node out of the live ones, for good (`Lost`) or for a planned stop (`Draining`). About an earlier
    /// life of the node, or about one that is lost already, it says nothing new.
    pub(super) fn retire_node(
        &mut self,
        id: NodeId,
        incarnation: u64,
        state: NodeState,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let Some(node) = self.nodes.get_mut(&id) else {
            return Applied::Refused(Refusal::UnknownNode);
        };
        if node.incarnation != incarnation || node.state == NodeState::Lost || node.state == state {
            return Applied::Done;
        }
        node.state = state;
        changes.push(Change::NodeChanged(id));
        self.hand_over(id, changes);
        Applied::Done
    }

    /// Sessions whose owner went while no other node was live have waited for this registration.
    fn hand_over_orphans(&mut self, changes: &mut Vec<Change>) {
        let owners: Vec<NodeId> = self
            .owned
            .keys()
            .copied()
            .filter(|&owner| !self.is_live(owner))
            .collect();
        for owner in owners {
            self.hand_over(owner, changes);
        }
    }

    /// Gives each session of `from` to its heir under the next epoch. Without a live node they stay.
    fn hand_over(&mut self, from: NodeId, changes: &mut Vec<Change>) {
        let live: Vec<NodeId> = self.live_nodes().collect();
        if live.is_empty() {
            return;
        }
        let keys: Vec<SessionKey> = self.owned.get(&from).into_iter().flatten().cloned().collect();
        for key in keys {
            if let Some(heir) = successor(&key, live.iter().copied()) {
                self.give(key, heir, changes);
            }
        }
    }

    /// A session in its last epoch has no CSeq number left for an heir: it ends, and its client opens anew.
    fn give(&mut self, key: SessionKey, heir: NodeId, changes: &mut Vec<Change>) {
        let in_last_epoch = self
            .sessions
            .get(&key)
            .is_some_and(|session| session.epoch >= Epoch::MAX);
        if in_last_epoch {
            self.remove_session(&key, changes);
        } else {
            self.change_owner(&key, heir, changes);
        }
    }
}

/// Far above what one Raft group can hold; a bound all the same.
const NODES_MAX: usize = 64;
