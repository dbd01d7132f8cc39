//! Sending a snapshot to a member that lacks too much of the log: piece by piece, from where it broke off.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use openraft::Snapshot;
use openraft::raft::SnapshotResponse;
use tokio::time::{Instant, timeout};

use tandem_cluster::{MemberRecord, RaftId};

use super::frame::{Kind, decode, encode};
use super::messages::{SnapshotAnswer, SnapshotChunk};
use super::network::{Channel, PeerClient};
use super::snapshot_file::encode_meta;
use super::snapshot_pace::{PIECE_TIMEOUT, SnapshotPace};
use super::snapshot_store::SnapshotData;
use super::type_config::{LeaderId, TypeConfig, VoteRecord};

impl PeerClient {
    async fn send_piece(&self, piece: &SnapshotChunk) -> io::Result<SnapshotAnswer> {
        let answered = self.link(Channel::Snapshot)?.ask(Kind::Snapshot, encode(piece)?);
        let body = timeout(PIECE_TIMEOUT, answered).await?;
        decode(&body.map_err(io::Error::other)?)
    }

    /// Asks how much of it is there, then sends one piece after the other, as large as the path allows.
    pub(super) async fn send_snapshot(
        &self,
        vote: VoteRecord,
        snapshot: Snapshot<LeaderId, RaftId, MemberRecord, SnapshotData>,
    ) -> io::Result<SnapshotResponse<TypeConfig>> {
        let (meta, data) = snapshot.snapshot.read(snapshot.meta).await?;
        let mut chunk = SnapshotChunk {
            offset: 0,
            total: data.len() as u64,
            vote: postcard::to_stdvec(&vote).map_err(io::Error::other)?,
            meta: encode_meta(&meta)?,
            data: Bytes::new(),
        };
        let mut pace = SnapshotPace::new();
        let mut told = SnapshotProgress::new(self.target, data.len());
        loop {
            let sent = Instant::now();
            let start = match self.send_piece(&chunk).await? {
                SnapshotAnswer::Done(response) => {
                    told.done();
                    return Ok(response);
                }
                SnapshotAnswer::GoOnAt(offset) => usize::try_from(offset).unwrap_or(usize::MAX),
            };
            let is_expected = start == chunk.offset as usize + chunk.data.len();
            let first = chunk.data.is_empty();
            if start >= data.len() || !is_expected && !first {
                // Another leader sends one as well, or the peer has started again: openraft tries again after a pause.
                return Err(io::Error::other("the peer did not take the snapshot"));
            }
            if !first {
                pace.answered(sent.elapsed());
            }
            told.reached(start);
            let end = data.len().min(start + pace.bytes());
            chunk.offset = start as u64;
            chunk.data = data.slice(start..end);
        }
    }
}

/// Tells of a transfer that takes its time.
struct SnapshotProgress {
    target: RaftId,
    total: usize,
    began: Instant,
    /// As `began` until it is told of.
    told: Instant,
}

impl SnapshotProgress {
    fn new(target: RaftId, total: usize) -> Self {
        let now = Instant::now();
        Self {
            target,
            total,
            began: now,
            told: now,
        }
    }

    fn reached(&mut self, bytes: usize) {
        if self.told.elapsed() < PROGRESS_TOLD_EVERY {
            return;
        }
        self.told = Instant::now();
        let (to, total) = (self.target, self.total);
        tracing::info!(%to, bytes, total, "a snapshot is being sent");
    }

    fn done(&self) {
        if self.told > self.began {
            let seconds = self.began.elapsed().as_secs();
            tracing::info!(to = %self.target, total = self.total, seconds, "a snapshot has arrived");
        }
    }
}

const PROGRESS_TOLD_EVERY: Duration = Duration::from_secs(10);
