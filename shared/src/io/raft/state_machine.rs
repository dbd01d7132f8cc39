//! Committed entries → the replicated state, and its snapshots.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use tokio::sync::watch;

use crate::cluster::{Applied, Change, ClusterState, MemberRecord, RaftId, StateLimits};

use super::changes::{ChangeReceiver, ChangeSender};
use super::files::Files;
use super::snapshot_store::SnapshotStore;
use super::type_config::{Entry, LeaderId, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// The local copy of the replicated state. Clones are the same copy.
#[derive(Clone)]
pub(super) struct StateMachine {
    replica: Arc<RwLock<Replica>>,
    changes: ChangeSender,
    applied_index: watch::Sender<u64>,
    snapshots: SnapshotStore,
}

struct Replica {
    state: ClusterState,
    last_applied: Option<LogId>,
    membership: StoredMembership,
}

impl StateMachine {
    /// The state before the first entry; openraft then installs the snapshot and replays the log.
    pub(super) fn new(limits: StateLimits, files: Arc<dyn Files>) -> Self {
        Self {
            replica: Arc::new(RwLock::new(Replica {
                state: ClusterState::new(limits),
                last_applied: None,
                membership: StoredMembership::default(),
            })),
            changes: ChangeSender::new(),
            applied_index: watch::Sender::new(0),
            snapshots: SnapshotStore::new(files),
        }
    }

    pub(super) fn with_state<R>(&self, read: impl FnOnce(&ClusterState) -> R) -> R {
        self.read(|replica| read(&replica.state))
    }

    pub(super) fn changes(&self) -> ChangeReceiver {
        self.changes.subscribe()
    }

    pub(super) fn applied_index(&self) -> watch::Receiver<u64> {
        self.applied_index.subscribe()
    }

    /// The last entry in the state.
    pub(super) fn last_applied(&self) -> Option<LogId> {
        self.read(|replica| replica.last_applied)
    }

    fn read<R>(&self, read: impl FnOnce(&Replica) -> R) -> R {
        read(&self.replica.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Replica) -> R) -> R {
        change(&mut self.replica.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn apply_one(&self, entry: Entry) -> Applied {
        let index = entry.log_id.index();
        let applied = self.change(|replica| {
            let (applied, changes) = replica.apply(entry);
            // Sent before the lock is released: whoever reads the state finds no change in it that is not under way.
            self.changes.send(changes);
            applied
        });
        self.applied_index.send_replace(index);
        applied
    }
}

impl Replica {
    fn apply(&mut self, entry: Entry) -> (Applied, Vec<Change>) {
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => (Applied::Done, Vec::new()),
            EntryPayload::Normal(proposal) => self.state.apply(proposal.command),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                (Applied::Done, Vec::new())
            }
        }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.read(|replica| (replica.last_applied, replica.membership.clone())))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, proposer)) = entries.try_next().await? {
            let applied = self.apply_one(entry);
            if let Some(proposer) = proposer {
                proposer.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let (meta, state) = self.read(|replica| (replica.meta(), replica.state.clone()));
        SnapshotBuilder {
            meta,
            state,
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        let state = decode_state(&snapshot)?;
        self.snapshots.save(meta, snapshot).await?;
        self.change(|replica| {
            replica.state = state;
            replica.last_applied = meta.last_log_id;
            replica.membership = meta.last_membership.clone();
            self.changes.send(vec![Change::Replaced]);
        });
        let index = meta.last_log_id.map_or(0, |id| id.index());
        tracing::info!(index, "a snapshot has replaced the state");
        self.applied_index.send_replace(index);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<LeaderId, RaftId, MemberRecord, Bytes>>> {
        let loaded = self.snapshots.load()?;
        Ok(loaded.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// The state as it was when openraft asked for a snapshot; encoded and written while entries go on being applied.
pub(super) struct SnapshotBuilder {
    meta: SnapshotMeta,
    state: ClusterState,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<LeaderId, RaftId, MemberRecord, Bytes>> {
        let snapshot = encode_state(&self.state)?;
        self.snapshots.save(&self.meta, snapshot.clone()).await?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot,
        })
    }
}

/// A version byte, then postcard.
fn encode_state(state: &ClusterState) -> io::Result<Bytes> {
    let bytes = postcard::to_extend(state, vec![STATE_VERSION]).map_err(io::Error::other)?;
    Ok(bytes.into())
}

fn decode_state(bytes: &[u8]) -> io::Result<ClusterState> {
    let state = match bytes.split_first() {
        Some((&STATE_VERSION, rest)) => postcard::from_bytes(rest).map_err(io::Error::other)?,
        Some((version, _)) => return Err(io::Error::other(unknown_version(*version))),
        None => return Err(io::Error::other("the snapshot is empty")),
    };
    Ok(state)
}

fn unknown_version(version: u8) -> String {
    if version < STATE_VERSION {
        return format!(
            "the snapshot was written by an older Tandem (layout {version}, this one reads {STATE_VERSION}): start the \
             cluster with empty data directories, or go back to the version that wrote it"
        );
    }
    format!(
        "the snapshot was written by a newer Tandem (layout {version}, this one reads {STATE_VERSION}): upgrade this member"
    )
}

/// Of the layout of [`ClusterState`]. 2: calendars, presence and watchers.
const STATE_VERSION: u8 = 2;
