//! The cluster member of this process, on a thread of its own because forwarding must not wait for a disk.
//!
//! Whatever happens to the member, forwarding continues by tags and checks. A member that has stopped reports so to the
//! other members, and is restarted once its disk is writable; client connections are not affected.

use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::{ClusterState, NodeState, StateLimits};
use tandem_raft::{Cluster, ClusterConfig, RaftMetrics, StartError, StoppedMember, probe_disk};
use tandem_runtime::config::PeerSecurity;
use tandem_runtime::io::admin::Readiness;
use tandem_runtime::io::environment::{self, Apart};
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::transport::{TcpTransport, TlsTransport};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::balancer::ownership::Ownership;
use crate::config;
use crate::membership::{ClusterNews, Membership, Moved};
use crate::metrics::Metrics;

/// The parts that the member needs, and those it reports to.
pub struct Witness {
    pub config: config::ClusterConfig,
    pub ownership: Arc<Ownership>,
    pub news: mpsc::Sender<ClusterNews>,
    pub metrics: Metrics,
    pub raft_metrics: RaftMetrics,
    pub readiness: Readiness,
    pub shutdown: Shutdown,
}

impl Witness {
    /// Starts the thread and returns at once. Later errors are logged and stop only the member.
    pub fn spawn(self) -> std::io::Result<Apart> {
        Apart::start("witness", self.run())
    }

    async fn run(self) {
        let mut stopped = None;
        let mut pause = RESTART_PAUSE_MIN;
        loop {
            match self.start().await {
                Ok(cluster) => {
                    self.metrics.witness_up.set(1);
                    info!(address = %cluster.listen_address(), "cluster member started");
                    let started = Instant::now();
                    self.follow(&cluster).await;
                    self.metrics.witness_up.set(0);
                    cluster.finished().await;
                    stopped = Some(cluster.stopped_member());
                    if started.elapsed() > RESTART_PAUSE_MAX {
                        pause = RESTART_PAUSE_MIN;
                    }
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    error!(
                        error,
                        "cannot start the cluster member; forwarding continues without it"
                    );
                }
            }
            // Nothing is known about the cluster now: only the checks count.
            self.readiness.resolved(CLUSTER);
            // The prober may have ended already.
            let _ = self.news.send(ClusterNews::Unavailable).await;
            tokio::select! {
                biased;
                () = self.shutdown.reached(Stage::Close) => return,
                () = self.wait_for_restart(stopped.as_ref(), pause) => {}
            }
            pause = RESTART_PAUSE_MAX.min(pause * 2);
            self.metrics.witness_restarts.inc();
        }
    }

    /// Waits before a restart. Reports in the meantime that the member has stopped, then stays silent for as long as other
    /// members rely on that report.
    async fn wait_for_restart(&self, stopped: Option<&StoppedMember>, pause: Duration) {
        let Some(stopped) = stopped else {
            return sleep(pause).await;
        };
        tokio::select! {
            biased;
            () = self.answer_for(stopped) => {}
            () = self.wait_for_disk(pause) => {}
        }
        sleep(stopped.is_relied_on_for()).await;
    }

    async fn answer_for(&self, stopped: &StoppedMember) {
        loop {
            let ended = match &self.config.section.security {
                PeerSecurity::PlaintextOnLoopback => stopped.answer(TcpTransport).await,
                PeerSecurity::MutualTls(tls) => {
                    match TlsTransport::new(tls, &self.config.section.name, self.config.member_id) {
                        Ok(transport) => stopped.answer(transport).await,
                        Err(error) => Err(std::io::Error::other(error)),
                    }
                }
            };
            if let Err(error) = ended {
                warn!(%error, "cannot report to the other members that this one has stopped");
            }
            sleep(RESTART_PAUSE_MIN).await;
        }
    }

    async fn wait_for_disk(&self, pause: Duration) {
        loop {
            sleep(pause).await;
            let directory = &self.config.data_directory;
            let probed = match environment::files(directory) {
                Ok(files) => probe_disk(files).await,
                Err(error) => Err(error),
            };
            match probed {
                Ok(()) => return,
                Err(error) => warn!(
                    %error, directory = %directory.display(),
                    "cluster member stays stopped: its data directory is not writable"
                ),
            }
        }
    }

    async fn start(&self) -> Result<Cluster, StartError> {
        let section = &self.config.section;
        let directory = &self.config.data_directory;
        let config =
            ClusterConfig::of_section(section, self.config.member_id, directory, StateLimits::default());
        let files = environment::files(directory).map_err(StartError::Storage)?;
        let metrics = self.raft_metrics.clone();
        match &section.security {
            PeerSecurity::PlaintextOnLoopback => Cluster::start(config, TcpTransport, files, metrics).await,
            PeerSecurity::MutualTls(tls) => {
                let transport = TlsTransport::new(tls, &section.name, self.config.member_id)?;
                Cluster::start(config, transport, files, metrics).await
            }
        }
    }

    /// Passes on the whole state and then every change, until the process or the member stops.
    async fn follow(&self, cluster: &Cluster) {
        // Before the first look at the state, so that no change is missed.
        let mut changes = cluster.changes();
        let lookup = cluster.clone();
        self.ownership.set_lookup(move |key| lookup.state().owner_of(key));
        let mut membership = Membership::default();
        let begun = membership.begin(&cluster.state(), Instant::now().into_std());
        self.report(begun).await;
        self.show_readiness(cluster);
        let (mut status, mut as_of) = (cluster.status(), cluster.state_as_of());
        loop {
            tokio::select! {
                Ok(()) = status.changed() => self.show_readiness(cluster),
                changes = changes.recv() => match changes {
                    Some(changes) => {
                        let now = Instant::now().into_std();
                        let reported = membership.changed(&changes, &cluster.state(), now);
                        self.report(reported).await;
                        self.show_readiness(cluster);
                    }
                    None => return,
                },
                Ok(()) = as_of.changed() => {
                    let (now, as_of) = (Instant::now().into_std(), *as_of.borrow_and_update());
                    let news = membership.confirmed(as_of, &cluster.state(), now);
                    self.report((Moved::Some(Vec::new()), news)).await;
                }
                reason = cluster.stopped() => {
                    error!(?reason, "cluster member stopped; forwarding continues without it");
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

    /// Not ready until a node has joined the cluster, as far as this member can know: until then an INVITE would not be
    /// answered, whichever ports accept connections.
    fn show_readiness(&self, cluster: &Cluster) {
        let live = |state: &ClusterState| state.nodes().values().any(|node| node.state == NodeState::Live);
        let status = cluster.status().borrow().clone();
        if status.is_outside || live(&cluster.state()) {
            self.readiness.resolved(CLUSTER);
        } else {
            let detail = status
                .obstacle
                .unwrap_or_else(|| "no node has joined the cluster yet".to_owned());
            self.readiness.not_ready(CLUSTER, detail);
        }
    }

    /// Passes on owners before nodes: the loss of a node makes connections look up the owners of its sessions.
    async fn report(&self, (moved, news): (Moved, Vec<ClusterNews>)) {
        self.ownership.apply(moved);
        self.note_size();
        for news in news {
            // The prober may have ended already.
            let _ = self.news.send(news).await;
        }
    }

    fn note_size(&self) {
        let size = i64::try_from(self.ownership.size()).unwrap_or(i64::MAX);
        self.metrics.overrides.set(size);
    }
}

const CLUSTER: &str = "cluster";
const RESTART_PAUSE_MIN: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
