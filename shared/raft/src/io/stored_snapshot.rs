//! What a snapshot covers, in shapes of our own, one for every format. Pure.

use serde::{Deserialize, Serialize};

use tandem_cluster::Format;

use super::stored::{Foreign, StoredLogId, StoredMembers, decode_all};
use super::stored_0_1;
use super::type_config::{LogId, Membership, SnapshotMeta, StoredMembership};

/// What a snapshot covers.
pub(super) fn encode_meta(meta: &SnapshotMeta, format: Format) -> Result<Vec<u8>, postcard::Error> {
    let last = meta.last_log_id.map(StoredLogId::from);
    let members_since = meta.last_membership.log_id().map(StoredLogId::from);
    let members = meta.last_membership.membership();
    if format < Format::RELEASE_0_2 {
        let members = members.into();
        return postcard::to_stdvec(&StoredMeta::<stored_0_1::StoredMembers> {
            last,
            members_since,
            members,
        });
    }
    let stored = StoredMeta::<StoredMembers> {
        last,
        members_since,
        members: members.into(),
    };
    postcard::to_extend(&stored, postcard::to_stdvec(&format)?)
}

/// The first byte says the format. In release 0.1 it says whether there is a log id, by 0 or 1.
pub(super) fn decode_meta(bytes: &[u8], newest: Format) -> Result<SnapshotMeta, Foreign> {
    if bytes.first().is_some_and(|first| *first < 2) {
        let stored: StoredMeta<stored_0_1::StoredMembers> = decode_all(bytes)?;
        let members = stored.members.into_membership();
        return Ok(meta_of(stored.last, stored.members_since, members));
    }
    let (format, rest): (Format, &[u8]) = postcard::take_from_bytes(bytes).map_err(|_| Foreign::Content)?;
    if format > newest {
        return Err(Foreign::Format(format));
    }
    let stored: StoredMeta<StoredMembers> = decode_all(rest)?;
    let members = stored.members.into_membership()?;
    Ok(meta_of(stored.last, stored.members_since, members))
}

#[derive(Serialize, Deserialize)]
struct StoredMeta<M> {
    last: Option<StoredLogId>,
    members_since: Option<StoredLogId>,
    members: M,
}

fn meta_of(last: Option<StoredLogId>, since: Option<StoredLogId>, members: Membership) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: last.map(LogId::from),
        last_membership: StoredMembership::new(since.map(LogId::from), members),
    }
}
