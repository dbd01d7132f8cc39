//! What the benchmark and its members say to each other: a line of JSON each, over standard input and output.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The first line that a member reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MemberOptions {
    pub(crate) id: u64,
    /// Certificates, and a directory of data for each member.
    pub(crate) directory: PathBuf,
    /// Of members 1, 2 and 3; the third is the witness.
    pub(crate) addresses: [SocketAddr; 3],
    /// `None`: as in production.
    pub(crate) snapshot_after_entries: Option<u64>,
}

/// What a member is told to do, one order at a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// How it stands.
    Status,
    /// Commits one command, as often as it takes.
    Commit,
    /// Commits one command after the other until one is that this member proposed as leader.
    CommitAsLeader,
    /// Opens a session for each of so many writers. Each writer then commits one command after the other.
    Load { writers: usize, millis: u64 },
    /// Opens so many sessions, many to a command.
    Fill { sessions: usize },
    /// Commits so many commands per second, whether earlier ones are answered or not.
    Pace { per_second: u32, millis: u64 },
}

/// What a member answers. The first report comes without an order, when the member has joined the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Report {
    Ready,
    Status(Standing),
    Committed,
    Filled,
    /// Microseconds that each commit took.
    Load {
        latencies: Vec<u32>,
    },
    Pace(Paced),
    Failed(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) leads: bool,
    /// The leader, if one is heard.
    pub(crate) leader: Option<u64>,
    pub(crate) last_applied: u64,
}

/// Commits at a steady pace, and the snapshots that were written meanwhile. Times are Unix microseconds of the machine that
/// all members share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Paced {
    /// When each commit was due to begin, and when it was acknowledged.
    pub(crate) commits: Vec<(u64, u64)>,
    /// When each snapshot began and ended to be written.
    pub(crate) snapshots: Vec<(u64, u64)>,
}
