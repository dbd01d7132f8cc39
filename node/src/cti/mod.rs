//! The CTI side: links to CTI managers, the requests on them and the monitors they carry.
//!
//! Owns which connections are in service, their heartbeats, invoke ids and outstanding requests
//! ([`Connections`]), and the shared monitors with their subscribers ([`Monitors`]). It moves no bytes (that is
//! `io/cti_link.rs`) and knows no session but as a key. What always holds: a request that was submitted is
//! answered exactly once, if only with a [`CtiFailure`]; at most one link stands per connection; every table and
//! queue is bounded.

pub mod connections;
mod csta_link;
mod invocations;
pub mod link_framer;
pub mod monitor;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::csta::{CstaErrorCode, DecodeError, Event, Response};
pub use connections::{ConnectionStatus, Connections, CtiTimings};
pub use csta_link::LinkCounters;
pub use link_framer::{Frame, FramingError, LinkFramer};
pub use monitor::{MonitorInput, MonitorKey, MonitorLimits, MonitorOutput, MonitorPriority, Monitors};

/// The position of a connection in the configured order, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CtiConnectionId(pub usize);

impl fmt::Display for CtiConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// One TCP connection of a CTI connection. The incarnation grows with every attempt to connect, so that an
/// input about an earlier one is recognised as late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId {
    pub connection: CtiConnectionId,
    pub incarnation: u64,
}

/// The submitter's name for a request, returned with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// What happened to the CTI connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CtiInput {
    /// The node is ready: connect to all.
    Started,
    LinkOpened(LinkId),
    BytesReceived {
        link: LinkId,
        bytes: Bytes,
    },
    /// It could not be opened, or it ended without our having asked.
    LinkClosed {
        link: LinkId,
        reason: LinkFailure,
    },
    DeadlineReached,
    /// The node goes down: end the application sessions and close.
    DrainStarted,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CtiOutput {
    Connect {
        link: LinkId,
    },
    Write {
        link: LinkId,
        bytes: Bytes,
    },
    /// After what was written before; nothing more is wanted from this link.
    Close {
        link: LinkId,
    },
    Answered {
        token: RequestToken,
        result: Result<Response, CtiFailure>,
    },
    Event {
        connection: CtiConnectionId,
        event: Event,
    },
    /// The CTI manager ended a monitor by itself.
    MonitorStopped {
        connection: CtiConnectionId,
        cross_ref_id: String,
    },
    ConnectionUp {
        connection: CtiConnectionId,
    },
    /// Its outstanding requests are answered, its monitors are gone.
    ConnectionDown {
        connection: CtiConnectionId,
        reason: LinkFailure,
    },
}

/// Why a request got no positive answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CtiFailure {
    #[error("the CTI manager refused: {0}")]
    Refused(CstaErrorCode),
    #[error("the CTI connection is not in service")]
    NotInService,
    #[error("too many requests wait for the CTI connection")]
    QueueFull,
    #[error("the request waited too long for its turn and was not sent")]
    ExpiredInQueue,
    #[error("the request is too large for a frame")]
    TooLarge,
    #[error("the CTI connection broke before the answer came")]
    LinkLost,
    #[error("no answer in time")]
    TimedOut,
    #[error("the answer cannot be read")]
    Undecodable(#[source] DecodeError),
    #[error("the answer is one to another service")]
    WrongResponse,
}

impl CtiFailure {
    /// What a client is told.
    #[must_use]
    pub fn error_code(&self) -> CstaErrorCode {
        match self {
            Self::Refused(code) => code.clone(),
            Self::NotInService | Self::LinkLost | Self::TimedOut => CstaErrorCode::RESOURCE_OUT_OF_SERVICE,
            Self::QueueFull | Self::ExpiredInQueue => CstaErrorCode::OUTSTANDING_REQUEST_LIMIT_EXCEEDED,
            Self::TooLarge => CstaErrorCode::INVALID_PARAMETER,
            Self::Undecodable(_) | Self::WrongResponse => CstaErrorCode::UNSPECIFIED,
        }
    }
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkFailure {
    #[error("connecting failed")]
    ConnectFailed,
    #[error("the CTI manager closed the connection")]
    ClosedByPeer,
    #[error("the connection broke")]
    Broken,
    #[error("the CTI manager does not read what we write")]
    WriteQueueFull,
    #[error("framing is lost")]
    Framing(#[source] FramingError),
    #[error("no answer to a heartbeat")]
    HeartbeatTimedOut,
    #[error("the switching function is not usable")]
    SwitchNotUsable,
    #[error("the application session was refused")]
    SessionRefused,
    #[error("no answer about the application session")]
    SessionTimedOut,
    #[error("the CTI manager ended the application session")]
    SessionTerminated,
    #[error("this node goes down")]
    Drained,
}

impl LinkFailure {
    /// For metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::ClosedByPeer => "closed_by_peer",
            Self::Broken => "broken",
            Self::WriteQueueFull => "write_queue_full",
            Self::Framing(_) => "framing",
            Self::HeartbeatTimedOut => "heartbeat_timed_out",
            Self::SwitchNotUsable => "switch_not_usable",
            Self::SessionRefused => "session_refused",
            Self::SessionTimedOut => "session_timed_out",
            Self::SessionTerminated => "session_terminated",
            Self::Drained => "drained",
        }
    }
}

/// How the CTI connections behave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CtiSettings {
    /// In configured order, which is the order of the round robin.
    pub connections: Vec<CtiConnectionSettings>,
    pub heartbeat_interval: Duration,
    /// How long a heartbeat, or a message of the application session, may stay unanswered.
    pub heartbeat_timeout: Duration,
    /// From submission to answer, the wait for a free invoke id included.
    pub request_timeout: Duration,
    pub reconnect_interval: Duration,
    /// Requests without an answer per link; at most [`OUTSTANDING_MAX`].
    pub outstanding_max: usize,
    /// Requests per link that wait for one of those to be answered.
    pub waiting_max: usize,
    /// ECMA-354, for CTI managers that want it.
    pub application_session: Option<ApplicationSessionSettings>,
}

/// Four digits of invoke id, of which some are kept for heartbeats.
pub const OUTSTANDING_MAX: usize = 9_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CtiConnectionSettings {
    pub name: String,
    /// `host:port`.
    pub address: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplicationSessionSettings {
    pub application_id: String,
    pub duration_secs: u32,
}

impl CtiSettings {
    /// The usual values for these connections.
    #[must_use]
    pub fn new(connections: Vec<CtiConnectionSettings>) -> Self {
        Self {
            connections,
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            reconnect_interval: Duration::from_secs(1),
            outstanding_max: 512,
            waiting_max: 4096,
            application_session: None,
        }
    }
}

#[cfg(test)]
mod application_session_tests;
#[cfg(test)]
mod connections_tests;
#[cfg(test)]
mod monitor_tests;
