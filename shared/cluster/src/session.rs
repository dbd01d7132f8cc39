//! The replicated part of a session: enough for any node to go on with its dialog.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::node::NodeId;
use tandem_planted::{Bug, planted};

/// A session's key is the To-tag that the node issued (`n1-…`). Never the Call-ID: real clients collide on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    #[must_use]
    pub fn new(to_tag: impl Into<Arc<str>>) -> Self {
        Self(to_tag.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The node that issued the tag, which need not be the owner any more.
    #[must_use]
    pub fn issuer(&self) -> Option<NodeId> {
        NodeId::from_tag(self.0.as_bytes())
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// How often a session has changed hands. Grows by one with every change of owner; a command that carries an
/// older epoch is refused, which is what keeps a former owner from acting.
///
/// It is also the block of CSeq numbers that the owner may use towards the client: block `e` is
/// `e × 2^20 + 1 ..= (e + 1) × 2^20 - 1`, so a successor's numbers always rise above its predecessor's
/// (RFC 3261 §12.2.1.1 wants them to rise, not to be contiguous).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    pub const FIRST: Self = Self(0);
    /// RFC 3261 §8.1.1.5: CSeq stays below 2^31.
    pub const MAX: Self = Self((1 << 11) - 1);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The first and last CSeq numbers of this epoch's block.
    #[must_use]
    pub fn cseq_block(self) -> (u32, u32) {
        let block = self.0 - u32::from(self.0 > 0 && planted(Bug::CseqBlockTwice));
        ((block << 20) + 1, ((block + 1) << 20) - 1)
    }
}

/// The front end's random id of one client connection (PROXY protocol v2, `PP2_TYPE_UNIQUE_ID`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub [u8; 16]);

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// What tells one opening request from another, whole: clients that start in the same second share Call-ID and
/// From tag, and a Via may lack a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpeningKey {
    pub top_via: String,
    pub call_id: String,
    pub from_tag: String,
    pub cseq: u32,
    pub from_uri: String,
}

/// A request inside a dialog, as far as repeating it goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey {
    pub top_via: String,
    pub cseq: u32,
}

/// How the opening request was answered; a repeated one gets the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningResult {
    pub session: SessionKey,
    /// The cluster's time in milliseconds, as the proposer counts it; `Command::Expire` compares with it.
    pub decided_at_ms: u64,
}

/// RFC 3261 §12.1.1: the dialog as its UAS keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialogRecord {
    pub call_id: String,
    /// The To of the INVITE without tag: From of our own requests, to which the session key is added as tag.
    pub local_identity: String,
    /// The From of the INVITE, whole, `epid` and all: To of our own requests.
    pub remote_identity: String,
    /// The URI of `remote_identity`.
    pub remote_uri: String,
    /// Record-Route values in the order received, which is the order of a UAS's Route.
    pub route_set: Vec<String>,
    /// The URI in the client's Contact, byte for byte.
    pub remote_target: String,
    /// Our Contact URI: the VIP's address, port and transport as the front end told them.
    pub local_target: String,
}

/// The monitor that the client holds. Its id is chosen when the session opens, so it survives the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorRecord {
    pub cross_ref_id: String,
    /// The client asked for events (MonitorStart) and has not stopped them.
    pub active: bool,
}

/// Where a call stands at the session's own device (ECMA-269 §6.1.5, local connection state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallState {
    Initiated,
    Alerting,
    /// Our side is connected and the far end is not yet: originated, or delivered to it.
    Originated,
    /// As `Originated`, and the client has been told that the far end alerts.
    Delivered,
    Connected,
    Hold,
    Failed,
}

/// A call that the client knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The callID as the CTI manager knows it; the key of the record is the callID as the client has it.
    pub pbx_call_id: String,
    pub state: CallState,
    pub calling: String,
    pub called: String,
}

/// One session as every member knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    pub key: SessionKey,
    /// Rarely written after the session is open: a copy of the record shares it.
    pub dialog: Arc<DialogRecord>,
    pub user: String,
    /// The line URI exactly as the client wrote it; it is echoed to the client byte for byte.
    pub line: String,
    /// The device that the line was resolved to, as the CTI managers name it.
    pub device: String,
    pub monitor: MonitorRecord,
    pub owner: NodeId,
    pub epoch: Epoch,
    /// The connection on which the session's last message came.
    pub connection: ConnectionId,
    /// The address at the other end of it: any connection from there may carry the session's events.
    pub client_address: IpAddr,
    /// Unix time in milliseconds at which the session ends unless it is refreshed (RFC 4028).
    pub expires_at_ms: u64,
    /// Granted session interval, seconds; 0 when the client did not offer a session timer.
    pub session_interval_secs: u32,
    /// The CTI connection that the owner chose, by its configured address.
    pub cti_connection: Option<String>,
    /// Calls that the client knows, by the callID that it holds.
    pub calls: BTreeMap<String, CallRecord>,
}

/// A command that changes the state of the PBX and must not be executed twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntentOperation {
    MakeCall { called: String },
    AnswerCall { call_id: String },
    ClearConnection { call_id: String },
}

/// Written before the command goes out; the result follows when it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRecord {
    pub operation: IntentOperation,
    /// The session's epoch when it was decided: whether its proposer is still the owner.
    pub epoch: Epoch,
    /// Unix time in milliseconds, the proposer's clock.
    pub decided_at_ms: u64,
    /// The CSTA body of the answer once there is one.
    pub result: Option<String>,
}
