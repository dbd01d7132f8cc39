//! Everything a node can do.

use bytes::Bytes;
use tandem_cluster::{Command, NodeId, SessionKey};
use tandem_sip::proxy_protocol::Transport;

use crate::csta;
use crate::cti::{CtiConnectionId, LinkFailure, LinkId};
use crate::presence::publication::PublishOutcome;

use super::pairs::PairId;
use super::watchers::WatcherReport;

/// Where a front end shall connect to on our behalf.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundTarget {
    /// An address, or a name to resolve.
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl OutboundTarget {
    #[must_use]
    pub fn transport(&self) -> Transport {
        if self.tls { Transport::Tls } else { Transport::Tcp }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Send {
        pair: PairId,
        bytes: Bytes,
    },
    /// What was sent goes out, then the connection is closed; `Input::PairClosed` follows.
    ClosePair {
        pair: PairId,
    },
    DialOutbound {
        target: OutboundTarget,
    },
    /// Connects to a CTI manager, at `host:port`. `LinkOpened` or `LinkClosed` follows.
    ConnectLink {
        link: LinkId,
        address: String,
    },
    WriteLink {
        link: LinkId,
        bytes: Bytes,
    },
    /// After what was written before; nothing more is wanted from this link.
    CloseLink {
        link: LinkId,
    },
    /// One batch at a time; `Input::Committed` follows in any case.
    Propose {
        batch: u64,
        command: Command,
    },
    Report(Report),
}

/// What is worth a line in the log, or a count.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    CtiInService {
        connection: CtiConnectionId,
    },
    CtiOutOfService {
        connection: CtiConnectionId,
        reason: LinkFailure,
    },
    SessionStarted {
        key: SessionKey,
        user: String,
        line: String,
        device: String,
        connection: CtiConnectionId,
        /// Committed before the client was told.
        replicated: bool,
        /// A name in the client's certificate, where it has shown one to the front end.
        subject: Option<String>,
    },
    SessionMovedHere {
        key: SessionKey,
        user: String,
        epoch: u32,
    },
    SessionMovedAway {
        key: SessionKey,
        to: Option<NodeId>,
    },
    /// The session was handed over to even out the nodes' shares.
    SessionRebalanced {
        key: SessionKey,
    },
    /// The session goes on at another CTI connection.
    SessionRelinked {
        key: SessionKey,
        connection: CtiConnectionId,
    },
    SessionEnded {
        key: SessionKey,
        user: String,
        reason: EndReason,
    },
    /// A request was answered: its SIP method or CSTA service, and the status.
    Answered {
        service: &'static str,
        status: u16,
    },
    /// The body of a 200 was a CSTAErrorCode.
    CstaError {
        service: &'static str,
        error: csta::CstaErrorCode,
    },
    EventSent {
        kind: csta::EventKind,
    },
    EventUnanswered,
    EventDropped,
    /// An event came of a monitor that no session watches: the monitor is stopped.
    EventOfUnknownMonitor,
    /// A front end turned one of our requests away.
    Fenced {
        key: SessionKey,
    },
    Watcher(WatcherReport),
    /// What came of a PUBLISH.
    Published(PublishOutcome),
    /// A re-sent command that had an intent was not executed again.
    IntentRepeated {
        service: &'static str,
        known_result: bool,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    ByClient,
    Expired,
    /// The client opened a new one.
    Replaced,
    /// The user has too many on this line.
    TooMany,
    /// The client does not know the dialog any more.
    UnknownToClient,
    /// The cluster closed it.
    Closed,
    /// It was opened without a quorum, and the cluster did not take it in afterwards.
    NotTakenIn,
}

impl EndReason {
    pub const ALL: [Self; 7] = [
        Self::ByClient,
        Self::Expired,
        Self::Replaced,
        Self::TooMany,
        Self::UnknownToClient,
        Self::Closed,
        Self::NotTakenIn,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ByClient => "by_client",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::TooMany => "too_many",
            Self::UnknownToClient => "unknown_to_client",
            Self::Closed => "closed",
            Self::NotTakenIn => "not_taken_in",
        }
    }
}
