//! CSTA: ECMA-269 services and events in ECMA-323 XML, as Communicator (TR/87) and CTI managers speak them.
//!
//! Owns the vocabulary (requests, responses, events, error codes) and its text form in both directions; it
//! serves the SIP side and the CTI side alike. It knows nothing of sessions, links or SIP.
//! What always holds: whatever bytes come in, [`codec::decode`] returns within its bounds and never panics; what
//! goes out is edition 3, in the element order of the schema, with its text escaped; and what was encoded here
//! decodes to the same value.

pub mod application_session;
pub mod codec;
pub mod error;
pub mod event;
mod parts;
pub mod request;
pub mod response;
pub mod service;
pub mod system_status;

pub use application_session::ApplicationSession;
pub use codec::{DecodeError, decode};
pub use error::{CstaErrorCode, ErrorCategory};
pub use event::{Cause, Device, Event, EventKind, RedirectionDevice};
pub use request::{Argument, CallRequest, MonitorRequest, Request, SnapshotRequest, SystemRequest, label};
pub use response::{Response, SnapshotConnection};
pub use service::{Features, Service};
pub use system_status::SystemStatus;

/// The MIME type of a CSTA body in SIP.
pub const CONTENT_TYPE: &str = "application/csta+xml";

/// One CSTA document, told by its root element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CstaMessage {
    Request(Request),
    Response(Response),
    Error(CstaErrorCode),
    Event(Event),
    /// An event that Tandem does not pass on. Its text is not kept: it names calls and devices as its sender does,
    /// which mean nothing to the session that would receive it.
    OtherEvent {
        name: String,
        monitor_cross_ref_id: Option<String>,
    },
    /// A response to a request that Tandem never sends.
    OtherResponse {
        name: String,
    },
    ApplicationSession(ApplicationSession),
}

/// ECMA-323 ConnectionID: a call at a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionIdentifier {
    pub call_id: String,
    /// Absent when the sender names the call alone.
    pub device_id: Option<String>,
}

impl ConnectionIdentifier {
    #[must_use]
    pub fn new(call_id: impl Into<String>, device_id: impl Into<String>) -> Self {
        Self {
            call_id: call_id.into(),
            device_id: Some(device_id.into()),
        }
    }
}

/// ECMA-269 §6.1.5: how a connection stands. `localConnectionInfo` tells it of the monitored device's own one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalConnectionState {
    Null,
    Initiated,
    Alerting,
    Connected,
    Hold,
    Queued,
    Fail,
}

impl LocalConnectionState {
    pub const ALL: [Self; 7] = [
        Self::Null,
        Self::Initiated,
        Self::Alerting,
        Self::Connected,
        Self::Hold,
        Self::Queued,
        Self::Fail,
    ];

    /// The word of the schema.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Initiated => "initiated",
            Self::Alerting => "alerting",
            Self::Connected => "connected",
            Self::Hold => "hold",
            Self::Queued => "queued",
            Self::Fail => "fail",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

#[cfg(test)]
mod codec_tests;
#[cfg(test)]
pub(crate) mod service_tests;
