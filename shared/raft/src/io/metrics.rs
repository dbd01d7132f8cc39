//! What a member tells Prometheus.

use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, exponential_buckets,
};

use tandem_cluster::health::Subject;
use tandem_cluster::{ClusterState, Format, NodeId, NodeState, StateLimits};
use tandem_runtime::io::environment::files::Space;

use super::log_store::LogStore;
use super::refusals::labels;
use super::status::{ClusterStatus, RaftRole};

/// The metrics of this process's member. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RaftMetrics {
    role: IntGaugeVec,
    is_leader: IntGauge,
    leader_known: IntGauge,
    peer_last_contact: GaugeVec,
    nodes: IntGaugeVec,
    term: IntGauge,
    applied_index: IntGauge,
    log_first_index: IntGauge,
    pub(super) commit_seconds: Histogram,
    pub(super) fsync_seconds: Histogram,
    log_write_age: Gauge,
    log_queued_bytes: IntGauge,
    pub(super) proposals: IntCounterVec,
    disk_free_bytes: IntGauge,
    disk_size_bytes: IntGauge,
    pub(super) connections_refused: IntCounterVec,
    pub(super) certificate_expires: IntGauge,
    snapshot_arrived_bytes: IntGauge,
    snapshot_arriving_bytes: IntGauge,
    conditions: IntGaugeVec,
    takes_no_part: IntGauge,
    strangers: IntGauge,
    format: IntGauge,
    pub(super) take_overs: IntCounter,
    pub(super) nodes_lost: IntCounter,
}

impl RaftMetrics {
    /// Makes the metrics and registers them. Registering twice is an error of the caller.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self::unregistered()?;
        registry.register(Box::new(metrics.role.clone()))?;
        registry.register(Box::new(metrics.is_leader.clone()))?;
        registry.register(Box::new(metrics.leader_known.clone()))?;
        registry.register(Box::new(metrics.peer_last_contact.clone()))?;
        registry.register(Box::new(metrics.nodes.clone()))?;
        registry.register(Box::new(metrics.term.clone()))?;
        registry.register(Box::new(metrics.applied_index.clone()))?;
        registry.register(Box::new(metrics.log_first_index.clone()))?;
        registry.register(Box::new(metrics.commit_seconds.clone()))?;
        registry.register(Box::new(metrics.fsync_seconds.clone()))?;
        registry.register(Box::new(metrics.log_write_age.clone()))?;
        registry.register(Box::new(metrics.log_queued_bytes.clone()))?;
        registry.register(Box::new(metrics.proposals.clone()))?;
        registry.register(Box::new(metrics.disk_free_bytes.clone()))?;
        registry.register(Box::new(metrics.disk_size_bytes.clone()))?;
        registry.register(Box::new(metrics.connections_refused.clone()))?;
        registry.register(Box::new(metrics.certificate_expires.clone()))?;
        registry.register(Box::new(metrics.snapshot_arrived_bytes.clone()))?;
        registry.register(Box::new(metrics.snapshot_arriving_bytes.clone()))?;
        registry.register(Box::new(metrics.conditions.clone()))?;
        registry.register(Box::new(metrics.takes_no_part.clone()))?;
        registry.register(Box::new(metrics.strangers.clone()))?;
        registry.register(Box::new(metrics.format.clone()))?;
        registry.register(Box::new(metrics.take_overs.clone()))?;
        registry.register(Box::new(metrics.nodes_lost.clone()))?;
        Ok(metrics)
    }

    fn unregistered() -> prometheus::Result<Self> {
        let metrics = Self {
            role: IntGaugeVec::new(
                Opts::new("tandem_raft_role", "1 for the role in which this member is."),
                &["role"],
            )?,
            is_leader: IntGauge::new("tandem_raft_is_leader", "1 while this member leads.")?,
            leader_known: IntGauge::new(
                "tandem_raft_leader_known",
                "1 while this member knows a leader, itself included, that it has heard of lately.",
            )?,
            peer_last_contact: GaugeVec::new(
                Opts::new(
                    "tandem_raft_peer_last_contact_seconds",
                    "Time since this member last heard from another one.",
                ),
                &["peer"],
            )?,
            nodes: IntGaugeVec::new(
                Opts::new(
                    "tandem_raft_nodes",
                    "Nodes by the state that the cluster has agreed on, as far as this member has read the log.",
                ),
                &["state"],
            )?,
            term: IntGauge::new("tandem_raft_term", "Raft term of this member.")?,
            applied_index: IntGauge::new(
                "tandem_raft_applied_index",
                "Index of the last log entry in the local state.",
            )?,
            log_first_index: IntGauge::new(
                "tandem_raft_log_first_index",
                "Index of the first entry that the log still holds: a member that is further behind is sent a snapshot.",
            )?,
            commit_seconds: histogram(
                "tandem_raft_commit_seconds",
                "From proposing a command on this member until it was applied.",
            )?,
            fsync_seconds: histogram(
                "tandem_raft_fsync_seconds",
                "One write of the log to disk, fdatasync included.",
            )?,
            log_write_age: Gauge::new(
                "tandem_raft_log_write_age_seconds",
                "For how long the write of the log that is under way has taken so far; 0 while there is none.",
            )?,
            log_queued_bytes: IntGauge::new(
                "tandem_raft_log_queued_bytes",
                "Bytes of the log that wait for the disk.",
            )?,
            proposals: IntCounterVec::new(
                Opts::new("tandem_raft_proposals_total", "Commands proposed on this member."),
                &["outcome"],
            )?,
            disk_free_bytes: IntGauge::new(
                "tandem_raft_disk_free_bytes",
                "Bytes that are left on the disk of the data directory.",
            )?,
            disk_size_bytes: IntGauge::new(
                "tandem_raft_disk_size_bytes",
                "Size in bytes of the disk of the data directory.",
            )?,
            connections_refused: IntCounterVec::new(
                Opts::new(
                    "tandem_raft_connections_refused_total",
                    "Connections between members that came to nothing because of who or what the other end is.",
                ),
                &["direction", "reason"],
            )?,
            certificate_expires: IntGauge::new(
                "tandem_raft_certificate_expires_timestamp_seconds",
                "Unix time at which this member's certificate ends; 0 without one.",
            )?,
            snapshot_arrived_bytes: IntGauge::new(
                "tandem_raft_snapshot_arrived_bytes",
                "Bytes that have arrived of the snapshot that is being sent to this member; 0 while there is none.",
            )?,
            snapshot_arriving_bytes: IntGauge::new(
                "tandem_raft_snapshot_arriving_bytes",
                "Bytes in all of the snapshot that is being sent to this member; 0 while there is none.",
            )?,
            conditions: IntGaugeVec::new(
                Opts::new(
                    "tandem_raft_condition",
                    "1 while this member has a problem with the subject; /readyz and the log say which.",
                ),
                &["subject"],
            )?,
            takes_no_part: IntGauge::new(
                "tandem_raft_takes_no_part",
                "1 while this member takes no part in a cluster: it is a stranger to the others, or none was formed.",
            )?,
            strangers: IntGauge::new(
                "tandem_raft_strangers",
                "Members' numbers under which a stranger answers: an emptied, copied or rolled-back data directory.",
            )?,
            format: IntGauge::new(
                "tandem_raft_format",
                "Number of the format in which the log is written.",
            )?,
            take_overs: IntCounter::new(
                "tandem_raft_take_overs_total",
                "Elections started because the leader's process was seen dead.",
            )?,
            nodes_lost: IntCounter::new(
                "tandem_raft_nodes_lost_total",
                "Nodes that this member, as leader, proposed to declare lost.",
            )?,
        };
        for outcome in [
            "applied",
            "overloaded",
            "too_large",
            "timeout",
            "stopped",
            "not_finalised",
        ] {
            metrics.proposals.with_label_values(&[outcome]).reset();
        }
        for (direction, reason) in labels() {
            metrics
                .connections_refused
                .with_label_values(&[direction, reason]);
        }
        for subject in Subject::ALL {
            metrics.conditions.with_label_values(&[subject.label()]);
        }
        metrics.observe_nodes(&ClusterState::new(StateLimits::default()));
        Ok(metrics)
    }

    pub(super) fn observe(&self, status: &ClusterStatus) {
        for role in RaftRole::ALL {
            self.role
                .with_label_values(&[role.label()])
                .set(i64::from(role == status.role));
        }
        self.takes_no_part.set(i64::from(status.obstacle.is_some()));
        self.is_leader.set(i64::from(status.role == RaftRole::Leader));
        self.leader_known.set(i64::from(status.leader.is_some()));
        self.term.set(i64::try_from(status.term).unwrap_or(i64::MAX));
        self.applied_index
            .set(i64::try_from(status.last_applied).unwrap_or(i64::MAX));
    }

    pub(super) fn observe_nodes(&self, state: &ClusterState) {
        for wanted in NodeState::ALL {
            let nodes = state.nodes().values();
            let count = nodes.filter(|node| node.state == wanted).count();
            self.nodes
                .with_label_values(&[wanted.label()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn observe_contact(&self, peer: NodeId, silent_for: Duration) {
        self.peer_last_contact
            .with_label_values(&[&peer.to_string()])
            .set(silent_for.as_secs_f64());
    }

    pub(super) fn observe_disk(&self, space: Space) {
        self.disk_free_bytes
            .set(i64::try_from(space.free_bytes).unwrap_or(i64::MAX));
        self.disk_size_bytes
            .set(i64::try_from(space.size_bytes).unwrap_or(i64::MAX));
    }

    pub(super) fn observe_condition(&self, subject: &str, holds: bool) {
        self.conditions
            .with_label_values(&[subject])
            .set(i64::from(holds));
    }

    pub(super) fn observe_arriving(&self, snapshot: Option<(u64, u64)>) {
        let (arrived, total) = snapshot.unwrap_or_default();
        self.snapshot_arrived_bytes
            .set(i64::try_from(arrived).unwrap_or(i64::MAX));
        self.snapshot_arriving_bytes
            .set(i64::try_from(total).unwrap_or(i64::MAX));
    }

    pub(super) fn observe_log(&self, log: &LogStore) {
        self.log_first_index
            .set(i64::try_from(log.first_index()).unwrap_or(i64::MAX));
        self.log_write_age
            .set(log.writing_for().unwrap_or_default().as_secs_f64());
        self.log_queued_bytes
            .set(i64::try_from(log.queued_bytes()).unwrap_or(i64::MAX));
    }

    pub(super) fn observe_members(&self, strangers: usize, format: Format) {
        self.strangers.set(i64::try_from(strangers).unwrap_or(i64::MAX));
        self.format.set(i64::from(format.0));
    }
}

fn histogram(name: &str, help: &str) -> prometheus::Result<Histogram> {
    // 0.1 ms to 1.6 s.
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(exponential_buckets(0.0001, 2.0, 15)?))
}
