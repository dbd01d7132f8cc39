//! Snapshots of the replicated state as files: written beside, synced, renamed, and the name synced.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, oneshot};

use super::files::{Files, UNFINISHED};
use super::record::{StoredLogId, StoredMembers};
use super::type_config::{LogId, SnapshotMeta, StoredMembership};

/// The one snapshot that is kept. Clones share it.
#[derive(Clone)]
pub(super) struct SnapshotStore {
    files: Arc<dyn Files>,
    /// The last log id of the snapshot on disk. Held while one is written: an older one must not replace it.
    saved: Arc<Mutex<Option<LogId>>>,
}

impl SnapshotStore {
    pub(super) fn new(files: Arc<dyn Files>) -> Self {
        Self {
            files,
            saved: Arc::default(),
        }
    }

    /// Makes `state` durable, unless a newer snapshot is there already.
    pub(super) async fn save(&self, meta: &SnapshotMeta, state: Bytes) -> io::Result<()> {
        let bytes = write(meta, &state)?;
        let last = meta.last_log_id;
        let mut saved = self.saved.clone().lock_owned().await;
        if *saved > last {
            return Ok(());
        }
        let files = self.files.clone();
        run_apart(&*self.files, "raft-snapshot", async move {
            replace(&*files, &bytes).await?;
            *saved = last;
            Ok(())
        })
        .await
    }

    pub(super) fn load(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let Some(bytes) = self.files.read(NAME)? else {
            return Ok(None);
        };
        read(&bytes).map(Some).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{NAME} is damaged; give the machine a new member id and an empty data directory"),
            )
        })
    }
}

/// Until the name is synced, what was there before may come back, and is whole.
async fn replace(files: &dyn Files, bytes: &[u8]) -> io::Result<()> {
    let unfinished = format!("{NAME}{UNFINISHED}");
    let written = write_whole(files, &unfinished, bytes).await;
    if written.is_err() {
        // Gives the disk its room back. Where even this fails, the next start tries again.
        drop(files.remove(&unfinished));
    }
    written?;
    files.rename(&unfinished, NAME)?;
    files.sync_directory()
}

async fn write_whole(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = files.create(name, 0)?;
    file.write_at(0, bytes)?;
    file.sync().await
}

/// Runs a job that blocks on files where it holds up nobody, and waits for it.
async fn run_apart<T: Send + 'static>(
    files: &dyn Files,
    name: &str,
    job: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let job: BoxFuture<'static, ()> = async move { drop(done.send(job.await)) }.boxed();
    files.spawn(name, job)?;
    result
        .await
        .map_err(|_| io::Error::other("the writer of the snapshot has stopped"))?
}

/// Version, checksum of the rest, length of the description, description, state.
fn write(meta: &SnapshotMeta, state: &[u8]) -> io::Result<Vec<u8>> {
    let description = encode_meta(meta)?;
    let length = u32::try_from(description.len()).map_err(io::Error::other)?;
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&description);
    bytes.extend_from_slice(state);
    let checksum = crc32fast::hash(&bytes[5..]);
    bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

fn read(bytes: &[u8]) -> Option<(SnapshotMeta, Bytes)> {
    let (version, rest) = bytes.split_first()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    if *version != VERSION || crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (description, state) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((decode_meta(description)?, Bytes::copy_from_slice(state)))
}

/// What a snapshot covers, in our own types, for disk and wire alike.
pub(super) fn encode_meta(meta: &SnapshotMeta) -> io::Result<Vec<u8>> {
    let stored = StoredMeta {
        last: meta.last_log_id.map(StoredLogId::from),
        members_since: meta.last_membership.log_id().map(StoredLogId::from),
        members: meta.last_membership.membership().into(),
    };
    postcard::to_stdvec(&stored).map_err(io::Error::other)
}

pub(super) fn decode_meta(bytes: &[u8]) -> Option<SnapshotMeta> {
    let stored: StoredMeta = postcard::from_bytes(bytes).ok()?;
    Some(SnapshotMeta {
        last_log_id: stored.last.map(LogId::from),
        last_membership: StoredMembership::new(stored.members_since.map(LogId::from), stored.members.into()),
    })
}

#[derive(Serialize, Deserialize)]
struct StoredMeta {
    last: Option<StoredLogId>,
    members_since: Option<StoredLogId>,
    members: StoredMembers,
}

const VERSION: u8 = 1;
pub(super) const NAME: &str = "snapshot";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_snapshot_is_not_read() {
        let meta = SnapshotMeta {
            last_log_id: None,
            last_membership: StoredMembership::default(),
        };
        let bytes = write(&meta, b"state").unwrap();
        assert_eq!(read(&bytes), Some((meta, Bytes::from_static(b"state"))));
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1;
            assert_eq!(read(&damaged), None, "byte {position}");
            assert_eq!(read(&bytes[..position]), None, "length {position}");
        }
    }
}
