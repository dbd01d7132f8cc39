//! The set of nodes, and the one function that names a session's successor.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::session::SessionKey;
use crate::stable_hash::stable_hash;

/// A member of the cluster: a node, or a witness. The number is the member's Raft id as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "n{}", self.0)
    }
}

impl NodeId {
    /// The node that a To-tag or a Via branch names: `n1-…` is node 1. `None` when there is no such prefix.
    #[must_use]
    pub fn from_tag(tag: &[u8]) -> Option<Self> {
        let digits = tag.strip_prefix(b"n")?;
        let end = digits.iter().position(|&byte| byte == b'-')?;
        let digits = &digits[..end];
        if digits.is_empty() || digits.len() > 6 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(Self(
            digits
                .iter()
                .fold(0, |sum, &digit| sum * 10 + u64::from(digit - b'0')),
        ))
    }

    /// As [`Self::from_tag`], for a Via branch: `z9hG4bKn1-…` (RFC 3261 §8.1.1.7 asks for the cookie).
    #[must_use]
    pub fn from_branch(branch: &[u8]) -> Option<Self> {
        Self::from_tag(branch.strip_prefix(b"z9hG4bK")?)
    }
}

/// Whether a node may be given sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Registered and running.
    Live,
    /// Finishing what it has before a planned stop: takes no new session.
    Draining,
    /// Committed as lost; its sessions have gone to their successors.
    Lost,
}

impl NodeState {
    pub const ALL: [Self; 3] = [Self::Live, Self::Draining, Self::Lost];

    /// As metrics and the administrators' views name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Lost => "lost",
        }
    }
}

/// Tells one registration of a node from the next: it stands from the registration until the node is declared lost. The upper
/// 48 bits are those of the process, drawn at random when it starts; the lower 16 count the registrations of that process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The first incarnation of a process. `random` is to be drawn by every process for itself.
    #[must_use]
    pub fn first(random: u64) -> Self {
        Self(random & !REGISTRATIONS)
    }

    /// The next incarnation in the same process.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 & !REGISTRATIONS | self.0.wrapping_add(1) & REGISTRATIONS)
    }

    /// Whether both belong to one process: when that has ended, so have they.
    #[must_use]
    pub fn is_of_process(self, other: Self) -> bool {
        self.0 & !REGISTRATIONS == other.0 & !REGISTRATIONS
    }

    /// As it stands in commands and records.
    #[must_use]
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<u64> for Incarnation {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

const REGISTRATIONS: u64 = 0xffff;

/// What the cluster knows of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub id: NodeId,
    /// Where the front end reaches the node's SIP listener.
    pub sip_address: SocketAddr,
    /// An [`Incarnation`]: a `NodeLost` about an earlier incarnation of the node does not concern this one.
    pub incarnation: u64,
    pub state: NodeState,
}

/// The node that takes `session` over: rendezvous hashing, so that the loss of one node moves only that node's sessions and
/// spreads them evenly. One function, used by `apply` and by a front end that lags behind it.
#[must_use]
pub fn successor(session: &SessionKey, live: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    heaviest(session.as_str(), live)
}

/// As [`successor`], for what belongs to a user: their calendar.
#[must_use]
pub fn successor_of_user(user: &str, live: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    heaviest(user, live)
}

fn heaviest(name: &str, live: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
    live.into_iter()
        .max_by_key(|node| (rendezvous_weight(name, *node), *node))
}

fn rendezvous_weight(name: &str, node: NodeId) -> u64 {
    stable_hash(name.bytes().chain(node.0.to_le_bytes()))
}
