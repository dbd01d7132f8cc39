//! Records and snapshots that another release wrote: the member does not start, and touches nothing.

use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

use tandem_cluster::{Actor, Command, Format, MemberRole, NodeId, Proposal, RaftId, StateLimits};

use super::config::{ClusterConfig, Member};
use super::errors::StartError;
use super::handle::Cluster;
use super::metrics::RaftMetrics;
use super::record::{EncodedRecord, HEADER_BYTES, Place};
use super::recovery::{name_of, number_of};
use super::recovery_tests::{disk, entry, histogram, log_id, runtime, vote};
use super::storage::Storage;
use super::type_config::Entry;
use tandem_runtime::io::environment::files::Files;
use tandem_runtime::io::environment::simulated::SimulatedFiles;
use tandem_runtime::io::transport::TcpTransport;

const SEGMENT_BYTES: u64 = 1024;

/// Right checksums all of them. None is what this program writes.
fn foreign_records() -> Vec<(&'static str, EncodedRecord)> {
    let newest = Format::NEWEST;
    let known = |payload: Vec<u8>, kind, format| EncodedRecord {
        format,
        kind,
        payload,
    };
    let vote = EncodedRecord::vote(&vote(9), newest).unwrap();
    let entry = EncodedRecord::entry(&entry(70, "an entry"), newest).unwrap();
    let more = |record: &EncodedRecord| known([&*record.payload, &[0]].concat(), record.kind, record.format);
    let less = |record: &EncodedRecord| {
        let payload = &record.payload[..record.payload.len() - 1];
        known(payload.to_vec(), record.kind, record.format)
    };
    vec![
        (
            "a vote of a later format",
            known(vote.payload.clone(), 2, Format(newest.0 + 1)),
        ),
        (
            "a vote of the last format",
            known(vote.payload.clone(), 2, Format(255)),
        ),
        ("a vote of no format", known(vote.payload.clone(), 2, Format(0))),
        (
            "an entry of a later format",
            known(entry.payload.clone(), 1, Format(newest.0 + 1)),
        ),
        ("an unknown kind", known(vote.payload.clone(), 200, newest)),
        (
            "an unknown kind of release 0.1",
            known(vote.payload.clone(), 6, Format::RELEASE_0_1),
        ),
        ("something behind a vote", more(&vote)),
        ("something behind an entry", more(&entry)),
        ("a vote that lacks something", less(&vote)),
        ("an entry that lacks something", less(&entry)),
        ("nothing but a header", known(Vec::new(), 2, newest)),
        ("an unknown command", known(unknown_command(), 1, newest)),
        (
            "a command that its format cannot hold",
            known(late_command(), 1, Format::RELEASE_0_1),
        ),
        (
            "a command in an envelope of a later format",
            known(later_envelope(), 1, newest),
        ),
    ]
}

/// In the format of release 0.1: log id, payload 1, and the number of a command that does not exist.
fn unknown_command() -> Vec<u8> {
    vec![1, 1, 70, 1, Format::RELEASE_0_2.0.try_into().unwrap(), 0, 120, 1]
}

fn late_command() -> Vec<u8> {
    let id = RaftId::new(1, NodeId(1));
    let command = postcard::to_stdvec(&Command::MemberRemoved { id }).unwrap();
    [&[1, 1, 70, 1], &*command].concat()
}

fn later_envelope() -> Vec<u8> {
    let mut payload = vec![1, 1, 70, 1, u8::try_from(Format::NEWEST.0 + 1).unwrap()];
    payload.extend(postcard::to_stdvec(&Actor::Unknown).unwrap());
    payload.extend(postcard::to_stdvec(&Command::Expire { before_ms: 1 }).unwrap());
    payload
}

#[test]
fn a_foreign_record_at_the_end_is_refused_and_kept() {
    for (what, record) in foreign_records() {
        let files = written();
        let (last, end, next) = end_of_log(&files);
        put_record(&files, last, end, next, next, &record);
        refused(&files, last, next, what);
    }
}

#[test]
fn a_foreign_record_with_known_ones_behind_it_is_refused_and_kept() {
    for (what, record) in foreign_records() {
        let files = written();
        let (last, end, next) = end_of_log(&files);
        put_record(&files, last, end, next, next, &record);
        let known = EncodedRecord::vote(&vote(10), Format::RELEASE_0_1).unwrap();
        let behind = end + record.length();
        put_record(&files, last, behind, next + 1, next + 1, &known);
        refused(&files, last, next, what);
    }
}

#[test]
fn a_foreign_record_in_an_earlier_file_is_refused_and_kept() {
    for (what, record) in foreign_records() {
        let files = written();
        let (last, _, next) = end_of_log(&files);
        let first = log_numbers(&files)[0];
        assert!(first + 1 < last, "the log has several files");
        // At the start of the first file, in place of what was there, and in the space at its end.
        let (end, sequence) = end_of_file(&files, first);
        for (offset, sequence) in [(0, 0), (end, sequence)] {
            let files = written();
            put_record(&files, first, offset, sequence, sequence, &record);
            refused(&files, first, sequence, what);
        }
        assert!(next > 0);
    }
}

#[test]
fn a_foreign_record_behind_damage_is_refused_as_foreign() {
    for (what, record) in foreign_records() {
        let files = written();
        let (last, end, next) = end_of_log(&files);
        // A hole where one record was, then the foreign one: of the same batch, then of a later one.
        for batch in [next, next + 1] {
            let (sequence, offset) = (next + 1, end + 40);
            put_record(&files, last, offset, sequence, batch, &record);
            refused(&files, last, sequence, what);
        }
        // Damage in an earlier file.
        let first = name_of(log_numbers(&files)[0]);
        let mut bytes = files.read(&first).unwrap().unwrap();
        bytes[HEADER_BYTES] ^= 1;
        files.put(&first, bytes);
        refused(&files, last, next + 1, what);
    }
}

#[test]
fn a_member_of_release_0_1_names_both_formats() {
    let files = written();
    let (last, end, next) = end_of_log(&files);
    let record = EncodedRecord::vote(&vote(9), Format::RELEASE_0_2).unwrap();
    put_record(&files, last, end, next, next, &record);
    let before = contents(&files);
    let error = open(&files, Format::RELEASE_0_1).map(drop).unwrap_err();
    let expected = format!(
        "{}: record {next} is written in format 2 (release 0.2); this program reads up to format 1 (release 0.1): \
         start the release that wrote it; nothing was changed",
        name_of(last)
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(contents(&files), before);
    open(&files, Format::RELEASE_0_2).unwrap();
}

#[test]
fn the_file_that_was_not_finished_stays_as_long_as_the_log_is_not_understood() {
    let files = written();
    let (last, end, next) = end_of_log(&files);
    let unfinished = format!("{}.new", name_of(last + 1));
    files.put(&unfinished, vec![0; 5]);
    files.put("snapshot.new", vec![0; 5]);
    let known = files.read(&name_of(last)).unwrap().unwrap();
    let record = EncodedRecord::vote(&vote(9), Format(9)).unwrap();
    put_record(&files, last, end, next, next, &record);
    refused(&files, last, next, "a vote");
    files.put(&name_of(last), known);
    open(&files, Format::NEWEST).unwrap();
    assert!(files.list().unwrap().iter().all(|name| !name.ends_with(".new")));
}

#[test]
fn a_foreign_snapshot_keeps_the_log_as_it_is() {
    let files = written();
    let (last, end, _) = end_of_log(&files);
    // An unfinished batch, which a start would cut off.
    let mut bytes = files.read(&name_of(last)).unwrap().unwrap();
    bytes[end..end + 5].fill(7);
    files.put(&name_of(last), bytes);
    let mut snapshot = vec![9, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let checksum = crc32fast::hash(&[&snapshot[..1], &snapshot[5..]].concat());
    snapshot[1..5].copy_from_slice(&checksum.to_le_bytes());
    files.put("snapshot", snapshot);
    let before = contents(&files);
    let error = open(&files, Format::NEWEST).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("snapshot is written in format 9"), "{error}");
    assert!(error.contains("this program reads up to format 2"), "{error}");
    assert_eq!(contents(&files), before);
}

#[test]
fn a_log_that_was_purged_up_to_a_snapshot_that_is_gone_is_refused() {
    let files = written();
    runtime().block_on(async {
        let mut log = open_in(&files, Format::NEWEST).await.unwrap().log;
        log.purge(log_id(1, 3)).await.unwrap();
    });
    let before = contents(&files);
    let error = open(&files, Format::NEWEST).map(drop).unwrap_err().to_string();
    assert!(
        error.starts_with("the snapshot is missing or older than the log"),
        "{error}"
    );
    assert_eq!(contents(&files), before);
}

/// The same for everything else that a member keeps in its directory.
#[tokio::test]
async fn a_member_that_does_not_understand_its_log_leaves_the_directory_alone() {
    let files = disk();
    put_record_into_new_file(&files);
    let before = contents(&files);
    let member = Member {
        id: NodeId(1),
        role: MemberRole::Node,
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into(),
    };
    let config = ClusterConfig::new("lab", NodeId(1), vec![member], "", StateLimits::default());
    let metrics = RaftMetrics::register(&prometheus::Registry::new()).unwrap();
    let started = Cluster::start(config, TcpTransport, Arc::new(files.clone()), metrics).await;
    let Err(StartError::Storage(error)) = started.map(drop) else {
        panic!("the member has started");
    };
    assert!(
        error
            .to_string()
            .starts_with("log-000000000001: record 0 is written in format 9"),
        "{error}"
    );
    assert_eq!(contents(&files), before);
}

fn put_record_into_new_file(files: &SimulatedFiles) {
    files.put(&name_of(1), vec![0; 1024]);
    let record = EncodedRecord::vote(&vote(9), Format(9)).unwrap();
    put_record(files, 1, 0, 0, 0, &record);
}

/// An entry whose command no earlier format holds is written in the format that holds it, and only that entry.
#[test]
fn an_entry_of_a_later_format_is_not_taken_by_a_member_that_cannot_read_it() {
    let files = disk();
    let format = Format::RELEASE_0_2;
    let finalised = Proposal::of_unknown(Command::FormatFinalised { format });
    let entry = |index, proposal: &Proposal| Entry {
        log_id: log_id(1, index),
        payload: openraft::EntryPayload::Normal(proposal.clone()),
    };
    runtime().block_on(async {
        let mut old = open_in(&files, Format::RELEASE_0_1).await.unwrap().log;
        let error = old
            .blocking_append([entry(0, &finalised)])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("an entry needs format 2 (release 0.2)"), "{error}");
    });
    runtime().block_on(async {
        let mut new = open_in(&files, Format::RELEASE_0_2).await.unwrap().log;
        new.blocking_append([entry(0, &finalised)]).await.unwrap();
        let expire = Proposal::of_unknown(Command::Expire { before_ms: 1 });
        new.blocking_append([entry(1, &expire)]).await.unwrap();
    });
    let bytes = files.read(&name_of(1)).unwrap().unwrap();
    let second = HEADER_BYTES + usize::from(bytes[0]);
    assert_eq!((bytes[8], bytes[second + 8]), (2, 1));
}

/// Several files of votes and entries in the format of release 0.1.
fn written() -> SimulatedFiles {
    let files = disk();
    runtime().block_on(async {
        let mut log = open_in(&files, Format::NEWEST).await.unwrap().log;
        log.save_vote(&vote(1)).await.unwrap();
        for index in 0..40 {
            let entry = entry(index, "some text to fill the file");
            log.blocking_append([entry]).await.unwrap();
        }
    });
    files
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

fn open(files: &SimulatedFiles, newest: Format) -> std::io::Result<Storage> {
    runtime().block_on(open_in(files, newest))
}

#[track_caller]
fn refused(files: &SimulatedFiles, file: u64, sequence: u64, what: &str) {
    let before = contents(files);
    for _ in 0..3 {
        let error = open(files, Format::NEWEST).map(drop).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{what}");
        let error = error.to_string();
        let named = format!("{}: record {sequence} is written in format ", name_of(file));
        assert!(error.starts_with(&named), "{what}: {error}");
        assert!(
            error.contains("reads up to format 2 (release 0.2)"),
            "{what}: {error}"
        );
        assert!(error.ends_with("nothing was changed"), "{what}: {error}");
        assert_eq!(contents(files), before, "{what}");
    }
}

fn put_record(
    files: &SimulatedFiles,
    segment: u64,
    offset: usize,
    sequence: u64,
    batch: u64,
    record: &EncodedRecord,
) {
    let mut bytes = files.read(&name_of(segment)).unwrap().unwrap();
    let mut written = Vec::new();
    let place = Place {
        segment,
        sequence,
        batch,
    };
    record.write(place, &mut written);
    assert!(offset + written.len() < bytes.len(), "no room in the file");
    bytes[offset..offset + written.len()].copy_from_slice(&written);
    files.put(&name_of(segment), bytes);
}

fn log_numbers(files: &SimulatedFiles) -> Vec<u64> {
    let names = files.list().unwrap();
    names.iter().filter_map(|name| number_of(name)).collect()
}

/// The last file, where its records end, and the sequence of the next record.
fn end_of_log(files: &SimulatedFiles) -> (u64, usize, u64) {
    let last = *log_numbers(files).last().unwrap();
    let (end, next) = end_of_file(files, last);
    (last, end, next)
}

fn end_of_file(files: &SimulatedFiles, number: u64) -> (usize, u64) {
    let bytes = files.read(&name_of(number)).unwrap().unwrap();
    let (mut end, mut next) = (0, 0);
    while bytes.get(end + 8).is_some_and(|format| *format != 0) {
        next = u64::from_le_bytes(bytes[end + 10..end + 18].try_into().unwrap()) + 1;
        end += HEADER_BYTES + u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
    }
    (end, next)
}

fn contents(files: &SimulatedFiles) -> Vec<(String, Vec<u8>)> {
    let names = files.list().unwrap().into_iter();
    names
        .map(|name| (name.clone(), files.read(&name).unwrap().unwrap()))
        .collect()
}
