//! The names by which members know each other.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::address::MemberAddress;
use crate::node::NodeId;

/// A voter or learner of the Raft group: a member's number, and the generation of its data directory.
///
/// A directory draws its generation when it is first used, so a machine whose disk was emptied or replaced is another
/// member to Raft although it keeps its number, and nothing that its former self acknowledged is expected of it.
/// Directories of release 0.1 have generation 0. As a number, the generation stands in the upper 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RaftId(u64);

/// By the member's number first: lists of members are read by people, and generations are drawn at random.
impl Ord for RaftId {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |id: &Self| (id.member(), id.generation());
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for RaftId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl RaftId {
    #[must_use]
    pub fn new(generation: u32, member: NodeId) -> Self {
        Self((u64::from(generation) << 32) | (member.0 & MEMBER_BITS))
    }

    /// The member's number, from its configuration.
    #[must_use]
    pub fn member(self) -> NodeId {
        NodeId(self.0 & MEMBER_BITS)
    }

    #[must_use]
    pub fn generation(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }

    /// As one number: what votes and log ids hold on disk and on the wire.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for RaftId {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// `n2` in generation 0, otherwise `n2.7f3a91c2`.
impl fmt::Display for RaftId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation() {
            0 => write!(formatter, "{}", self.member()),
            generation => write!(formatter, "{}.{generation:08x}", self.member()),
        }
    }
}

const MEMBER_BITS: u64 = 0xffff_ffff;

/// Names one data directory: 128 bits, drawn at random when the directory is first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DirectoryId(pub u128);

impl fmt::Display for DirectoryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// Names one cluster: 128 bits, drawn at random when it is formed. Two clusters of the same configured name, one of
/// them formed by mistake, are told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterIdentity(pub u128);

impl fmt::Display for ClusterIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

/// What a member is there for. Every member holds the whole log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberRole {
    /// Owns sessions; leads.
    Node,
    /// Runs inside a front end; leads only to bring a lagging node up to date.
    Witness,
}

impl MemberRole {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Witness => "witness",
        }
    }
}

/// What the membership in the log says of one member, besides its [`RaftId`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MemberRecord {
    /// Written in the format of release 0.1, which knew numbers only.
    #[default]
    Undescribed,
    Described {
        /// Where its peers reach it.
        address: MemberAddress,
        role: MemberRole,
        /// The only directory that may take this member's part.
        directory: DirectoryId,
    },
}

impl MemberRecord {
    /// The directory that may take this member's part; `None` when the record does not say.
    #[must_use]
    pub fn directory(&self) -> Option<DirectoryId> {
        match self {
            Self::Undescribed => None,
            Self::Described { directory, .. } => Some(*directory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stand_in_the_order_of_their_numbers() {
        let mut ids =
            [(7, 100), (9, 2), (1, 2), (8, 1)].map(|(generation, id)| RaftId::new(generation, NodeId(id)));
        ids.sort_unstable();
        assert_eq!(
            ids.map(|id| id.to_string()).join(" "),
            "n1.00000008 n2.00000001 n2.00000009 n100.00000007"
        );
    }

    #[test]
    fn a_directory_of_release_0_1_is_the_member_with_its_bare_number() {
        assert_eq!(RaftId::new(0, NodeId(100)).as_u64(), 100);
        assert_eq!(RaftId::from(100), RaftId::new(0, NodeId(100)));
        assert_eq!(RaftId::new(0, NodeId(100)).to_string(), "n100");
    }

    #[test]
    fn generation_and_number_come_back_out() {
        let id = RaftId::new(0x7f3a_91c2, NodeId(999_999));
        assert_eq!((id.generation(), id.member()), (0x7f3a_91c2, NodeId(999_999)));
        assert_eq!(id.to_string(), "n999999.7f3a91c2");
        assert_ne!(id, RaftId::new(1, NodeId(999_999)));
    }
}
