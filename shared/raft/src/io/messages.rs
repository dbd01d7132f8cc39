//! What members say to each other in their frames. postcard is positional: whatever changes here needs a new version of the
//! protocol.

use bytes::Bytes;
use openraft::raft::SnapshotResponse;
use serde::{Deserialize, Serialize};

use tandem_cluster::membership::{Introduction, ListedMember, Reach, Start, Stranger};
use tandem_cluster::witness::LogPosition;
use tandem_cluster::{Applied, NodeId, Proposal};

use super::type_config::TypeConfig;
use tandem_planted::{Bug, planted};

use super::errors::ProposeError;

/// Who connects, to whom, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The configured name.
    pub(super) cluster: String,
    pub(super) from: Introduction,
    pub(super) to: NodeId,
    pub(super) members: Vec<ListedMember>,
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) incarnation: u64,
    pub(super) introduction: Introduction,
    pub(super) reach: Reach,
    /// Why the one who connected may not take part.
    pub(super) stranger: Option<Stranger>,
    pub(super) members: Vec<ListedMember>,
}

/// Why a request was not answered: one of the two takes no part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Declined {
    /// The one who asked.
    You(Stranger),
    /// The one who was asked.
    Me(Stranger),
    /// The one who was asked has stopped.
    Stopped,
}

/// The question how a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StatusQuestion {
    /// Where the state of the one who asks ends.
    pub(super) applied: Option<LogPosition>,
}

/// How a member stands, for the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PeerStatus {
    /// The first one of its process.
    pub(super) incarnation: u64,
    pub(super) introduction: Introduction,
    pub(super) reach: Reach,
    /// Why the one who asks may not take part.
    pub(super) stranger: Option<Stranger>,
    pub(super) standing: Standing,
    /// The processes that it has a connection to now.
    pub(super) connected: Vec<(NodeId, Start)>,
    /// It is writing a snapshot.
    pub(super) writes_snapshot: bool,
    /// Its wall clock: Unix time in milliseconds.
    pub(super) clock_ms: u64,
}

impl PeerStatus {
    /// It runs, and its connection to that process is gone.
    pub(super) fn has_no_connection_to(&self, id: NodeId, start: Start) -> bool {
        !matches!(self.standing, Standing::Stopped { .. }) && !self.connected.contains(&(id, start))
    }
}

/// What a member knows of the lead. Ages are in milliseconds and counted to the moment of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    Leads {
        /// Since a majority acknowledged it.
        quorum_age_ms: u32,
        /// Since it sent what the one who asks acknowledged last.
        acknowledged_age_ms: u32,
        /// No entry after this one is committed.
        committed: u64,
        /// Whether it holds the entry at which the state of the one who asks ends; `None`: it keeps it no more.
        agrees: Option<bool>,
        /// The cluster's time, in milliseconds.
        cluster_ms: u64,
    },
    /// It has acknowledged a leader within a lease.
    Follows,
    HearsNone,
    /// Its member has stopped, and this is the last entry that it can have acknowledged.
    Stopped {
        since_ms: u64,
        last: LogPosition,
    },
}

/// A command, forwarded to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ForwardedProposal {
    pub(super) deadline_ms: u32,
    pub(super) proposal: Proposal,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ProposalAnswer {
    Applied {
        index: u64,
        applied: Applied,
    },
    /// Nothing was proposed.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// Nothing was proposed: the format in which the cluster writes cannot hold the command yet.
    NotFinalised,
    /// The entry may be committed or not.
    Unknown,
    /// Nothing was proposed: too much waits for the leader's disk.
    Overloaded,
}

/// What follows for a proposer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Committed {
        index: u64,
        applied: Applied,
    },
    Refused(ProposeError),
    Ask(NodeId),
    /// After a pause: nothing is known, or nothing better.
    TryAgain,
}

impl ProposalAnswer {
    /// For the member with this number. One that is sent back to itself waits until it knows of its lead.
    pub(super) fn verdict(self, own: NodeId) -> Verdict {
        match self {
            Self::Applied { index, applied } => Verdict::Committed { index, applied },
            Self::NotLeader { leader: Some(leader) } if leader != own => Verdict::Ask(leader),
            Self::NotFinalised => Verdict::Refused(ProposeError::NotFinalised),
            Self::Overloaded => Verdict::Refused(ProposeError::Overloaded),
            Self::Unknown if planted(Bug::UnknownOutcomeApplied) => {
                let (index, applied) = (0, Applied::Done);
                Verdict::Committed { index, applied }
            }
            Self::NotLeader { .. } | Self::Unknown => Verdict::TryAgain,
        }
    }
}

/// One piece of a snapshot, perhaps an empty one, which only asks. Answered by a [`SnapshotAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotChunk {
    pub(super) offset: u64,
    pub(super) total: u64,
    /// postcard of the leader's vote, and what the snapshot covers.
    pub(super) vote: Vec<u8>,
    pub(super) meta: Vec<u8>,
    pub(super) data: Bytes,
}

/// What became of a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SnapshotAnswer {
    /// The piece that begins there comes next, on whatever connection.
    GoOnAt(u64),
    /// It was the last one; this is openraft's answer.
    Done(SnapshotResponse<TypeConfig>),
}

/// A million sessions take 810 MB; more than this is refused before it is taken in.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 2 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_committed_is_called_that() {
        let (own, other) = (NodeId(1), NodeId(2));
        let (index, applied) = (7, Applied::Done);
        let committed = ProposalAnswer::Applied { index, applied };
        let applied = Applied::Done;
        assert_eq!(committed.verdict(own), Verdict::Committed { index, applied });
        assert_eq!(ProposalAnswer::Unknown.verdict(own), Verdict::TryAgain);
        let not_leader = |leader| ProposalAnswer::NotLeader { leader }.verdict(own);
        assert_eq!(not_leader(None), Verdict::TryAgain);
        assert_eq!(not_leader(Some(own)), Verdict::TryAgain);
        assert_eq!(not_leader(Some(other)), Verdict::Ask(other));
    }
}
