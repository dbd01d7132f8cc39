//! What a snapshot holds, and who hears of one that was installed.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder};
use tokio::task::unconstrained;

use tandem_cluster::{Change, ClusterState, Command, Format, Proposal, StateLimits};

use super::recovery_tests::{disk, histogram, log_id, runtime};
use super::state_machine::StateMachine;
use super::storage::Storage;
use super::type_config::{Entry, SnapshotMeta};

#[test]
fn a_snapshot_names_the_last_entry_that_it_holds() {
    runtime().block_on(async {
        let mut machine = machine().await;
        let (meta, snapshot) = snapshot_after(&mut machine, 3).await;
        assert_eq!(meta.last_log_id, Some(log_id(1, 2)));
        let state = ClusterState::decode(&snapshot, Format::NEWEST).unwrap();
        assert_eq!(state, *machine.state());
    });
}

#[test]
fn who_follows_the_state_is_told_that_a_snapshot_replaced_it() {
    runtime().block_on(async {
        let (meta, snapshot) = snapshot_after(&mut machine().await, 3).await;
        let mut behind = machine().await;
        let mut changes = behind.changes();
        behind.install_snapshot(&meta, snapshot).await.unwrap();
        assert_eq!(changes.recv().now_or_never(), Some(Some(vec![Change::Replaced])));
    });
}

/// More entries than are published at once.
#[test]
fn every_entry_of_a_long_portion_is_in_the_state_that_is_published() {
    runtime().block_on(async {
        let users = 200;
        let mut machine = machine().await;
        let mut changes = machine.changes();
        let entries = (0..users).map(|index| Ok((calendar(index), None)));
        machine.apply(futures::stream::iter(entries)).await.unwrap();
        let state = machine.state();
        let lost = (0..users).filter(|&index| state.calendar_enabled(&user(index)) != Some(true));
        assert_eq!(lost.collect::<Vec<_>>(), [0; 0]);
        let told = std::iter::from_fn(|| unconstrained(changes.recv()).now_or_never().flatten());
        assert_eq!(told.flatten().count(), 200);
    });
}

async fn machine() -> StateMachine {
    let limits = StateLimits::default();
    let storage = Storage::open(Arc::new(disk()), 4096, limits, Format::NEWEST, histogram()).await;
    storage.unwrap().machine
}

/// Of a machine that has applied so many entries.
async fn snapshot_after(machine: &mut StateMachine, entries: u64) -> (SnapshotMeta, Bytes) {
    let entries = (0..entries).map(|index| Ok((setting(index), None)));
    machine.apply(futures::stream::iter(entries)).await.unwrap();
    let mut builder = machine.get_snapshot_builder().await;
    let built = builder.build_snapshot().await.unwrap();
    (built.meta, built.snapshot)
}

fn user(index: u64) -> String {
    format!("user{index}")
}

fn calendar(index: u64) -> Entry {
    let command = Command::CalendarEnabled {
        users: vec![user(index)],
        enabled: Some(true),
    };
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Proposal::of_unknown(command)),
    }
}

fn setting(index: u64) -> Entry {
    let command = Command::SettingChanged {
        name: "session_timer_secs".to_owned(),
        value: Some((900 + index).to_string()),
    };
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Proposal::of_unknown(command)),
    }
}
