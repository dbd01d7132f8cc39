//! The outputs of the balancer.

use std::net::SocketAddr;

use bytes::Bytes;
use tandem_cluster::NodeId;

use super::input::{PairId, PairPurpose};
use super::pending::EntryId;

/// Something for the client connection to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect and write the PROXY protocol header. Messages sent in the meantime wait in the pair's queue.
    OpenPair {
        pair: PairId,
        node: NodeId,
        address: SocketAddr,
        purpose: PairPurpose,
    },
    /// Queue whole messages; `entry` is reported back if the queue is full.
    SendToNode {
        pair: PairId,
        bytes: Bytes,
        entry: Option<EntryId>,
    },
    /// Report what the node has already written, then `PairLost(Drained)`.
    DrainPair(PairId),
    /// Close once everything queued is written. Nothing more is reported.
    ClosePair(PairId),
    SendToClient(Bytes),
    /// Close once everything queued is written.
    CloseClient(CloseReason),
    /// Check the node at once: its traffic suggests that it has failed.
    DoubtNode(NodeId),
    /// Count something in the metrics.
    Count(Count),
}

/// Why a client's connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    FramingLost,
    /// The client closed its side, and everything is answered or has timed out.
    HalfClosed,
    Drained,
}

/// Something to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Count {
    /// A request that opens a session was queued towards a node.
    SessionAssigned(NodeId),
    /// The number of unanswered requests at a node changed by one.
    Pending {
        node: NodeId,
        method: MethodLabel,
        change: i64,
    },
    Resent {
        method: MethodLabel,
        outcome: ResentOutcome,
    },
    /// A session-opening request was retried on another node.
    Redispatched(RedispatchReason),
    /// The front end generated an answer with this status.
    Generated(u16),
    /// A request was not forwarded to the client because its node no longer owns the session.
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

/// What happened to a request that was sent again.
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

/// Why a session-opening request was retried on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedispatchReason {
    NodeLost,
    /// The node answered 503.
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

/// The limits that the balancer enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Unanswered requests of one client connection.
    PendingRequests,
    /// Bytes of one connection kept for sending again.
    KeptBytes,
    /// Bytes of all connections together kept for sending again.
    KeptBytesInAll,
    /// Requests that wait behind re-sent requests of their dialog.
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

/// Why a message was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// A client's response whose node is gone or unknown.
    ResponseWithoutNode,
    /// A client's ACK that matches no known request or dialog.
    AckWithoutNode,
    /// A second final answer to a request.
    SecondAnswer,
    /// A node's request on a pair for re-sent requests, which carries only answers from the node.
    RequestOnResentPair,
    /// A request not answered within the lifetime of its transaction.
    Unanswered,
    /// A repeated request of a transaction that is not answered yet.
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
