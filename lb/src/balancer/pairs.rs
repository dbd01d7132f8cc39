//! The pairs of one client connection: its connections with the nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use tandem_cluster::NodeId;

use super::input::{PairId, PairPurpose, StandingPair};

/// The connection of the client with one node.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
    pub(super) purpose: PairPurpose,
    pub(super) state: PairState,
    pub(super) stood_since: Option<Instant>,
    /// Unanswered requests that were sent over it.
    pub(super) unanswered: usize,
    /// When the node last sent something, or since when it owes an answer or the pair is idle.
    pub(super) quiet_since: Instant,
    /// When a check of the node was last requested because it was silent.
    pub(super) doubted: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PairState {
    /// The first attempt: messages wait in its queue.
    Opening,
    /// An attempt after a loss: nothing is sent until it is known whether the node is alive.
    Reopening,
    Standing,
    /// To be closed once everything that the node has written is read.
    Draining,
}

/// Whether messages may be sent to a node through its ordinary pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Ready,
    /// Not known yet; it will be soon.
    Uncertain,
    /// The node could not be reached a moment ago.
    Refused,
}

/// All pairs of a client connection, by id and by node.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pairs: BTreeMap<PairId, Pair>,
    by_node: BTreeMap<(NodeId, PairPurpose), PairId>,
    /// Nodes that could not be reached, and when to retry each.
    refused: BTreeMap<NodeId, Instant>,
    next_id: u32,
}

impl Pairs {
    /// Adds the pair of an outbound connection, which the node has opened.
    pub(super) fn add_standing(&mut self, standing: StandingPair, address: SocketAddr, now: Instant) {
        let StandingPair { pair, node } = standing;
        self.next_id = self.next_id.max(pair.0 + 1);
        self.add(
            pair,
            Pair {
                node,
                address,
                purpose: PairPurpose::Ordinary,
                state: PairState::Standing,
                stood_since: Some(now),
                unanswered: 0,
                quiet_since: now,
                doubted: None,
            },
        );
    }

    /// Adds a new pair in the given state.
    pub(super) fn open(
        &mut self,
        node: NodeId,
        address: SocketAddr,
        purpose: PairPurpose,
        state: PairState,
        now: Instant,
    ) -> PairId {
        let id = PairId(self.next_id);
        self.next_id += 1;
        self.add(
            id,
            Pair {
                node,
                address,
                purpose,
                state,
                stood_since: None,
                unanswered: 0,
                quiet_since: now,
                doubted: None,
            },
        );
        id
    }

    #[must_use]
    pub(super) fn get(&self, id: PairId) -> Option<&Pair> {
        self.pairs.get(&id)
    }

    #[must_use]
    pub(super) fn find(&self, node: NodeId, purpose: PairPurpose) -> Option<(PairId, &Pair)> {
        let id = *self.by_node.get(&(node, purpose))?;
        Some((id, self.pairs.get(&id)?))
    }

    pub(super) fn remove(&mut self, id: PairId) -> Option<Pair> {
        let pair = self.pairs.remove(&id)?;
        self.by_node.remove(&(pair.node, pair.purpose));
        Some(pair)
    }

    pub(super) fn set_state(&mut self, id: PairId, state: PairState) {
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.state = state;
        }
    }

    pub(super) fn opened(&mut self, id: PairId, now: Instant) {
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.state = PairState::Standing;
            pair.stood_since = Some(now);
            pair.quiet_since = now;
        }
    }

    /// Notes that the node has sent something.
    pub(super) fn heard(&mut self, id: PairId, now: Instant) {
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.quiet_since = now;
            pair.doubted = None;
        }
    }

    /// Restarts the measurement of silence, after the nodes have not been read for a while.
    pub(super) fn restart_silence(&mut self, now: Instant) {
        for pair in self.pairs.values_mut() {
            pair.quiet_since = pair.quiet_since.max(now);
            pair.doubted = None;
        }
    }

    pub(super) fn doubt(&mut self, id: PairId, now: Instant) {
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.doubted = Some(now);
        }
    }

    pub(super) fn request_sent(&mut self, id: PairId, now: Instant) {
        let Some(pair) = self.pairs.get_mut(&id) else {
            return;
        };
        if pair.unanswered == 0 {
            pair.quiet_since = now;
        }
        pair.unanswered += 1;
    }

    pub(super) fn request_settled(&mut self, id: PairId, now: Instant) {
        let Some(pair) = self.pairs.get_mut(&id) else {
            return;
        };
        pair.unanswered = pair.unanswered.saturating_sub(1);
        if pair.unanswered == 0 {
            pair.quiet_since = now;
        }
    }

    pub(super) fn refuse(&mut self, node: NodeId, until: Instant) {
        self.refused.insert(node, until);
    }

    pub(super) fn clear_refusal(&mut self, node: NodeId) {
        self.refused.remove(&node);
    }

    /// Whether messages may be sent to the node. A node without a pair is ready, since one will be opened.
    #[must_use]
    pub(super) fn access(&self, node: NodeId) -> Access {
        match self.find(node, PairPurpose::Ordinary) {
            Some((_, pair)) => match pair.state {
                PairState::Opening | PairState::Standing => Access::Ready,
                PairState::Reopening | PairState::Draining if self.refused.contains_key(&node) => {
                    Access::Refused
                }
                PairState::Reopening | PairState::Draining => Access::Uncertain,
            },
            None if self.refused.contains_key(&node) => Access::Refused,
            None => Access::Ready,
        }
    }

    #[must_use]
    pub(super) fn stands(&self, node: NodeId) -> bool {
        self.find(node, PairPurpose::Ordinary)
            .is_some_and(|(_, pair)| pair.state == PairState::Standing)
    }

    /// Unreachable nodes that are due to be retried.
    #[must_use]
    pub(super) fn due_for_retry(&self, now: Instant) -> Vec<NodeId> {
        let due = self.refused.iter().filter(|&(_, &until)| until <= now);
        due.map(|(&node, _)| node)
            .filter(|&node| self.find(node, PairPurpose::Ordinary).is_none())
            .collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PairId, &Pair)> {
        self.pairs.iter().map(|(&id, pair)| (id, pair))
    }

    /// When the next unreachable node without a pair is due to be retried.
    #[must_use]
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let without_pair = self
            .refused
            .iter()
            .filter(|&(&node, _)| self.find(node, PairPurpose::Ordinary).is_none());
        without_pair.map(|(_, &until)| until).min()
    }

    /// Checks the index by node.
    ///
    /// # Panics
    /// When the index disagrees with the pairs.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.pairs.len(), self.by_node.len(), "two pairs with one node");
        for (id, pair) in &self.pairs {
            assert!(id.0 < self.next_id, "{id} would be reused");
            let found = self.by_node.get(&(pair.node, pair.purpose));
            assert_eq!(found, Some(id), "{id} is not found by its node");
        }
    }

    fn add(&mut self, id: PairId, pair: Pair) {
        self.by_node.insert((pair.node, pair.purpose), id);
        self.pairs.insert(id, pair);
    }
}
