//! The handle of this process's member.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use tandem_cluster::{
    Actor, Applied, ClusterState, Command, MemberAddress, MemberRole, NodeId, Proposal, RaftId,
};

use super::administration::AdministrationError;
use super::changes::ChangeReceiver;
use super::config::ClusterConfig;
use super::directory::Directory;
use super::errors::{ProposeError, StartError, StopReason};
use super::guardian::Guardian;
use super::member::Member;
use super::members_view::MembersView;
use super::metrics::RaftMetrics;
use super::server::serve;
use super::starting::{link_peers, open_member, open_storage, run_until_stopped};
use super::status::{ClusterStatus, RaftRole};
use super::stopped_member::StoppedMember;
use tandem_runtime::io::environment::files::Files;
use tandem_runtime::io::transport::Transport;

/// This process's member of the cluster. Clones are handles to the same one.
#[derive(Clone)]
pub struct Cluster {
    member: Arc<Member>,
    address: SocketAddr,
    finished: watch::Receiver<bool>,
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
        let own = config.members.iter().find(|member| member.id == config.id);
        let own = own.ok_or(StartError::NotAMember)?;
        let address = match (config.listen, &own.address) {
            (Some(listen), _) => listen,
            (None, MemberAddress::Address(address)) => *address,
            (None, MemberAddress::Name { .. }) => return Err(StartError::NowhereToListen),
        };
        let directory = Directory::open(files.clone(), &config)?;
        let listener = transport
            .listen(address)
            .await
            .map_err(|source| StartError::Listen { address, source })?;
        // An empty directory is stamped before anything else is in it; a log that this program does not understand is
        // refused before anything is changed.
        if !directory.has_log() {
            directory.count_start().await?;
        }
        let storage = open_storage(&config, files.clone(), &metrics).await?;
        if directory.has_log() {
            directory.count_start().await?;
        }
        let mut tasks = JoinSet::new();
        let (events, noted) = mpsc::channel(LINK_EVENTS_WAITING_MAX);
        let (peers, drivers) = link_peers(&config, &transport, &events);
        let member = open_member(config, directory, storage, files, metrics, peers).await?;
        for driver in drivers {
            tasks.spawn(driver.run(member.clone()));
        }
        let maintained = transport.clone();
        let expires = member.certificate_expires.clone();
        tasks.spawn(async move { maintained.maintain(expires).await });
        tasks.spawn(serve(transport, listener, member.clone()));
        tasks.spawn(Guardian::new(member.clone(), noted).run());
        let (finish, finished) = watch::channel(false);
        tokio::spawn(run_until_stopped(member.clone(), tasks, finish));
        Ok(Self {
            member,
            address,
            finished,
        })
    }

    /// Proposes a command, on whichever member leads, and waits until it is applied, there and here.
    ///
    /// Tries again while the lead changes hands, until `deadline` is over; the command may then have been
    /// committed all the same, or be committed later.
    pub async fn propose(&self, command: Command, deadline: Duration) -> Result<Applied, ProposeError> {
        self.member.propose_own(command, deadline).await
    }

    /// As [`Self::propose`], on somebody's behalf.
    pub async fn propose_for(
        &self,
        actor: Actor,
        command: Command,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        self.member.propose(Proposal { actor, command }, deadline).await
    }

    /// Forms a cluster of the configured members that have answered and are empty, without those that are named. By
    /// itself, a cluster is formed only when every configured member has answered.
    ///
    /// # Errors
    /// When a member that was not named has not answered, or one belongs to a cluster.
    pub async fn form(&self, without: &[NodeId]) -> Result<String, AdministrationError> {
        self.member.form_without(without).await
    }

    /// Puts the member that answers under this number now into the seat of its former self: wiped, restored or replaced.
    /// Repeating goes on where an earlier attempt stopped.
    ///
    /// # Errors
    /// When something stands in the way, or the deadline is over.
    pub async fn replace(&self, number: NodeId, deadline: Duration) -> Result<String, AdministrationError> {
        self.member.replace(number, deadline).await
    }

    /// Writes in the latest format that every member reads, from now on. Members that nobody has heard of, and that are gone
    /// for good, are named in `without`.
    ///
    /// # Errors
    /// When a member runs an earlier release, or the deadline is over.
    pub async fn finalise(
        &self,
        without: Vec<NodeId>,
        deadline: Duration,
    ) -> Result<String, AdministrationError> {
        self.member.finalise(without, deadline).await
    }

    /// The cluster's time in milliseconds, which only ever advances, at the pace of the leader's monotonic clock: for what is
    /// written into the state, and compared there or at another node. It begins as Unix time, and may differ from it later.
    #[must_use]
    pub fn cluster_ms(&self) -> u64 {
        self.member.cluster_ms()
    }

    /// The local state as it is now: a value that stays as it is, however long it is held. Who was told of a change, or of what
    /// came of a proposal, finds a state at least as new.
    #[must_use]
    pub fn state(&self) -> Arc<ClusterState> {
        self.member.machine.state()
    }

    /// Index of the last entry in the local state, as of now: [`ClusterStatus::last_applied`] follows it.
    #[must_use]
    pub fn last_applied(&self) -> u64 {
        *self.member.machine.applied_index().borrow()
    }

    /// Every change from now on, in order.
    #[must_use]
    pub fn changes(&self) -> ChangeReceiver {
        self.member.machine.changes()
    }

    #[must_use]
    pub fn status(&self) -> watch::Receiver<ClusterStatus> {
        self.member.status.subscribe()
    }

    /// The latest moment of which the local state is known to hold everything that was committed before; `None`: it may be
    /// as old as what this member's last process knew. Moves on about once in a heartbeat while a leader with a majority is heard.
    #[must_use]
    pub fn state_as_of(&self) -> watch::Receiver<Option<std::time::Instant>> {
        self.member.state_as_of.subscribe()
    }

    /// Has every member mark its state after one entry, and waits until all that answer have told what it was: see
    /// [`MemberView::state_mark`](super::MemberView::state_mark). Returns the entry's index; members that have not marked
    /// the same one by the deadline are shown as they are.
    ///
    /// # Errors
    /// The entry could not be committed, or this member did not mark its own state in time.
    pub async fn mark_states(&self, deadline: Duration) -> Result<u64, ProposeError> {
        self.member.mark_states(deadline).await
    }

    /// Who belongs to the cluster, who answers, and who is a stranger, as this member sees it.
    #[must_use]
    pub fn members(&self) -> MembersView {
        self.member.members_view()
    }

    /// Where this member listens for the others.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.address
    }

    /// Hands the lead to another node, if this member has it, and campaigns no more.
    pub async fn drain(&self) {
        self.member.draining.store(true, Ordering::Relaxed);
        self.member.raft.runtime_config().elect(false);
        let nodes = self.other_nodes();
        for attempt in 0..DRAIN_ATTEMPTS_MAX {
            let metrics = self.member.raft_metrics();
            let matched = |id: &RaftId| {
                let replication = metrics.replication.as_ref()?;
                (*replication.get(id)?).map(|last| last.index())
            };
            let mut successors = nodes.clone();
            successors.sort_by_key(|id| std::cmp::Reverse(matched(id)));
            let Some(successor) = successors.get(attempt % nodes.len().max(1)) else {
                return;
            };
            if !self.leads()
                || self
                    .member
                    .raft
                    .trigger()
                    .transfer_leader(*successor)
                    .await
                    .is_err()
            {
                return;
            }
            let mut status = self.status();
            let handed_over = status.wait_for(|status| status.role != RaftRole::Leader);
            if timeout(DRAIN_ATTEMPT, handed_over).await.is_ok() {
                return;
            }
        }
        tracing::warn!("no other member took over leadership");
    }

    /// Stops the member. [`Self::drain`] comes first in a planned stop.
    pub async fn shutdown(&self) {
        self.member.request_stop(StopReason::Requested);
        self.finished().await;
    }

    /// Resolves when the member stops, by request or because its disk failed.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.member.stop.subscribe();
        match stop.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(StopReason::Requested),
            Err(_) => StopReason::Requested,
        }
    }

    /// What this member still has to say once it has stopped.
    #[must_use]
    pub fn stopped_member(&self) -> StoppedMember {
        StoppedMember::of(&self.member, self.address)
    }

    /// Resolves when all its tasks have ended and its address and directory are free, after it has stopped.
    pub async fn finished(&self) {
        let mut finished = self.finished.clone();
        // An error means that the runtime has dropped the member, which is as good.
        let _ = finished.wait_for(|finished| *finished).await;
    }

    fn leads(&self) -> bool {
        self.member.raft_metrics().state.is_leader()
    }

    fn other_nodes(&self) -> Vec<RaftId> {
        let config = &self.member.config;
        let nodes = config
            .members
            .iter()
            .filter(|member| member.role == MemberRole::Node);
        nodes
            .filter(|member| member.id != config.id)
            .filter_map(|member| self.member.seat_of(member.id))
            .collect()
    }
}

const LINK_EVENTS_WAITING_MAX: usize = 1024;
const DRAIN_ATTEMPT: Duration = Duration::from_millis(500);
const DRAIN_ATTEMPTS_MAX: usize = 4;
