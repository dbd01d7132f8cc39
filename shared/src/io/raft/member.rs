//! The local member: openraft and its stores, as the server, the guardian and the handle use them.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
};
use openraft::{Instant as _, ServerState, Snapshot};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::cluster::witness::LogPosition;
use crate::cluster::{Actor, Applied, Command, Proposal as RaftProposal};

use super::config::ClusterConfig;
use super::frame::{
    Hello, Kind, PeerStatus, Proposal, ProposalAnswer, SNAPSHOT_BYTES_MAX, SnapshotChunk, decode, encode,
};
use super::handle::{ProposeError, StopReason};
use super::log_store::LogStore;
use super::metrics::RaftMetrics;
use super::network::PeerLinks;
use super::snapshot_store::decode_meta;
use super::state_machine::StateMachine;
use super::status::ClusterStatus;
use super::type_config::{Raft, TypeConfig, VoteRecord};

pub(super) struct Member {
    pub(super) config: ClusterConfig,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) machine: StateMachine,
    pub(super) metrics: RaftMetrics,
    pub(super) peers: BTreeMap<u64, PeerLinks>,
    pub(super) status: watch::Sender<ClusterStatus>,
    pub(super) stop: watch::Sender<Option<StopReason>>,
    /// A planned stop is under way: this member takes no lead.
    pub(super) draining: AtomicBool,
    pub(super) proposals: Semaphore,
    pub(super) started: Instant,
    /// Microseconds from `started` to the last word from a leader; 0: none yet.
    pub(super) heard_us: AtomicU64,
}

/// openraft's view, copied.
pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;

impl Member {
    pub(super) fn incarnation(&self) -> u64 {
        self.config.incarnation
    }

    pub(super) fn id(&self) -> u64 {
        self.config.id.0
    }

    pub(super) fn is_addressed(&self, hello: &Hello) -> bool {
        hello.cluster == self.config.name && hello.to == self.id() && self.peers.contains_key(&hello.from)
    }

    pub(super) fn raft_metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The first reason stands.
    pub(super) fn request_stop(&self, reason: StopReason) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(reason);
            first
        });
    }

    /// When a leader was last heard.
    pub(super) fn heard(&self) -> Option<Instant> {
        let micros = self.heard_us.load(Ordering::Relaxed);
        (micros > 0).then(|| self.started + Duration::from_micros(micros))
    }

    pub(super) fn heard_within_lease(&self) -> bool {
        self.heard()
            .is_some_and(|heard| heard.elapsed() < self.config.timings.election_max)
    }

    /// Leads, and a majority answered within a lease.
    pub(super) fn leads_with_quorum(&self, metrics: &Metrics) -> bool {
        let alone = self.config.members.len() == 1;
        let acknowledged = metrics
            .last_quorum_acked
            .as_ref()
            .is_some_and(|at| at.elapsed() < self.config.timings.election_max);
        metrics.state == ServerState::Leader && (alone || acknowledged)
    }

    pub(super) fn log_position(&self) -> LogPosition {
        self.log
            .last_log_id()
            .map_or_else(LogPosition::default, |id| LogPosition {
                term: id.committed_leader_id().term,
                index: id.index(),
            })
    }

    pub(super) fn peer_status(&self) -> PeerStatus {
        let metrics = self.raft_metrics();
        let log = self.log_position();
        PeerStatus {
            incarnation: self.incarnation(),
            applied: *self.machine.applied_index().borrow(),
            hears_leader: self.leads_with_quorum(&metrics) || self.heard_within_lease(),
            initialized: is_initialized(&metrics),
            last_term: log.term,
            last_index: log.index,
        }
    }
}

/// Requests of the other members' openraft.
impl Member {
    pub(super) async fn append(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: AppendEntriesRequest<TypeConfig> = decode(body)?;
        let response = self
            .raft
            .append_entries(request)
            .await
            .map_err(io::Error::other)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.heard_us.store(micros.max(1), Ordering::Relaxed);
        }
        encode(&response)
    }

    pub(super) async fn vote(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: VoteRequest<TypeConfig> = decode(body)?;
        encode(&self.raft.vote(request).await.map_err(io::Error::other)?)
    }

    pub(super) async fn pre_vote(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: VoteRequest<TypeConfig> = decode(body)?;
        encode(&self.raft.pre_vote(request).await.map_err(io::Error::other)?)
    }

    pub(super) async fn transfer_leader(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: TransferLeaderRequest<TypeConfig> = decode(body)?;
        let response = self.raft.handle_transfer_leader(request).await;
        encode(&response.map_err(io::Error::other)?)
    }

    /// Takes one piece of a snapshot; answers `None` until the last one is installed.
    pub(super) async fn take_snapshot(
        &self,
        transfer: &mut SnapshotTransfer,
        body: &[u8],
    ) -> io::Result<Bytes> {
        let chunk: SnapshotChunk = decode(body)?;
        let installed: Option<SnapshotResponse<TypeConfig>> = match transfer.add(&chunk)? {
            None => None,
            Some(data) => {
                let vote: VoteRecord = decode(&chunk.vote)?;
                let meta = decode_meta(&chunk.meta).ok_or(io::ErrorKind::InvalidData)?;
                let snapshot = Snapshot { meta, snapshot: data };
                let response = self.raft.install_full_snapshot(vote, snapshot).await;
                Some(response.map_err(io::Error::other)?)
            }
        };
        encode(&installed)
    }
}

/// The pieces of a snapshot that have arrived on one connection.
#[derive(Debug, Default)]
pub(super) struct SnapshotTransfer {
    data: Vec<u8>,
}

impl SnapshotTransfer {
    fn add(&mut self, chunk: &SnapshotChunk) -> io::Result<Option<Bytes>> {
        if chunk.offset == 0 {
            self.data.clear();
        }
        let end = self.data.len() as u64 + chunk.data.len() as u64;
        if chunk.offset != self.data.len() as u64 || end > chunk.total || chunk.total > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a piece of a snapshot out of place",
            ));
        }
        self.data.extend_from_slice(&chunk.data);
        let complete = end == chunk.total;
        Ok(complete.then(|| std::mem::take(&mut self.data).into()))
    }
}

/// Proposals.
impl Member {
    /// Until the command is applied here, or the deadline is over.
    pub(super) async fn propose(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        let started = Instant::now();
        let end = started + deadline;
        let result = match self.proposals.try_acquire() {
            Err(_) => Err(ProposeError::Overloaded),
            Ok(_permit) => timeout_at(end, self.propose_until_applied(&command, end))
                .await
                .unwrap_or(Err(ProposeError::Timeout)),
        };
        let outcome = match result {
            Ok(_) => "applied",
            Err(ProposeError::Overloaded) => "overloaded",
            Err(ProposeError::Timeout) => "timeout",
            Err(ProposeError::Stopped) => "stopped",
        };
        self.metrics.proposals.with_label_values(&[outcome]).inc();
        if result.is_ok() {
            self.metrics
                .commit_seconds
                .observe(started.elapsed().as_secs_f64());
        }
        result
    }

    async fn propose_until_applied(&self, command: &Command, end: Instant) -> Result<Applied, ProposeError> {
        let mut told = None;
        loop {
            if self.stop.borrow().is_some() {
                return Err(ProposeError::Stopped);
            }
            let leader = told
                .take()
                .or_else(|| self.raft_metrics().current_leader.map(|id| id.member().0));
            let patience = ATTEMPT_MAX.min(end.saturating_duration_since(Instant::now()));
            let answer = match leader {
                Some(leader) if leader == self.id() => self.propose_here(command.clone(), patience).await,
                Some(leader) => self.propose_at(leader, command, patience).await,
                None => ProposalAnswer::NotLeader { leader: None },
            };
            match answer {
                ProposalAnswer::Applied { index, applied } => {
                    self.wait_until_applied(index).await;
                    return Ok(applied);
                }
                ProposalAnswer::NotLeader { leader } if leader.is_some() && leader != Some(self.id()) => {
                    told = leader;
                }
                ProposalAnswer::NotLeader { .. } | ProposalAnswer::Unknown => {}
            }
            self.wait_for_news().await;
        }
    }

    /// Proposes to the local openraft alone.
    async fn propose_here(&self, command: Command, patience: Duration) -> ProposalAnswer {
        match timeout(
            patience,
            self.raft.client_write(RaftProposal {
                actor: Actor::Member(self.config.id),
                command,
            }),
        )
        .await
        {
            Ok(Ok(response)) => ProposalAnswer::Applied {
                index: response.log_id.index(),
                applied: response.data,
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                ProposalAnswer::NotLeader {
                    leader: forward.leader_id.map(|id| id.member().0),
                }
            }
            Ok(Err(_)) | Err(_) => ProposalAnswer::Unknown,
        }
    }

    async fn propose_at(&self, leader: u64, command: &Command, patience: Duration) -> ProposalAnswer {
        let Some(peer) = self.peers.get(&leader) else {
            return ProposalAnswer::Unknown;
        };
        let proposal = Proposal {
            deadline_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
            command: command.clone(),
        };
        let Ok(body) = encode(&proposal) else {
            return ProposalAnswer::Unknown;
        };
        match timeout(patience, peer.proposals.ask(Kind::Propose, body)).await {
            Ok(Ok(body)) => decode(&body).unwrap_or(ProposalAnswer::Unknown),
            Ok(Err(_)) | Err(_) => ProposalAnswer::Unknown,
        }
    }

    /// A peer's proposal: here or nowhere, the peer tries again by itself.
    pub(super) async fn propose_forwarded(&self, body: &[u8]) -> io::Result<Bytes> {
        let proposal: Proposal = decode(body)?;
        let patience = Duration::from_millis(u64::from(proposal.deadline_ms)).min(ATTEMPT_MAX);
        encode(&self.propose_here(proposal.command, patience).await)
    }

    /// Whoever proposed finds the result in the local state, unless this member lags far behind.
    async fn wait_until_applied(&self, index: u64) {
        let mut applied = self.machine.applied_index();
        let reached = applied.wait_for(|applied| *applied >= index);
        // Lagging is no failure: the command is committed.
        let _ = timeout(LOCAL_LAG_MAX, reached).await;
    }

    async fn wait_for_news(&self) {
        let mut status = self.status.subscribe();
        tokio::select! {
            biased;
            _ = status.changed() => {}
            () = sleep(RETRY_PAUSE) => {}
        }
    }
}

pub(super) fn is_initialized(metrics: &Metrics) -> bool {
    metrics.current_term > 0 || metrics.membership_config.voter_ids().next().is_some()
}

/// One attempt at a proposal: a leader that does not answer for so long may not be one any more.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(10);
const LOCAL_LAG_MAX: Duration = Duration::from_millis(100);
