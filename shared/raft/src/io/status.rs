//! How a member stands, as the rest of its process sees it.

use tandem_cluster::health::Condition;
use tandem_cluster::{Authority, NodeId};

/// One member's view of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    pub role: RaftRole,
    /// The leader, as long as it is heard of; never one whose process is known to be dead.
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Index of the last entry in the local state when this was published, some times a second.
    pub last_applied: u64,
    pub authority: Authority,
    /// Why this member takes no part in a cluster, and what to do about it.
    pub obstacle: Option<String>,
    /// The others take this member for a stranger or a newcomer: what its state says is not the cluster's.
    pub is_outside: bool,
    /// All that is not as it should be.
    pub conditions: Vec<Condition>,
}

impl ClusterStatus {
    pub(super) fn starting() -> Self {
        Self {
            role: RaftRole::Learner,
            leader: None,
            term: 0,
            last_applied: 0,
            authority: Authority::Isolated,
            obstacle: None,
            is_outside: false,
            conditions: Vec::new(),
        }
    }
}

/// Raft's roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftRole {
    Leader,
    Follower,
    Candidate,
    /// Not yet a voter: the cluster has not been formed.
    Learner,
    /// Stopped, by request or by a failed disk.
    Stopped,
}

impl RaftRole {
    pub const ALL: [Self; 5] = [
        Self::Leader,
        Self::Follower,
        Self::Candidate,
        Self::Learner,
        Self::Stopped,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        }
    }
}
