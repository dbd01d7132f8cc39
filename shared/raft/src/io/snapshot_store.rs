//! Snapshots of the replicated state as files: written beside, synced, renamed, and the name synced.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Mutex;

use tandem_cluster::{Format, MemberRecord};

use super::formats::Formats;
use super::stored::{self, Foreign};
use super::type_config::{LogId, SnapshotMeta};
use super::whole_file;
use tandem_runtime::io::environment::files::Files;

/// The one snapshot that is kept. Clones share it.
#[derive(Clone)]
pub(super) struct SnapshotStore {
    files: Arc<dyn Files>,
    formats: Formats,
    /// The last log id of the snapshot on disk. Held while one is written: an older one must not replace it.
    saved: Arc<Mutex<Option<LogId>>>,
    /// Bytes of the state in it.
    bytes: Arc<AtomicU64>,
}

impl SnapshotStore {
    /// Reads the snapshot, if there is one, and changes nothing.
    pub(super) fn open(
        files: Arc<dyn Files>,
        formats: Formats,
    ) -> io::Result<(Self, Option<(SnapshotMeta, Bytes)>)> {
        let mut store = Self {
            files,
            formats,
            saved: Arc::default(),
            bytes: Arc::default(),
        };
        let found = load(&*store.files, store.formats.newest())?;
        let last = found.as_ref().and_then(|(meta, _)| meta.last_log_id);
        store.saved = Arc::new(Mutex::new(last));
        let bytes = found.as_ref().map_or(0, |(_, state)| state.len() as u64);
        store.bytes.store(bytes, Ordering::Relaxed);
        Ok((store, found))
    }

    /// Bytes that the state takes in it; 0: there is none.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// One is being encoded or written.
    pub(super) fn is_writing(&self) -> bool {
        self.saved.try_lock().is_err()
    }

    /// Encodes the state and makes it durable, unless this snapshot or a newer one is there already.
    pub(super) async fn save(
        &self,
        meta: &SnapshotMeta,
        encode: impl FnOnce() -> io::Result<Bytes> + Send + 'static,
    ) -> io::Result<Bytes> {
        let mut saved = self.saved.clone().lock_owned().await;
        let (files, format, meta) = (self.files.clone(), self.formats.written(), meta.clone());
        let bytes = self.bytes.clone();
        whole_file::run_apart(&*self.files, "raft-snapshot", async move {
            let state = encode()?;
            if *saved < meta.last_log_id {
                let head = head(&meta, &state, format)?;
                whole_file::replace(&*files, NAME, &[&head, &state]).await?;
                *saved = meta.last_log_id;
                bytes.store(state.len() as u64, Ordering::Relaxed);
            }
            Ok(state)
        })
        .await
    }

    pub(super) async fn load(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let (files, newest) = (self.files.clone(), self.formats.newest());
        let load = async move { load(&*files, newest) };
        whole_file::run_apart(&*self.files, "raft-snapshot-read", load).await
    }
}

fn load(files: &dyn Files, newest: Format) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
    let Some(bytes) = files.read(NAME)? else {
        return Ok(None);
    };
    Ok(Some(read(&bytes, newest)?))
}

/// Why the snapshot on disk cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("{NAME} is damaged; empty the data directory and run `tandem-node cluster replace`")]
    Damaged,
    #[error(
        "{NAME} is written in {format}; this program reads up to {newest}: start the release that wrote it; \
         nothing was changed"
    )]
    Later { format: Format, newest: Format },
    #[error(
        "{NAME} is written in {format} and holds what this program, which reads up to {newest}, does not know: start \
         the release that wrote it; nothing was changed"
    )]
    NotUnderstood { format: Format, newest: Format },
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What the state is written behind: format, checksum, length of the description, description. The checksum covers what
/// comes after it and, from release 0.2 on, the format before it; so it can be checked whatever the format.
fn head(meta: &SnapshotMeta, state: &[u8], format: Format) -> io::Result<Vec<u8>> {
    let description = stored::encode_meta(meta, format).map_err(io::Error::other)?;
    let length = u32::try_from(description.len()).map_err(io::Error::other)?;
    let mut bytes = vec![u8::try_from(format.0).map_err(io::Error::other)?, 0, 0, 0, 0];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&description);
    let checksum = checksum(bytes[0], &[&bytes[5..], state]);
    bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

pub(super) fn read(bytes: &[u8], newest: Format) -> Result<(SnapshotMeta, Bytes), SnapshotError> {
    let (number, rest) = bytes.split_first().ok_or(SnapshotError::Damaged)?;
    let (stored_checksum, rest) = rest.split_first_chunk().ok_or(SnapshotError::Damaged)?;
    if checksum(*number, &[rest]) != u32::from_le_bytes(*stored_checksum) {
        return Err(SnapshotError::Damaged);
    }
    let format = Format((*number).into());
    let refused = |foreign| match foreign {
        Foreign::Format(format) => SnapshotError::Later { format, newest },
        Foreign::Content => SnapshotError::NotUnderstood { format, newest },
    };
    if format > newest || format < Format::RELEASE_0_1 {
        return Err(refused(Foreign::Format(format)));
    }
    let parts = || {
        let (length, rest) = rest.split_first_chunk()?;
        rest.split_at_checked(u32::from_le_bytes(*length) as usize)
    };
    let (description, state) = parts().ok_or_else(|| refused(Foreign::Content))?;
    let meta = stored::decode_meta(description, newest).map_err(refused)?;
    Ok((meta, Bytes::copy_from_slice(state)))
}

fn checksum(format: u8, rest: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if Format(format.into()) != Format::RELEASE_0_1 {
        hasher.update(&[format]);
    }
    rest.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// What a snapshot covers, for the wire. In the format of release 0.1 unless that cannot hold it; it says which.
pub(super) fn encode_meta(meta: &SnapshotMeta) -> io::Result<Vec<u8>> {
    let mut members = meta.last_membership.membership().nodes();
    let format = if members.all(|(_, record)| *record == MemberRecord::Undescribed) {
        Format::RELEASE_0_1
    } else {
        Format::RELEASE_0_2
    };
    stored::encode_meta(meta, format).map_err(io::Error::other)
}

/// What [`encode_meta`] wrote; `None` when it is not understood.
pub(super) fn decode_meta(bytes: &[u8]) -> Option<SnapshotMeta> {
    stored::decode_meta(bytes, Format::NEWEST).ok()
}

pub(super) const NAME: &str = "snapshot";

/// A whole snapshot, as it lies on the disk.
#[cfg(test)]
pub(super) fn write(meta: &SnapshotMeta, state: &[u8], format: Format) -> io::Result<Vec<u8>> {
    let mut bytes = head(meta, state, format)?;
    bytes.extend_from_slice(state);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::type_config::StoredMembership;
    use super::*;

    const FORMATS: [Format; 2] = [Format::RELEASE_0_1, Format::RELEASE_0_2];

    fn meta() -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: None,
            last_membership: StoredMembership::default(),
        }
    }

    #[test]
    fn a_damaged_snapshot_is_not_read() {
        for format in FORMATS {
            let bytes = write(&meta(), b"state", format).unwrap();
            let whole = (meta(), Bytes::from_static(b"state"));
            assert_eq!(read(&bytes, Format::NEWEST), Ok(whole));
            for position in 0..bytes.len() {
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[position] ^= 1 << bit;
                    let found = read(&damaged, Format::NEWEST);
                    assert_eq!(found, Err(SnapshotError::Damaged), "byte {position} of {format}");
                }
                let found = read(&bytes[..position], Format::NEWEST);
                assert_eq!(
                    found,
                    Err(SnapshotError::Damaged),
                    "length {position} of {format}"
                );
            }
        }
    }

    #[test]
    fn a_snapshot_of_another_release_is_called_that() {
        let newest = Format::RELEASE_0_1;
        let bytes = write(&meta(), b"state", Format::RELEASE_0_2).unwrap();
        let format = Format::RELEASE_0_2;
        assert_eq!(read(&bytes, newest), Err(SnapshotError::Later { format, newest }));

        let newest = Format::NEWEST;
        for number in [0, 3, 255] {
            let mut bytes = bytes.clone();
            bytes[0] = number;
            let right = checksum(number, &[&bytes[5..]]);
            bytes[1..5].copy_from_slice(&right.to_le_bytes());
            let format = Format(number.into());
            assert_eq!(read(&bytes, newest), Err(SnapshotError::Later { format, newest }));
        }
    }

    #[test]
    fn a_description_with_something_left_over_is_not_understood() {
        for format in FORMATS {
            let mut bytes = write(&meta(), b"state", format).unwrap();
            // One byte of the state is counted as the description's.
            bytes[5] += 1;
            let right = checksum(bytes[0], &[&bytes[5..]]);
            bytes[1..5].copy_from_slice(&right.to_le_bytes());
            let newest = Format::NEWEST;
            assert_eq!(
                read(&bytes, newest),
                Err(SnapshotError::NotUnderstood { format, newest })
            );
        }
    }
}
