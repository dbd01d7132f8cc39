//! The replicated part of presence: what any node needs to compose it (CAL-4, CAL-11).

use serde::{Deserialize, Serialize};

use super::node::NodeId;
use super::session::{ConnectionId, DialogRecord, Epoch, SessionKey};

/// What a calendar says at a time, overlaps resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CalendarState {
    /// Nothing is known, or the calendar has no opinion.
    Unknown,
    Free,
    Tentative,
    Busy,
    OutOfOffice,
    WorkingElsewhere,
}

/// What a user's calendar says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarPresence {
    pub state: CalendarState,
    /// Unix milliseconds at which this state began in the calendar; 0 when that is not known.
    pub from_ms: u64,
    /// Unix milliseconds at which it ends; `None` when no end is in sight.
    pub until_ms: Option<u64>,
}

/// What a user set, or somebody for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ManualState {
    Available,
    Away,
    Busy,
    DoNotDisturb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManualPresence {
    pub state: ManualState,
    pub set_at_ms: u64,
    /// Unix milliseconds; `None`: until it is taken back.
    pub until_ms: Option<u64>,
}

/// All that is replicated of one user's presence. Whether the user is on the phone is read from the calls of their sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PresenceRecord {
    pub calendar: Option<CalendarPresence>,
    pub manual: Option<ManualPresence>,
    /// Grows with every change while the record stands.
    pub version: u64,
}

/// A watcher's subscription (RFC 6665), as every member knows it. The key is the To-tag that the notifier issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherRecord {
    pub key: SessionKey,
    pub dialog: DialogRecord,
    /// The directory's user id of the presentity.
    pub presentity: String,
    pub owner: NodeId,
    /// Raised with every change of owner: the block of our CSeq numbers, as with sessions.
    pub epoch: Epoch,
    /// The connection on which the last SUBSCRIBE came.
    pub connection: ConnectionId,
    pub client_address: std::net::IpAddr,
    pub expires_at_ms: u64,
    /// The `id` parameter of the Event header field.
    pub event_id: Option<String>,
}

/// A push callback that reached a node other than its user's owner, or the owner's answer that it no longer wants the
/// subscription of such a callback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallbackNote {
    pub user: String,
    pub attempt: u64,
    pub subscription: String,
    /// Something may have changed; `false`: a status event alone.
    pub has_events: bool,
    /// The code with which the server ended the subscription; `subscription` is empty then. With a `subscription`: the owner
    /// no longer wants that one.
    pub failed: Option<String>,
}
