//! Snapshots of the replicated state as files: written beside, synced, renamed, and the name synced.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::Mutex;

use tandem_cluster::{ClusterState, Format, MemberRecord, NodeId, RaftId};

use tandem_runtime::io::environment::files::Files;

use super::formats::Formats;
use super::stored::{self, Foreign};
use super::type_config::{LeaderId, LogId, SnapshotMeta};
use super::whole_file::{self, Replacement};

/// The one snapshot that is kept. Clones share it.
#[derive(Clone)]
pub(super) struct SnapshotStore {
    files: Arc<dyn Files>,
    formats: Formats,
    /// Held while one is written: an older one must not replace a newer one.
    writing: Arc<Mutex<()>>,
    kept: Arc<ArcSwapOption<Kept>>,
}

/// What is known of the snapshot on the disk without reading it.
struct Kept {
    meta: SnapshotMeta,
    /// Bytes of the state in it.
    bytes: u64,
}

/// The state that a snapshot is made of.
pub(super) enum Content {
    /// As this member has it.
    State(Arc<ClusterState>),
    /// As another member has encoded it.
    Bytes(Bytes),
}

/// The bytes of a snapshot's state, as openraft passes them on.
pub(super) enum SnapshotData {
    /// In this member's file. They are read by who needs them: openraft asks for them where nothing may take long.
    Kept(SnapshotStore),
    /// As another member sent them.
    Arrived(Bytes),
}

impl SnapshotData {
    /// Reads the bytes, and what they are. The snapshot on the disk may be a later one than `meta` describes by now.
    pub(super) async fn read(self, meta: SnapshotMeta) -> io::Result<(SnapshotMeta, Bytes)> {
        match self {
            Self::Arrived(bytes) => Ok((meta, bytes)),
            Self::Kept(store) => {
                let loaded = store.load().await?;
                loaded.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the snapshot is gone"))
            }
        }
    }
}

impl SnapshotStore {
    /// Reads the snapshot, if there is one, and changes nothing.
    pub(super) fn open(
        files: Arc<dyn Files>,
        formats: Formats,
    ) -> io::Result<(Self, Option<(SnapshotMeta, Bytes)>)> {
        let found = load(&*files, formats.newest())?;
        let kept = found.as_ref().map(|(meta, state)| Kept {
            meta: meta.clone(),
            bytes: state.len() as u64,
        });
        let store = Self {
            files,
            formats,
            writing: Arc::default(),
            kept: Arc::new(ArcSwapOption::from_pointee(kept)),
        };
        Ok((store, found))
    }

    /// What the snapshot on the disk covers; `None`: there is none.
    pub(super) fn meta(&self) -> Option<SnapshotMeta> {
        self.kept.load().as_ref().map(|kept| kept.meta.clone())
    }

    /// Bytes that the state takes in it; 0: there is none.
    pub(super) fn bytes(&self) -> u64 {
        self.kept.load().as_ref().map_or(0, |kept| kept.bytes)
    }

    /// One is being encoded or written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.try_lock().is_err()
    }

    /// Encodes the state and makes it durable, unless this snapshot or a newer one is there already. Piece by piece, on a
    /// thread apart, where the content is given up as well: neither holds up who else runs here.
    pub(super) async fn save(&self, meta: &SnapshotMeta, content: Content) -> io::Result<()> {
        let one_at_a_time = self.writing.clone().lock_owned().await;
        let (files, format, meta) = (self.files.clone(), self.formats.written(), meta.clone());
        let kept = self.kept.clone();
        whole_file::run_apart(&*self.files, "raft-snapshot", async move {
            let last = kept.load().as_ref().and_then(|kept| kept.meta.last_log_id);
            if last < meta.last_log_id {
                let bytes = write_to(&*files, &meta, &content, format).await?;
                kept.store(Some(Arc::new(Kept { meta, bytes })));
            }
            drop((content, one_at_a_time));
            Ok(())
        })
        .await
    }

    pub(super) async fn load(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let (files, newest) = (self.files.clone(), self.formats.newest());
        let load = async move { load(&*files, newest) };
        whole_file::run_apart(&*self.files, "raft-snapshot-read", load).await
    }
}

/// Returns how many bytes the state takes.
async fn write_to(
    files: &dyn Files,
    meta: &SnapshotMeta,
    content: &Content,
    format: Format,
) -> io::Result<u64> {
    let mut head = Head::new(meta, format)?;
    let mut replacement = Replacement::begin(files, NAME)?;
    let written = write_content(&mut replacement, &mut head, content, format).await;
    let bytes = head.state_bytes;
    replacement.end(written).await?;
    Ok(bytes)
}

/// The checksum comes before what it covers, and is known last.
async fn write_content(
    file: &mut Replacement<'_>,
    head: &mut Head,
    content: &Content,
    format: Format,
) -> io::Result<()> {
    file.append(&head.bytes()).await?;
    match content {
        Content::Bytes(bytes) => {
            head.note(bytes);
            file.append(bytes).await?;
        }
        Content::State(state) => {
            let mut pieces = state.encoded(format);
            let mut piece = Vec::new();
            let mut goes_on = true;
            while goes_on {
                piece.clear();
                goes_on = pieces.append_next(&mut piece)?;
                head.note(&piece);
                file.append(&piece).await?;
            }
        }
    }
    file.correct(0, &head.bytes())
}

/// Writes a snapshot of this state as a member does, for measurements.
#[doc(hidden)]
pub async fn write_snapshot(files: Arc<dyn Files>, state: Arc<ClusterState>) -> io::Result<u64> {
    let formats = Formats::up_to(Format::NEWEST);
    formats.raise(Format::NEWEST);
    let (store, _) = SnapshotStore::open(files, formats)?;
    let first_leader = LeaderId {
        term: 1,
        node_id: RaftId::new(0, NodeId(1)),
    };
    let meta = SnapshotMeta {
        last_log_id: Some(LogId::new(first_leader, 1)),
        ..SnapshotMeta::default()
    };
    store.save(&meta, Content::State(state)).await?;
    Ok(store.bytes())
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
struct Head {
    format: u8,
    /// Its length, and the description.
    description: Vec<u8>,
    checksum: crc32fast::Hasher,
    state_bytes: u64,
}

impl Head {
    fn new(meta: &SnapshotMeta, format: Format) -> io::Result<Self> {
        let described = stored::encode_meta(meta, format).map_err(io::Error::other)?;
        let length = u32::try_from(described.len()).map_err(io::Error::other)?;
        let description = [&length.to_le_bytes()[..], &described].concat();
        let format = u8::try_from(format.0).map_err(io::Error::other)?;
        Ok(Self {
            format,
            checksum: checksum_of(format, &description),
            description,
            state_bytes: 0,
        })
    }

    /// These bytes of the state come next.
    fn note(&mut self, state: &[u8]) {
        self.checksum.update(state);
        self.state_bytes += state.len() as u64;
    }

    /// With the checksum of what was noted.
    fn bytes(&self) -> Vec<u8> {
        let checksum = self.checksum.clone().finalize().to_le_bytes();
        [&[self.format][..], &checksum, &self.description].concat()
    }
}

pub(super) fn read(bytes: &[u8], newest: Format) -> Result<(SnapshotMeta, Bytes), SnapshotError> {
    let (number, rest) = bytes.split_first().ok_or(SnapshotError::Damaged)?;
    let (stored_checksum, rest) = rest.split_first_chunk().ok_or(SnapshotError::Damaged)?;
    if checksum_of(*number, rest).finalize() != u32::from_le_bytes(*stored_checksum) {
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

fn checksum_of(format: u8, rest: &[u8]) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    if Format(format.into()) != Format::RELEASE_0_1 {
        hasher.update(&[format]);
    }
    hasher.update(rest);
    hasher
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
    let mut head = Head::new(meta, format)?;
    head.note(state);
    Ok([head.bytes(), state.to_vec()].concat())
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
            let right = checksum_of(number, &bytes[5..]).finalize();
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
            let right = checksum_of(bytes[0], &bytes[5..]).finalize();
            bytes[1..5].copy_from_slice(&right.to_le_bytes());
            let newest = Format::NEWEST;
            assert_eq!(
                read(&bytes, newest),
                Err(SnapshotError::NotUnderstood { format, newest })
            );
        }
    }
}
