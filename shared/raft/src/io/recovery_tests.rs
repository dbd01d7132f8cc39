//! The log storage against openraft's own suite, and against crashes at every point.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftLogReader, StorageError};
use prometheus::{Histogram, HistogramOpts};
use proptest::prelude::*;

use tandem_cluster::{ClusterState, Command, Format, Proposal, StateLimits};

use super::formats::Formats;
use super::log_store::LogStore;
use super::record::{EncodedRecord, Record};
use super::segments::{self, Segments};
use super::state_machine::StateMachine;
use super::storage::Storage;
use super::type_config::{Entry, LeaderId, LogId, Runtime, TypeConfig, VoteRecord};
use tandem_runtime::io::environment::files::{Files, RealFiles};
use tandem_runtime::io::environment::simulated::{Fault, SimulatedFiles};

const SEGMENT_BYTES: u64 = 4096;

pub(super) fn histogram() -> Histogram {
    Histogram::with_opts(HistogramOpts::new("sync", "sync")).unwrap()
}

pub(super) fn disk() -> SimulatedFiles {
    SimulatedFiles::new(1, Duration::ZERO)
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(
        LeaderId {
            term,
            node_id: 1.into(),
        },
        index,
    )
}

pub(super) fn entry(index: u64, text: &str) -> Entry {
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Proposal::of_unknown(Command::SettingChanged {
            name: text.to_owned(),
            value: None,
        })),
    }
}

pub(super) fn vote(term: u64) -> VoteRecord {
    VoteRecord {
        leader_id: LeaderId {
            term,
            node_id: 1.into(),
        },
        committed: true,
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

struct OnRealFiles;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for OnRealFiles {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let (log, machine) = stores(Arc::new(RealFiles::open(directory.path()).unwrap())).await;
        Ok((directory, log, machine))
    }
}

struct OnSimulatedFiles;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, ()> for OnSimulatedFiles {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let (log, machine) = stores(Arc::new(disk())).await;
        Ok(((), log, machine))
    }
}

async fn stores(files: Arc<dyn Files>) -> (LogStore, StateMachine) {
    let limits = StateLimits::default();
    let opened = Storage::open(files, SEGMENT_BYTES, limits, Format::NEWEST, histogram()).await;
    let Storage { log, machine } = opened.unwrap();
    (log, machine)
}

#[test]
fn the_stores_do_what_openraft_expects_of_them() {
    runtime()
        .block_on(Runtime::scope(1, Suite::test_all(OnRealFiles)))
        .unwrap();
}

#[test]
fn the_stores_do_what_openraft_expects_of_them_on_a_simulated_disk() {
    runtime()
        .block_on(Runtime::scope(1, Suite::test_all(OnSimulatedFiles)))
        .unwrap();
}

async fn recover(files: &SimulatedFiles) -> io::Result<(Segments, Vec<Record>)> {
    let mut found = segments::read(files, Format::NEWEST)?;
    let records = std::mem::take(&mut found.records);
    let log = Segments::resume(Arc::new(files.clone()), SEGMENT_BYTES, found).await?;
    Ok((log, records))
}

/// The log alone, whatever its snapshot.
async fn open_log(files: Arc<dyn Files>) -> io::Result<LogStore> {
    let formats = Formats::up_to(Format::NEWEST);
    let snapshot = Some(log_id(u64::MAX, u64::MAX));
    LogStore::open(files, SEGMENT_BYTES, formats, snapshot, histogram()).await
}

/// What a fresh process finds.
async fn recovered(files: &SimulatedFiles) -> io::Result<Vec<Record>> {
    let (_, records) = recover(files).await?;
    Ok(records)
}

/// Three synced batches and the bytes of the fourth, which is not: (disk before it, disk after it, records).
async fn four_batches() -> (SimulatedFiles, Vec<u8>, Vec<u8>, Vec<Record>) {
    let files = disk();
    let (mut log, _) = recover(&files).await.unwrap();
    let batches = [
        vec![Record::Vote(vote(1))],
        vec![Record::Entry(entry(1, "one")), Record::Entry(entry(2, "two"))],
        vec![Record::Committed(log_id(1, 1)), Record::Entry(entry(3, "three"))],
        vec![Record::Entry(entry(4, "four")), Record::Entry(entry(5, "five"))],
    ];
    let mut before = Vec::new();
    for batch in &batches {
        before = files.read("log-000000000001").unwrap().unwrap_or_default();
        let encoded: Vec<EncodedRecord> = batch.iter().map(encode).collect();
        log.append(&encoded, None).await.unwrap();
    }
    let after = files.read("log-000000000001").unwrap().unwrap();
    (files, before, after, batches.concat())
}

fn encode(record: &Record) -> EncodedRecord {
    match record {
        Record::Entry(entry) => EncodedRecord::entry(entry, Format::RELEASE_0_1),
        Record::Vote(vote) => EncodedRecord::vote(vote, Format::RELEASE_0_1),
        Record::TruncatedAfter(index) => EncodedRecord::truncated_after(*index, Format::RELEASE_0_1),
        Record::PurgedTo(id) => EncodedRecord::purged_to(*id, Format::RELEASE_0_1),
        Record::Committed(id) => EncodedRecord::committed(*id, Format::RELEASE_0_1),
    }
    .unwrap()
}

/// Bytes of the file that the last batch changed.
fn last_batch(before: &[u8], after: &[u8]) -> std::ops::Range<usize> {
    let start = (0..after.len()).find(|&at| before[at] != after[at]).unwrap();
    let end = (0..after.len()).rfind(|&at| before[at] != after[at]).unwrap();
    start..end + 1
}

#[tokio::test]
async fn a_crash_at_any_byte_of_the_last_batch_leaves_a_prefix() {
    let (files, before, after, records) = four_batches().await;
    for end in last_batch(&before, &after) {
        let mut torn = before.clone();
        torn[..end].copy_from_slice(&after[..end]);
        files.put("log-000000000001", torn);
        let found = recovered(&files).await.unwrap();
        assert!(
            found.len() >= 5 && found == records[..found.len()],
            "cut at byte {end}"
        );
        // What was cut off is gone for good: the next start finds the same.
        assert_eq!(recovered(&files).await.unwrap(), found, "cut at byte {end}");
    }
}

#[tokio::test]
async fn a_hole_in_the_last_batch_is_cut_off_with_everything_behind_it() {
    let (files, before, after, records) = four_batches().await;
    let batch = last_batch(&before, &after);
    for hole in batch.clone() {
        let mut torn = after.clone();
        let end = batch.end.min(hole + 16);
        torn[hole..end].copy_from_slice(&before[hole..end]);
        files.put("log-000000000001", torn);
        let found = recovered(&files).await.unwrap();
        assert!(
            found.len() >= 5 && found == records[..found.len()],
            "hole at byte {hole}"
        );
    }
}

#[tokio::test]
async fn damage_before_a_later_batch_stops_the_member() {
    let (files, before, after, _) = four_batches().await;
    for position in 0..last_batch(&before, &after).start {
        let mut damaged = after.clone();
        damaged[position] ^= 0x10;
        files.put("log-000000000001", damaged);
        let error = recovered(&files).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {position}");
        assert!(
            error.to_string().contains("log-000000000001 is damaged"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_missing_file_stops_the_member() {
    let files = disk();
    let (mut log, _) = recover(&files).await.unwrap();
    for index in 1..200 {
        let record = encode(&Record::Entry(entry(index, "some text to fill the file")));
        log.append(&[record], Some(index)).await.unwrap();
    }
    assert!(files.list().unwrap().len() >= 3);
    files.remove("log-000000000002").unwrap();
    let error = recovered(&files).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("log-000000000002 of the log is missing"),
        "{error}"
    );
}

/// Appends as openraft does, and waits.
async fn append(store: &mut LogStore, entries: Vec<Entry>) -> Result<(), StorageError<TypeConfig>> {
    store.blocking_append(entries).await
}

#[tokio::test]
async fn files_go_when_all_their_entries_are_purged() {
    let files = disk();
    let mut store = open_log(Arc::new(files.clone())).await.unwrap();
    store.save_vote(&vote(7)).await.unwrap();
    for index in 0..300 {
        append(&mut store, vec![entry(index, "some text to fill the file")])
            .await
            .unwrap();
    }
    let before = files.list().unwrap().len();
    store.purge(log_id(1, 290)).await.unwrap();
    let after = files.list().unwrap();
    assert!(before > 3 && after.len() < 3, "{before} files, then {after:?}");

    let mut again = open_log(Arc::new(files)).await.unwrap();
    let state = again.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 290)));
    assert_eq!(state.last_log_id, Some(log_id(1, 299)));
    assert_eq!(again.read_vote().await.unwrap(), Some(vote(7)));
    assert_eq!(again.try_get_log_entries(0..400).await.unwrap().len(), 9);
}

#[tokio::test]
async fn after_an_error_of_the_disk_nothing_is_written_any_more() {
    for fault in [Fault::Full, Fault::SyncFails] {
        let files = disk();
        let mut store = open_log(Arc::new(files.clone())).await.unwrap();
        append(&mut store, vec![entry(0, "kept")]).await.unwrap();
        files.set_fault(Some(fault));
        append(&mut store, vec![entry(1, "refused")]).await.unwrap_err();
        files.set_fault(None);
        store.save_vote(&vote(9)).await.unwrap_err();
        files.crash();
        let mut again = open_log(Arc::new(files)).await.unwrap();
        assert_eq!(again.read_vote().await.unwrap(), None);
        assert_eq!(again.try_get_log_entries(0..1).await.unwrap(), [entry(0, "kept")]);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Vote(u64),
    TruncateAfter(u8),
    Purge(u8),
    /// Power fails while the last append is under way, or between two steps.
    Crash {
        during_append: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..20_u8).prop_map(Step::Append),
        1 => (1..100_u64).prop_map(Step::Vote),
        1 => (0..10_u8).prop_map(Step::TruncateAfter),
        1 => (0..30_u8).prop_map(Step::Purge),
        2 => any::<bool>().prop_map(|during_append| Step::Crash { during_append }),
    ];
    prop::collection::vec(step, 1..40)
}

/// What must be found after a crash.
#[derive(Debug, Default)]
struct Model {
    vote: Option<VoteRecord>,
    entries: Vec<Entry>,
    purged: u64,
    written: u64,
}

impl Model {
    fn next_entries(&mut self, count: u8) -> Vec<Entry> {
        let first = self.purged + self.entries.len() as u64;
        let entries = (0..u64::from(count)).map(|offset| {
            self.written += 1;
            entry(
                first + offset,
                &format!("write {} {}", self.written, "x".repeat(40)),
            )
        });
        entries.collect()
    }
}

/// One life of the process: its tasks end with its runtime.
struct Life {
    runtime: tokio::runtime::Runtime,
    store: LogStore,
}

impl Life {
    fn begin(files: &SimulatedFiles) -> Self {
        let runtime = runtime();
        let open = open_log(Arc::new(files.clone()));
        let store = runtime.block_on(open).unwrap();
        Self { runtime, store }
    }

    fn append(&mut self, entries: Vec<Entry>) {
        self.runtime.block_on(append(&mut self.store, entries)).unwrap();
    }

    /// Leaves an append in the middle of its way to the disk.
    fn begin_append(&mut self, entries: Vec<Entry>) {
        self.runtime.block_on(async {
            let append = append(&mut self.store, entries);
            assert!(tokio::time::timeout(Duration::ZERO, append).await.is_err());
        });
    }
}

fn check(steps: Vec<Step>, seed: u64) {
    let files = SimulatedFiles::new(seed, Duration::from_micros(50));
    let mut life = Life::begin(&files);
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Append(count) => {
                let entries = model.next_entries(count);
                life.append(entries.clone());
                model.entries.extend(entries);
            }
            Step::Vote(term) => {
                life.runtime.block_on(life.store.save_vote(&vote(term))).unwrap();
                model.vote = Some(vote(term));
            }
            Step::TruncateAfter(kept) => {
                let kept = usize::from(kept).min(model.entries.len());
                let last = model.entries[..kept].last().map(|entry| entry.log_id);
                let last = last.or_else(|| model.purged.checked_sub(1).map(|index| log_id(1, index)));
                life.runtime.block_on(life.store.truncate_after(last)).unwrap();
                model.entries.truncate(kept);
            }
            Step::Purge(count) => {
                let count = usize::from(count).min(model.entries.len());
                if let Some(last) = model.entries[..count].last() {
                    life.runtime.block_on(life.store.purge(last.log_id)).unwrap();
                    model.purged = last.log_id.index() + 1;
                    model.entries.drain(..count);
                }
            }
            Step::Crash { during_append } => {
                let unfinished = if during_append {
                    model.next_entries(9)
                } else {
                    Vec::new()
                };
                if during_append {
                    life.begin_append(unfinished.clone());
                }
                drop(life);
                files.crash();
                life = Life::begin(&files);
                let found = life.store.try_get_log_entries(0..u64::MAX);
                let found = life.runtime.block_on(found).unwrap();
                let acknowledged = model.entries.len();
                model.entries.extend(unfinished);
                assert!(found.len() >= acknowledged && found == model.entries[..found.len()]);
                let found_vote = life.runtime.block_on(life.store.read_vote()).unwrap();
                assert_eq!(found_vote, model.vote);
                model.entries.truncate(found.len());
            }
        }
    }
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_once() {
    let crash = Step::Crash { during_append: false };
    check(vec![Step::Append(3), Step::Vote(2), crash], 1);
}

#[test]
fn what_was_cut_off_stays_away_after_a_crash() {
    let crash = Step::Crash { during_append: false };
    check(vec![Step::Append(3), Step::TruncateAfter(1), crash], 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_acknowledged_is_found_after_any_crash(steps in steps(), seed in any::<u64>()) {
        check(steps, seed);
    }
}

/// A state as bytes, in one piece.
pub(super) fn encoded(state: &ClusterState, format: Format) -> Vec<u8> {
    let (mut pieces, mut bytes) = (state.encoded(format), Vec::new());
    while pieces.append_next(&mut bytes).unwrap() {}
    bytes
}
