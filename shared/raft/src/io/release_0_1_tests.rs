//! The directories of a small cluster that release 0.1 wrote. `tests/testdata/release-0.1/README.md` says what is in them.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};

use tandem_cluster::{
    Actor, AssignmentReason, CasId, ClusterState, Command, DirectoryId, Epoch, Format, Incarnation,
    MemberRecord, MemberRole, NodeId, Proposal, RaftId, StateLimits,
};

use super::config::{ClusterConfig, Member};
use super::handle::Cluster;
use super::metrics::RaftMetrics;
use super::record::{EncodedRecord, Place, Reading, Record, read};
use super::recovery::number_of;
use super::recovery_tests::{disk, encoded, histogram, runtime};
use super::storage::Storage;
use super::type_config::{Entry, LeaderId, LogId, Membership, VoteRecord};
use tandem_runtime::io::environment::files::{Files, RealFiles};
use tandem_runtime::io::environment::simulated::SimulatedFiles;
use tandem_runtime::io::transport::TcpTransport;

const MEMBERS: [u64; 3] = [1, 2, 100];
const SEGMENT_BYTES: u64 = 4096;
const FORMATS: [Format; 2] = [Format::RELEASE_0_1, Format::RELEASE_0_2];

#[test]
fn every_directory_holds_what_was_written() {
    for member in MEMBERS {
        for newest in FORMATS {
            let files = directory(member);
            let mut storage = open(&files, newest);
            let found = runtime().block_on(state_of(&mut storage));
            assert_eq!(found, expected_state(), "member {member} up to {newest}");
            check_facts(&found);
            let bytes = encoded(&found, Format::RELEASE_0_1);
            assert!(
                bytes == file("state"),
                "the state has other bytes than release 0.1 wrote"
            );
        }
    }
}

#[test]
fn nothing_is_written_when_a_directory_is_opened() {
    for member in MEMBERS {
        let files = directory(member);
        let before = contents(&files);
        for _ in 0..3 {
            open(&files, Format::NEWEST);
            files.crash();
        }
        assert!(contents(&files) == before, "member {member}");
    }
}

#[test]
fn every_record_is_written_as_release_0_1_wrote_it() {
    for member in MEMBERS {
        let mut count = 0;
        for (name, bytes) in contents(&directory(member)) {
            let Some(segment) = number_of(&name) else { continue };
            for (place, record, written) in records(segment, &bytes) {
                let mut again = Vec::new();
                encode(&record).write(place, &mut again);
                assert_eq!(again, written, "record {} of member {member}", place.sequence);
                count += 1;
            }
        }
        assert!(count > 300, "member {member} has {count} records");
    }
}

/// With everything that release 0.1 does not know in memory, and nothing of it on the disk.
#[test]
fn what_follows_is_written_in_the_format_of_release_0_1() {
    for member in MEMBERS {
        let files = directory(member);
        let last = runtime().block_on(async {
            let mut storage = open_in(&files, Format::NEWEST).await.unwrap();
            let state = state_of(&mut storage).await;
            assert_eq!(state.format(), Format::RELEASE_0_1);
            write_more(&mut storage).await
        });
        let mut count = 0;
        for (name, bytes) in contents(&files) {
            let Some(segment) = number_of(&name) else {
                assert_eq!((name.as_str(), bytes[0]), ("snapshot", 1));
                continue;
            };
            for (place, _, written) in records(segment, &bytes) {
                assert_eq!(written[8], 1, "record {} of member {member}", place.sequence);
                count += 1;
            }
        }
        assert!(count > 100, "{count} records");
        // As a member that knows nothing later.
        let mut again = open(&files, Format::RELEASE_0_1);
        let state = runtime().block_on(state_of(&mut again));
        assert_eq!(again.log.last_log_id(), Some(last));
        assert_eq!(state.setting("session_timer_secs"), Some("1200"));
        let (meta, bytes) = runtime().block_on(snapshot_of(&mut again));
        assert_eq!((meta.last_log_id, bytes[0]), (Some(last), 2));
    }
}

/// Empty and short files behind the last one, as release 0.1 left them when its disk was full.
#[test]
fn files_that_release_0_1_left_on_a_full_disk_are_accepted() {
    for length in [0, 1, 26, 4095, 4096] {
        for member in MEMBERS {
            let files = directory(member);
            let names = files.list().unwrap();
            let last = names.iter().filter_map(|name| number_of(name)).max().unwrap();
            let unused = format!("log-{:012}", last + 1);
            files.put(&unused, vec![0; length]);
            for _ in 0..3 {
                let mut storage = open(&files, Format::NEWEST);
                assert_eq!(runtime().block_on(state_of(&mut storage)), expected_state());
                files.crash();
            }
            assert!(!files.list().unwrap().contains(&unused));
        }
    }
}

/// The three members start as one cluster, go on from what they had, and still write nothing that release 0.1 could not
/// read.
#[test]
fn a_cluster_of_release_0_1_goes_on() {
    let lab = tempfile::tempdir().unwrap();
    for member in MEMBERS {
        let to = lab.path().join(member.to_string());
        std::fs::create_dir(&to).unwrap();
        for (name, bytes) in contents(&directory(member)) {
            std::fs::write(to.join(name), bytes).unwrap();
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let members = start_all(lab.path()).await;
        let mut expected = expected_state();
        for (number, member) in members.iter().enumerate() {
            let user = format!("new-{number}");
            let command = Command::CasAssign {
                users: vec![user],
                at_ms: 5,
            };
            let applied = member.propose(command.clone(), GENEROUS).await.unwrap();
            assert_eq!(applied, expected.apply(command).0);
            // What was proposed here is applied here.
            let state = member.state();
            assert_eq!(state.assignments(), expected.assignments());
            assert!(state.sessions().eq(expected.sessions()));
            assert_eq!(state.format(), Format::RELEASE_0_1);
        }
        for member in members {
            member.shutdown().await;
        }
    });
    drop(runtime);
    for member in MEMBERS {
        for name in ["log-000000000010", "log-000000000011"] {
            let Ok(bytes) = std::fs::read(lab.path().join(member.to_string()).join(name)) else {
                continue;
            };
            let segment = number_of(name).unwrap();
            assert!(
                records(segment, &bytes)
                    .iter()
                    .all(|(_, _, written)| written[8] == 1)
            );
        }
    }
}

async fn start_all(lab: &Path) -> Vec<Cluster> {
    let listeners = MEMBERS.map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses: Vec<SocketAddr> = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect();
    drop(listeners);
    let roles = [MemberRole::Node, MemberRole::Node, MemberRole::Witness];
    let members: Vec<Member> = MEMBERS
        .iter()
        .zip(roles)
        .zip(addresses)
        .map(|((id, role), address)| Member {
            id: NodeId(*id),
            role,
            address: address.into(),
        })
        .collect();
    let mut started = Vec::new();
    for (position, id) in MEMBERS.into_iter().enumerate() {
        let path = lab.join(id.to_string());
        let limits = StateLimits::default();
        let mut config = ClusterConfig::new("lab", NodeId(id), members.clone(), &path, limits);
        config.incarnation = Incarnation::first((70 + position as u64) << 16);
        config.timings.expire_interval = Duration::from_secs(3600);
        config.timings.silent_after = Duration::from_secs(3600);
        let files = Arc::new(RealFiles::open(path).unwrap());
        let metrics = RaftMetrics::register(&prometheus::Registry::new()).unwrap();
        let cluster = Cluster::start(config, TcpTransport, files, metrics).await;
        started.push(cluster.unwrap());
    }
    started
}

fn check_facts(state: &ClusterState) {
    assert!(state.live_nodes().eq([NodeId(1), NodeId(2)]));
    assert_eq!(state.assignments().len(), 460 + 40 + 2 + 25);
    let moved = state.assignments().values();
    let moved = moved.filter(|assignment| assignment.reason == AssignmentReason::Failed);
    assert_eq!(moved.count(), 10);
    assert_eq!(
        state.assignment("late-24").map(|assignment| assignment.epoch),
        Some(0)
    );
    let gateways: Vec<_> = state.cas_gateways().iter().map(|gateway| &gateway.id).collect();
    assert_eq!(
        gateways,
        ["cas-1", "cas-2", "cas-3"]
            .map(|name| CasId(name.to_owned()))
            .each_ref()
    );
    assert!(state.cas_gateways()[2].broken_for.contains(&NodeId(2)));
    assert_eq!(state.sessions().count(), 3);
    let moved = state.sessions().filter(|session| session.epoch > Epoch::FIRST);
    assert_eq!(moved.count(), 1, "one session moved when its node died");
    assert_eq!(state.watchers().len(), 1);
    assert_eq!(state.setting("session_timer_secs"), Some("900"));
    let intents = state
        .sessions()
        .map(|session| state.intents_of(&session.key).count());
    assert_eq!(intents.sum::<usize>(), 1);
    assert_eq!(state.calendar_enabled("user-008"), Some(false));
    assert!(
        state
            .presence("user-007")
            .is_some_and(|record| record.manual.is_some())
    );
}

/// Everything in the log is committed here: the snapshot's state, and the entries behind it.
async fn state_of(storage: &mut Storage) -> ClusterState {
    let mut state = ClusterState::clone(&storage.machine.state());
    let first = storage.machine.last_applied().map_or(0, |id| id.index() + 1);
    for entry in storage.log.try_get_log_entries(first..).await.unwrap() {
        if let EntryPayload::Normal(proposal) = entry.payload {
            assert_eq!(proposal.actor, Actor::Unknown);
            state.apply(proposal.command);
        }
    }
    state
}

/// Votes, entries of every kind, a truncation, a snapshot and a purge. The last entry that is left.
async fn write_more(storage: &mut Storage) -> LogId {
    let Storage { log, machine } = storage;
    let first = machine.last_applied().map_or(0, |id| id.index() + 1);
    let mut entries = log.try_get_log_entries(first..).await.unwrap();
    let vote = VoteRecord {
        leader_id: leader(),
        committed: true,
    };
    log.save_vote(&vote).await.unwrap();
    let next = log.last_log_id().map_or(0, |id| id.index() + 1);
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Membership(described_members()),
        EntryPayload::Normal(Proposal {
            actor: Actor::Administrator("somebody".to_owned()),
            command: Command::SettingChanged {
                name: "session_timer_secs".to_owned(),
                value: Some("1200".to_owned()),
            },
        }),
    ];
    let numbered = |first: u64| {
        let payloads = payloads.clone().into_iter().zip(first..);
        payloads.map(|(payload, index)| Entry {
            log_id: LogId::new(leader(), index),
            payload,
        })
    };
    let written: Vec<Entry> = numbered(next).collect();
    let last = written[2].log_id;
    log.blocking_append(written.clone()).await.unwrap();
    log.blocking_append(numbered(next + 3).collect::<Vec<_>>())
        .await
        .unwrap();
    log.truncate_after(Some(last)).await.unwrap();
    log.save_committed(Some(last)).await.unwrap();
    entries.extend(written);
    let applied = futures::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
    machine.apply(applied).await.unwrap();
    machine
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    let purged = LogId::new(leader(), next - 20);
    log.purge(purged).await.unwrap();
    last
}

async fn snapshot_of(storage: &mut Storage) -> (super::type_config::SnapshotMeta, bytes::Bytes) {
    let snapshot = storage.machine.get_current_snapshot().await.unwrap().unwrap();
    snapshot.snapshot.read(snapshot.meta).await.unwrap()
}

fn leader() -> LeaderId {
    LeaderId {
        term: 1000,
        node_id: RaftId::new(0, NodeId(1)),
    }
}

fn described_members() -> Membership {
    let ids = MEMBERS.map(RaftId::from);
    let described = |id: RaftId| MemberRecord::Described {
        address: SocketAddr::from(([192, 0, 2, 1], 7000)).into(),
        role: MemberRole::Node,
        directory: DirectoryId(u128::from(id.as_u64())),
    };
    let members: std::collections::BTreeMap<_, _> = ids.map(|id| (id, described(id))).into();
    Membership::new(vec![ids.into()], members).unwrap()
}

fn encode(record: &Record) -> EncodedRecord {
    let format = Format::RELEASE_0_1;
    match record {
        Record::Entry(entry) => EncodedRecord::entry(entry, format),
        Record::Vote(vote) => EncodedRecord::vote(vote, format),
        Record::TruncatedAfter(index) => EncodedRecord::truncated_after(*index, format),
        Record::PurgedTo(id) => EncodedRecord::purged_to(*id, format),
        Record::Committed(id) => EncodedRecord::committed(*id, format),
    }
    .unwrap()
}

/// Every record of a file, with its bytes.
fn records(segment: u64, bytes: &[u8]) -> Vec<(Place, Record, Vec<u8>)> {
    let mut records = Vec::new();
    let mut offset = 0;
    while let Reading::Whole(found) = read(segment, &bytes[offset..], Format::NEWEST) {
        let written = bytes[offset..offset + found.length].to_vec();
        offset += found.length;
        records.push((found.place, found.record, written));
    }
    assert!(
        bytes[offset..].iter().all(|byte| *byte == 0),
        "something behind byte {offset}"
    );
    records
}

fn open(files: &SimulatedFiles, newest: Format) -> Storage {
    runtime().block_on(open_in(files, newest)).unwrap()
}

async fn open_in(files: &SimulatedFiles, newest: Format) -> std::io::Result<Storage> {
    let limits = StateLimits::default();
    Storage::open(
        Arc::new(files.clone()),
        SEGMENT_BYTES,
        limits,
        newest,
        histogram(),
    )
    .await
}

fn directory(member: u64) -> SimulatedFiles {
    let files = disk();
    for entry in std::fs::read_dir(path(&member.to_string())).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        files.put(&name, std::fs::read(entry.path()).unwrap());
    }
    files
}

fn expected_state() -> ClusterState {
    ClusterState::decode(&file("state"), Format::RELEASE_0_1).unwrap()
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap()
}

fn path(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/testdata/release-0.1");
    data.join(name)
}

fn contents(files: &SimulatedFiles) -> Vec<(String, Vec<u8>)> {
    let names = files.list().unwrap().into_iter();
    names
        .map(|name| (name.clone(), files.read(&name).unwrap().unwrap()))
        .collect()
}

const GENEROUS: Duration = Duration::from_secs(30);
