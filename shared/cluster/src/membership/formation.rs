//! When a cluster may be formed, and by whom.

use std::collections::BTreeMap;

use super::identity::{MemberRole, RaftId};
use crate::node::NodeId;

/// One configured member, as the one who would form the cluster sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub role: MemberRole,
    /// What it answered; `None` while it has not.
    pub answer: Option<Answer>,
}

/// A configured member's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub id: RaftId,
    /// It belongs to a cluster already.
    pub initialized: bool,
}

/// What to do about a cluster that is not there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formation {
    /// Form it with these voters; the others who answered follow as learners.
    Form { voters: Vec<RaftId> },
    /// These have not answered. One of them may hold everything: only an administrator knows.
    Wait { missing: Vec<NodeId> },
    /// These belong to a cluster: one must not found a second one beside it.
    Exists { members: Vec<NodeId> },
}

/// Forms a cluster when every configured member has answered and is empty. `without` names members whose answer an
/// administrator does without.
///
/// A majority would not do: two reinstalled machines would found a second cluster beside the one that holds everything.
#[must_use]
pub fn formation(candidates: &BTreeMap<NodeId, Candidate>, without: &[NodeId]) -> Formation {
    let answers = || {
        let answered = candidates.iter();
        answered.filter_map(|(number, candidate)| Some((*number, candidate.role, candidate.answer?)))
    };
    let members: Vec<NodeId> = answers()
        .filter(|(_, _, answer)| answer.initialized)
        .map(|(number, _, _)| number)
        .collect();
    if !members.is_empty() {
        return Formation::Exists { members };
    }
    let missing: Vec<NodeId> = candidates
        .iter()
        .filter(|(number, candidate)| candidate.answer.is_none() && !without.contains(number))
        .map(|(number, _)| *number)
        .collect();
    let nodes = candidates
        .values()
        .filter(|candidate| candidate.role == MemberRole::Node)
        .count();
    let of_role = |wanted: MemberRole| answers().filter(move |(_, role, _)| *role == wanted);
    if !missing.is_empty() || of_role(MemberRole::Node).next().is_none() {
        return Formation::Wait { missing };
    }
    let witnesses = usize::from(nodes.is_multiple_of(2));
    let voters = of_role(MemberRole::Node).chain(of_role(MemberRole::Witness).take(witnesses));
    Formation::Form {
        voters: voters.map(|(_, _, answer)| answer.id).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(nodes: u64, witnesses: u64) -> BTreeMap<NodeId, Candidate> {
        let of = |role, number| {
            let answer = Some(Answer {
                id: RaftId::new(9, NodeId(number)),
                initialized: false,
            });
            (NodeId(number), Candidate { role, answer })
        };
        let nodes = (1..=nodes).map(|number| of(MemberRole::Node, number));
        nodes
            .chain((100..100 + witnesses).map(|number| of(MemberRole::Witness, number)))
            .collect()
    }

    fn voters(candidates: &BTreeMap<NodeId, Candidate>, without: &[NodeId]) -> Vec<u64> {
        match formation(candidates, without) {
            Formation::Form { voters } => voters.iter().map(|id| id.member().0).collect(),
            other @ (Formation::Wait { .. } | Formation::Exists { .. }) => panic!("{other:?}"),
        }
    }

    #[test]
    fn voters_are_the_nodes_and_one_witness_while_their_number_is_even() {
        assert_eq!(voters(&candidates(1, 1), &[]), [1]);
        assert_eq!(voters(&candidates(2, 1), &[]), [1, 2, 100]);
        assert_eq!(voters(&candidates(2, 2), &[]), [1, 2, 100]);
        assert_eq!(voters(&candidates(3, 2), &[]), [1, 2, 3]);
        assert_eq!(voters(&candidates(4, 1), &[]), [1, 2, 3, 4, 100]);
    }

    #[test]
    fn a_majority_of_empty_members_forms_nothing() {
        let mut candidates = candidates(2, 1);
        candidates.get_mut(&NodeId(2)).unwrap().answer = None;
        let missing = vec![NodeId(2)];
        assert_eq!(formation(&candidates, &[]), Formation::Wait { missing });
        assert_eq!(voters(&candidates, &[NodeId(2)]), [1, 100]);
    }

    #[test]
    fn nobody_founds_a_second_cluster() {
        let mut candidates = candidates(2, 1);
        let answer = candidates.get_mut(&NodeId(2)).unwrap().answer.as_mut().unwrap();
        answer.initialized = true;
        let members = vec![NodeId(2)];
        assert_eq!(
            formation(&candidates, &[NodeId(1)]),
            Formation::Exists { members }
        );
    }

    #[test]
    fn a_cluster_without_any_node_is_none() {
        let mut candidates = candidates(2, 1);
        for number in [1, 2] {
            candidates.get_mut(&NodeId(number)).unwrap().answer = None;
        }
        let both = [NodeId(1), NodeId(2)];
        assert_eq!(
            formation(&candidates, &both),
            Formation::Wait { missing: Vec::new() }
        );
    }
}
