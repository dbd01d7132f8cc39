//! The bytes of the log and of snapshots, in every format.

use bytes::Bytes;
use openraft::EntryPayload;

use crate::cluster::golden_tests::{Sample, check};
use crate::cluster::{
    Actor, Command, DirectoryId, Format, MemberRecord, MemberRole, NodeId, Proposal, RaftId,
};

use super::record::{EncodedRecord, Place, Reading, Record, read};
use super::snapshot_store;
use super::stored;
use super::type_config::{
    Entry, LeaderId, LogId, Membership, Payload, SnapshotMeta, StoredMembership, VoteRecord,
};

const FORMATS: [Format; 2] = [Format::RELEASE_0_1, Format::RELEASE_0_2];

#[test]
fn records() {
    for format in FORMATS {
        let mut samples = Vec::new();
        for (name, record) in all_records() {
            let encoded = encode(&record, format);
            let mut bytes = Vec::new();
            encoded.write(PLACE, &mut bytes);
            let Reading::Whole(found) = read(PLACE.segment, &bytes, Format::NEWEST) else {
                panic!("{name} is not read again");
            };
            assert_eq!((found.place, found.length), (PLACE, bytes.len()));
            if encoded.format >= Format::RELEASE_0_2 {
                assert_eq!(found.record, record, "{name}");
            } else {
                // Who proposed, and where members are, is lost; nothing else is.
                assert_eq!(encode(&found.record, format), encoded, "{name}");
            }
            if encoded.format == format {
                samples.push((name.to_owned(), bytes));
            }
        }
        check("records", format, &samples);
    }
}

#[test]
fn snapshots() {
    for format in FORMATS {
        let metas = [("empty", empty_meta()), ("whole", meta())];
        let samples = metas.map(|(name, meta)| {
            let bytes = snapshot_store::write(&meta, b"state", format).unwrap();
            let (found, state) = snapshot_store::read(&bytes, Format::NEWEST).unwrap();
            assert_eq!(state, Bytes::from_static(b"state"));
            assert_eq!(
                stored::encode_meta(&found, format).unwrap(),
                stored::encode_meta(&meta, format).unwrap()
            );
            (name.to_owned(), bytes)
        });
        check("snapshot", format, &samples);
    }
}

/// As members send them to each other; in the format of release 0.1 where that holds all of it.
#[test]
fn descriptions_of_snapshots() {
    let undescribed = SnapshotMeta {
        last_membership: StoredMembership::new(Some(log_id(1, 3)), undescribed_members()),
        ..meta()
    };
    let sample = |name: &str, meta: &SnapshotMeta| -> Sample {
        let bytes = snapshot_store::encode_meta(meta).unwrap();
        assert_eq!(snapshot_store::decode_meta(&bytes).as_ref(), Some(meta));
        (name.to_owned(), bytes)
    };
    let of_release_0_1 = [
        sample("empty", &empty_meta()),
        sample("undescribed", &undescribed),
    ];
    check("meta", Format::RELEASE_0_1, &of_release_0_1);
    check("meta", Format::RELEASE_0_2, &[sample("described", &meta())]);
}

fn all_records() -> Vec<(&'static str, Record)> {
    let entry = |payload: Payload| {
        Record::Entry(Entry {
            log_id: log_id(70_000, 300),
            payload,
        })
    };
    let proposed = |actor, command| entry(EntryPayload::Normal(Proposal { actor, command }));
    let vote = |committed| {
        Record::Vote(VoteRecord {
            leader_id: leader(7),
            committed,
        })
    };
    let expire = || Command::Expire { before_ms: 9 };
    let format = Format::RELEASE_0_2;
    vec![
        ("entry: blank", entry(EntryPayload::Blank)),
        (
            "entry: proposal of nobody known",
            proposed(Actor::Unknown, expire()),
        ),
        (
            "entry: proposal of a member",
            proposed(Actor::Member(NodeId(2)), expire()),
        ),
        (
            "entry: proposal of a person",
            proposed(Actor::Administrator("somebody".to_owned()), expire()),
        ),
        (
            "entry: proposal of release 0.2",
            proposed(Actor::Unknown, Command::FormatFinalised { format }),
        ),
        (
            "entry: members",
            entry(EntryPayload::Membership(undescribed_members())),
        ),
        (
            "entry: described members",
            entry(EntryPayload::Membership(members())),
        ),
        ("vote: granted", vote(false)),
        ("vote: committed", vote(true)),
        ("truncated after an entry", Record::TruncatedAfter(Some(300))),
        ("truncated after nothing", Record::TruncatedAfter(None)),
        ("purged", Record::PurgedTo(log_id(7, 290))),
        ("committed", Record::Committed(log_id(7, 300))),
    ]
}

fn encode(record: &Record, format: Format) -> EncodedRecord {
    match record {
        Record::Entry(entry) => EncodedRecord::entry(entry, format),
        Record::Vote(vote) => EncodedRecord::vote(vote, format),
        Record::TruncatedAfter(index) => EncodedRecord::truncated_after(*index, format),
        Record::PurgedTo(id) => EncodedRecord::purged_to(*id, format),
        Record::Committed(id) => EncodedRecord::committed(*id, format),
    }
    .unwrap()
}

fn empty_meta() -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: None,
        last_membership: StoredMembership::default(),
    }
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(log_id(7, 300)),
        last_membership: StoredMembership::new(Some(log_id(1, 3)), members()),
    }
}

/// A change under way, and a member without a vote.
fn members() -> Membership {
    let described = MemberRecord::Described {
        address: ([192, 0, 2, 1], 7000).into(),
        role: MemberRole::Node,
        directory: DirectoryId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
    };
    let [first, second, witness, learner] = ids();
    let voters = vec![[first, witness].into(), [second, witness].into()];
    let records: std::collections::BTreeMap<_, _> = [
        (first, MemberRecord::Undescribed),
        (second, described.clone()),
        (witness, described.clone()),
        (learner, described),
    ]
    .into();
    Membership::new(voters, records).unwrap()
}

fn undescribed_members() -> Membership {
    let [first, second, witness, learner] = ids();
    let voters = vec![[first, witness].into(), [second, witness].into()];
    Membership::new_with_defaults(voters, [learner])
}

fn ids() -> [RaftId; 4] {
    [
        RaftId::new(0, NodeId(1)),
        RaftId::new(0x7f3a_91c2, NodeId(2)),
        RaftId::new(0, NodeId(100)),
        RaftId::new(1, NodeId(3)),
    ]
}

fn leader(term: u64) -> LeaderId {
    LeaderId {
        term,
        node_id: RaftId::new(0x7f3a_91c2, NodeId(2)),
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(leader(term), index)
}

const PLACE: Place = Place {
    segment: 7,
    sequence: 300,
    batch: 298,
};
