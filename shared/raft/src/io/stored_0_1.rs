//! What openraft knows as release 0.1 wrote it: commands without an envelope, members by their numbers alone. Pure.

use std::borrow::Cow;
use std::collections::BTreeSet;

use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

use tandem_cluster::{Command, Proposal};

use super::stored::{StoredLogId, configurations_of, ids};
use super::type_config::{Entry, Membership, Payload};

#[derive(Serialize, Deserialize)]
pub(super) struct StoredEntry<'a> {
    id: StoredLogId,
    payload: StoredPayload<'a>,
}

#[derive(Serialize, Deserialize)]
enum StoredPayload<'a> {
    Blank,
    Command(Cow<'a, Command>),
    Members(StoredMembers),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredMembers {
    configurations: Vec<BTreeSet<u64>>,
    members: BTreeSet<u64>,
}

impl<'a> StoredEntry<'a> {
    pub(super) fn of(entry: &'a Entry) -> Self {
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

    pub(super) fn into_entry(self) -> Entry {
        let payload: Payload = match self.payload {
            StoredPayload::Blank => EntryPayload::Blank,
            StoredPayload::Command(command) => {
                EntryPayload::Normal(Proposal::of_unknown(command.into_owned()))
            }
            StoredPayload::Members(members) => EntryPayload::Membership(members.into_membership()),
        };
        Entry {
            log_id: self.id.into(),
            payload,
        }
    }
}

impl From<&Membership> for StoredMembers {
    fn from(membership: &Membership) -> Self {
        Self {
            configurations: configurations_of(membership),
            members: membership.nodes().map(|(id, _)| id.as_u64()).collect(),
        }
    }
}

impl StoredMembers {
    pub(super) fn into_membership(self) -> Membership {
        let configurations: Vec<_> = self.configurations.into_iter().map(ids).collect();
        Membership::new_with_defaults(configurations, ids(self.members))
    }
}
