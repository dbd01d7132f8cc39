//! Log and snapshots on a disk that fails in the middle of any operation, or fills up at any byte.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use tandem_cluster::Format;

use super::formats::Formats;
use super::log_store::LogStore;
use super::record::{EncodedRecord, Place};
use super::recovery::{name_of, number_of};
use super::recovery_tests::{disk, entry, histogram, log_id, runtime, vote};
use super::segments;
use super::snapshot_store::{Content, SnapshotStore};
use super::type_config::{Entry, SnapshotMeta, StoredMembership};
use tandem_runtime::io::environment::files::Files;
use tandem_runtime::io::environment::simulated::{Interruption, SimulatedFiles};

/// Small, so that files are begun often.
pub(super) const SEGMENT_BYTES: u64 = 1024;
const ROUNDS: u64 = 9;
const ENTRIES_PER_ROUND: u64 = 4;

#[test]
fn power_fails_during_any_operation() {
    for how in [Interruption::PowerFails, Interruption::OneError] {
        let mut operations = 0;
        while interrupt_at(operations, how) {
            operations += 1;
        }
        assert!(operations > 60, "{operations} operations of the disk");
    }
}

/// Every operation counts as the one that is interrupted, each with several dice. False: the work has fewer operations.
fn interrupt_at(operations: u64, how: Interruption) -> bool {
    (0..6).all(|seed| {
        let files = SimulatedFiles::new(seed, std::time::Duration::ZERO);
        let mut told = Told::default();
        files.interrupt_after(operations, how);
        let result = live(&files, &mut told);
        let reached = files.was_interrupted();
        assert!(reached || result.is_ok(), "{result:?}");
        if how == Interruption::PowerFails {
            files.crash();
        }
        for name in log_files(&files) {
            let length = files.read(&name).unwrap().unwrap().len() as u64;
            assert!(length >= SEGMENT_BYTES, "{name} has its name and {length} bytes");
        }
        open_three_times(
            &files,
            &mut told,
            &format!("{how:?} after {operations}, seed {seed}"),
        );
        reached
    })
}

#[test]
fn power_fails_again_while_a_member_starts() {
    let mut operations = 0;
    let mut reached = true;
    while reached {
        reached = false;
        for seed in 0..40 {
            let files = SimulatedFiles::new(seed, std::time::Duration::ZERO);
            let mut told = Told::default();
            files.interrupt_after(20 + 3 * seed, Interruption::PowerFails);
            drop(live(&files, &mut told));
            files.crash();
            files.interrupt_after(operations, Interruption::PowerFails);
            let opened = runtime().block_on(Member::open(&files));
            let interrupted = files.was_interrupted();
            assert_eq!(opened.is_err(), interrupted);
            drop(opened);
            reached |= interrupted;
            files.crash();
            open_three_times(
                &files,
                &mut told,
                &format!("start after {operations}, seed {seed}"),
            );
        }
        operations += 1;
    }
    assert!(operations > 3, "{operations} operations of a start");
}

#[test]
fn the_disk_is_full_after_any_byte() {
    let mut free = 0;
    loop {
        let files = disk();
        let mut told = Told::default();
        files.set_free_bytes(free);
        let fits = live(&files, &mut told).is_ok();
        // Some start before there is room again: they may fail, and must not make it worse.
        for _ in 0..3 {
            drop(runtime().block_on(Member::open(&files)));
        }
        if free % 2 == 0 {
            files.crash();
        }
        files.set_free_bytes(u64::MAX);
        open_three_times(&files, &mut told, &format!("{free} bytes free"));
        if fits {
            break;
        }
        // Every length of the first file and its surroundings, then samples.
        free += if free < 2 * SEGMENT_BYTES { 1 } else { 97 };
    }
    assert!(free > 3 * SEGMENT_BYTES, "all of the work takes {free} bytes");
}

/// What release 0.1 left when its disk was full: a last file of any length without a record, and, from the start after
/// that, one more behind it.
#[test]
fn files_without_records_are_accepted_where_nothing_is_missing() {
    for length in 0..=SEGMENT_BYTES + 1 {
        let length = usize::try_from(length).unwrap();
        let files = disk();
        let mut told = Told::default();
        live(&files, &mut told).unwrap();
        files.put(&next_file(&files), vec![0; length]);
        files.put(&next_file(&files), vec![0; length / 2]);
        open_three_times(&files, &mut told, &format!("{length} bytes"));
    }
}

#[test]
fn a_file_without_records_in_the_middle_is_passed_over_where_sequences_go_on() {
    for (gap, length) in [(0, 0), (0, 100), (0, 1024), (1, 0), (7, 1024)] {
        let files = disk();
        let mut told = Told::default();
        live(&files, &mut told).unwrap();
        files.put(&next_file(&files), vec![0; length]);
        // As release 0.1 went on: the file behind the empty one follows on the records before it.
        let behind = next_file(&files);
        let sequence = segments::read(&files, Format::NEWEST).unwrap().next_sequence + gap;
        let place = Place {
            segment: number_of(&behind).unwrap(),
            sequence,
            batch: sequence,
        };
        let mut bytes = Vec::new();
        EncodedRecord::vote(&vote(told.term + 1), Format::RELEASE_0_1)
            .unwrap()
            .write(place, &mut bytes);
        bytes.resize(1024, 0);
        files.put(&behind, bytes);
        if gap == 0 {
            (told.term, told.term_asked) = (told.term + 1, told.term + 1);
            open_three_times(&files, &mut told, &format!("{length} bytes in the middle"));
        } else {
            let before = contents(&files);
            let error = runtime().block_on(Member::open(&files)).map(drop).unwrap_err();
            let expected = format!(
                "{behind} begins with record {sequence}, and record {}",
                sequence - gap
            );
            assert!(error.to_string().starts_with(&expected), "{error}");
            assert_eq!(contents(&files), before, "a refused start changed something");
        }
    }
}

#[test]
fn a_file_that_lost_its_records_stops_the_member() {
    let files = disk();
    let mut told = Told::default();
    live(&files, &mut told).unwrap();
    let names = log_files(&files);
    assert!(names.len() >= 3, "{names:?}");
    files.put(&names[1], vec![0; 1024]);
    let before = contents(&files);
    let error = runtime().block_on(Member::open(&files)).map(drop).unwrap_err();
    assert!(error.to_string().contains("is missing"), "{error}");
    assert!(error.to_string().contains(&names[2]), "{error}");
    assert_eq!(contents(&files), before, "a refused start changed something");
}

#[test]
fn damage_at_the_end_of_an_earlier_file_stops_the_member() {
    let files = disk();
    live(&files, &mut Told::default()).unwrap();
    let name = log_files(&files).remove(0);
    let bytes = files.read(&name).unwrap().unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // In the last record, right behind it, and at the end of the file.
    for position in [end - 8, end + 6, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[position] ^= 1;
        files.put(&name, damaged);
        let before = contents(&files);
        let error = runtime()
            .block_on(Member::open(&files))
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{name} is damaged")),
            "byte {position}: {error}"
        );
        assert_eq!(contents(&files), before, "a refused start changed something");
    }
}

/// Several files go at once, and the names of a directory need not reach the disk in order.
#[test]
fn power_fails_during_a_purge_of_several_files() {
    for operations in 0..20 {
        for seed in 0..30 {
            let files = SimulatedFiles::new(seed, std::time::Duration::ZERO);
            let mut told = Told::default();
            runtime().block_on(async {
                let mut member = Member::open(&files).await.unwrap();
                for _ in 0..12 {
                    member.write(&mut told).await.unwrap();
                }
                let last = told.entries - 1;
                member
                    .snapshots
                    .save(&meta(last), Content::Bytes(state_of(last)))
                    .await
                    .unwrap();
                (told.snapshot, told.snapshot_asked) = (Some(last), Some(last));
                told.purged_asked = Some(last - 1);
                assert!(log_files(&files).len() > 4);
                files.interrupt_after(operations, Interruption::PowerFails);
                drop(member.log.purge(log_id(1, last - 1)).await);
            });
            files.crash();
            open_three_times(
                &files,
                &mut told,
                &format!("a purge until {operations}, seed {seed}"),
            );
        }
    }
}

#[test]
fn the_only_file_of_a_log_that_was_longer_cannot_be_empty() {
    let files = disk();
    files.put("log-000000000005", vec![0; 1024]);
    let error = runtime().block_on(Member::open(&files)).map(drop).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("log-000000000004 of the log is missing"),
        "{error}"
    );
}

/// The first batch of a file also holds what earlier files said of vote and purge. It is cut off; those files go later.
#[test]
fn a_vote_survives_the_loss_of_the_first_batch_of_the_next_file() {
    for torn in [0, 10, 40, 100] {
        let files = disk();
        runtime().block_on(async {
            let mut member = Member::open(&files).await.unwrap();
            member.log.save_vote(&vote(7)).await.unwrap();
            member.log.save_committed(Some(log_id(1, 0))).await.unwrap();
            let mut index = 0;
            while log_files(&files).len() < 2 {
                member.log.blocking_append([numbered(index)]).await.unwrap();
                index += 1;
            }
        });
        let second = name_of(2);
        let mut bytes = files.read(&second).unwrap().unwrap();
        bytes[torn..].fill(0);
        files.put(&second, bytes);
        runtime().block_on(async {
            let mut member = Member::open(&files).await.unwrap();
            let next = member.log.last_log_id().map_or(0, |last| last.index() + 1);
            member.log.blocking_append([numbered(next)]).await.unwrap();
            member.log.purge(log_id(1, next - 1)).await.unwrap();
            member
                .snapshots
                .save(&meta(next - 1), Content::Bytes(state_of(next - 1)))
                .await
                .unwrap();
        });
        assert_eq!(log_files(&files), [second], "torn at {torn}");
        runtime().block_on(async {
            let mut member = Member::open(&files).await.unwrap();
            assert_eq!(
                member.log.read_vote().await.unwrap(),
                Some(vote(7)),
                "torn at {torn}"
            );
        });
    }
}

/// What a member was told is durable, and what it may find besides because it asked for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    term: u64,
    term_asked: u64,
    /// Entries are numbered from 0 without a gap.
    entries: u64,
    entries_asked: u64,
    snapshot: Option<u64>,
    snapshot_asked: Option<u64>,
    purged_asked: Option<u64>,
}

impl Told {
    /// Something was asked of the log and never acknowledged.
    pub(super) fn log_failed(&self) -> bool {
        self.term != self.term_asked || self.entries != self.entries_asked
    }
}

/// Log and snapshots of a member, without Raft.
pub(super) struct Member {
    log: LogStore,
    snapshots: SnapshotStore,
}

impl Member {
    async fn open(files: &SimulatedFiles) -> io::Result<Self> {
        Self::open_on(Arc::new(files.clone())).await
    }

    pub(super) async fn open_on(files: Arc<dyn Files>) -> io::Result<Self> {
        let formats = Formats::up_to(Format::NEWEST);
        let (snapshots, found) = SnapshotStore::open(files.clone(), formats.clone())?;
        let last = found.and_then(|(meta, _)| meta.last_log_id);
        let log = LogStore::open(files, SEGMENT_BYTES, formats, last, histogram()).await?;
        Ok(Self { log, snapshots })
    }

    pub(super) async fn work(&mut self, told: &mut Told) -> io::Result<()> {
        for round in 0..ROUNDS {
            self.write(told).await?;
            let last = told.entries - 1;
            self.log.save_committed(Some(log_id(1, last))).await?;
            if round % 2 == 1 {
                told.snapshot_asked = Some(last);
                self.snapshots
                    .save(&meta(last), Content::Bytes(state_of(last)))
                    .await?;
                told.snapshot = told.snapshot_asked;
                if let Some(purged) = last.checked_sub(20) {
                    told.purged_asked = Some(purged);
                    self.log.purge(log_id(1, purged)).await?;
                }
            }
        }
        Ok(())
    }

    /// A vote and some entries.
    pub(super) async fn write(&mut self, told: &mut Told) -> io::Result<()> {
        told.term_asked = told.term + 1;
        self.log.save_vote(&vote(told.term_asked)).await?;
        told.term = told.term_asked;
        told.entries_asked = told.entries + ENTRIES_PER_ROUND;
        let entries: Vec<_> = (told.entries..told.entries_asked).map(numbered).collect();
        let appended = self.log.blocking_append(entries).await;
        appended.map_err(io::Error::other)?;
        told.entries = told.entries_asked;
        Ok(())
    }

    /// Compares with what was told, and takes over what it finds: from now on it must stay.
    pub(super) async fn check(&mut self, told: &mut Told) {
        let term = self.log.read_vote().await.unwrap();
        let term = term.map_or(0, |vote| vote.leader_id.term);
        assert!((told.term..=told.term_asked).contains(&term), "term {term}");

        let state = self.log.get_log_state().await.unwrap();
        let purged = state.last_purged_log_id.map(|id| id.index());
        assert!(purged <= told.purged_asked, "purged {purged:?}");
        let found = self.log.try_get_log_entries(0..u64::MAX).await.unwrap();
        let first = purged.map_or(0, |index| index + 1);
        let count = first + found.len() as u64;
        assert!(
            (told.entries..=told.entries_asked).contains(&count),
            "{count} entries"
        );
        assert!(found.into_iter().eq((first..count).map(numbered)));

        let snapshot = self.snapshots.load().await.unwrap();
        let last = snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
        let last = last.map(|id| id.index());
        assert!(
            one_of(last, told.snapshot..=told.snapshot_asked),
            "snapshot {last:?}"
        );
        assert!(snapshot.is_none_or(|(_, bytes)| Some(bytes) == last.map(state_of)));
        *told = Told {
            term,
            term_asked: term,
            entries: count,
            entries_asked: count,
            snapshot: last,
            snapshot_asked: last,
            purged_asked: told.purged_asked,
        };
    }
}

/// A life of the process that works until something fails.
fn live(files: &SimulatedFiles, told: &mut Told) -> io::Result<()> {
    runtime().block_on(async {
        let mut member = Member::open(files).await?;
        member.work(told).await
    })
}

/// Three lives that end as soon as they have begun, three that write a little, one that works, one that sees it.
fn open_three_times(files: &SimulatedFiles, told: &mut Told, situation: &str) {
    for life in 0..8 {
        runtime().block_on(async {
            let opened = Member::open(files).await;
            let mut member = opened.unwrap_or_else(|error| panic!("start {life}, {situation}: {error}"));
            member.check(told).await;
            match life {
                3..6 => member.write(told).await.unwrap(),
                6 => member.work(told).await.unwrap(),
                _ => {}
            }
        });
        files.crash();
    }
    let unfinished = |name: &String| name.ends_with(".new");
    assert!(!files.list().unwrap().iter().any(unfinished), "{situation}");
}

fn one_of(found: Option<u64>, allowed: RangeInclusive<Option<u64>>) -> bool {
    found == *allowed.start() || found == *allowed.end()
}

fn numbered(index: u64) -> Entry {
    entry(index, &format!("entry {index} {}", "x".repeat(40)))
}

fn meta(last: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(1, last)),
        last_membership: StoredMembership::default(),
    }
}

fn state_of(last: u64) -> Bytes {
    vec![u8::try_from(last % 251).unwrap(); 6000].into()
}

fn log_files(files: &SimulatedFiles) -> Vec<String> {
    let names = files.list().unwrap().into_iter();
    names.filter(|name| number_of(name).is_some()).collect()
}

fn next_file(files: &SimulatedFiles) -> String {
    let last = log_files(files).pop().unwrap();
    name_of(number_of(&last).unwrap() + 1)
}

fn contents(files: &SimulatedFiles) -> Vec<(String, Vec<u8>)> {
    let names = files.list().unwrap().into_iter();
    names
        .map(|name| (name.clone(), files.read(&name).unwrap().unwrap()))
        .collect()
}
