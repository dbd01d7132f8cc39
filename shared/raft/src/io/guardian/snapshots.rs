//! When this member makes its next snapshot.

use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::Command;
use tandem_cluster::snapshot_schedule::{View, is_due};

use super::super::member::Metrics;
use super::super::type_config::LogId;
use super::Guardian;
use super::lead::tell_if_stopped;

/// What the guardian remembers of snapshots.
pub(super) struct SnapshotWatch {
    /// The last entry in the last one.
    last: Option<LogId>,
    /// How much of the log this process had written when it was made.
    log_bytes: u64,
    /// As `log_bytes`, when one was asked for last, and the time.
    asked: Option<(u64, Instant)>,
    /// When this member, as leader, had all members mark their states, or began to look after them.
    marked: Instant,
}

impl SnapshotWatch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: None,
            log_bytes: 0,
            asked: None,
            marked: now,
        }
    }
}

impl Guardian {
    pub(super) fn make_snapshots(&mut self, metrics: &Metrics, now: Instant) {
        let member = self.member.clone();
        let log_bytes = member.log.appended_bytes();
        let watch = &mut self.snapshots;
        if watch.last != metrics.snapshot {
            watch.last = metrics.snapshot;
            watch.log_bytes = watch.asked.take().map_or(log_bytes, |(log_bytes, _)| log_bytes);
        }
        let is_asked = watch.asked.is_some_and(|(_, at)| now < at + ASKED_AGAIN_AFTER);
        if is_asked || member.machine.snapshots().is_writing() {
            return;
        }
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index());
        let mut answers = self.peers.values().filter_map(|peer| peer.status.as_ref());
        let view = View {
            entries_since: index(metrics.last_applied).saturating_sub(index(watch.last)),
            bytes_since: log_bytes.saturating_sub(watch.log_bytes),
            snapshot_bytes: member.machine.snapshots().bytes(),
            others_write: answers.any(|(_, status)| status.writes_snapshot),
        };
        if !is_due(view, member.config.snapshot_after_entries) {
            return;
        }
        watch.asked = Some((log_bytes, now));
        // All members encode their whole state for it at the same time.
        if now >= watch.marked + MARKED_EVERY && member.leads_with_quorum(metrics) {
            watch.marked = now;
            self.propose(Command::StateMarked);
        }
        self.actions
            .spawn(async move { tell_if_stopped(member.raft.trigger().snapshot().await) });
    }
}

const MARKED_EVERY: Duration = Duration::from_secs(60 * 60);
/// openraft makes none while another one is under way.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(10);
