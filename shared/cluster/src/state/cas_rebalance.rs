//! Which users move, and where to, so that every gateway that takes users has its share.

use std::collections::BTreeMap;

use super::ClusterState;
use super::shares::Shares;
use crate::assignment::CasId;

/// One user who is to change gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CasMove {
    pub user: String,
    pub from_epoch: u32,
    pub from: CasId,
    pub to: CasId,
}

impl ClusterState {
    /// The fewest moves after which no gateway that takes users has two more than another such. Users of one that
    /// takes none stay where they are: they move when they fail, or when it is removed.
    #[must_use]
    pub fn cas_rebalancing_moves(&self) -> Vec<CasMove> {
        let mut shares = self.cas_shares();
        let mut moves = Vec::new();
        for (user, assignment) in &self.assignments {
            let from = &assignment.cas;
            if shares.gives(from)
                && let Some(to) = shares.neediest()
            {
                shares.give(from, &to);
                moves.push(CasMove {
                    user: user.to_string(),
                    from_epoch: assignment.epoch,
                    from: from.clone(),
                    to,
                });
            }
        }
        moves
    }

    fn cas_shares(&self) -> Shares<CasId> {
        let taking = self.gateways.iter().filter(|gateway| gateway.takes_users());
        let mut counts: BTreeMap<&CasId, usize> = taking.map(|gateway| (&gateway.id, 0)).collect();
        for assignment in self.assignments.values() {
            if let Some(count) = counts.get_mut(&assignment.cas) {
                *count += 1;
            }
        }
        Shares::of(counts.into_iter().map(|(cas, count)| (cas.clone(), count)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{apply_all, assign, cluster_of, gateways, spread};
    use super::*;
    use crate::command::Command;

    fn perform(state: &mut ClusterState, moves: Vec<CasMove>) {
        let users = moves
            .into_iter()
            .map(|planned| (planned.user, planned.from_epoch, planned.to))
            .collect();
        apply_all(state, [Command::CasMoved { users, at_ms: 5 }]);
    }

    fn counts(state: &ClusterState) -> Vec<usize> {
        spread(state).into_values().collect()
    }

    #[test]
    fn a_gateway_that_joined_gets_its_share_and_nobody_moves_in_vain() {
        let mut state = cluster_of(0);
        apply_all(
            &mut state,
            [
                gateways(&["a", "b", "c"]),
                assign(0..1000),
                gateways(&["a", "b", "c", "d"]),
            ],
        );
        let moves = state.cas_rebalancing_moves();
        assert_eq!(moves.len(), 250);
        assert!(moves.iter().all(|planned| planned.to.0 == "d"));
        let first: Vec<&str> = moves[..3].iter().map(|planned| planned.from.0.as_str()).collect();
        assert_eq!(first, ["a", "b", "c"], "all give at the same time");
        perform(&mut state, moves);
        assert_eq!(counts(&state), [250, 250, 250, 250]);
        assert_eq!(state.cas_rebalancing_moves(), []);
    }

    #[test]
    fn a_gateway_that_takes_nobody_neither_gives_nor_gets() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&["a", "b"]), assign(0..10)]);
        let off = Command::CasEligible {
            cas: CasId("a".to_owned()),
            eligible: false,
        };
        apply_all(&mut state, [off, gateways(&["a", "b", "c"])]);
        let moves = state.cas_rebalancing_moves();
        assert_eq!(moves.len(), 2);
        assert!(
            moves
                .iter()
                .all(|planned| planned.from.0 == "b" && planned.to.0 == "c")
        );
        perform(&mut state, moves);
        assert_eq!(counts(&state), [5, 3, 2]);
    }

    #[test]
    fn without_gateways_or_users_there_is_nothing_to_do() {
        let mut state = cluster_of(0);
        assert_eq!(state.cas_rebalancing_moves(), []);
        apply_all(&mut state, [gateways(&["a"]), assign(0..3), gateways(&[])]);
        assert_eq!(state.cas_rebalancing_moves(), []);
        apply_all(&mut state, [gateways(&["a", "b"]), assign(3..6)]);
        let moves = state.cas_rebalancing_moves();
        assert_eq!(moves.len(), 2, "the rotation knows no counts");
        perform(&mut state, moves);
        apply_all(&mut state, [assign([6])]);
        assert_eq!(state.cas_rebalancing_moves(), [], "one more or less is even");
    }
}
