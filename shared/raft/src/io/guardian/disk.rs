//! The room on this member's disk.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use tokio::time::Instant;

use tandem_cluster::disk_space::{DiskSpace, DiskSpaceLimits};
use tandem_cluster::{MemberRole, NodeId};

use super::super::member::Metrics;
use super::Guardian;

/// What the guardian remembers of the disk.
pub(super) struct DiskWatch {
    space: DiskSpace,
    looked: Option<Instant>,
    handed_over: Option<Instant>,
}

impl DiskWatch {
    pub(super) fn new() -> Self {
        Self {
            space: DiskSpace::Ample,
            looked: None,
            handed_over: None,
        }
    }
}

impl Guardian {
    pub(super) fn watch_disk(&mut self, metrics: &Metrics, now: Instant) {
        if self.disk.looked.is_none_or(|looked| now >= looked + LOOKED_EVERY) {
            self.disk.looked = Some(now);
            self.look_at_disk();
        }
        let due = self
            .disk
            .handed_over
            .is_none_or(|tried| now >= tried + HANDED_OVER_EVERY);
        // Without a node to go to, this member leads on: it refuses what adds to the state while its disk is nearly full, and
        // takes no proposal while too much waits for a disk that stands still.
        if metrics.state == ServerState::Leader
            && due
            && let Some(to) = self.better_leader()
        {
            self.disk.handed_over = Some(now);
            let stands_still = self.member.disk_stands_still();
            tracing::info!(%to, stands_still, "handing over leadership: the disk is nearly full or hangs");
            self.hand_over_to(to);
        }
    }

    fn look_at_disk(&mut self) {
        let config = &self.member.config;
        let limits = DiskSpaceLimits::new(config.disk_free_bytes_min, config.log_segment_bytes);
        let space = match self.member.directory.space() {
            Ok(space) => space,
            Err(error) => return tracing::debug!(%error, "cannot determine the free disk space"),
        };
        self.member.metrics.observe_disk(space);
        let free_bytes = space.free_bytes;
        let space = self.disk.space.after(free_bytes, limits);
        if space == self.disk.space {
            return;
        }
        self.disk.space = space;
        let nearly_full = space == DiskSpace::NearlyFull;
        self.member.disk_nearly_full.store(nearly_full, Ordering::Relaxed);
        let directory = self.member.config.data_directory.display();
        if nearly_full {
            tracing::warn!(
                %directory, free_bytes, wanted_bytes = limits.ample_from_bytes,
                "the disk is nearly full: this member gives up leadership, and refuses additions while no other member can lead"
            );
        } else {
            tracing::info!(%directory, free_bytes, "the disk has enough free space again");
        }
    }

    /// While this member's disk is nearly full or stands still: another node that answers, and whose disk has room and writes.
    pub(super) fn better_leader(&self) -> Option<NodeId> {
        let is_unsound = self.member.disk_nearly_full() || self.member.disk_stands_still();
        if !is_unsound {
            return None;
        }
        let nodes = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.role == MemberRole::Node && peer.connected);
        let mut sound = nodes.filter(|(_, peer)| {
            let reach = peer.status.as_ref().map(|(_, status)| status.reach);
            reach.is_some_and(|reach| !reach.disk_nearly_full && !reach.disk_stands_still)
        });
        sound.next().map(|(id, _)| *id)
    }
}

const LOOKED_EVERY: Duration = Duration::from_secs(1);
const HANDED_OVER_EVERY: Duration = Duration::from_secs(1);
