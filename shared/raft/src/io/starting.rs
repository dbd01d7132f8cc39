//! What a member is made of, put together, and taken apart when it stops.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use tandem_cluster::snapshot_schedule::entries_between_max;
use tandem_cluster::{MemberRole, NodeId};

use super::config::{ClusterConfig, Member as ConfiguredMember};
use super::directory::Directory;
use super::errors::StartError;
use super::link::{Link, LinkEvent};
use super::link_driver::{LinkDriver, LinkOptions, link};
use super::member::Member;
use super::metrics::RaftMetrics;
use super::network::{Network, PeerLinks};
use super::peer_book::PeerBook;
use super::refusals::Refusals;
use super::snapshot_pace::PIECE_TIMEOUT;
use super::status::{ClusterStatus, RaftRole};
use super::storage::Storage;
use super::type_config::{Raft, Runtime};
use tandem_runtime::io::environment::files::Files;
use tandem_runtime::io::transport::Transport;

pub(super) fn link_peers<T: Transport>(
    config: &ClusterConfig,
    transport: &T,
    events: &mpsc::Sender<(NodeId, LinkEvent)>,
) -> (BTreeMap<NodeId, PeerLinks>, Vec<LinkDriver<T>>) {
    let mut drivers = Vec::new();
    let mut open = |peer: &ConfiguredMember, silence_max: Duration, watched: bool| -> Link {
        let (link, driver) = link(
            transport.clone(),
            LinkOptions {
                to: peer.id,
                address: peer.address.clone(),
                connect_timeout: config.timings.connect_timeout,
                silence_max,
                events: watched.then(|| events.clone()),
            },
        );
        drivers.push(driver);
        link
    };
    let others = config.members.iter().filter(|member| member.id != config.id);
    let peers = others
        .map(|peer| {
            let links = PeerLinks {
                control: open(peer, CONTROL_SILENCE_MAX, true),
                append: open(peer, SILENCE_MAX, false),
                snapshot: open(peer, SNAPSHOT_SILENCE_MAX, false),
                proposals: open(peer, SILENCE_MAX, false),
            };
            (peer.id, links)
        })
        .collect();
    (peers, drivers)
}

pub(super) async fn open_storage(
    config: &ClusterConfig,
    files: Arc<dyn Files>,
    metrics: &RaftMetrics,
) -> Result<Storage, StartError> {
    Storage::open(
        files,
        config.log_segment_bytes,
        config.limits.clone(),
        config.newest_format,
        metrics.fsync_seconds.clone(),
    )
    .await
    .map_err(StartError::Storage)
}

pub(super) async fn open_member(
    config: ClusterConfig,
    directory: Directory,
    Storage { log, machine }: Storage,
    files: Arc<dyn Files>,
    metrics: RaftMetrics,
    peers: BTreeMap<NodeId, PeerLinks>,
) -> Result<Arc<Member>, StartError> {
    let book = PeerBook::open(files, config.wall_clock_ms).map_err(StartError::Storage)?;
    let book = Arc::new(book);
    let raft_config = openraft_config(&config)?;
    let network = Network {
        peers: peers.clone(),
        book: book.clone(),
    };
    let raft = Raft::new(
        directory.raft_id(),
        Arc::new(raft_config),
        network,
        log.clone(),
        machine.clone(),
    );
    let raft = Runtime::scope(config.seed, raft)
        .await
        .map_err(|fatal| StartError::Refused(fatal.to_string()))?;
    Ok(Arc::new(Member {
        proposals: Semaphore::new(config.proposals_in_flight_max),
        membership_changes: Semaphore::new(1),
        refusals: Refusals::new(metrics.connections_refused.clone()),
        certificate_expires: Arc::default(),
        list_differences: Mutex::default(),
        config,
        directory,
        book,
        raft,
        log,
        machine,
        metrics,
        peers,
        status: watch::Sender::new(ClusterStatus::starting()),
        state_as_of: watch::Sender::new(None),
        stop: watch::Sender::new(None),
        draining: AtomicBool::new(false),
        disk_nearly_full: AtomicBool::new(false),
        book_unsaved: AtomicBool::new(false),
        incoming: Mutex::default(),
        told_time: Mutex::default(),
        started: Instant::now(),
        heard_us: AtomicU64::new(0),
    }))
}

fn openraft_config(config: &ClusterConfig) -> Result<Config, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let timings = &config.timings;
    let raft = Config {
        cluster_name: config.name.clone(),
        heartbeat_interval: millis(timings.heartbeat),
        election_timeout_min: millis(timings.election_min),
        election_timeout_max: millis(timings.election_max),
        enable_pre_vote: Some(true),
        enable_elect: config.role == MemberRole::Node,
        // The guardian asks for them.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.entries_kept,
        // A member further behind gets a snapshot; must exceed what lies between two snapshots.
        replication_lag_threshold: entries_between_max(config.snapshot_after_entries) + config.entries_kept,
        purge_batch_size: PURGE_BATCH,
        install_snapshot_timeout: millis(SNAPSHOT_CHUNK_TIMEOUT),
        // On by default: a leader that lost entries it had not synced would lead on in its old term.
        enable_leader_restore: Some(false),
        backoff: BACKOFF.to_owned(),
        ..Config::default()
    };
    raft.validate()
        .map_err(|error| StartError::Refused(error.to_string()))
}

/// Owns the member's tasks.
pub(super) async fn run_until_stopped(
    member: Arc<Member>,
    mut tasks: JoinSet<()>,
    finish: watch::Sender<bool>,
) {
    let mut stop = member.stop.subscribe();
    // `member` holds the sender.
    let _ = stop.wait_for(Option::is_some).await;
    // The others see refused connections and need not wait for timeouts.
    tasks.shutdown().await;
    if let Err(error) = member.raft.shutdown().await {
        tracing::warn!(%error, "openraft did not shut down cleanly");
    }
    member.status.send_modify(|status| {
        status.role = RaftRole::Stopped;
        status.leader = None;
    });
    member.metrics.observe(&member.status.borrow());
    member.directory.release();
    finish.send_replace(true);
}

/// Control requests need no disk but for a vote; the others may wait for one, a snapshot for the whole state.
const CONTROL_SILENCE_MAX: Duration = Duration::from_secs(1);

const SILENCE_MAX: Duration = Duration::from_secs(2);

const SNAPSHOT_SILENCE_MAX: Duration = PIECE_TIMEOUT;

const PURGE_BATCH: u64 = 256;

const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses of openraft before it tries an unreachable peer again; the links notice its return faster than that.
const BACKOFF: &str = "20ms 50ms ...100ms";
