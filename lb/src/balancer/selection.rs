//! Round robin over the nodes, weighted when weights differ.

use std::sync::atomic::{AtomicUsize, Ordering};

use tandem_cluster::NodeId;

/// The round-robin positions of one listener, shared by all its connections.
#[derive(Debug, Default)]
pub struct Turns {
    /// For requests that open a session.
    pub opening: RoundRobin,
    /// For other requests outside a dialog: OPTIONS must not disturb the distribution of sessions.
    pub other: RoundRobin,
}

/// A round-robin position. It advances only when a node can take the message.
#[derive(Debug, Default)]
pub struct RoundRobin {
    position: AtomicUsize,
}

impl RoundRobin {
    /// Takes the next turn, for the first node from there on that `may_take` it. `None`, without taking a turn, when there is no
    /// such node.
    pub fn take(&self, turns: &[NodeId], may_take: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        if !turns.iter().any(|&node| may_take(node)) {
            return None;
        }
        let start = self.position.fetch_add(1, Ordering::Relaxed) % turns.len();
        let (before, from_start) = turns.split_at(start);
        from_start
            .iter()
            .chain(before)
            .copied()
            .find(|&node| may_take(node))
    }
}

/// A schedule with each node as often as its weight, interleaved as evenly as whole turns allow (smooth weighted round robin:
/// each node gains its weight as credit; the one with the most takes the turn and pays the sum of all weights).
#[must_use]
pub fn weighted_schedule(nodes: impl Iterator<Item = (NodeId, u32)>) -> Vec<NodeId> {
    let nodes: Vec<(NodeId, i64)> = nodes.map(|(id, weight)| (id, i64::from(weight.max(1)))).collect();
    let divisor = nodes.iter().fold(0, |divisor, &(_, weight)| {
        greatest_common_divisor(divisor, weight)
    });
    let sum: i64 = nodes.iter().map(|&(_, weight)| weight / divisor.max(1)).sum();
    let mut credit: Vec<i64> = vec![0; nodes.len()];
    (0..sum)
        .filter_map(|_| take_smooth_turn(&nodes, &mut credit, divisor, sum))
        .collect()
}

fn take_smooth_turn(nodes: &[(NodeId, i64)], credit: &mut [i64], divisor: i64, sum: i64) -> Option<NodeId> {
    for (credit, (_, weight)) in credit.iter_mut().zip(nodes) {
        *credit += weight / divisor;
    }
    // The first of equals, so that nodes of equal weight take turns in the order of ids.
    let chosen = (0..nodes.len()).rev().max_by_key(|&index| credit[index])?;
    credit[chosen] -= sum;
    Some(nodes[chosen].0)
}

fn greatest_common_divisor(left: i64, right: i64) -> i64 {
    if right == 0 {
        left
    } else {
        greatest_common_divisor(right, left % right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(weights: &[(u64, u32)]) -> Vec<u64> {
        weighted_schedule(weights.iter().map(|&(id, weight)| (NodeId(id), weight)))
            .iter()
            .map(|id| id.0)
            .collect()
    }

    #[test]
    fn equal_weights_take_turns_in_order() {
        assert_eq!(schedule(&[(1, 5), (2, 5), (3, 5)]), [1, 2, 3]);
        assert_eq!(schedule(&[]), Vec::<u64>::new());
    }

    #[test]
    fn a_heavier_node_takes_more_turns_but_not_in_a_row() {
        assert_eq!(schedule(&[(1, 2), (2, 1), (3, 1)]), [1, 2, 3, 1]);
    }

    #[test]
    fn a_thousand_turns_are_split_exactly() {
        let round_robin = RoundRobin::default();
        let turns = [NodeId(1), NodeId(2)];
        let first = (0..1_000)
            .filter(|_| round_robin.take(&turns, |_| true) == Some(NodeId(1)))
            .count();
        assert_eq!(first, 500);
    }

    #[test]
    fn no_turn_is_taken_when_no_node_can_take_it() {
        let round_robin = RoundRobin::default();
        let turns = [NodeId(1), NodeId(2)];
        assert_eq!(round_robin.take(&turns, |_| false), None);
        assert_eq!(round_robin.take(&turns, |_| true), Some(NodeId(1)));
        assert_eq!(
            round_robin.take(&turns, |node| node == NodeId(1)),
            Some(NodeId(1))
        );
        assert_eq!(round_robin.take(&[], |_| true), None);
    }
}
