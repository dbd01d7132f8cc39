//! Why a member could not start, why a command is not known to be applied, and why a member stopped.

use std::io;
use std::net::SocketAddr;

use tandem_runtime::io::tls::TlsError;

use super::directory::DirectoryError;

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the member's own id is not among the cluster's members")]
    NotAMember,
    #[error("a member whose address is a name must be told where to listen")]
    NowhereToListen,
    #[error("cannot listen for the other members on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot speak TLS with the other members")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The files of the data directory are unusable; the text says which and what to do.
    #[error("cannot recover the log")]
    Storage(#[source] io::Error),
    #[error("the configuration of Raft was refused: {0}")]
    Refused(String),
}

/// Why a command is not known to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed: too many proposals of this member are unanswered, or too much waits for the leader's disk.
    #[error("too many proposals are unanswered, or too much waits for the leader's disk")]
    Overloaded,
    /// Nothing was proposed: the command is larger than members can send to each other.
    #[error("the command takes {bytes} bytes, more than the {max} that members can send to each other")]
    TooLarge { bytes: usize, max: usize },
    /// The outcome is unknown.
    #[error("no answer before the deadline")]
    Timeout,
    /// The member has stopped.
    #[error("the member has stopped")]
    Stopped,
    /// Nothing was proposed: the command is new, and the log's format cannot hold it yet.
    #[error("the log's format cannot hold this yet: see `tandem-node cluster status`")]
    NotFinalised,
}

/// Why a member stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    Requested,
    /// The log could not be written or openraft gave up; the process must not go on with this member.
    Failed(String),
}
