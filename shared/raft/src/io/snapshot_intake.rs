//! Taking in a snapshot that another member sends, piece by piece.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use openraft::Snapshot;
use tokio::time::Instant;

use super::frame::{decode, encode};
use super::member::Member;
use super::messages::{SnapshotAnswer, SnapshotChunk};
use super::snapshot_file::decode_meta;
use super::snapshot_store::SnapshotData;
use super::snapshot_transfer::{SnapshotTransfer, Taken};
use super::type_config::VoteRecord;

impl Member {
    /// Takes one piece of a snapshot.
    pub(super) async fn take_snapshot(&self, body: &[u8]) -> io::Result<Bytes> {
        let chunk: SnapshotChunk = decode(body)?;
        let taken = {
            let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            incoming.touched = Some(Instant::now());
            incoming.transfer.take(&chunk)?
        };
        let answer = match taken {
            Taken::GoOnAt(offset) => SnapshotAnswer::GoOnAt(offset),
            Taken::Whole(data) => {
                let vote: VoteRecord = decode(&chunk.vote)?;
                let meta = decode_meta(&chunk.meta).ok_or(io::ErrorKind::InvalidData)?;
                self.check_committed_ids(&vote, meta.last_log_id)?;
                let snapshot = Snapshot {
                    meta,
                    snapshot: SnapshotData::Arrived(data),
                };
                let response = self.raft.install_full_snapshot(vote, snapshot).await;
                SnapshotAnswer::Done(response.map_err(io::Error::other)?)
            }
        };
        encode(&answer)
    }

    /// The snapshot that is arriving: its bytes here, and in all. One that nobody went on with is given up.
    pub(super) fn arriving_snapshot(&self, now: Instant) -> Option<(u64, u64)> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if incoming
            .touched
            .is_some_and(|touched| now > touched + TRANSFER_KEPT)
        {
            *incoming = IncomingSnapshot::default();
        }
        incoming.transfer.progress()
    }
}

/// A snapshot on its way here.
#[derive(Debug, Default)]
pub(super) struct IncomingSnapshot {
    transfer: SnapshotTransfer,
    /// When its latest piece came.
    touched: Option<Instant>,
}

/// A sender that was cut off is back sooner.
const TRANSFER_KEPT: Duration = Duration::from_secs(120);
