//! Committed entries → the replicated state, and its snapshots.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::state_comparison::StateMark;
use crate::cluster::{
    Applied, Change, ClusterState, Command, LayoutError, MemberRecord, RaftId, StateLimits,
};
use crate::planted::{Bug, planted};

use super::changes::{ChangeReceiver, ChangeSender};
use super::files::Files;
use super::formats::Formats;
use super::marks::Marks;
use super::snapshot_store::SnapshotStore;
use super::type_config::{Entry, LeaderId, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// The local copy of the replicated state. Clones are the same copy.
#[derive(Clone)]
pub(super) struct StateMachine {
    replica: Arc<RwLock<Replica>>,
    changes: ChangeSender,
    applied_index: watch::Sender<u64>,
    ticked: Arc<Mutex<Option<Ticked>>>,
    marks: Marks,
    formats: Formats,
    snapshots: SnapshotStore,
}

/// The cluster's time at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticked {
    /// As [`ClusterState::expired_before_ms`].
    pub(super) before_ms: u64,
    /// When the state came to say so here.
    pub(super) at: Instant,
}

struct Replica {
    state: ClusterState,
    last_applied: Option<LogId>,
    membership: StoredMembership,
}

impl StateMachine {
    /// The state of the snapshot, or the one before the first entry; openraft then replays the log. Changes nothing on
    /// the disk.
    pub(super) fn open(limits: StateLimits, files: Arc<dyn Files>, formats: Formats) -> io::Result<Self> {
        let (snapshots, found) = SnapshotStore::open(files.clone(), formats.clone())?;
        let replica = match found {
            None => Replica {
                state: ClusterState::new(limits),
                last_applied: None,
                membership: StoredMembership::default(),
            },
            Some((meta, state)) => Replica::of_snapshot(&meta, decode_state(&state, &formats)?),
        };
        formats.raise(replica.state.format());
        let ticked = ticked(replica.state.expired_before_ms());
        Ok(Self {
            ticked: Arc::new(Mutex::new(ticked)),
            marks: Marks::new(files),
            changes: ChangeSender::new(),
            applied_index: watch::Sender::new(index_of(replica.last_applied)),
            replica: Arc::new(RwLock::new(replica)),
            formats,
            snapshots,
        })
    }

    pub(super) fn with_state<R>(&self, read: impl FnOnce(&ClusterState) -> R) -> R {
        self.read(|replica| read(&replica.state))
    }

    /// This member's state after the last entry that asked for it to be marked, once that is worked out.
    pub(super) fn mark(&self) -> Option<StateMark> {
        self.marks.latest()
    }

    pub(super) fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    pub(super) fn changes(&self) -> ChangeReceiver {
        self.changes.subscribe()
    }

    /// The last word of the state on the cluster's time; `None` before the first one.
    pub(super) fn ticked(&self) -> Option<Ticked> {
        *self.ticked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_time(&self, before_ms: u64) {
        let mut known = self.ticked.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| known.before_ms != before_ms) {
            *known = ticked(before_ms);
        }
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
        let is_to_be_marked = is_mark(&entry);
        self.change(|replica| {
            let (applied, changes) = replica.apply(entry);
            if is_to_be_marked {
                self.marks.begin(index, replica.state.clone());
            }
            self.formats.raise(replica.state.format());
            self.note_time(replica.state.expired_before_ms());
            // Sent before the lock is released: whoever reads the state finds no change in it that is not under way.
            self.changes.send(changes);
            applied
        })
    }
}

fn is_mark(entry: &Entry) -> bool {
    match &entry.payload {
        EntryPayload::Normal(proposal) => matches!(proposal.command, Command::StateMarked),
        EntryPayload::Blank | EntryPayload::Membership(_) => false,
    }
}

fn ticked(before_ms: u64) -> Option<Ticked> {
    (before_ms > 0).then(|| Ticked {
        before_ms,
        at: Instant::now(),
    })
}

impl Replica {
    fn of_snapshot(meta: &SnapshotMeta, state: ClusterState) -> Self {
        Self {
            state,
            last_applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        }
    }

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
            last_log_id: self.last_applied.map(one_later_if_planted),
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
        let mut last = self.last_applied();
        while let Some((entry, proposer)) = entries.try_next().await? {
            last = Some(entry.log_id);
            let applied = self.apply_one(entry);
            if let Some(proposer) = proposer {
                proposer.send(applied);
            }
        }
        // Once for all of them: every proposer of this member wakes up to look.
        self.applied_index.send_replace(index_of(last));
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let view = self.read(|replica| (replica.meta(), replica.state.clone()));
        SnapshotBuilder {
            view: Some(view),
            formats: self.formats.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        let state = decode_state(&snapshot, &self.formats)?;
        self.formats.raise(state.format());
        self.note_time(state.expired_before_ms());
        self.snapshots.save(meta, move || Ok(snapshot)).await?;
        self.change(|replica| {
            *replica = Replica::of_snapshot(meta, state);
            if !planted(Bug::SnapshotInstalledUntold) {
                self.changes.send(vec![Change::Replaced]);
            }
        });
        let index = index_of(meta.last_log_id);
        tracing::info!(index, "a snapshot has replaced the state");
        self.applied_index.send_replace(index);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<LeaderId, RaftId, MemberRecord, Bytes>>> {
        let loaded = self.snapshots.load().await?;
        Ok(loaded.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// The state as it was when openraft asked for a snapshot; encoded and written while entries go on being applied.
pub(super) struct SnapshotBuilder {
    /// Until it is built.
    view: Option<(SnapshotMeta, ClusterState)>,
    formats: Formats,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<LeaderId, RaftId, MemberRecord, Bytes>> {
        let (meta, state) = self
            .view
            .take()
            .ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        let format = self.formats.written();
        // A large state takes its time to be encoded, and to be given up: neither may hold up who else runs here.
        let encode = move || Ok(state.encode(format)?.into());
        let snapshot = self.snapshots.save(&meta, encode).await?;
        Ok(Snapshot { meta, snapshot })
    }
}

fn one_later_if_planted(id: LogId) -> LogId {
    let one_more = u64::from(planted(Bug::SnapshotNamesLaterEntry));
    LogId::new(*id.committed_leader_id(), id.index() + one_more)
}

fn decode_state(bytes: &[u8], formats: &Formats) -> io::Result<ClusterState> {
    Ok(ClusterState::decode(bytes, formats.newest())?)
}

impl From<LayoutError> for io::Error {
    fn from(error: LayoutError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

fn index_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index())
}
