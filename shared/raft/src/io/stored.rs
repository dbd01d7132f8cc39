//! What openraft knows, in shapes of our own, one set for every format: another version of openraft must be able to read
//! what this one wrote. Pure.
//!
//! postcard is positional: whatever changes here needs a new number of a format, and a new shape beside the old one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use tandem_cluster::{Actor, Command, Format, MemberRecord, Proposal, RaftId};

use super::stored_0_1;
use super::type_config::{Entry, LeaderId, LogId, Membership, Payload, VoteRecord};

/// Why bytes whose checksum is right are not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// They are in a format that this program does not read.
    Format(Format),
    /// They are in a format that it reads, and hold what it does not know.
    Content,
}

/// All of `bytes`; what is left over is as unknown as what cannot be decoded.
pub(super) fn decode_all<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Foreign> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(Foreign::Content),
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredVote {
    term: u64,
    node: u64,
    committed: bool,
}

impl From<&VoteRecord> for StoredVote {
    fn from(vote: &VoteRecord) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id.as_u64(),
            committed: vote.committed,
        }
    }
}

impl From<StoredVote> for VoteRecord {
    fn from(stored: StoredVote) -> Self {
        Self {
            leader_id: LeaderId {
                term: stored.term,
                node_id: stored.node.into(),
            },
            committed: stored.committed,
        }
    }
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

/// The format an entry is written in where `written` is the usual one: a command may need a later one.
pub(super) fn format_of(entry: &Entry, written: Format) -> Format {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.command.format().max(written),
        EntryPayload::Blank | EntryPayload::Membership(_) => written,
    }
}

pub(super) fn encode_entry(entry: &Entry, format: Format) -> Result<Vec<u8>, postcard::Error> {
    if format >= Format::RELEASE_0_2 {
        postcard::to_extend(&StoredEntry::of(entry, format), Vec::with_capacity(USUAL_BYTES))
    } else {
        postcard::to_extend(
            &stored_0_1::StoredEntry::of(entry),
            Vec::with_capacity(USUAL_BYTES),
        )
    }
}

/// Most entries are smaller: one allocation holds them.
const USUAL_BYTES: usize = 1 << 10;

pub(super) fn decode_entry(bytes: &[u8], format: Format, newest: Format) -> Result<Entry, Foreign> {
    let entry = if format >= Format::RELEASE_0_2 {
        decode_all::<StoredEntry<'_>>(bytes)?.into_entry(newest)?
    } else {
        decode_all::<stored_0_1::StoredEntry<'_>>(bytes)?.into_entry()
    };
    if format_of(&entry, format) == format {
        Ok(entry)
    } else {
        Err(Foreign::Content)
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
    Proposal(StoredProposal<'a>),
    Members(StoredMembers),
}

/// The envelope of a command, which says by itself in which format the command is.
#[derive(Serialize, Deserialize)]
struct StoredProposal<'a> {
    format: Format,
    actor: Cow<'a, Actor>,
    command: Cow<'a, Command>,
}

/// Voters by configuration (two while a change is under way), and what is known of everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMembers {
    configurations: Vec<BTreeSet<u64>>,
    members: BTreeMap<u64, MemberRecord>,
}

impl<'a> StoredEntry<'a> {
    fn of(entry: &'a Entry, format: Format) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => StoredPayload::Blank,
            EntryPayload::Normal(Proposal { actor, command }) => StoredPayload::Proposal(StoredProposal {
                format,
                actor: Cow::Borrowed(actor),
                command: Cow::Borrowed(command),
            }),
            EntryPayload::Membership(membership) => StoredPayload::Members(membership.into()),
        };
        Self {
            id: entry.log_id.into(),
            payload,
        }
    }

    fn into_entry(self, newest: Format) -> Result<Entry, Foreign> {
        let payload: Payload = match self.payload {
            StoredPayload::Blank => EntryPayload::Blank,
            StoredPayload::Proposal(stored) if stored.format > newest => {
                return Err(Foreign::Format(stored.format));
            }
            StoredPayload::Proposal(stored) => EntryPayload::Normal(Proposal {
                actor: stored.actor.into_owned(),
                command: stored.command.into_owned(),
            }),
            StoredPayload::Members(members) => EntryPayload::Membership(members.into_membership()?),
        };
        Ok(Entry {
            log_id: self.id.into(),
            payload,
        })
    }
}

impl From<&Membership> for StoredMembers {
    fn from(membership: &Membership) -> Self {
        Self {
            configurations: configurations_of(membership),
            members: membership
                .nodes()
                .map(|(id, record)| (id.as_u64(), record.clone()))
                .collect(),
        }
    }
}

impl StoredMembers {
    pub(super) fn into_membership(self) -> Result<Membership, Foreign> {
        let members = self.members.into_iter();
        let members: BTreeMap<_, _> = members.map(|(id, record)| (RaftId::from(id), record)).collect();
        let configurations: Vec<_> = self.configurations.into_iter().map(ids).collect();
        Membership::new(configurations, members).map_err(|_| Foreign::Content)
    }
}

pub(super) fn configurations_of(membership: &Membership) -> Vec<BTreeSet<u64>> {
    let configurations = membership.get_joint_config().iter();
    configurations
        .map(|voters| voters.iter().map(|id| id.as_u64()).collect())
        .collect()
}

pub(super) fn ids(numbers: BTreeSet<u64>) -> BTreeSet<RaftId> {
    numbers.into_iter().map(RaftId::from).collect()
}
