//! The member of the cluster that this process runs, on a thread of its own: forwarding must not wait for a disk.
//!
//! Whatever happens to the member, forwarding goes on with what the tags say and probes tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tandem_shared::cluster::{Change, NodeId, NodeRecord, NodeState, SessionKey, StateLimits};
use tandem_shared::config::{ClusterMember, MemberKind, PeerSecurity};
use tandem_shared::io::raft::{
    Cluster, ClusterConfig, Member, MemberRole, RaftMetrics, RealFiles, StartError, TcpTransport,
    TlsTransport,
};
use tandem_shared::io::shutdown::{Shutdown, Stage};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info};

use crate::balancer::ownership::Ownership;
use crate::config;
use crate::metrics::Metrics;

use super::prober::ClusterNews;

/// Everything the member needs, and those it tells.
pub struct Witness {
    pub config: config::ClusterConfig,
    pub ownership: Arc<Ownership>,
    pub news: mpsc::Sender<ClusterNews>,
    pub metrics: Metrics,
    pub raft_metrics: RaftMetrics,
    pub shutdown: Shutdown,
}

impl Witness {
    /// Starts the thread. Returns at once; what goes wrong later is logged and stops only the member.
    pub fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("witness-worker")
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || runtime.block_on(self.run()))
    }

    async fn run(self) {
        match self.start().await {
            Ok(cluster) => {
                self.metrics.witness_up.set(1);
                info!(address = %cluster.listen_address(), "the cluster's member in this process runs");
                self.follow(&cluster).await;
                self.metrics.witness_up.set(0);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                error!(
                    error,
                    "the cluster's member in this process cannot start: forwarding goes on without it"
                );
            }
        }
        // Without a prober nobody is interested.
        let _ = self.news.send(ClusterNews::Silent).await;
    }

    async fn start(&self) -> Result<Cluster, StartError> {
        let section = &self.config.section;
        let members = section.members.iter().map(member).collect();
        let directory = &self.config.data_directory;
        let limits = StateLimits::default();
        let mut config = ClusterConfig::new(
            section.name.clone(),
            self.config.member_id,
            members,
            directory,
            limits,
        );
        config.listen = Some(section.listen);
        let files = Arc::new(RealFiles::open(directory).map_err(StartError::Storage)?);
        let metrics = self.raft_metrics.clone();
        match &section.security {
            PeerSecurity::PlaintextOnLoopback => Cluster::start(config, TcpTransport, files, metrics).await,
            PeerSecurity::MutualTls(tls) => {
                let transport = TlsTransport::new(tls, &section.name)?;
                Cluster::start(config, transport, files, metrics).await
            }
        }
    }

    /// Tells what the state says, from the beginning and with every change, until the process or the member stops.
    async fn follow(&self, cluster: &Cluster) {
        // Before the first look, so that nothing falls between.
        let mut changes = cluster.changes();
        let lookup = cluster.clone();
        self.ownership
            .set_lookup(move |key| lookup.with_state(|state| state.owner_of(key)));
        let mut lost = LostNodes::default();
        self.tell_all(cluster, &mut lost).await;
        loop {
            tokio::select! {
                changes = changes.recv() => match changes {
                    Some(changes) => self.tell(cluster, changes, &mut lost).await,
                    None => return,
                },
                () = lost.settled() => self.tell_lost(cluster, &mut lost).await,
                reason = cluster.stopped() => {
                    error!(?reason, "the cluster's member in this process has stopped: forwarding goes on without it");
                    return;
                }
                () = self.shutdown.reached(Stage::Close) => {
                    cluster.drain().await;
                    cluster.shutdown().await;
                    return;
                }
            }
        }
    }

    async fn tell_all(&self, cluster: &Cluster, lost: &mut LostNodes) {
        let nodes = cluster.with_state(|state| {
            let moved = state.moved_sessions().map(|(key, owner)| (key.clone(), owner));
            self.ownership.replace(moved);
            state.nodes().values().cloned().collect::<Vec<_>>()
        });
        self.note_size();
        for record in nodes {
            self.tell_of_node(record, lost).await;
        }
    }

    /// Owners first: who hears that a node is lost asks next who owns its sessions.
    async fn tell(&self, cluster: &Cluster, changes: Vec<Change>, lost: &mut LostNodes) {
        if changes.contains(&Change::Replaced) {
            return self.tell_all(cluster, lost).await;
        }
        self.ownership.update(changes.iter().filter_map(owner_change));
        self.note_size();
        for change in changes {
            let Change::NodeChanged(node) = change else {
                continue;
            };
            if let Some(record) = record_of(cluster, node) {
                self.tell_of_node(record, lost).await;
            }
        }
    }

    async fn tell_of_node(&self, record: NodeRecord, lost: &mut LostNodes) {
        match record.state {
            NodeState::Lost => lost.note(record.id),
            NodeState::Live | NodeState::Draining => {
                lost.forget(record.id);
                // Without a prober nobody is interested.
                let _ = self.news.send(ClusterNews::Node(record)).await;
            }
        }
    }

    async fn tell_lost(&self, cluster: &Cluster, lost: &mut LostNodes) {
        for node in lost.take() {
            if let Some(record) = record_of(cluster, node) {
                // Without a prober nobody is interested.
                let _ = self.news.send(ClusterNews::Node(record)).await;
            }
        }
    }

    fn note_size(&self) {
        let size = i64::try_from(self.ownership.size()).unwrap_or(i64::MAX);
        self.metrics.overrides.set(size);
    }
}

/// Nodes whose loss stands in the log and is not believed yet: a member that starts, or was cut off, reads of old
/// losses and, moments later, that the node is there again.
#[derive(Default)]
struct LostNodes {
    nodes: BTreeSet<NodeId>,
    told_at: Option<Instant>,
}

impl LostNodes {
    fn note(&mut self, node: NodeId) {
        self.nodes.insert(node);
        self.told_at = Some(Instant::now() + LOSS_SETTLES_AFTER);
    }

    fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    async fn settled(&self) {
        match self.told_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn take(&mut self) -> BTreeSet<NodeId> {
        self.told_at = None;
        std::mem::take(&mut self.nodes)
    }
}

fn record_of(cluster: &Cluster, node: NodeId) -> Option<NodeRecord> {
    cluster.with_state(|state| state.nodes().get(&node).cloned())
}

/// A session that came back to the node of its tag stays in the table: the fence wants to know its owner as well.
fn owner_change(change: &Change) -> Option<(SessionKey, Option<NodeId>)> {
    match change {
        Change::SessionMoved { key, to, .. } | Change::WatcherMoved { key, to, .. } => {
            Some((key.clone(), Some(*to)))
        }
        Change::SessionClosed { key, .. } | Change::WatcherRemoved { key, .. } => Some((key.clone(), None)),
        Change::NodeChanged(_)
        | Change::SessionOpened(_)
        | Change::SessionUpdated(_)
        | Change::SettingChanged { .. }
        | Change::CasAssignmentChanged { .. }
        | Change::CasGatewaysChanged
        | Change::RebalanceRequested { .. }
        | Change::CalendarEnabledChanged { .. }
        | Change::CallbacksReceived { .. }
        | Change::PresenceChanged { .. }
        | Change::WatcherChanged(_)
        | Change::Replaced => None,
    }
}

fn member(member: &ClusterMember) -> Member {
    let role = match member.kind {
        MemberKind::Node => MemberRole::Node,
        MemberKind::Witness => MemberRole::Witness,
    };
    Member {
        id: member.id,
        role,
        address: member.address,
    }
}

/// Short beside the two seconds after which a silent node is lost; the front end sees a process die by itself.
const LOSS_SETTLES_AFTER: Duration = Duration::from_millis(100);
