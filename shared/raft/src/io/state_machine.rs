//! Committed entries → the replicated state, and its snapshots.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use tandem_cluster::state_comparison::StateMark;
use tandem_cluster::{Applied, Change, ClusterState, Command, MemberRecord, RaftId, StateLimits};
use tandem_planted::{Bug, planted};

use tandem_runtime::io::environment::files::Files;

use super::changes::{ChangeReceiver, ChangeSender};
use super::formats::Formats;
use super::marks::Marks;
use super::release::release_apart;
use super::replica::Replica;
use super::snapshot_builder::SnapshotBuilder;
use super::snapshot_store::{Content, SnapshotData, SnapshotStore};
use super::type_config::{Entry, LeaderId, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::whole_file;

/// The local copy of the replicated state. Clones are the same copy.
///
/// A state is a value: openraft's task makes the next one beside it and publishes that in its place. So readers never hold
/// up commands, commands never wait for readers, and a snapshot is a pointer.
#[derive(Clone)]
pub(super) struct StateMachine {
    files: Arc<dyn Files>,
    /// Written by openraft's task alone.
    published: Arc<ArcSwap<Replica>>,
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

/// Entries that are applied and not published yet.
struct Unpublished {
    replica: Replica,
    entries: usize,
    changes: Vec<Vec<Change>>,
    answers: Vec<(ApplyResponder<TypeConfig>, Applied)>,
    /// One of them concerned many records.
    is_large: bool,
}

impl StateMachine {
    /// The state of the snapshot, or the one before the first entry; openraft then replays the log. Changes nothing on
    /// the disk.
    pub(super) fn open(limits: StateLimits, files: Arc<dyn Files>, formats: Formats) -> io::Result<Self> {
        let (snapshots, found) = SnapshotStore::open(files.clone(), formats.clone())?;
        let replica = match found {
            None => Replica::new(limits),
            Some((meta, state)) => Replica::of_snapshot(&meta, decode_state(&state, &formats)?),
        };
        formats.raise(replica.state.format());
        let ticked = ticked(replica.state.expired_before_ms());
        Ok(Self {
            ticked: Arc::new(Mutex::new(ticked)),
            marks: Marks::new(files.clone()),
            files,
            changes: ChangeSender::new(),
            applied_index: watch::Sender::new(index_of(replica.last_applied)),
            published: Arc::new(ArcSwap::from_pointee(replica)),
            formats,
            snapshots,
        })
    }

    /// The state as it is now.
    pub(super) fn state(&self) -> Arc<ClusterState> {
        self.published.load().state.clone()
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

    /// The cluster's time as the state tells it; `None` before it first does.
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
        self.published.load().last_applied
    }

    async fn apply_one(
        &self,
        entry: Entry,
        proposer: Option<ApplyResponder<TypeConfig>>,
        batch: &mut Unpublished,
    ) {
        let index = entry.log_id.index();
        let is_to_be_marked = is_mark(&entry);
        let outcome = batch.replica.apply(entry).await;
        if is_to_be_marked {
            self.marks.begin(index, batch.replica.state.clone());
        }
        batch.entries += 1;
        batch.is_large |= outcome.portions > 1;
        batch.changes.push(outcome.changes);
        batch
            .answers
            .extend(proposer.map(|proposer| (proposer, outcome.applied)));
    }

    async fn decode_apart(&self, bytes: Bytes) -> io::Result<ClusterState> {
        let formats = self.formats.clone();
        let decode = async move { decode_state(&bytes, &formats) };
        whole_file::run_apart(&*self.files, "raft-snapshot-decode", decode).await
    }

    /// The state comes first: who is told of a change, or of what came of a proposal, finds a state at least as new.
    fn publish(&self, batch: Unpublished) {
        if batch.entries == 0 {
            return;
        }
        let (state, last_applied) = (&batch.replica.state, batch.replica.last_applied);
        self.formats.raise(state.format());
        self.note_time(state.expired_before_ms());
        self.replace(batch.replica, batch.is_large);
        for changes in batch.changes {
            self.changes.send(changes);
        }
        for (proposer, applied) in batch.answers {
            proposer.send(applied);
        }
        // Once for all of them: every proposer of this member wakes up to look.
        self.applied_index.send_replace(index_of(last_applied));
    }

    /// What the former state alone holds goes with it.
    fn replace(&self, replica: Replica, differs_much: bool) {
        let former = self.published.swap(Arc::new(replica));
        if differs_much {
            release_apart(&self.files, former.state.clone());
        }
    }

    async fn apply_all<S>(&self, entries: &mut S, batch: &mut Unpublished) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, proposer)) = entries.try_next().await? {
            self.apply_one(entry, proposer, batch).await;
            if batch.entries >= ENTRIES_PUBLISHED_AT_ONCE_MAX {
                let next = Unpublished::behind(batch.replica.clone());
                self.publish(std::mem::replace(batch, next));
            }
        }
        Ok(())
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

impl Unpublished {
    /// The beginning of a batch, whose first entry comes behind the last one of this replica.
    fn behind(replica: Replica) -> Self {
        Self {
            replica,
            entries: 0,
            changes: Vec::new(),
            answers: Vec::new(),
            is_large: false,
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let replica = self.published.load();
        Ok((replica.last_applied, StoredMembership::clone(&replica.membership)))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batch = Unpublished::behind(Replica::clone(&self.published.load()));
        let applied = self.apply_all(&mut entries, &mut batch).await;
        self.publish(batch);
        applied
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let replica = self.published.load();
        SnapshotBuilder::new(replica.meta(), replica.state.clone(), self.snapshots.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let (meta, bytes) = snapshot.read(meta.clone()).await?;
        let state = self.decode_apart(bytes.clone()).await?;
        self.formats.raise(state.format());
        self.note_time(state.expired_before_ms());
        self.snapshots.save(&meta, Content::Bytes(bytes)).await?;
        self.replace(Replica::of_snapshot(&meta, state), true);
        if !planted(Bug::SnapshotInstalledUntold) {
            self.changes.send(vec![Change::Replaced]);
        }
        let index = index_of(meta.last_log_id);
        tracing::info!(index, "a snapshot has replaced the state");
        self.applied_index.send_replace(index);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<LeaderId, RaftId, MemberRecord, SnapshotData>>> {
        let kept = || SnapshotData::Kept(self.snapshots.clone());
        Ok(self.snapshots.meta().map(|meta| Snapshot {
            meta,
            snapshot: kept(),
        }))
    }
}

fn decode_state(bytes: &[u8], formats: &Formats) -> io::Result<ClusterState> {
    Ok(ClusterState::decode(bytes, formats.newest())?)
}

fn index_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index())
}

/// So many entries are published together at most, so that a long log is not answered at its end alone.
const ENTRIES_PUBLISHED_AT_ONCE_MAX: usize = 64;
