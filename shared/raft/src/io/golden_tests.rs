//! The bytes of the log, of snapshots and of what members say to each other, in every format.

use std::path::Path;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};

use tandem_cluster::membership::{Introduction, ListedMember, Reach, Remembered, Start, Stranger};
use tandem_cluster::state_comparison::StateMark;
use tandem_cluster::witness::LogPosition;
use tandem_cluster::{
    Actor, Applied, ClusterIdentity, Command, DirectoryId, Format, MemberRecord, MemberRole, NodeId,
    Proposal, RaftId,
};
use tandem_golden::Sample;

use super::administration::{AdministrationAnswer, AdministrationRequest};
use super::frame::{Frame, Kind, encode as encode_body};
use super::messages::{
    Declined, ForwardedProposal, Hello, PeerStatus, ProposalAnswer, SnapshotAnswer, SnapshotChunk, Standing,
    Welcome,
};
use super::record::{EncodedRecord, Place, Reading, Record, read};
use super::small_file;
use super::type_config::{
    Entry, LeaderId, LogId, Membership, Payload, SnapshotMeta, StoredMembership, TypeConfig, VoteRecord,
};
use super::{directory, snapshot_file, stored_snapshot};

/// Compares with the golden file of this name, which belongs to `format`.
#[track_caller]
fn check(file: &str, format: Format, samples: &[Sample]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let released = format <= Format::RELEASE_0_1;
    tandem_golden::check(&folder, &format!("{file}-{}", format.0), released, samples);
}

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
            let bytes = snapshot_file::write(&meta, b"state", format).unwrap();
            let (found, state) = snapshot_file::read(&bytes, Format::NEWEST).unwrap();
            assert_eq!(state, Bytes::from_static(b"state"));
            assert_eq!(
                stored_snapshot::encode_meta(&found, format).unwrap(),
                stored_snapshot::encode_meta(&meta, format).unwrap()
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
        let bytes = snapshot_file::encode_meta(meta).unwrap();
        assert_eq!(snapshot_file::decode_meta(&bytes).as_ref(), Some(meta));
        (name.to_owned(), bytes)
    };
    let of_release_0_1 = [
        sample("empty", &empty_meta()),
        sample("undescribed", &undescribed),
    ];
    check("meta", Format::RELEASE_0_1, &of_release_0_1);
    check("meta", Format::RELEASE_0_2, &[sample("described", &meta())]);
}

/// What members say to each other: the whole frame, so that its header is held as well.
#[test]
fn frames() {
    let mut samples = Vec::new();
    for (kind, name, body) in all_bodies() {
        let mut bytes = bytes::BytesMut::new();
        Frame {
            kind,
            request: 0x0102,
            body,
        }
        .write(&mut bytes);
        samples.push((format!("{kind:?}: {name}"), bytes.to_vec()));
    }
    check("frames", Format::RELEASE_0_2, &samples);
}

#[test]
fn small_files() {
    let remembered = vec![(
        ids()[1],
        Remembered {
            reached: 300,
            format_since_ms: 1_700_000_000_000,
            ..Remembered::first(&introduction(), 5)
        },
    )];
    let samples = [
        (
            "member".to_owned(),
            small_file::write(&directory::sample_stamp()).unwrap(),
        ),
        ("peers".to_owned(), small_file::write(&remembered).unwrap()),
    ];
    check("files", Format::RELEASE_0_2, &samples);
}

fn all_bodies() -> Vec<(Kind, &'static str, Bytes)> {
    fn body(content: &impl serde::Serialize) -> Bytes {
        encode_body(content).unwrap()
    }
    let vote = VoteRecord {
        leader_id: leader(7),
        committed: true,
    };
    let stranger = Stranger::LogWentBack {
        ends_at: 7,
        reached: 300,
    };
    let listed = ListedMember {
        id: NodeId(3),
        role: MemberRole::Witness,
        address: "192.0.2.3:7000".parse().unwrap(),
    };
    let welcome = Welcome {
        incarnation: 9,
        introduction: introduction(),
        reach: reach(),
        stranger: Some(stranger),
        members: vec![listed.clone()],
    };
    let status = PeerStatus {
        incarnation: 9,
        introduction: introduction(),
        reach: reach(),
        stranger: None,
        standing: Standing::Leads {
            quorum_age_ms: 12,
            acknowledged_age_ms: 345,
            committed: 678,
            agrees: Some(true),
            cluster_ms: 1_800_000_000_123,
        },
        connected: vec![(NodeId(3), Start { count: 4, nonce: 5 })],
        writes_snapshot: true,
        clock_ms: 1_800_000_000_456,
    };
    let proposal = Proposal {
        actor: Actor::Member(NodeId(2)),
        command: Command::Expire { before_ms: 9 },
    };
    let hello = Hello {
        cluster: "main".to_owned(),
        from: introduction(),
        to: NodeId(1),
        members: vec![listed],
    };
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: Some(log_id(7, 299)),
        entries: vec![Entry {
            log_id: log_id(7, 300),
            payload: EntryPayload::Normal(proposal.clone()),
        }],
        leader_commit: Some(log_id(7, 298)),
    };
    let chunk = SnapshotChunk {
        offset: 0,
        total: 5,
        vote: vec![1],
        meta: vec![2, 3],
        data: Bytes::from_static(b"state"),
    };
    let forwarded = ForwardedProposal {
        deadline_ms: 900,
        proposal,
    };
    let applied = ProposalAnswer::Applied {
        index: 300,
        applied: Applied::Done,
    };
    let leads_elsewhere = ProposalAnswer::NotLeader {
        leader: Some(NodeId(2)),
    };
    let replace = AdministrationRequest::Replace { number: NodeId(2) };
    let finalise = AdministrationRequest::Finalise {
        without: vec![NodeId(3)],
    };
    let mut bodies = vec![
        (Kind::Hello, "greeting", body(&hello)),
        (Kind::Answer, "welcome", body(&welcome)),
        (Kind::Reach, "reach", body(&reach())),
        (Kind::Answer, "status", body(&status)),
        (Kind::Append, "entries", body(&append)),
        (
            Kind::Answer,
            "appended",
            body(&AppendEntriesResponse::<TypeConfig>::Success),
        ),
        (
            Kind::Answer,
            "conflict",
            body(&AppendEntriesResponse::<TypeConfig>::Conflict),
        ),
        (
            Kind::Vote,
            "vote",
            body(&VoteRequest::<TypeConfig>::new(vote, Some(log_id(7, 300)))),
        ),
        (
            Kind::Answer,
            "voted",
            body(&VoteResponse::<TypeConfig>::new(vote, Some(log_id(7, 300)), true)),
        ),
        (
            Kind::TransferLeader,
            "transfer",
            body(&TransferLeaderRequest::<TypeConfig>::new(
                vote,
                ids()[1],
                Some(log_id(7, 300)),
            )),
        ),
        (Kind::Snapshot, "piece", body(&chunk)),
        (Kind::Answer, "the next piece", body(&SnapshotAnswer::GoOnAt(9))),
        (
            Kind::Answer,
            "the last piece",
            body(&SnapshotAnswer::Done(SnapshotResponse::new(vote))),
        ),
        (Kind::Propose, "proposal", body(&forwarded)),
        (Kind::Answer, "applied", body(&applied)),
        (Kind::Answer, "not the leader", body(&leads_elsewhere)),
        (Kind::Answer, "not finalised", body(&ProposalAnswer::NotFinalised)),
        (Kind::Answer, "unknown", body(&ProposalAnswer::Unknown)),
        (Kind::Answer, "overloaded", body(&ProposalAnswer::Overloaded)),
        (Kind::Administer, "replace", body(&replace)),
        (Kind::Administer, "finalise", body(&finalise)),
        (
            Kind::Answer,
            "administered",
            body(&AdministrationAnswer::Done("done".to_owned())),
        ),
        (Kind::Declined, "you", body(&Declined::You(Stranger::Removed))),
        (Kind::Declined, "me", body(&Declined::Me(stranger))),
    ];
    bodies
        .extend(all_strangers().map(|stranger| (Kind::Declined, "stranger", body(&Declined::You(stranger)))));
    bodies
}

fn all_strangers() -> [Stranger; 8] {
    let (theirs, ours) = (ClusterIdentity(8), ClusterIdentity(7));
    let directory = DirectoryId(55);
    [
        Stranger::AnotherCluster { theirs, ours },
        Stranger::Removed,
        Stranger::AnotherDirectory {
            theirs: directory,
            known: directory,
        },
        Stranger::EarlierStart { theirs: 1, heard: 2 },
        Stranger::SameStartTwice { count: 3 },
        Stranger::LogWentBack {
            ends_at: 1,
            reached: 2,
        },
        Stranger::Newcomer,
        Stranger::EarlierRelease {
            reads: Format::RELEASE_0_1,
            written: Format::RELEASE_0_2,
        },
    ]
}

fn introduction() -> Introduction {
    Introduction {
        id: ids()[1],
        role: MemberRole::Node,
        directory: DirectoryId(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
        cluster: Some(ClusterIdentity(7)),
        start: Start { count: 4, nonce: 44 },
        newest_format: Format::RELEASE_0_2,
    }
}

fn reach() -> Reach {
    Reach {
        last: LogPosition { term: 7, index: 300 },
        applied: 298,
        initialized: true,
        disk_nearly_full: false,
        disk_stands_still: false,
        state_mark: Some(StateMark {
            index: 6,
            hash: [7; 16],
        }),
    }
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
        address: "192.0.2.1:7000".parse().unwrap(),
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
