//! The set of nodes, and the node table that follows from their health.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use tandem_cluster::{NodeId, NodeRecord, NodeState};

use super::health::{HealthInput, HealthOutput, HealthSettings, NodeHealth};
use super::node_table::{KeepaliveState, NodeEntry, NodeTable};

/// A configured node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredNode {
    pub id: NodeId,
    pub address: SocketAddr,
    pub weight: u32,
}

/// Something to do for the node set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeSetOutput {
    Check { node: NodeId, address: SocketAddr },
    Publish(NodeTable),
}

/// The configured nodes, and those that the replicated state adds.
#[derive(Debug)]
pub struct NodeSet {
    settings: HealthSettings,
    nodes_max: usize,
    members: BTreeMap<NodeId, Member>,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    weight: u32,
    health: NodeHealth,
    /// The incarnation in the cluster's latest record of the node.
    incarnation: Option<u64>,
}

impl NodeSet {
    #[must_use]
    pub fn new(
        settings: HealthSettings,
        nodes_max: usize,
        configured: impl IntoIterator<Item = ConfiguredNode>,
        now: Instant,
    ) -> Self {
        let mut set = Self {
            settings,
            nodes_max,
            members: BTreeMap::new(),
        };
        for node in configured {
            set.add(node, now);
        }
        set
    }

    /// Handles an event of one node; events of unknown nodes are ignored.
    #[must_use]
    pub fn handle(&mut self, node: NodeId, input: HealthInput, now: Instant) -> Vec<NodeSetOutput> {
        let Some(member) = self.members.get_mut(&node) else {
            return Vec::new();
        };
        let address = member.address;
        let outputs = member.health.handle(input, now);
        outputs
            .into_iter()
            .map(|output| self.translate(output, node, address, now))
            .collect()
    }

    /// Applies a record of the replicated state; the first record of a node that is not configured adds it.
    #[must_use]
    pub fn node_changed(&mut self, record: &NodeRecord, now: Instant) -> Vec<NodeSetOutput> {
        let mut outputs = self.add_or_move(record, now);
        let Some(member) = self.members.get_mut(&record.id) else {
            return outputs;
        };
        let new_incarnation = member.incarnation.replace(record.incarnation) != Some(record.incarnation);
        // The same incarnation may be registered again after it was lost.
        let returns = new_incarnation || member.health.is_lost();
        let (registered, state) = match record.state {
            NodeState::Lost => (false, HealthInput::NodeLost),
            NodeState::Draining => (returns, HealthInput::Suspended),
            NodeState::Live => (returns, HealthInput::Resumed),
        };
        let registered = registered.then_some(HealthInput::NodeRegistered);
        for input in registered.into_iter().chain([state]) {
            outputs.extend(self.handle(record.id, input, now));
        }
        outputs
    }

    /// The node is no longer in the replicated state: earlier records of it no longer count.
    #[must_use]
    pub fn node_forgotten(&mut self, node: NodeId, now: Instant) -> Vec<NodeSetOutput> {
        if let Some(member) = self.members.get_mut(&node) {
            member.incarnation = None;
        }
        self.handle(node, HealthInput::ClusterUnavailable, now)
    }

    /// The cluster member of this process has stopped: from now on only checks count.
    #[must_use]
    pub fn cluster_unavailable(&mut self, now: Instant) -> Vec<NodeSetOutput> {
        let nodes: Vec<NodeId> = self.members.keys().copied().collect();
        nodes
            .into_iter()
            .flat_map(|node| self.handle(node, HealthInput::ClusterUnavailable, now))
            .collect()
    }

    /// Handles every deadline that has passed.
    #[must_use]
    pub fn deadline_reached(&mut self, now: Instant) -> Vec<NodeSetOutput> {
        let is_due = |member: &Member| {
            member
                .health
                .next_deadline()
                .is_some_and(|deadline| deadline <= now)
        };
        let due: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(_, member)| is_due(member))
            .map(|(&node, _)| node)
            .collect();
        due.into_iter()
            .flat_map(|node| self.handle(node, HealthInput::DeadlineReached, now))
            .collect()
    }

    /// When `deadline_reached` is due next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.members
            .values()
            .filter_map(|member| member.health.next_deadline())
            .min()
    }

    /// The node table as of `now`.
    #[must_use]
    pub fn table(&self, now: Instant) -> NodeTable {
        let last_resort = self.last_resort();
        let entry = |(&id, member): (&NodeId, &Member)| NodeEntry {
            id,
            address: member.address,
            state: member.health.state(),
            last_resort: last_resort == Some(id),
            weight: weight_with_share(member.weight, member.health.share_step(now)),
        };
        NodeTable::new(self.members.iter().map(entry).collect())
    }

    /// The node to use while none is in service: the one that failed last, because a connection attempt costs less than
    /// refusing all clients.
    fn last_resort(&self) -> Option<NodeId> {
        let serves = |member: &Member| {
            matches!(
                member.health.state(),
                KeepaliveState::Alive | KeepaliveState::Dying
            )
        };
        if self.members.values().any(serves) {
            return None;
        }
        let ranked = self
            .members
            .iter()
            .filter_map(|(&id, member)| Some((member.health.last_resort_rank()?, id)));
        ranked.max().map(|(_, id)| id)
    }

    fn add_or_move(&mut self, record: &NodeRecord, now: Instant) -> Vec<NodeSetOutput> {
        let usable = !record.sip_address.ip().is_unspecified() && record.sip_address.port() != 0;
        let may_add = usable && self.members.len() < self.nodes_max;
        match self.members.get_mut(&record.id) {
            Some(member) if usable && member.address != record.sip_address => {
                member.address = record.sip_address;
                vec![NodeSetOutput::Publish(self.table(now))]
            }
            None if may_add => {
                self.add(
                    ConfiguredNode {
                        id: record.id,
                        address: record.sip_address,
                        weight: 1,
                    },
                    now,
                );
                Vec::new()
            }
            Some(_) | None => Vec::new(),
        }
    }

    fn add(&mut self, node: ConfiguredNode, now: Instant) {
        let ConfiguredNode { id, address, weight } = node;
        let health = NodeHealth::new(self.settings.clone(), now);
        self.members.insert(
            id,
            Member {
                address,
                weight,
                health,
                incarnation: None,
            },
        );
    }

    fn translate(
        &self,
        output: HealthOutput,
        node: NodeId,
        address: SocketAddr,
        now: Instant,
    ) -> NodeSetOutput {
        match output {
            HealthOutput::Check => NodeSetOutput::Check { node, address },
            HealthOutput::Publish => NodeSetOutput::Publish(self.table(now)),
        }
    }
}

/// The weight in units of a slow-start step; the schedule divides by the common divisor.
fn weight_with_share(weight: u32, share_step: u32) -> u32 {
    weight * share_step
}

#[cfg(test)]
mod tests {
    use crate::io::clock::now;

    use super::super::health::CheckFailure;
    use super::*;
    use std::time::Duration;

    fn settings() -> HealthSettings {
        HealthSettings {
            period: Duration::from_secs(5),
            failures: 1,
            retry_period: Duration::from_secs(1),
            successes: 1,
            hold_down: Duration::ZERO,
            hold_down_max: Duration::ZERO,
            flap_window: Duration::ZERO,
            slow_start: Duration::ZERO,
        }
    }

    fn configured(id: u64) -> ConfiguredNode {
        ConfiguredNode {
            id: NodeId(id),
            address: address(id),
            weight: 1,
        }
    }

    fn address(id: u64) -> SocketAddr {
        ([10, 0, 0, id as u8], 5060).into()
    }

    fn record(id: u64, incarnation: u64, state: NodeState) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            sip_address: address(id),
            incarnation,
            state,
        }
    }

    fn two_alive(now: Instant) -> NodeSet {
        let mut set = NodeSet::new(settings(), 7, [configured(1), configured(2)], now);
        assert_eq!(set.deadline_reached(now).len(), 2);
        for id in [1, 2] {
            drop(set.handle(NodeId(id), HealthInput::CheckSucceeded, now));
        }
        set
    }

    fn in_service(set: &NodeSet, now: Instant) -> Vec<u64> {
        set.table(now).turns().iter().map(|node| node.0).collect()
    }

    #[test]
    fn the_last_node_is_never_taken_out_by_failed_checks() {
        let now = now();
        let failed = HealthInput::CheckFailed(CheckFailure::Refused);
        let mut set = two_alive(now);
        drop(set.handle(NodeId(1), failed, now));
        assert_eq!(in_service(&set, now), [2]);
        let later = now + Duration::from_millis(1);
        drop(set.handle(NodeId(2), failed, later));
        assert_eq!(in_service(&set, later), [2]);
        assert_eq!(set.table(later).serving_count(), 0);
        drop(set.handle(NodeId(1), HealthInput::CheckSucceeded, later));
        assert_eq!(in_service(&set, later), [1]);
    }

    #[test]
    fn a_committed_loss_takes_even_the_last_node_out() {
        let now = now();
        let mut set = two_alive(now);
        drop(set.node_changed(&record(1, 7, NodeState::Lost), now));
        drop(set.node_changed(&record(2, 7, NodeState::Lost), now));
        assert_eq!(in_service(&set, now), Vec::<u64>::new());
    }

    #[test]
    fn a_node_that_joins_is_checked_and_then_gets_traffic() {
        let now = now();
        let mut set = two_alive(now);
        let outputs = set.node_changed(&record(3, 1, NodeState::Live), now);
        assert_eq!(
            outputs,
            [NodeSetOutput::Check {
                node: NodeId(3),
                address: address(3)
            }]
        );
        drop(set.handle(NodeId(3), HealthInput::CheckSucceeded, now));
        assert_eq!(in_service(&set, now), [1, 2, 3]);
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        let now = now();
        let mut set = NodeSet::new(settings(), 2, [configured(1), configured(2)], now);
        assert_eq!(set.node_changed(&record(3, 1, NodeState::Live), now), []);
    }

    #[test]
    fn a_node_that_prepares_to_stop_gets_no_new_session_until_it_registers_again() {
        let now = now();
        let mut set = two_alive(now);
        drop(set.node_changed(&record(1, 7, NodeState::Draining), now));
        assert_eq!(in_service(&set, now), [2]);
        drop(set.node_changed(&record(1, 8, NodeState::Live), now));
        assert_eq!(in_service(&set, now), [1, 2]);
    }

    /// Records in between may have been missed.
    #[test]
    fn only_the_latest_record_of_a_node_counts() {
        use NodeState::{Draining, Live, Lost};
        let records = [
            (7, Live),
            (7, Draining),
            (7, Lost),
            (8, Live),
            (8, Draining),
            (8, Lost),
        ];
        for first in records {
            for second in records {
                for (incarnation, state) in records {
                    let now = now();
                    let mut set = two_alive(now);
                    for (incarnation, state) in [first, second, (incarnation, state)] {
                        drop(set.node_changed(&record(1, incarnation, state), now));
                    }
                    drop(set.handle(NodeId(1), HealthInput::CheckSucceeded, now));
                    let table = set.table(now);
                    let node = table.node(NodeId(1)).unwrap();
                    let expected = match state {
                        Live => KeepaliveState::Alive,
                        Draining => KeepaliveState::Suspended,
                        Lost => KeepaliveState::Down,
                    };
                    assert_eq!(
                        node.state, expected,
                        "{first:?}, {second:?}, {incarnation} {state:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_checks_count_for_a_node_that_left_the_cluster() {
        for state in [NodeState::Lost, NodeState::Draining] {
            let now = now();
            let mut set = two_alive(now);
            drop(set.node_changed(&record(1, 7, state), now));
            drop(set.node_forgotten(NodeId(1), now));
            drop(set.handle(NodeId(1), HealthInput::CheckSucceeded, now));
            assert_eq!(in_service(&set, now), [1, 2]);
        }
    }

    #[test]
    fn a_node_that_moves_is_published_under_its_new_address() {
        let now = now();
        let mut set = two_alive(now);
        let moved = NodeRecord {
            sip_address: address(9),
            ..record(1, 7, NodeState::Live)
        };
        drop(set.node_changed(&moved, now));
        assert_eq!(
            set.table(now).node(NodeId(1)).map(|node| node.address),
            Some(address(9))
        );
    }
}
