//! Which sessions move, and where to, so that every live node owns its share.

use super::ClusterState;
use super::shares::Shares;
use crate::node::NodeId;
use crate::session::{Epoch, SessionKey, SessionRecord};

/// One session that is to change hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionMove {
    pub key: SessionKey,
    pub from_epoch: Epoch,
    pub from: NodeId,
    pub to: NodeId,
}

impl ClusterState {
    /// The fewest moves after which no live node owns two sessions more than another. A session goes back to the
    /// node that issued its To-tag where that one lacks some: the front end then needs no exception for it.
    #[must_use]
    pub fn rebalancing_moves(&self) -> Vec<SessionMove> {
        let counts = self.live_nodes().map(|node| (node, self.session_count_of(node)));
        let mut plan = Plan {
            shares: Shares::of(counts),
            moves: Vec::new(),
        };
        for owner in plan.shares.givers() {
            let movable = self
                .sessions_of(owner)
                .filter(|session| session.epoch < Epoch::MAX);
            let (own, mut others): (Vec<_>, Vec<_>) =
                movable.partition(|session| session.key.issuer() == Some(owner));
            others.retain(|session| !plan.give_back(owner, session));
            for session in others.into_iter().chain(own) {
                plan.give_away(owner, session);
            }
        }
        plan.moves
    }
}

/// The moves so far, and what is left to be evened out.
struct Plan {
    shares: Shares<NodeId>,
    moves: Vec<SessionMove>,
}

impl Plan {
    /// To its issuer, if that one lacks sessions; `false` when the session is to be kept or goes elsewhere.
    fn give_back(&mut self, from: NodeId, session: &SessionRecord) -> bool {
        let issuer = session.key.issuer();
        let issuer = issuer.filter(|issuer| self.shares.lacks(issuer) && self.shares.gives(&from));
        issuer.is_some_and(|issuer| {
            self.give(from, issuer, session);
            true
        })
    }

    /// To whoever lacks most, as long as the owner has more than its share.
    fn give_away(&mut self, from: NodeId, session: &SessionRecord) {
        if self.shares.gives(&from)
            && let Some(to) = self.shares.neediest()
        {
            self.give(from, to, session);
        }
    }

    fn give(&mut self, from: NodeId, to: NodeId, session: &SessionRecord) {
        self.shares.give(&from, &to);
        self.moves.push(SessionMove {
            key: session.key.clone(),
            from_epoch: session.epoch,
            from,
            to,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::test_support::{apply_all, cluster_of, lost, opened, registered};
    use super::*;
    use crate::command::{Applied, Command};

    fn carry_out(state: &mut ClusterState, moves: &[SessionMove]) {
        for step in moves {
            let command = Command::Adopt {
                key: step.key.clone(),
                from_epoch: step.from_epoch,
                to: step.to,
            };
            let (applied, _) = state.apply(command);
            assert!(matches!(applied, Applied::Session(record) if record.owner == step.to));
        }
    }

    fn counts(state: &ClusterState) -> Vec<usize> {
        state
            .live_nodes()
            .map(|node| state.session_count_of(node))
            .collect()
    }

    #[test]
    fn a_node_that_returns_gets_back_the_sessions_that_it_had_opened() {
        let mut state = cluster_of(2);
        apply_all(&mut state, (0..120).map(|number| opened(1 + number % 2, number)));
        apply_all(&mut state, [lost(1, 1), registered(1, 2)]);
        assert_eq!(counts(&state), [0, 120]);
        let moves = state.rebalancing_moves();
        assert_eq!(moves.len(), 60);
        carry_out(&mut state, &moves);
        assert_eq!(counts(&state), [60, 60]);
        assert_eq!(state.moved_sessions().count(), 0);
    }

    #[test]
    fn an_even_cluster_an_empty_one_and_a_single_node_stay_as_they_are() {
        let mut state = cluster_of(2);
        assert_eq!(state.rebalancing_moves(), []);
        apply_all(&mut state, (0..3).map(|number| opened(1 + number % 2, number)));
        assert_eq!(state.rebalancing_moves(), []);
        apply_all(&mut state, [lost(1, 1)]);
        assert_eq!(state.rebalancing_moves(), []);
        assert_eq!(
            ClusterState::new(crate::StateLimits::default()).rebalancing_moves(),
            []
        );
    }

    proptest! {
        #[test]
        fn the_shares_are_even_and_no_session_moves_twice(
            nodes in 1_u64..6,
            owners in prop::collection::vec(1_u64..6, 0..80),
            gone in prop::collection::vec(1_u64..6, 0..4),
        ) {
            let mut state = cluster_of(nodes);
            for (number, owner) in (0..).zip(&owners) {
                state.apply(opened(1 + owner % nodes, number));
            }
            for &node in &gone {
                state.apply(lost(node, 1));
                state.apply(registered(node, 2));
            }
            let moves = state.rebalancing_moves();
            prop_assert_eq!(&moves, &state.clone().rebalancing_moves());
            let moved: BTreeSet<_> = moves.iter().map(|step| &step.key).collect();
            prop_assert_eq!(moved.len(), moves.len());
            for step in &moves {
                prop_assert_eq!(state.owner_of(&step.key), Some(step.from));
                prop_assert_ne!(step.from, step.to);
            }
            carry_out(&mut state, &moves);
            let counts = counts(&state);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", counts);
            prop_assert_eq!(state.rebalancing_moves(), vec![]);
        }
    }
}
