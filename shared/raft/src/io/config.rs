//! What a member is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tandem_cluster::authority::Reliance;
use tandem_cluster::{Format, Incarnation, MemberAddress, MemberRole, NodeId, StateLimits};
use tandem_runtime::config::ClusterSection;
use tandem_runtime::io::environment;
use tandem_runtime::io::watchdog::Pulse;

/// One member's configuration. `members` and `name` are the same on all of them.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Names the cluster: members of another one are refused, and certificates carry it.
    pub name: String,
    pub id: NodeId,
    pub role: MemberRole,
    /// The process's first incarnation; the node registers with it.
    pub incarnation: Incarnation,
    /// All members, this one among them.
    pub members: Vec<Member>,
    /// Where this member listens for the others; `None`: at its own address among `members`.
    pub listen: Option<SocketAddr>,
    /// Log and snapshots. Unused when files other than the real ones are given.
    pub data_directory: PathBuf,
    pub limits: StateLimits,
    pub timings: Timings,
    /// Take the lead at once when the leader's process is seen dead, without waiting for timeouts.
    pub fast_take_over: bool,
    /// Proposals of this member that may be unanswered at a time; more are refused as overload.
    pub proposals_in_flight_max: usize,
    /// Size of one file of the log; written with zeros in advance.
    pub log_segment_bytes: u64,
    /// A snapshot is made after this many entries, once they take as many bytes as the last one; after ten times as many at
    /// the latest.
    pub snapshot_after_entries: u64,
    /// Entries kept behind a snapshot, so that a member that was away shortly needs no snapshot.
    pub entries_kept: u64,
    /// Seeds openraft's random timeouts; drawn at random outside simulations.
    pub seed: u64,
    /// The newest format that this member writes and reads: [`Format::NEWEST`], unless a test lets it pass for an
    /// earlier release.
    pub newest_format: Format,
    /// With fewer bytes left on the disk of the data directory, this member hands its lead over, and refuses what adds to the
    /// state while nobody else can lead. At least what the next files of the log and two snapshots take.
    pub disk_free_bytes_min: u64,
    /// How long every member must have run a release before its format is written; `None`: only when an administrator
    /// says so.
    pub finalise_after: Option<Duration>,
    /// Beats whenever the member has looked after its own affairs.
    pub pulse: Pulse,
    /// Unix time in milliseconds, for `Command::Expire`.
    pub wall_clock_ms: fn() -> u64,
}

impl ClusterConfig {
    /// A member with default limits on everything but its identity.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        id: NodeId,
        members: Vec<Member>,
        data_directory: impl Into<PathBuf>,
        limits: StateLimits,
    ) -> Self {
        let role = members
            .iter()
            .find(|member| member.id == id)
            .map_or(MemberRole::Node, |member| member.role);
        Self {
            name: name.into(),
            id,
            role,
            incarnation: Incarnation::first(environment::random()),
            members,
            listen: None,
            data_directory: data_directory.into(),
            limits,
            timings: Timings::default(),
            fast_take_over: true,
            proposals_in_flight_max: 4096,
            log_segment_bytes: 16 << 20,
            snapshot_after_entries: 20_000,
            entries_kept: 5_000,
            seed: environment::random(),
            newest_format: Format::NEWEST,
            disk_free_bytes_min: 64 << 20,
            finalise_after: Some(Duration::from_secs(24 * 60 * 60)),
            pulse: Pulse::default(),
            wall_clock_ms: environment::unix_ms,
        }
    }
}

impl ClusterConfig {
    /// A member as `[cluster]` of a configuration file describes it.
    #[must_use]
    pub fn of_section(
        section: &ClusterSection,
        id: NodeId,
        data_directory: impl Into<PathBuf>,
        limits: StateLimits,
    ) -> Self {
        let members = section.members.iter().map(|member| Member {
            id: member.id,
            role: member.kind,
            address: member.address.clone(),
        });
        let mut config = Self::new(
            section.name.clone(),
            id,
            members.collect(),
            data_directory,
            limits,
        );
        config.listen = Some(section.listen);
        config.finalise_after = section.finalise_after;
        config.newest_format = section.newest_format;
        config.disk_free_bytes_min = section.disk_free_bytes_min;
        if let Some(entries) = section.log.snapshot_after_entries {
            config.snapshot_after_entries = entries;
        }
        if let Some(entries) = section.log.entries_kept {
            config.entries_kept = entries;
        }
        if let Some(bytes) = section.log.file_bytes {
            config.log_segment_bytes = bytes;
        }
        config
    }
}

/// One of the cluster's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: NodeId,
    pub role: MemberRole,
    /// Where its peers reach it.
    pub address: MemberAddress,
}

/// How long things take. Elections must have the same figures on every member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    pub heartbeat: Duration,
    pub election_min: Duration,
    /// Also the lease: how long after the leader was heard last a follower refuses to vote for another.
    pub election_max: Duration,
    /// How often members ask each other how they are.
    pub status_interval: Duration,
    /// A node that was silent for this long is lost.
    pub silent_after: Duration,
    /// The witness campaigns after this long without a leader, whatever it knows of the nodes.
    pub witness_patience: Duration,
    pub connect_timeout: Duration,
    /// How often the leader proposes `Command::Expire`, and the age of what it drops.
    pub expire_interval: Duration,
    pub expire_age: Duration,
}

impl Timings {
    /// How long what members were told counts.
    #[must_use]
    pub fn reliance(&self) -> Reliance {
        Reliance {
            // Twice the lease of Raft, so that a busy process which asks a little late keeps its quorum. That is safe: a node
            // is declared lost after two seconds of silence, and by a new leader not before what was relied on is over.
            lease: self.election_max * 2,
            answer: self.status_interval * STATUS_INTERVALS_FRESH,
        }
    }
}

/// An answer older than this many intervals says nothing.
const STATUS_INTERVALS_FRESH: u32 = 3;

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(60),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(500),
            status_interval: Duration::from_millis(200),
            silent_after: Duration::from_secs(2),
            witness_patience: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(500),
            expire_interval: Duration::from_secs(10),
            expire_age: Duration::from_secs(64),
        }
    }
}
