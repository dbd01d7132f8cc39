//! Whether members that applied the same entries hold the same state: a decision alone, without clock or network.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// What a member's state was after one entry, in a few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMark {
    /// Index of the entry.
    pub index: u64,
    /// The beginning of SHA-256 over the encoded state.
    pub hash: [u8; 16],
}

impl fmt::Display for StateMark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hash
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// What follows from the marks of all members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody that has marked the same entry holds another state.
    Agrees,
    /// These hold another one, and nobody can tell who is right.
    Differs(Vec<NodeId>),
    /// Two or more members agree with each other and not with this one.
    Wrong(Vec<NodeId>),
}

/// Judges this member's state by those of the others.
#[must_use]
pub fn judge(own: StateMark, others: impl IntoIterator<Item = (NodeId, StateMark)>) -> Verdict {
    let comparable: Vec<(NodeId, StateMark)> = others
        .into_iter()
        .filter(|(_, mark)| mark.index == own.index)
        .collect();
    let differing: Vec<(NodeId, StateMark)> = comparable
        .iter()
        .copied()
        .filter(|(_, mark)| mark.hash != own.hash)
        .collect();
    let ids = |marks: &[(NodeId, StateMark)]| marks.iter().map(|(id, _)| *id).collect();
    if differing.is_empty() {
        return Verdict::Agrees;
    }
    let agreeing_here = 1 + comparable.len() - differing.len();
    let agreeing_elsewhere = |hash| differing.iter().filter(|(_, mark)| mark.hash == hash).count();
    let most = differing
        .iter()
        .map(|(_, mark)| agreeing_elsewhere(mark.hash))
        .max()
        .unwrap_or_default();
    if most >= 2 && most > agreeing_here {
        Verdict::Wrong(ids(&differing))
    } else {
        Verdict::Differs(ids(&differing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(index: u64, hash: u8) -> StateMark {
        StateMark {
            index,
            hash: [hash; 16],
        }
    }

    fn judged(others: &[(u64, u64, u8)]) -> Verdict {
        let others = others
            .iter()
            .map(|&(id, index, hash)| (NodeId(id), mark(index, hash)));
        judge(mark(7, 1), others)
    }

    #[test]
    fn only_marks_of_the_same_entry_are_compared() {
        assert_eq!(judged(&[]), Verdict::Agrees);
        assert_eq!(judged(&[(2, 7, 1), (3, 6, 9), (4, 8, 9)]), Verdict::Agrees);
    }

    #[test]
    fn one_against_one_is_a_difference_and_one_against_two_is_wrong() {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        assert_eq!(judged(&[(2, 7, 9)]), Verdict::Differs(ids(&[2])));
        assert_eq!(judged(&[(2, 7, 9), (3, 7, 1)]), Verdict::Differs(ids(&[2])));
        assert_eq!(judged(&[(2, 7, 9), (3, 7, 8)]), Verdict::Differs(ids(&[2, 3])));
        assert_eq!(judged(&[(2, 7, 9), (3, 7, 9)]), Verdict::Wrong(ids(&[2, 3])));
        // Two against two.
        assert_eq!(
            judged(&[(2, 7, 9), (3, 7, 9), (4, 7, 1)]),
            Verdict::Differs(ids(&[2, 3]))
        );
    }
}
