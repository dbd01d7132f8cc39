//! The handle of this process's member.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::cluster::{Applied, ClusterState, Command};

use super::changes::{ChangeReceiver, ChangeSender};
use super::config::ClusterConfig;
use super::files::Files;
use super::metrics::RaftMetrics;
use super::status::ClusterStatus;
use super::transport::Transport;

/// This process's member of the cluster. Clones are handles to the same one.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    state: RwLock<ClusterState>,
    changes: ChangeSender,
    status: watch::Sender<ClusterStatus>,
    address: SocketAddr,
}

impl Cluster {
    /// Recovers the log, listens for the others and joins them. Returns before there is a leader.
    /// Tasks run on the runtime on which this is called.
    pub async fn start<T: Transport>(
        config: ClusterConfig,
        transport: T,
        files: Arc<dyn Files>,
        metrics: RaftMetrics,
    ) -> Result<Self, StartError> {
        let _ = (transport, files, metrics);
        let address = config
            .listen
            .or_else(|| {
                config
                    .members
                    .iter()
                    .find(|member| member.id == config.id)
                    .map(|member| member.address)
            })
            .ok_or(StartError::NotAMember)?;
        Ok(Self {
            inner: Arc::new(Inner {
                state: RwLock::new(ClusterState::new(config.limits)),
                changes: ChangeSender::new(),
                status: watch::Sender::new(ClusterStatus::starting()),
                address,
            }),
        })
    }

    /// Proposes a command, on whichever member leads, and waits until it is applied.
    ///
    /// Tries again while the lead changes hands, until `deadline` is over; the command may then have been
    /// committed all the same, or be committed later.
    pub async fn propose(&self, command: Command, deadline: Duration) -> Result<Applied, ProposeError> {
        let _ = (command, deadline);
        Err(ProposeError::Stopped)
    }

    /// Reads the local state. Keep it short: commands wait meanwhile.
    pub fn with_state<R>(&self, read: impl FnOnce(&ClusterState) -> R) -> R {
        let state = self
            .inner
            .state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        read(&state)
    }

    /// Every change from now on, in order.
    #[must_use]
    pub fn changes(&self) -> ChangeReceiver {
        self.inner.changes.subscribe()
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.inner.status.subscribe()
    }

    /// Where this member listens for the others.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Hands the lead to another node, if this member has it, and campaigns no more.
    pub async fn drain(&self) {}

    /// Stops the member. [`Self::drain`] comes first in a planned stop.
    pub async fn shutdown(&self) {}

    /// Resolves when the member has stopped, by request or because its disk failed.
    pub async fn stopped(&self) -> StopReason {
        std::future::pending().await
    }
}

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the member's own id is not among the cluster's members")]
    NotAMember,
    #[error("cannot listen for the other members on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    /// The files of the data directory are unusable; the text says which and what to do.
    #[error("cannot recover the log")]
    Storage(#[source] io::Error),
    #[error("the configuration of Raft was refused: {0}")]
    Refused(String),
}

/// Why a command is not known to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed: too many proposals of this member are unanswered.
    #[error("too many proposals are unanswered")]
    Overloaded,
    /// The outcome is unknown.
    #[error("no answer before the deadline")]
    Timeout,
    /// The member has stopped.
    #[error("the member has stopped")]
    Stopped,
}

/// Why a member stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    Requested,
    /// The log could not be written or openraft gave up; the process must not go on with this member.
    Failed(String),
}
