//! The records of the log: bytes on disk ↔ what openraft wrote. Pure.
//!
//! ```text
//! length u32 | crc32 u32 | version u8 | kind u8 | sequence u64 | batch u64 | payload (postcard)
//! ```
//! The checksum covers the segment's number, the header after it and the payload. `sequence` counts all records
//! without a gap; `batch` is the sequence of the first record that went to the disk in the same write, so
//! everything before `batch` was known to be on the disk when this record was written. Stored types are our own:
//! another version of openraft must be able to read them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use crate::cluster::{Command, Proposal, RaftId};

use super::type_config::{Entry, LeaderId, LogId, Membership, Payload, VoteRecord};

/// What the log remembers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    Entry(Entry),
    Vote(VoteRecord),
    /// Entries above this index are void; all of them for `None`.
    TruncatedAfter(Option<u64>),
    PurgedTo(LogId),
    /// Everything up to here may be applied at the next start. Written with the next batch, never waited for.
    Committed(LogId),
}

/// A record before it has its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncodedRecord {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Where a record lies: what its checksum and its header say besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) batch: u64,
}

/// A record found on disk.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FoundRecord {
    pub(super) place: Place,
    pub(super) record: Record,
    /// The same as it lies there, header aside.
    pub(super) encoded: EncodedRecord,
    /// Bytes it takes, header and all.
    pub(super) length: usize,
}

impl EncodedRecord {
    pub(super) fn entry(entry: &Entry) -> Result<Self, postcard::Error> {
        Self::new(KIND_ENTRY, &StoredEntry::from_entry(entry))
    }

    pub(super) fn vote(vote: &VoteRecord) -> Result<Self, postcard::Error> {
        let stored = StoredVote {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id.as_u64(),
            committed: vote.committed,
        };
        Self::new(KIND_VOTE, &stored)
    }

    pub(super) fn truncated_after(index: Option<u64>) -> Result<Self, postcard::Error> {
        Self::new(KIND_TRUNCATED_AFTER, &index)
    }

    pub(super) fn purged_to(id: LogId) -> Result<Self, postcard::Error> {
        Self::new(KIND_PURGED_TO, &StoredLogId::from(id))
    }

    pub(super) fn committed(id: LogId) -> Result<Self, postcard::Error> {
        Self::new(KIND_COMMITTED, &StoredLogId::from(id))
    }

    fn new(kind: u8, content: &impl Serialize) -> Result<Self, postcard::Error> {
        Ok(Self {
            kind,
            payload: postcard::to_stdvec(content)?,
        })
    }

    /// Bytes this record takes on disk.
    pub(super) fn length(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    pub(super) fn write(&self, place: Place, to: &mut Vec<u8>) {
        let start = to.len();
        // `append` refuses entries that would not fit in 32 bits.
        let length = u32::try_from(self.payload.len()).expect("payloads are bounded by PAYLOAD_BYTES_MAX");
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(&[0; 4]);
        to.extend_from_slice(&[VERSION, self.kind]);
        to.extend_from_slice(&place.sequence.to_le_bytes());
        to.extend_from_slice(&place.batch.to_le_bytes());
        to.extend_from_slice(&self.payload);
        let checksum = checksum(place.segment, length, &to[start + 8..]);
        to[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The record at the start of `bytes`; `None` unless all of it is there and its checksum is right.
pub(super) fn read(segment: u64, bytes: &[u8]) -> Option<FoundRecord> {
    let header = bytes.get(..HEADER_BYTES)?;
    let length = u32::from_le_bytes(header[..4].try_into().ok()?);
    if header[8] != VERSION || length == 0 || length as usize > PAYLOAD_BYTES_MAX {
        return None;
    }
    let end = HEADER_BYTES + length as usize;
    let body = bytes.get(8..end)?;
    if checksum(segment, length, body) != u32::from_le_bytes(header[4..8].try_into().ok()?) {
        return None;
    }
    Some(FoundRecord {
        place: Place {
            segment,
            sequence: u64::from_le_bytes(header[10..18].try_into().ok()?),
            batch: u64::from_le_bytes(header[18..26].try_into().ok()?),
        },
        record: decode(header[9], &bytes[HEADER_BYTES..end])?,
        encoded: EncodedRecord {
            kind: header[9],
            payload: bytes[HEADER_BYTES..end].to_vec(),
        },
        length: end,
    })
}

fn decode(kind: u8, payload: &[u8]) -> Option<Record> {
    let record = match kind {
        KIND_ENTRY => Record::Entry(
            postcard::from_bytes::<StoredEntry<'_>>(payload)
                .ok()?
                .into_entry(),
        ),
        KIND_VOTE => {
            let stored: StoredVote = postcard::from_bytes(payload).ok()?;
            Record::Vote(VoteRecord {
                leader_id: LeaderId {
                    term: stored.term,
                    node_id: stored.node.into(),
                },
                committed: stored.committed,
            })
        }
        KIND_TRUNCATED_AFTER => Record::TruncatedAfter(postcard::from_bytes(payload).ok()?),
        KIND_PURGED_TO => Record::PurgedTo(postcard::from_bytes::<StoredLogId>(payload).ok()?.into()),
        KIND_COMMITTED => Record::Committed(postcard::from_bytes::<StoredLogId>(payload).ok()?.into()),
        _ => return None,
    };
    Some(record)
}

fn checksum(segment: u64, length: u32, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

#[derive(Serialize, Deserialize)]
struct StoredVote {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLogId {
    term: u64,
    node: u64,
    index: u64,
}

impl From<LogId> for StoredLogId {
    fn from(id: LogId) -> Self {
        Self {
            term: id.committed_leader_id().term,
            node: id.committed_leader_id().node_id.as_u64(),
            index: id.index(),
        }
    }
}

impl From<StoredLogId> for LogId {
    fn from(stored: StoredLogId) -> Self {
        let leader = LeaderId {
            term: stored.term,
            node_id: stored.node.into(),
        };
        Self::new(leader, stored.index)
    }
}

#[derive(Serialize, Deserialize)]
struct StoredEntry<'a> {
    id: StoredLogId,
    payload: StoredPayload<'a>,
}

#[derive(Serialize, Deserialize)]
enum StoredPayload<'a> {
    Blank,
    Command(Cow<'a, Command>),
    Members(StoredMembers),
}

/// Voters by configuration (two while a change is under way), and everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMembers {
    configurations: Vec<BTreeSet<u64>>,
    members: BTreeSet<u64>,
}

impl From<&Membership> for StoredMembers {
    fn from(membership: &Membership) -> Self {
        Self {
            configurations: membership
                .get_joint_config()
                .iter()
                .map(|voters| voters.iter().map(|id| id.as_u64()).collect())
                .collect(),
            members: membership.nodes().map(|(id, _)| id.as_u64()).collect(),
        }
    }
}

impl From<StoredMembers> for Membership {
    fn from(stored: StoredMembers) -> Self {
        let ids = |numbers: BTreeSet<u64>| numbers.into_iter().map(RaftId::from).collect::<BTreeSet<_>>();
        let configurations: Vec<_> = stored.configurations.into_iter().map(ids).collect();
        Self::new_with_defaults(configurations, ids(stored.members))
    }
}

impl<'a> StoredEntry<'a> {
    fn from_entry(entry: &'a Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => StoredPayload::Blank,
            EntryPayload::Normal(proposal) => StoredPayload::Command(Cow::Borrowed(&proposal.command)),
            EntryPayload::Membership(membership) => StoredPayload::Members(membership.into()),
        };
        Self {
            id: entry.log_id.into(),
            payload,
        }
    }

    fn into_entry(self) -> Entry {
        let payload: Payload = match self.payload {
            StoredPayload::Blank => EntryPayload::Blank,
            StoredPayload::Command(command) => {
                EntryPayload::Normal(Proposal::of_unknown(command.into_owned()))
            }
            StoredPayload::Members(members) => EntryPayload::Membership(members.into()),
        };
        Entry {
            log_id: self.id.into(),
            payload,
        }
    }
}

const VERSION: u8 = 1;
pub(super) const HEADER_BYTES: usize = 26;
/// A command is far smaller; a length beyond this is no length.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const KIND_ENTRY: u8 = 1;
pub(super) const KIND_VOTE: u8 = 2;
const KIND_TRUNCATED_AFTER: u8 = 3;
pub(super) const KIND_PURGED_TO: u8 = 4;
pub(super) const KIND_COMMITTED: u8 = 5;
