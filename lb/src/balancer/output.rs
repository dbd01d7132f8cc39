//! Everything that a client connection can be told to do.

use std::net::SocketAddr;

use bytes::Bytes;
use tandem_cluster::NodeId;

use super::input::{PairId, PairPurpose};
use super::pending::EntryId;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect and write the PROXY header. Messages sent meanwhile wait in the pair's queue.
    OpenPair {
        pair: PairId,
        node: NodeId,
        address: SocketAddr,
        purpose: PairPurpose,
    },
    /// Queue whole messages; `entry` comes back when the queue is full.
    SendToNode {
        pair: PairId,
        bytes: Bytes,
        entry: Option<EntryId>,
    },
    /// Report what the node has already written, then `PairLost(Drained)`.
    DrainPair(PairId),
    /// Close once what is queued is written. Nothing more is reported.
    ClosePair(PairId),
    SendToClient(Bytes),
    /// Close once what is queued is written.
    CloseClient(CloseReason),
    /// Live traffic makes us doubt a node: it is to be checked.
    DoubtNode(NodeId),
    /// For the metrics.
    Count(Count),
}

/// Why a client's connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    FramingLost,
    /// The client closed its side and everything is answered, or waited for long enough.
    HalfClosed,
    Drained,
}

/// Something to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Count {
    /// A request that opens a session was queued towards a node.
    SessionAssigned(NodeId),
    /// Unanswered requests at a node: one more or one less.
    Pending {
        node: NodeId,
        method: MethodLabel,
        change: i64,
    },
    Resent {
        method: MethodLabel,
        outcome: ResentOutcome,
    },
    /// An opening request was given to another node than the first.
    Redispatched(RedispatchReason),
    /// An answer of the front end's own.
    Generated(u16),
    /// A request of a node that does not own the session any more was kept from the client.
    Fenced(NodeId),
    LimitReached(Limit),
    Dropped(DropReason),
}

/// The methods that metrics tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodLabel {
    Invite,
    Info,
    Other,
}

impl MethodLabel {
    pub const ALL: [Self; 3] = [Self::Invite, Self::Info, Self::Other];

    #[must_use]
    pub fn of(method: &[u8]) -> Self {
        match method {
            b"INVITE" => Self::Invite,
            b"INFO" => Self::Info,
            _ => Self::Other,
        }
    }

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Invite => "INVITE",
            Self::Info => "INFO",
            Self::Other => "other",
        }
    }
}

/// What came of sending a request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResentOutcome {
    Sent,
    /// A node answered it.
    Answered,
    /// The front end had to answer it.
    Failed,
}

impl ResentOutcome {
    pub const ALL: [Self; 3] = [Self::Sent, Self::Answered, Self::Failed];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Answered => "answered",
            Self::Failed => "failed",
        }
    }
}

/// Why an opening request went to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedispatchReason {
    NodeLost,
    /// The node said 503.
    Unavailable,
    QueueFull,
}

impl RedispatchReason {
    pub const ALL: [Self; 3] = [Self::NodeLost, Self::Unavailable, Self::QueueFull];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NodeLost => "node_lost",
            Self::Unavailable => "unavailable",
            Self::QueueFull => "queue_full",
        }
    }
}

/// Bounds that the balancer keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Unanswered requests of one client connection.
    PendingRequests,
    /// Bytes kept for sending again, of one connection.
    KeptBytes,
    /// The same, of all connections.
    KeptBytesInAll,
    /// Requests that wait behind a dialog's re-sent ones.
    WaitingRequests,
    /// A pair's queue.
    PairQueue,
}

impl Limit {
    pub const ALL: [Self; 5] = [
        Self::PendingRequests,
        Self::KeptBytes,
        Self::KeptBytesInAll,
        Self::WaitingRequests,
        Self::PairQueue,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::PendingRequests => "pending_requests",
            Self::KeptBytes => "kept_bytes",
            Self::KeptBytesInAll => "kept_bytes_in_all",
            Self::WaitingRequests => "waiting_requests",
            Self::PairQueue => "pair_queue",
        }
    }
}

/// What went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// A client's response to a node that is gone, or to none.
    ResponseWithoutNode,
    /// A client's ACK that belongs to nothing we know.
    AckWithoutNode,
    /// A second final answer to a request that has one.
    SecondAnswer,
    /// A node's request on a connection that carries answers only.
    RequestOnResentPair,
    /// No answer came within the lifetime of a transaction.
    Unanswered,
    /// A request of a transaction that has one already, which is not answered yet.
    Repeated,
}

impl DropReason {
    pub const ALL: [Self; 6] = [
        Self::ResponseWithoutNode,
        Self::AckWithoutNode,
        Self::SecondAnswer,
        Self::RequestOnResentPair,
        Self::Unanswered,
        Self::Repeated,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ResponseWithoutNode => "response_without_node",
            Self::AckWithoutNode => "ack_without_node",
            Self::SecondAnswer => "second_answer",
            Self::RequestOnResentPair => "request_on_resent_pair",
            Self::Unanswered => "unanswered",
            Self::Repeated => "repeated",
        }
    }
}
