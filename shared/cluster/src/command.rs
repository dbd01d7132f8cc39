//! What may be written to the Raft log, what came of it, and what changed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, CasEndpoint, CasId};
use super::format::Format;
use super::membership::{ClusterIdentity, RaftId};
use super::node::NodeId;
use super::presence::{CalendarPresence, CallbackNote, ManualPresence, WatcherRecord};
use super::sealed_secret::SealedSecret;
use super::session::{
    CallRecord, ConnectionId, Epoch, IntentOperation, IntentRecord, OpeningKey, RequestKey, SessionKey,
    SessionRecord,
};

/// One entry of the log. Every command may be applied twice without harm: a proposer whose deadline passed
/// does not know whether its first attempt was committed.
///
/// postcard is positional: stored entries survive an upgrade only if variants are added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A node has started. Its former incarnation, if any, is over: sessions it still owned go to their successors
    /// (itself among them) exactly as by `NodeLost`.
    NodeRegistered {
        id: NodeId,
        sip_address: SocketAddr,
        incarnation: u64,
    },
    /// A node is gone: each of its sessions goes to `successor(key, live nodes)` with its epoch raised.
    /// Ignored when the node has registered again since.
    NodeLost { id: NodeId, incarnation: u64 },
    /// A planned stop: as `NodeLost` for its sessions, and it takes no new one until it registers again.
    NodeDraining { id: NodeId, incarnation: u64 },

    /// A session opens. When `opening` is known already, nothing changes and the answer names that session.
    SessionOpened {
        opening: OpeningKey,
        record: Box<SessionRecord>,
        decided_at_ms: u64,
    },
    /// What the owner learned of its session since it last wrote. `None` leaves a field as it is.
    SessionUpdated {
        key: SessionKey,
        epoch: Epoch,
        update: SessionUpdate,
    },
    /// The dialog is over (BYE, session timer, user removed).
    SessionClosed { key: SessionKey, epoch: Epoch },
    /// `to` takes the session over from whoever owned it at `from_epoch`.
    Adopt {
        key: SessionKey,
        from_epoch: Epoch,
        to: NodeId,
    },
    /// A PBX-changing command is about to go out. Refused for anyone but the owner at `epoch`.
    Intent {
        key: SessionKey,
        epoch: Epoch,
        request: RequestKey,
        operation: IntentOperation,
        decided_at_ms: u64,
    },
    /// What came of it: the CSTA body that the client was given.
    IntentResult {
        key: SessionKey,
        request: RequestKey,
        body: String,
    },
    /// Opening results and intents decided before this time are dropped. Proposed by the leader alone.
    Expire { before_ms: u64 },

    /// A cluster-wide setting ([`super::SettingName`]); `None` restores the default.
    SettingChanged { name: String, value: Option<String> },

    /// The gateways, in order. New ones join the rotation; users of those left out are moved. Earlier releases wrote it;
    /// `CasGatewaysConfigured` has taken its place.
    CasGatewaysSet { gateways: Vec<CasId>, at_ms: u64 },
    /// An administrator or a breaker takes a gateway out of the rotation, or puts it back.
    CasEligible { cas: CasId, eligible: bool },
    /// Users whose subscription is enabled: each one without an assignment gets the next eligible gateway.
    CasAssign { users: Vec<String>, at_ms: u64 },
    /// Users whose subscription failed at the gateway they had at `epoch`: each gets another.
    CasFailed { users: Vec<(String, u32)>, at_ms: u64 },
    /// Users whose subscription is disabled. What their calendars said is forgotten with it.
    CasUnassign { users: Vec<String> },

    /// Several commands in one entry, applied in order.
    Batch(Vec<Self>),

    /// Every node that owns more than its share hands the rest over, so many sessions per second at most.
    /// Changes nothing by itself; a second one during a run is ignored.
    Rebalance { per_second: u32 },

    /// The gateways whole, in order, and where they are. New ones join the rotation; users of those left out are moved.
    CasGatewaysConfigured {
        gateways: Vec<(CasId, CasEndpoint)>,
        at_ms: u64,
    },
    /// A node's breaker for a gateway opened or closed.
    CasBreaker { cas: CasId, node: NodeId, open: bool },
    /// Users to be given to a gateway of the proposer's choice, each under the epoch it knows.
    CasMoved {
        users: Vec<(String, u32, CasId)>,
        at_ms: u64,
    },
    /// Calendars switched on or off by an administrator; `None`: as the directory says.
    CalendarEnabled {
        users: Vec<String>,
        enabled: Option<bool>,
    },
    /// Callbacks for users of other nodes, and which of them the owners no longer want. Changes nothing by itself.
    CallbacksReceived { callbacks: Vec<CallbackNote> },
    /// What calendars say now. Of each user only what their owner reports counts, and only while they have a gateway and
    /// their calendar is not switched off; `None` forgets the calendar.
    CalendarPresenceChanged {
        node: NodeId,
        users: Vec<(String, Option<CalendarPresence>)>,
    },
    ManualPresenceSet {
        user: String,
        manual: Option<ManualPresence>,
    },
    /// A watcher subscribed, or refreshed.
    WatcherSet { record: Box<WatcherRecord> },
    /// The watcher's subscription is over.
    WatcherRemoved { key: SessionKey, epoch: Epoch },
    /// `to` takes the watcher over from whoever owned it at `from_epoch`.
    WatcherAdopted {
        key: SessionKey,
        from_epoch: Epoch,
        to: NodeId,
    },

    // From here on: release 0.2. Earlier formats cannot hold these.
    /// Every member has run a release that reads `format`: from now on it is written.
    FormatFinalised { format: Format },
    /// The member was replaced: whoever shows this id is refused from now on.
    MemberRemoved { id: RaftId },
    /// A secret that every member needs and no member may show, such as an Exchange account's password; `None` forgets
    /// it. Reserved: refused as [`Refusal::NotSupported`].
    SecretSet {
        name: String,
        secret: Option<Box<SealedSecret>>,
    },
    /// The cluster's identity. The first one stands, whoever else draws one.
    ClusterIdentified { identity: ClusterIdentity },
    /// Every member marks its state as it is after this entry, so that they can be compared. Changes nothing by itself.
    StateMarked,
}

impl Command {
    /// The earliest format that can hold this command.
    #[must_use]
    pub fn format(&self) -> Format {
        match self {
            Self::FormatFinalised { .. }
            | Self::MemberRemoved { .. }
            | Self::SecretSet { .. }
            | Self::ClusterIdentified { .. }
            | Self::StateMarked => Format::RELEASE_0_2,
            Self::Batch(commands) => {
                let formats = commands.iter().map(Self::format);
                formats.max().unwrap_or(Format::RELEASE_0_1)
            }
            Self::NodeRegistered { .. }
            | Self::NodeLost { .. }
            | Self::NodeDraining { .. }
            | Self::SessionOpened { .. }
            | Self::SessionUpdated { .. }
            | Self::SessionClosed { .. }
            | Self::Adopt { .. }
            | Self::Intent { .. }
            | Self::IntentResult { .. }
            | Self::Expire { .. }
            | Self::SettingChanged { .. }
            | Self::CasGatewaysSet { .. }
            | Self::CasEligible { .. }
            | Self::CasAssign { .. }
            | Self::CasFailed { .. }
            | Self::CasUnassign { .. }
            | Self::Rebalance { .. }
            | Self::CasGatewaysConfigured { .. }
            | Self::CasBreaker { .. }
            | Self::CasMoved { .. }
            | Self::CalendarEnabled { .. }
            | Self::CallbacksReceived { .. }
            | Self::CalendarPresenceChanged { .. }
            | Self::ManualPresenceSet { .. }
            | Self::WatcherSet { .. }
            | Self::WatcherRemoved { .. }
            | Self::WatcherAdopted { .. } => Format::RELEASE_0_1,
        }
    }
}

impl Command {
    /// Whether the command may add to the state for good. Such commands are refused while the leader's disk is nearly
    /// full; everything that frees, moves or only changes what is there goes through, and so does what keeps sessions
    /// that are open working: their intents are bounded and expire.
    #[must_use]
    pub fn grows_state(&self) -> bool {
        match self {
            Self::SessionOpened { .. }
            | Self::WatcherSet { .. }
            | Self::CasAssign { .. }
            | Self::CasGatewaysSet { .. }
            | Self::CasGatewaysConfigured { .. } => true,
            Self::CalendarEnabled { enabled, .. } => enabled.is_some(),
            Self::ManualPresenceSet { manual, .. } => manual.is_some(),
            Self::SecretSet { secret, .. } => secret.is_some(),
            Self::Batch(commands) => commands.iter().any(Self::grows_state),
            // A cluster without these cannot lose, take back or replace a node.
            Self::NodeRegistered { .. }
            | Self::NodeLost { .. }
            | Self::NodeDraining { .. }
            | Self::ClusterIdentified { .. }
            | Self::MemberRemoved { .. }
            | Self::FormatFinalised { .. } => false,
            Self::SessionUpdated { .. }
            | Self::SessionClosed { .. }
            | Self::Adopt { .. }
            | Self::Intent { .. }
            | Self::IntentResult { .. }
            | Self::WatcherRemoved { .. }
            | Self::WatcherAdopted { .. } => false,
            // They concern users who have a gateway already, or settings, whose number is fixed.
            Self::SettingChanged { .. }
            | Self::CasEligible { .. }
            | Self::CasFailed { .. }
            | Self::CasUnassign { .. }
            | Self::CasBreaker { .. }
            | Self::CasMoved { .. }
            | Self::CalendarPresenceChanged { .. } => false,
            Self::Expire { .. }
            | Self::Rebalance { .. }
            | Self::CallbacksReceived { .. }
            | Self::StateMarked => false,
        }
    }
}

/// The fields of a session that are written without being waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionUpdate {
    pub connection: Option<(ConnectionId, IpAddr)>,
    pub remote_target: Option<String>,
    pub expires_at_ms: Option<u64>,
    pub monitor_active: Option<bool>,
    pub cti_connection: Option<String>,
    /// Calls to write, by the client's callID; `None` removes one.
    pub calls: Vec<(String, Option<CallRecord>)>,
}

/// The answer to a proposer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    Done,
    /// `SessionOpened` under a key that is known: this is the session it opened, if it still exists.
    AlreadyOpened {
        session: SessionKey,
        record: Option<Box<SessionRecord>>,
    },
    /// `Adopt`: the session as it stands now, whoever owns it.
    Session(Box<SessionRecord>),
    /// `Intent` for a request that has one already.
    IntentKnown(Box<IntentRecord>),
    /// `CasAssign`, `CasFailed`: the users' assignments afterwards, in the command's order.
    Assignments(Vec<(String, Option<Assignment>)>),
    Batch(Vec<Self>),
    Refused(Refusal),
}

/// For traces of the log, where contents do not belong.
impl fmt::Display for Applied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("applied")
    }
}

/// Why a command changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    UnknownSession,
    UnknownNode,
    /// The session has changed hands since `epoch`.
    StaleEpoch,
    /// A bound of [`super::StateLimits`] is reached.
    LimitReached,
    /// No gateway is eligible.
    NoCas,
    /// There is no gateway of this name.
    UnknownCas,
    /// There is no setting of this name.
    UnknownSetting,
    /// The setting exists and does not take this value.
    ValueNotAccepted,
    /// The command has its place in the format, and nobody carries it out yet.
    NotSupported,
    /// The leader's disk is nearly full: nothing is added until it has room, or another leads.
    DiskNearlyFull,
}

/// What a command changed, in order, for those who act on it. It says where to look; what is there is in the state.
///
/// Changes are told within one process and never written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Node(NodeId),
    Session(SessionChange),
    Watcher(WatcherChange),
    Calendar(CalendarChange),
    /// Something replicated of which the user's presence is composed, apart from calls.
    Presence {
        user: String,
    },
    Setting {
        name: String,
    },
    RebalanceRequested {
        per_second: u32,
    },
    /// A snapshot replaced the state: whoever follows changes reads it anew.
    Replaced,
}

/// What became of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionChange {
    Opened(SessionKey),
    /// It has a new owner; `from` had it before.
    Moved {
        key: SessionKey,
        from: NodeId,
        to: NodeId,
        epoch: Epoch,
    },
    Updated(SessionKey),
    Closed {
        key: SessionKey,
        owner: NodeId,
    },
}

/// What became of a watcher's subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatcherChange {
    /// It is new, or its owner has written something else of it.
    Written(SessionKey),
    /// It has a new owner; `from` had it before.
    Moved {
        key: SessionKey,
        from: NodeId,
        to: NodeId,
    },
    Removed {
        key: SessionKey,
        owner: NodeId,
    },
}

/// What concerns those who follow calendars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalendarChange {
    /// The user has another Client Access Server, or none.
    Assigned {
        user: String,
    },
    /// Which Client Access Servers there are, where they are, or whether they take users.
    Gateways,
    /// An administrator switched calendars on or off.
    Enabled {
        users: Vec<String>,
    },
    CallbacksReceived {
        callbacks: Vec<CallbackNote>,
    },
}
