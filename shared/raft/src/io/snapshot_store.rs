//! Snapshots of the replicated state as files: written beside, synced, renamed, and the name synced.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::Mutex;

use tandem_cluster::{ClusterState, Format, NodeId, RaftId};

use tandem_runtime::io::environment::files::Files;

use super::formats::Formats;
use super::snapshot_file::{Head, NAME, read};
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
