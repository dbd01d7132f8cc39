//! The local member: openraft and its stores, as the server, the guardian and the handle use them.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::{Instant as _, ServerState};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use tandem_cluster::health::WRITING_MAX;
use tandem_cluster::membership::{Introduction, ListedMember, Reach, Start, list_difference};
use tandem_cluster::witness::LogPosition;
use tandem_cluster::{Actor, Applied, Command, NodeId, Proposal, RaftId};

use super::config::ClusterConfig;
use super::directory::Directory;
use super::frame::{
    BODY_BYTES_MAX, Declined, ForwardedProposal, Hello, Kind, PeerStatus, ProposalAnswer, Standing,
    StatusQuestion, Verdict, decode, encode,
};
use super::handle::{ProposeError, StopReason};
use super::log_store::LogStore;
use super::metrics::RaftMetrics;
use super::network::PeerLinks;
use super::peer_book::PeerBook;
use super::refusals::{Refusal, Refusals};
use super::snapshot_intake::IncomingSnapshot;
use super::state_machine::StateMachine;
use super::status::ClusterStatus;
use super::type_config::{LogId, Raft, TypeConfig, VoteRecord, position_of};

pub(super) struct Member {
    pub(super) config: ClusterConfig,
    pub(super) directory: Directory,
    pub(super) book: Arc<PeerBook>,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) machine: StateMachine,
    pub(super) metrics: RaftMetrics,
    pub(super) peers: BTreeMap<NodeId, PeerLinks>,
    pub(super) status: watch::Sender<ClusterStatus>,
    /// The latest moment of which the local state is known to hold all that was committed before.
    pub(super) state_as_of: watch::Sender<Option<std::time::Instant>>,
    pub(super) stop: watch::Sender<Option<StopReason>>,
    /// A planned stop is under way: this member takes no lead.
    pub(super) draining: AtomicBool,
    pub(super) disk_nearly_full: AtomicBool,
    /// What is known of the other members could not be written down the last time.
    pub(super) book_unsaved: AtomicBool,
    pub(super) proposals: Semaphore,
    pub(super) refusals: Refusals,
    pub(super) list_differences: Mutex<BTreeMap<NodeId, String>>,
    /// When this member's certificate ends, in seconds of Unix time; 0: it has none.
    pub(super) certificate_expires: Arc<AtomicU64>,
    /// One change of the membership at a time.
    pub(super) membership_changes: Semaphore,
    pub(super) incoming: Mutex<IncomingSnapshot>,
    /// The cluster's time as a leader told it last, and when.
    pub(super) told_time: Mutex<Option<(u64, Instant)>>,
    pub(super) started: Instant,
    /// Microseconds from `started` to the last word from a leader; 0: none yet.
    pub(super) heard_us: AtomicU64,
}

/// openraft's view, copied.
pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;

impl Member {
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn disk_nearly_full(&self) -> bool {
        self.disk_nearly_full.load(Ordering::Relaxed)
    }

    /// The write that is under way takes too long.
    pub(super) fn disk_stands_still(&self) -> bool {
        self.log.writing_for().is_some_and(|time| time > WRITING_MAX)
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.config.incarnation.as_u64()
    }

    pub(super) fn id(&self) -> NodeId {
        self.config.id
    }

    /// The cluster's time, in milliseconds: the later of what the state and a leader said last, and what this process's
    /// monotonic clock has counted since; the wall clock's, as Unix time, before anybody has told one.
    pub(super) fn cluster_ms(&self) -> u64 {
        let now = Instant::now();
        let age = self.config.timings.expire_age;
        let by_state = self
            .machine
            .ticked()
            .map(|ticked| counted_on(ticked.before_ms, now.saturating_duration_since(ticked.at) + age));
        let by_leader = *self.told_time.lock().unwrap_or_else(PoisonError::into_inner);
        let by_leader = by_leader.map(|(told, at)| counted_on(told, now.saturating_duration_since(at)));
        by_state
            .max(by_leader)
            .unwrap_or_else(|| (self.config.wall_clock_ms)())
    }

    /// A leader said so just now. The log tells the time only while something can expire.
    pub(super) fn note_time(&self, told_ms: u64, now: Instant) {
        let mut told = self.told_time.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was deposed, or is behind, takes nothing back.
        if told.is_none_or(|(known, at)| counted_on(known, now.saturating_duration_since(at)) <= told_ms) {
            *told = Some((told_ms, now));
        }
    }

    pub(super) fn raft_id(&self) -> RaftId {
        self.directory.raft_id()
    }

    pub(super) fn introduction(&self) -> Introduction {
        self.directory.introduction()
    }

    /// How far this member's log reaches now.
    pub(super) fn reach(&self) -> Reach {
        Reach {
            last: self.log_position(),
            applied: self.machine.applied_index().borrow().min(self.log.synced_index()),
            initialized: is_initialized(&self.raft_metrics()),
            disk_nearly_full: self.disk_nearly_full(),
            disk_stands_still: self.disk_stands_still(),
            state_mark: self.machine.mark(),
        }
    }

    /// Why a connection that began with this hello is refused.
    pub(super) fn refusal(&self, hello: &Hello) -> Option<Refusal> {
        let from = hello.from.id.member();
        if hello.cluster != self.config.name {
            Some(Refusal::AnotherCluster {
                theirs: hello.cluster.chars().take(NAME_CHARS_MAX).collect(),
                ours: self.config.name.clone(),
            })
        } else if hello.to != self.id() {
            Some(Refusal::AnotherMember {
                wanted: hello.to,
                ours: self.id(),
            })
        } else if !self.peers.contains_key(&from) {
            Some(Refusal::NotConfigured(from))
        } else {
            None
        }
    }

    pub(super) fn note_declined(&self, peer: NodeId, declined: Declined) {
        match declined {
            Declined::You(stranger) => self.book.note_told(peer, Some(stranger)),
            Declined::Me(stranger) => tracing::debug!(%peer, %stranger, "a member takes no part"),
            Declined::Stopped => tracing::debug!(%peer, "a member has stopped"),
        }
    }

    /// The member that votes, or else follows, under this number.
    pub(super) fn seat_of(&self, number: NodeId) -> Option<RaftId> {
        let membership = self.raft_metrics().membership_config;
        let voter = membership.voter_ids().find(|id| id.member() == number);
        voter.or_else(|| {
            let mut learners = membership.membership().learner_ids();
            learners.find(|id| id.member() == number)
        })
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
        let lease = self.config.timings.election_max;
        metrics.state == ServerState::Leader && self.quorum_age(metrics).is_some_and(|age| age < lease)
    }

    /// How long ago this member, as leader, sent what a majority acknowledged last; `None`: never.
    pub(super) fn quorum_age(&self, metrics: &Metrics) -> Option<Duration> {
        let own = self.raft_id();
        match metrics.membership_config.voter_ids().all(|voter| voter == own) {
            true => Some(Duration::ZERO),
            false => metrics.last_quorum_acked.as_ref().map(|at| at.elapsed()),
        }
    }

    /// No entry after this one is committed, as this member knows that leads. What the leaders before it committed, it knows
    /// only once an entry of its own is.
    pub(super) fn committed_at_most(&self, metrics: &Metrics) -> u64 {
        let committed = metrics.cluster_committed.map(position_of);
        let of_own_term = committed.filter(|position| position.term == metrics.current_term);
        of_own_term.unwrap_or_else(|| self.log_position()).index
    }

    pub(super) fn log_position(&self) -> LogPosition {
        self.log
            .last_log_id()
            .map_or_else(LogPosition::default, position_of)
    }

    /// The configured list.
    pub(super) fn listed(&self) -> Vec<ListedMember> {
        let members = self.config.members.iter();
        members
            .map(|member| ListedMember {
                id: member.id,
                role: member.role,
                address: member.address.clone(),
            })
            .collect()
    }

    /// Takes in the list of a peer.
    pub(super) fn note_list(&self, peer: NodeId, theirs: &[ListedMember]) {
        let difference = list_difference(&self.listed(), peer, theirs);
        let mut differences = self
            .list_differences
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match difference {
            Some(difference) => differences.insert(peer, difference),
            None => differences.remove(&peer),
        };
    }

    /// By peer: how its list differs from this member's.
    pub(super) fn list_differences(&self) -> BTreeMap<NodeId, String> {
        self.list_differences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn peer_status(&self, peer: &Introduction, question: StatusQuestion) -> PeerStatus {
        let metrics = self.raft_metrics();
        PeerStatus {
            incarnation: self.incarnation(),
            introduction: self.introduction(),
            reach: self.reach(),
            stranger: self.book.may_ask(peer).err(),
            standing: self.standing(&metrics, peer.id, question.applied),
            connected: self.connected(),
            writes_snapshot: self.machine.snapshots().is_writing(),
            clock_ms: (self.config.wall_clock_ms)(),
        }
    }

    fn standing(&self, metrics: &Metrics, asker: RaftId, applied: Option<LogPosition>) -> Standing {
        if metrics.state == ServerState::Leader {
            let heartbeats = metrics.heartbeat.as_ref();
            let acknowledged = heartbeats.and_then(|heartbeats| heartbeats.get(&asker).copied().flatten());
            Standing::Leads {
                quorum_age_ms: age_ms(self.quorum_age(metrics)),
                acknowledged_age_ms: age_ms(acknowledged.map(|at| at.elapsed())),
                committed: self.committed_at_most(metrics),
                agrees: applied.and_then(|theirs| {
                    let ours = self.log.id_at(theirs.index)?;
                    Some(position_of(ours) == theirs)
                }),
                cluster_ms: self.cluster_ms(),
            }
        } else if self.heard_within_lease() {
            Standing::Follows
        } else {
            Standing::HearsNone
        }
    }

    /// The processes that this member has a connection to.
    fn connected(&self) -> Vec<(NodeId, Start)> {
        let peers = self.peers.iter();
        peers
            .filter_map(|(id, links)| Some((*id, links.control.welcomed_by()?.start)))
            .collect()
    }
}

/// Requests of the other members' openraft.
impl Member {
    pub(super) async fn append(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: AppendEntriesRequest<TypeConfig> = decode(body)?;
        self.check_committed(&request)?;
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
}

/// What must never differ between two members.
impl Member {
    /// A leader's entries agree with what is committed here, or one of the two has lost something: this member stops before
    /// anything is written. openraft only asserts it in debug builds.
    fn check_committed(&self, request: &AppendEntriesRequest<TypeConfig>) -> io::Result<()> {
        let entries = request.entries.iter().map(|entry| entry.log_id);
        self.check_committed_ids(&request.vote, request.prev_log_id.into_iter().chain(entries))
    }

    pub(super) fn check_committed_ids(
        &self,
        vote: &VoteRecord,
        theirs: impl IntoIterator<Item = LogId>,
    ) -> io::Result<()> {
        // A leader that was deposed may still send what was overwritten since; openraft refuses it.
        let is_current = *vote >= self.raft_metrics().vote;
        let Some(committed) = self
            .log
            .committed()
            .max(self.machine.last_applied())
            .filter(|_| is_current)
        else {
            return Ok(());
        };
        let within = |id: &LogId| id.index() <= committed.index();
        for theirs in theirs.into_iter().take_while(within) {
            let ours = match theirs.index() == committed.index() {
                true => Some(committed),
                false => self.log.id_at(theirs.index()),
            };
            if let Some(ours) = ours.filter(|ours| *ours != theirs) {
                let text = format!(
                    "the leader's log has {theirs} where {ours} is committed here: one of the two members has lost \
                     acknowledged entries; compare their states before either is replaced"
                );
                tracing::error!(%theirs, %ours, "two members hold different entries at a committed index");
                self.request_stop(StopReason::Failed(text.clone()));
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        Ok(())
    }
}

/// Proposals.
impl Member {
    /// As [`Self::propose`], in this member's own name.
    pub(super) async fn propose_own(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        let actor = Actor::Member(self.id());
        self.propose(Proposal { actor, command }, deadline).await
    }

    /// Until the command is applied here, or the deadline is over.
    pub(super) async fn propose(
        &self,
        proposal: Proposal,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        let started = Instant::now();
        let end = started + deadline;
        let result = match (self.proposals.try_acquire(), check_size(&proposal)) {
            (_, Err(too_large)) => Err(too_large),
            (Err(_), Ok(())) => Err(ProposeError::Overloaded),
            (Ok(_permit), Ok(())) => timeout_at(end, self.propose_until_applied(&proposal, end))
                .await
                .unwrap_or(Err(ProposeError::Timeout)),
        };
        let outcome = match result {
            Ok(_) => "applied",
            Err(ProposeError::Overloaded) => "overloaded",
            Err(ProposeError::TooLarge { .. }) => "too_large",
            Err(ProposeError::Timeout) => "timeout",
            Err(ProposeError::Stopped) => "stopped",
            Err(ProposeError::NotFinalised) => "not_finalised",
        };
        self.metrics.proposals.with_label_values(&[outcome]).inc();
        if result.is_ok() {
            self.metrics
                .commit_seconds
                .observe(started.elapsed().as_secs_f64());
        }
        result
    }

    async fn propose_until_applied(
        &self,
        proposal: &Proposal,
        end: Instant,
    ) -> Result<Applied, ProposeError> {
        let mut told = None;
        loop {
            if self.stop.borrow().is_some() {
                return Err(ProposeError::Stopped);
            }
            let leader = told
                .take()
                .or_else(|| self.raft_metrics().current_leader.map(RaftId::member));
            let patience = ATTEMPT_MAX.min(end.saturating_duration_since(Instant::now()));
            // A member that was told to be a stranger proposes nothing.
            let leader = leader.filter(|_| self.book.own_stranger().is_none());
            let answer = match leader {
                Some(leader) if leader == self.id() => self.propose_here(proposal.clone(), patience).await,
                Some(leader) => self.propose_at(leader, proposal, patience).await,
                None => ProposalAnswer::NotLeader { leader: None },
            };
            match answer.verdict(self.id()) {
                Verdict::Committed { index, applied } => {
                    self.wait_until_applied(index).await;
                    return Ok(applied);
                }
                Verdict::Refused(error) => return Err(error),
                Verdict::Ask(leader) => told = Some(leader),
                Verdict::TryAgain => {}
            }
            self.wait_for_news().await;
        }
    }

    /// Proposes to the local openraft alone.
    async fn propose_here(&self, proposal: Proposal, patience: Duration) -> ProposalAnswer {
        let written = self.machine.state().format();
        let finalises = matches!(proposal.command, Command::FormatFinalised { .. });
        if proposal.command.format() > written && !finalises {
            return ProposalAnswer::NotFinalised;
        }
        if self.log.is_overloaded() {
            return ProposalAnswer::Overloaded;
        }
        if !self.disk_nearly_full() {
            return self.write(proposal, patience).await;
        }
        let Proposal { actor, command } = proposal;
        let mut allowed = self.machine.state().without_growth(command);
        let Some(command) = allowed.rest.take() else {
            let index = *self.machine.applied_index().borrow();
            let applied = allowed.answer(None);
            return ProposalAnswer::Applied { index, applied };
        };
        match self.write(Proposal { actor, command }, patience).await {
            ProposalAnswer::Applied { index, applied } => ProposalAnswer::Applied {
                index,
                applied: allowed.answer(Some(applied)),
            },
            other @ (ProposalAnswer::NotLeader { .. }
            | ProposalAnswer::NotFinalised
            | ProposalAnswer::Unknown
            | ProposalAnswer::Overloaded) => other,
        }
    }

    async fn write(&self, proposal: Proposal, patience: Duration) -> ProposalAnswer {
        match timeout(patience, self.raft.client_write(proposal)).await {
            Ok(Ok(response)) => ProposalAnswer::Applied {
                index: response.log_id.index(),
                applied: response.data,
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                ProposalAnswer::NotLeader {
                    leader: forward.leader_id.map(RaftId::member),
                }
            }
            Ok(Err(_)) | Err(_) => ProposalAnswer::Unknown,
        }
    }

    async fn propose_at(&self, leader: NodeId, proposal: &Proposal, patience: Duration) -> ProposalAnswer {
        let Some(peer) = self.peers.get(&leader) else {
            return ProposalAnswer::Unknown;
        };
        let forwarded = ForwardedProposal {
            deadline_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
            proposal: proposal.clone(),
        };
        let Ok(body) = encode(&forwarded) else {
            return ProposalAnswer::Unknown;
        };
        match timeout(patience, peer.proposals.ask(Kind::Propose, body)).await {
            Ok(Ok(body)) => decode(&body).unwrap_or(ProposalAnswer::Unknown),
            Ok(Err(_)) | Err(_) => ProposalAnswer::Unknown,
        }
    }

    /// A peer's proposal: here or nowhere, the peer tries again by itself.
    pub(super) async fn propose_forwarded(&self, body: &[u8]) -> io::Result<Bytes> {
        let forwarded: ForwardedProposal = decode(body)?;
        let patience = Duration::from_millis(u64::from(forwarded.deadline_ms)).min(ATTEMPT_MAX);
        encode(&self.propose_here(forwarded.proposal, patience).await)
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

/// What a time in milliseconds has become after so long.
fn counted_on(ms: u64, after: Duration) -> u64 {
    ms.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}

/// In whole milliseconds; what never happened is as old as can be.
fn age_ms(age: Option<Duration>) -> u32 {
    age.map_or(u32::MAX, |age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX))
}

/// An entry that no frame can carry would stop the replication of everything behind it.
fn check_size(proposal: &Proposal) -> Result<(), ProposeError> {
    let bytes = postcard::experimental::serialized_size(proposal).unwrap_or(usize::MAX);
    match bytes <= COMMAND_BYTES_MAX {
        true => Ok(()),
        false => Err(ProposeError::TooLarge {
            bytes,
            max: COMMAND_BYTES_MAX,
        }),
    }
}

/// What surrounds a command in a frame takes less than a kilobyte.
const COMMAND_BYTES_MAX: usize = BODY_BYTES_MAX - (64 << 10);
/// What a stranger claims is not repeated at any length.
const NAME_CHARS_MAX: usize = 64;
/// One attempt at a proposal: a leader that does not answer for so long may not be one any more.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(10);
const LOCAL_LAG_MAX: Duration = Duration::from_millis(100);
