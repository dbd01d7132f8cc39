//! What is written before the format is finalised, and after.

use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};

use tandem_cluster::{Actor, Command, Format, Proposal, StateLimits};

use super::record::HEADER_BYTES;
use super::recovery_tests::{disk, encoded, histogram, log_id, runtime, vote};
use super::snapshot_store::SnapshotData;
use super::storage::Storage;
use super::type_config::Entry;
use tandem_runtime::io::environment::files::Files;
use tandem_runtime::io::environment::simulated::SimulatedFiles;

const OLD: Format = Format::RELEASE_0_1;
const NEW: Format = Format::RELEASE_0_2;

#[test]
fn everything_is_written_in_the_new_format_once_that_is_applied() {
    let files = disk();
    runtime().block_on(async {
        let mut storage = open(&files, NEW).await.unwrap();
        write(&mut storage, 0).await;
        assert_eq!(formats(&files), [1, 1, 1]);
        finalise(&mut storage, 1).await;
        // The one entry that tells of it cannot be written in the old one.
        assert_eq!(formats(&files), [1, 1, 1, 2]);
        write(&mut storage, 2).await;
        assert_eq!(formats(&files), [1, 1, 1, 2, 2, 2, 2]);
    });
}

#[test]
fn the_new_format_is_written_from_the_first_record_after_a_start() {
    let files = finalised_with_a_snapshot();
    let before = formats(&files).len();
    runtime().block_on(async {
        let mut storage = open(&files, NEW).await.unwrap();
        assert_eq!(storage.machine.state().format(), NEW);
        storage.log.save_vote(&vote(9)).await.unwrap();
    });
    // The head of the file is repeated first, as it was written.
    assert_eq!(formats(&files)[before..].last(), Some(&2));
}

#[test]
fn a_proposer_survives_a_restart_only_in_the_new_format() {
    let files = disk();
    runtime().block_on(async {
        let mut storage = open(&files, NEW).await.unwrap();
        write(&mut storage, 0).await;
        finalise(&mut storage, 1).await;
        write(&mut storage, 2).await;
    });
    let actors = runtime().block_on(async {
        let mut storage = open(&files, NEW).await.unwrap();
        let entries = storage.log.try_get_log_entries(0..3).await.unwrap();
        entries.into_iter().map(|entry| match entry.payload {
            EntryPayload::Normal(proposal) => proposal.actor,
            EntryPayload::Blank | EntryPayload::Membership(_) => panic!("no proposal"),
        })
    });
    let somebody = Actor::Administrator("somebody".to_owned());
    assert!(actors.eq([Actor::Unknown, somebody.clone(), somebody]));
}

#[test]
fn a_release_that_reads_the_old_format_alone_refuses_what_came_after() {
    let files = finalised_with_a_snapshot();
    let refused = |files: &SimulatedFiles| {
        let opened = runtime().block_on(open(files, OLD));
        opened.map(drop).unwrap_err().to_string()
    };
    let expected =
        "snapshot is written in format 2 (release 0.2); this program reads up to format 1 (release 0.1)";
    assert!(refused(&files).starts_with(expected), "{}", refused(&files));
    files.remove("snapshot").unwrap();
    let expected = "log-000000000001: record 3 is written in format 2 (release 0.2)";
    assert!(refused(&files).starts_with(expected), "{}", refused(&files));
}

#[test]
fn an_installed_snapshot_brings_its_format() {
    let leader = finalised_with_a_snapshot();
    let (meta, bytes) = runtime().block_on(async {
        let mut storage = open(&leader, NEW).await.unwrap();
        let snapshot = storage.machine.get_current_snapshot().await.unwrap().unwrap();
        snapshot.snapshot.read(snapshot.meta).await.unwrap()
    });
    let arrived = || SnapshotData::Arrived(bytes.clone());
    let files = disk();
    runtime().block_on(async {
        let mut storage = open(&files, NEW).await.unwrap();
        let Storage { log, machine } = &mut storage;
        machine.install_snapshot(&meta, arrived()).await.unwrap();
        log.save_vote(&vote(3)).await.unwrap();
    });
    assert_eq!(formats(&files), [2]);
    assert_eq!(files.read("snapshot").unwrap().map(|bytes| bytes[0]), Some(2));
    // A member that cannot read it does not take it, and keeps what it has.
    let files = disk();
    runtime().block_on(async {
        let mut old = open(&files, OLD).await.unwrap();
        let installed = old.machine.install_snapshot(&meta, arrived()).await;
        let error = installed.unwrap_err().to_string();
        assert!(error.contains("written by a later release (layout 3;"), "{error}");
    });
    assert_eq!(files.read("snapshot").unwrap(), None);
}

#[test]
fn an_older_snapshot_never_replaces_a_newer_one() {
    let files = disk();
    runtime().block_on(async {
        let mut storage = open(&files, NEW).await.unwrap();
        write(&mut storage, 0).await;
        let mut older = storage.machine.get_snapshot_builder().await;
        let older_state = encoded(&storage.machine.state(), OLD);
        write(&mut storage, 1).await;
        let newer_state = encoded(&storage.machine.state(), OLD);
        let newer = storage
            .machine
            .get_snapshot_builder()
            .await
            .build_snapshot()
            .await
            .unwrap();
        let older = older.build_snapshot().await.unwrap();
        let found = storage.machine.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(found.meta, newer.meta);
        // A fresh process knows it, too.
        let before = files.read("snapshot").unwrap();
        for (snapshot, state) in [(older, older_state), (newer, newer_state)] {
            let mut again = open(&files, NEW).await.unwrap().machine;
            let arrived = SnapshotData::Arrived(state.into());
            again.install_snapshot(&snapshot.meta, arrived).await.unwrap();
            assert_eq!(files.read("snapshot").unwrap(), before);
        }
    });
}

/// A vote, an entry and what is committed.
async fn write(storage: &mut Storage, index: u64) {
    let Storage { log, machine } = storage;
    log.save_vote(&vote(index + 1)).await.unwrap();
    let entry = proposed(index, Command::Expire { before_ms: index });
    log.save_committed(Some(log_id(1, index))).await.unwrap();
    log.blocking_append([entry.clone()]).await.unwrap();
    apply(machine, entry).await;
}

async fn finalise(storage: &mut Storage, index: u64) {
    let entry = proposed(index, Command::FormatFinalised { format: NEW });
    storage.log.blocking_append([entry.clone()]).await.unwrap();
    apply(&mut storage.machine, entry).await;
}

async fn apply(machine: &mut super::state_machine::StateMachine, entry: Entry) {
    let entries = futures::stream::iter([Ok((entry, None))]);
    machine.apply(entries).await.unwrap();
}

fn finalised_with_a_snapshot() -> SimulatedFiles {
    let files = disk();
    runtime().block_on(async {
        let mut storage = open(&files, NEW).await.unwrap();
        write(&mut storage, 0).await;
        finalise(&mut storage, 1).await;
        let mut builder = storage.machine.get_snapshot_builder().await;
        builder.build_snapshot().await.unwrap();
    });
    files
}

fn proposed(index: u64, command: Command) -> Entry {
    let actor = Actor::Administrator("somebody".to_owned());
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Proposal { actor, command }),
    }
}

/// The format of every record in the one file of the log.
fn formats(files: &SimulatedFiles) -> Vec<u8> {
    let bytes = files.read("log-000000000001").unwrap().unwrap();
    let (mut offset, mut formats) = (0, Vec::new());
    while bytes.get(offset + 8).is_some_and(|format| *format != 0) {
        formats.push(bytes[offset + 8]);
        let length = u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
        offset += HEADER_BYTES + length as usize;
    }
    formats
}

async fn open(files: &SimulatedFiles, newest: Format) -> std::io::Result<Storage> {
    let limits = StateLimits::default();
    Storage::open(Arc::new(files.clone()), 4096, limits, newest, histogram()).await
}
