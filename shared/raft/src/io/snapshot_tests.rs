//! What a snapshot holds, and who hears of one that was installed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, RaftSnapshotBuilder};
use tokio::task::{unconstrained, yield_now};

use tandem_cluster::{
    Change, ClusterState, Command, ConnectionId, DialogRecord, Epoch, Format, MonitorRecord, NodeId,
    OpeningKey, Proposal, SessionKey, SessionRecord, StateLimits,
};

use super::recovery_tests::{disk, histogram, log_id, runtime};
use super::snapshot_store::SnapshotData;
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
        let arrived = SnapshotData::Arrived(snapshot);
        behind.install_snapshot(&meta, arrived).await.unwrap();
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

/// More sessions than one portion of a command holds.
#[test]
fn others_run_while_a_loss_is_applied_and_see_nothing_of_it_before_all_of_it() {
    runtime().block_on(async {
        let sessions = 3000;
        let mut machine = machine().await;
        let commands = [registered(1), registered(2)].into_iter();
        let commands = commands.chain((0..sessions).map(opened));
        apply(&mut machine, 0, commands).await;
        let reader = machine.clone();
        let watching = async {
            let mut seen = 0;
            while reader.state().session_count_of(NodeId(1)) > 0 {
                assert_eq!(reader.state().session_count_of(NodeId(1)), 3000);
                seen += 1;
                yield_now().await;
            }
            seen
        };
        let lost = Command::NodeLost {
            id: NodeId(1),
            incarnation: 1,
        };
        let ((), seen) = tokio::join!(apply(&mut machine, sessions + 2, [lost]), watching);
        assert!(seen >= 3, "others ran {seen} times");
        assert_eq!(reader.state().session_count_of(NodeId(2)), 3000);
    });
}

/// A snapshot that is sent may have been replaced by a later one since openraft asked for it.
#[test]
fn a_snapshot_that_is_read_late_says_what_it_is() {
    runtime().block_on(async {
        let mut machine = machine().await;
        snapshot_after(&mut machine, 3).await;
        let asked_for = machine.get_current_snapshot().await.unwrap().unwrap();
        apply(&mut machine, 3, [setting_changed(3)]).await;
        let mut builder = machine.get_snapshot_builder().await;
        builder.build_snapshot().await.unwrap();
        assert_eq!(asked_for.meta.last_log_id, Some(log_id(1, 2)));
        let (meta, bytes) = asked_for.snapshot.read(asked_for.meta).await.unwrap();
        assert_eq!(meta.last_log_id, Some(log_id(1, 3)));
        let state = ClusterState::decode(&bytes, Format::NEWEST).unwrap();
        assert_eq!(state, *machine.state());
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
    built.snapshot.read(built.meta).await.unwrap()
}

fn user(index: u64) -> String {
    format!("user{index}")
}

fn calendar(index: u64) -> Entry {
    let command = Command::CalendarEnabled {
        users: vec![user(index)],
        enabled: Some(true),
    };
    entry(index, command)
}

fn setting(index: u64) -> Entry {
    entry(index, setting_changed(index))
}

fn setting_changed(index: u64) -> Command {
    Command::SettingChanged {
        name: "session_timer_secs".to_owned(),
        value: Some((900 + index).to_string()),
    }
}

fn registered(id: u64) -> Command {
    Command::NodeRegistered {
        id: NodeId(id),
        sip_address: ([127, 0, 0, 1], 5060).into(),
        incarnation: 1,
    }
}

/// At node 1.
fn opened(number: u64) -> Command {
    let record = SessionRecord {
        key: SessionKey::new(format!("n1-{number}")),
        dialog: Arc::new(DialogRecord {
            call_id: String::new(),
            local_identity: String::new(),
            remote_identity: String::new(),
            remote_uri: String::new(),
            route_set: Vec::new(),
            remote_target: String::new(),
            local_target: String::new(),
        }),
        user: user(number),
        line: String::new(),
        device: String::new(),
        monitor: MonitorRecord {
            cross_ref_id: String::new(),
            active: false,
        },
        owner: NodeId(1),
        epoch: Epoch::FIRST,
        connection: ConnectionId([0; 16]),
        client_address: [127, 0, 0, 1].into(),
        expires_at_ms: 0,
        session_interval_secs: 0,
        cti_connection: None,
        calls: BTreeMap::new(),
    };
    Command::SessionOpened {
        opening: OpeningKey {
            top_via: String::new(),
            call_id: String::new(),
            from_tag: String::new(),
            cseq: 1,
            from_uri: user(number),
        },
        record: Box::new(record),
        decided_at_ms: 1,
    }
}

fn entry(index: u64, command: Command) -> Entry {
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Proposal::of_unknown(command)),
    }
}

async fn apply(machine: &mut StateMachine, first: u64, commands: impl IntoIterator<Item = Command>) {
    let entries = (first..).zip(commands);
    let entries: Vec<_> = entries
        .map(|(index, command)| Ok((entry(index, command), None)))
        .collect();
    machine.apply(futures::stream::iter(entries)).await.unwrap();
}
