//! The services: requests and their responses.

use std::collections::BTreeSet;

use super::event::{Device, EventKind};
use super::{ConnectionIdentifier, LocalConnectionState};

/// A CSTA request, of a client or of a CTI manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `line` is Microsoft's `lcs:line` private data, with which a client opens its session.
    RequestSystemStatus {
        line: Option<String>,
    },
    GetCstaFeatures {
        line: Option<String>,
    },
    MonitorStart {
        device: String,
    },
    MonitorStop {
        cross_ref_id: String,
    },
    SnapshotDevice {
        device: String,
    },
    /// Of a CTI manager: who takes part in a call that a SnapshotDevice has shown.
    SnapshotCall {
        call: ConnectionIdentifier,
    },
    MakeCall {
        calling_device: String,
        called_directory_number: String,
        auto_originate: AutoOriginate,
    },
    AnswerCall {
        call_to_be_answered: ConnectionIdentifier,
    },
    ClearConnection {
        connection_to_be_cleared: ConnectionIdentifier,
    },
    /// A CTI manager tells how it is; it wants an answer.
    SystemStatus {
        status: SystemStatus,
    },
    /// Well formed, but not a service of ours: answered `serviceNotSupported`.
    Unsupported {
        service: String,
    },
}

impl Request {
    /// The root element's name. Of a fixed set except for `Unsupported`, which gives `"Unsupported"`, so it may
    /// label a metric.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RequestSystemStatus { .. } => "RequestSystemStatus",
            Self::GetCstaFeatures { .. } => "GetCSTAFeatures",
            Self::MonitorStart { .. } => "MonitorStart",
            Self::MonitorStop { .. } => "MonitorStop",
            Self::SnapshotDevice { .. } => "SnapshotDevice",
            Self::SnapshotCall { .. } => "SnapshotCall",
            Self::MakeCall { .. } => "MakeCall",
            Self::AnswerCall { .. } => "AnswerCall",
            Self::ClearConnection { .. } => "ClearConnection",
            Self::SystemStatus { .. } => "SystemStatus",
            Self::Unsupported { .. } => "Unsupported",
        }
    }

    /// Whether `response` is what this request is answered with when it succeeds.
    #[must_use]
    pub fn is_answered_by(&self, response: &Response) -> bool {
        match response {
            Response::RequestSystemStatus { .. } => matches!(self, Self::RequestSystemStatus { .. }),
            Response::GetCstaFeatures(_) => matches!(self, Self::GetCstaFeatures { .. }),
            Response::MonitorStart { .. } => matches!(self, Self::MonitorStart { .. }),
            Response::MonitorStop => matches!(self, Self::MonitorStop { .. }),
            Response::SnapshotDevice { .. } => matches!(self, Self::SnapshotDevice { .. }),
            Response::SnapshotCall { .. } => matches!(self, Self::SnapshotCall { .. }),
            Response::MakeCall { .. } => matches!(self, Self::MakeCall { .. }),
            Response::AnswerCall => matches!(self, Self::AnswerCall { .. }),
            Response::ClearConnection => matches!(self, Self::ClearConnection { .. }),
            Response::SystemStatus => matches!(self, Self::SystemStatus { .. }),
        }
    }
}

/// A positive answer. The negative one is [`super::CstaErrorCode`] for every service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    RequestSystemStatus {
        status: SystemStatus,
    },
    GetCstaFeatures(Features),
    MonitorStart {
        cross_ref_id: String,
    },
    MonitorStop,
    SnapshotDevice {
        connections: Vec<SnapshotConnection>,
    },
    /// ECMA-269 §17.1.1. Absent parties are those that the CTI manager does not know, or does not tell.
    SnapshotCall {
        calling: Option<Device>,
        called: Option<Device>,
    },
    MakeCall {
        calling_device: ConnectionIdentifier,
    },
    AnswerCall,
    ClearConnection,
    SystemStatus,
}

/// One call at the device of a SnapshotDevice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotConnection {
    pub connection: ConnectionIdentifier,
    /// compoundCallState: the device's own connection first, then those of the other parties. Empty when the
    /// CTI manager does not know.
    pub states: Vec<LocalConnectionState>,
}

/// Whether the phone rings the caller before it dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AutoOriginate {
    Prompt,
    #[default]
    DoNotPrompt,
}

impl AutoOriginate {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::DoNotPrompt => "doNotPrompt",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Prompt, Self::DoNotPrompt]
            .into_iter()
            .find(|value| value.word() == word)
    }
}

/// How a switching function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SystemStatus {
    Disabled,
    PartiallyDisabled,
    Enabled,
    Initializing,
    MessagesLost,
    Normal,
    OverloadImminent,
    OverloadReached,
    OverloadRelieved,
}

impl SystemStatus {
    pub const ALL: [Self; 9] = [
        Self::Disabled,
        Self::PartiallyDisabled,
        Self::Enabled,
        Self::Initializing,
        Self::MessagesLost,
        Self::Normal,
        Self::OverloadImminent,
        Self::OverloadReached,
        Self::OverloadRelieved,
    ];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::PartiallyDisabled => "partiallyDisabled",
            Self::Enabled => "enabled",
            Self::Initializing => "initializing",
            Self::MessagesLost => "messagesLost",
            Self::Normal => "normal",
            Self::OverloadImminent => "overloadImminent",
            Self::OverloadReached => "overloadReached",
            Self::OverloadRelieved => "overloadRelieved",
        }
    }

    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }

    /// Whether requests may be sent to a switching function in this state.
    #[must_use]
    pub fn is_usable(self) -> bool {
        match self {
            Self::Disabled | Self::Initializing => false,
            Self::PartiallyDisabled
            | Self::Enabled
            | Self::MessagesLost
            | Self::Normal
            | Self::OverloadImminent
            | Self::OverloadReached
            | Self::OverloadRelieved => true,
        }
    }
}

/// What GetCSTAFeaturesResponse advertises. Communicator shows a feature only if it is listed here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    pub services: BTreeSet<Service>,
    pub events: BTreeSet<EventKind>,
}

impl Features {
    /// Exactly what Tandem implements.
    #[must_use]
    pub fn implemented() -> Self {
        Self {
            services: Service::ALL.into(),
            events: EventKind::ALL.into(),
        }
    }
}

/// A service as a capability, in the order of the schema's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    GetCstaFeatures,
    RequestSystemStatus,
    MonitorStart,
    MonitorStop,
    SnapshotDevice,
    AnswerCall,
    ClearConnection,
    MakeCall,
}

impl Service {
    pub const ALL: [Self; 8] = [
        Self::GetCstaFeatures,
        Self::RequestSystemStatus,
        Self::MonitorStart,
        Self::MonitorStop,
        Self::SnapshotDevice,
        Self::AnswerCall,
        Self::ClearConnection,
        Self::MakeCall,
    ];

    /// The element in the capability list.
    #[must_use]
    pub fn element(self) -> &'static str {
        match self {
            Self::GetCstaFeatures => "getCSTAFeatures",
            Self::RequestSystemStatus => "requestSystemStatus",
            Self::MonitorStart => "monitorStart",
            Self::MonitorStop => "monitorStop",
            Self::SnapshotDevice => "snapshotDevice",
            Self::AnswerCall => "answerCall",
            Self::ClearConnection => "clearConnection",
            Self::MakeCall => "makeCall",
        }
    }

    /// The list that the element stands in.
    #[must_use]
    pub fn list(self) -> &'static str {
        match self {
            Self::GetCstaFeatures => "capExchangeServList",
            Self::RequestSystemStatus => "systemStatServList",
            Self::MonitorStart | Self::MonitorStop => "monitoringServList",
            Self::SnapshotDevice => "snapshotServList",
            Self::AnswerCall | Self::ClearConnection | Self::MakeCall => "callControlServList",
        }
    }
}
