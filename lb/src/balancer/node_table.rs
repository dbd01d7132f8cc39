//! The node table that all connections use: immutable, and replaced as a whole when anything changes.

use std::net::SocketAddr;
use std::sync::Arc;

use tandem_cluster::NodeId;

use super::selection::weighted_schedule;

/// Keepalive states, named as in the content switches that Tandem replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepaliveState {
    /// Answers its checks.
    Alive,
    /// Has failed checks, fewer than it takes to leave service.
    Dying,
    /// Out of service.
    Down,
    /// Out of service: closes connections without answering, because it does not accept this machine as a front end.
    RefusesUs,
    /// Answers, but is given no new sessions because it is draining.
    Suspended,
}

impl KeepaliveState {
    pub const ALL: [Self; 5] = [
        Self::Alive,
        Self::Dying,
        Self::Down,
        Self::RefusesUs,
        Self::Suspended,
    ];

    /// As metrics and logs spell it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dying => "dying",
            Self::Down => "down",
            Self::RefusesUs => "refuses_us",
            Self::Suspended => "suspended",
        }
    }
}

/// A node in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    pub id: NodeId,
    /// The address of its SIP listener.
    pub address: SocketAddr,
    pub state: KeepaliveState,
    /// Used although it failed its checks, because no node is in service.
    pub last_resort: bool,
    /// Relative share of new sessions, never 0.
    pub weight: u32,
}

impl NodeEntry {
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Whether the node may be given new sessions.
    #[must_use]
    pub fn is_in_service(&self) -> bool {
        match self.state {
            KeepaliveState::Alive | KeepaliveState::Dying => true,
            KeepaliveState::Down | KeepaliveState::RefusesUs => self.last_resort,
            KeepaliveState::Suspended => false,
        }
    }

    /// Whether requests of its sessions may be sent to the node.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        let is_down = matches!(self.state, KeepaliveState::Down | KeepaliveState::RefusesUs);
        !is_down || self.last_resort
    }
}

/// All nodes in the order of their ids, and the order of their turns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeTable {
    nodes: Vec<NodeEntry>,
    /// Each node in service as often as its weight, interleaved.
    turns: Vec<NodeId>,
}

impl NodeTable {
    #[must_use]
    pub fn new(mut nodes: Vec<NodeEntry>) -> Self {
        nodes.sort_by_key(|node| node.id);
        let in_service = nodes.iter().filter(|node| node.is_in_service());
        let turns = weighted_schedule(in_service.map(|node| (node.id, node.weight)));
        Self { nodes, turns }
    }

    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeEntry> {
        let index = self.nodes.binary_search_by_key(&id, |node| node.id).ok()?;
        self.nodes.get(index)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.iter()
    }

    /// One round of turns over the nodes in service.
    #[must_use]
    pub fn turns(&self) -> &[NodeId] {
        &self.turns
    }

    #[must_use]
    pub fn is_reachable(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(NodeEntry::is_reachable)
    }

    #[must_use]
    pub fn is_in_service(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(NodeEntry::is_in_service)
    }

    /// The number of nodes in service, the last resort not counted; for readiness.
    #[must_use]
    pub fn serving_count(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.is_in_service() && !node.last_resort)
            .count()
    }

    /// The node whose SIP listener has this address.
    #[must_use]
    pub fn by_address(&self, address: SocketAddr) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.address == address)
    }
}

/// A table shared by the connections.
pub type SharedTable = Arc<NodeTable>;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, state: KeepaliveState) -> NodeEntry {
        NodeEntry {
            id: NodeId(id),
            address: ([127, 0, 0, 1], 5060).into(),
            state,
            last_resort: false,
            weight: 1,
        }
    }

    #[test]
    fn only_nodes_in_service_take_turns() {
        let table = NodeTable::new(vec![
            entry(3, KeepaliveState::Dying),
            entry(1, KeepaliveState::Alive),
            entry(2, KeepaliveState::Down),
            entry(4, KeepaliveState::Suspended),
        ]);
        assert_eq!(table.turns(), [NodeId(1), NodeId(3)]);
        assert_eq!(table.serving_count(), 2);
    }

    #[test]
    fn a_suspended_node_keeps_its_sessions() {
        let table = NodeTable::new(vec![
            entry(1, KeepaliveState::Suspended),
            entry(2, KeepaliveState::Down),
        ]);
        assert!(table.is_reachable(NodeId(1)) && !table.is_in_service(NodeId(1)));
        assert!(!table.is_reachable(NodeId(2)));
        assert!(!table.is_reachable(NodeId(9)));
    }
}
