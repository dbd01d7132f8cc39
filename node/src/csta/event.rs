//! The call control events of a call.

use std::borrow::Cow;

use super::{ConnectionIdentifier, LocalConnectionState};

/// One call control event. All of them have this shape; an element that a kind does not have is not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// The receiver's monitor; a client ignores an event that does not carry its own.
    pub monitor_cross_ref_id: String,
    /// The connection that changed: that of the called device when the far end alerts or answers.
    pub connection: ConnectionIdentifier,
    /// The device that did it, under the name that the kind gives it (`alertingDevice`, `releasingDevice`, …); for
    /// NetworkReached the `networkInterfaceUsed`. Originated has none.
    pub subject: Option<Device>,
    /// Of Diverted only.
    pub new_destination: Option<Device>,
    pub calling: Option<Device>,
    pub called: Option<Device>,
    pub last_redirection: Option<RedirectionDevice>,
    /// How the *monitored* device's own connection stands after the event.
    pub local_connection_info: Option<LocalConnectionState>,
    pub cause: Cause,
}

impl Event {
    /// An event with nothing but what every one has.
    #[must_use]
    pub fn new(
        kind: EventKind,
        monitor_cross_ref_id: impl Into<String>,
        connection: ConnectionIdentifier,
    ) -> Self {
        Self {
            kind,
            monitor_cross_ref_id: monitor_cross_ref_id.into(),
            connection,
            subject: None,
            new_destination: None,
            calling: None,
            called: None,
            last_redirection: None,
            local_connection_info: None,
            cause: Cause::NORMAL,
        }
    }

    /// Every device identifier in the event, for rewriting: the connection's and those of the parties.
    pub fn device_identifiers_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let parties = [
            &mut self.subject,
            &mut self.new_destination,
            &mut self.calling,
            &mut self.called,
        ];
        let redirection = match &mut self.last_redirection {
            Some(RedirectionDevice::NumberDialed(number)) => Some(number),
            Some(
                RedirectionDevice::NotKnown
                | RedirectionDevice::NotRequired
                | RedirectionDevice::NotSpecified
                | RedirectionDevice::Restricted,
            )
            | None => None,
        };
        parties
            .into_iter()
            .filter_map(|party| party.as_mut().and_then(Device::identifier_mut))
            .chain(redirection)
            .chain(self.connection.device_id.as_mut())
    }
}

/// Which event, in the order of the capability list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    ConnectionCleared,
    Delivered,
    Diverted,
    Established,
    Failed,
    Held,
    NetworkReached,
    Originated,
    Retrieved,
    ServiceInitiated,
}

impl EventKind {
    pub const ALL: [Self; 10] = [
        Self::ConnectionCleared,
        Self::Delivered,
        Self::Diverted,
        Self::Established,
        Self::Failed,
        Self::Held,
        Self::NetworkReached,
        Self::Originated,
        Self::Retrieved,
        Self::ServiceInitiated,
    ];

    /// The root element.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.shape().root
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The element in the capability list, which is not always the event's name (`netwReached`).
    #[must_use]
    pub fn element(self) -> &'static str {
        match self {
            Self::ConnectionCleared => "connectionCleared",
            Self::Delivered => "delivered",
            Self::Diverted => "diverted",
            Self::Established => "established",
            Self::Failed => "failed",
            Self::Held => "held",
            Self::NetworkReached => "netwReached",
            Self::Originated => "originated",
            Self::Retrieved => "retrieved",
            Self::ServiceInitiated => "serviceInitiated",
        }
    }

    pub(super) fn shape(self) -> Shape {
        let shape = |root, connection, subject, parties| Shape {
            root,
            connection,
            subject,
            parties,
        };
        match self {
            Self::ConnectionCleared => shape(
                "ConnectionClearedEvent",
                "droppedConnection",
                Some("releasingDevice"),
                Parties::None,
            ),
            Self::Delivered => shape(
                "DeliveredEvent",
                "connection",
                Some("alertingDevice"),
                Parties::All,
            ),
            Self::Diverted => shape(
                "DivertedEvent",
                "connection",
                Some("divertingDevice"),
                Parties::All,
            ),
            Self::Established => shape(
                "EstablishedEvent",
                "establishedConnection",
                Some("answeringDevice"),
                Parties::All,
            ),
            Self::Failed => shape(
                "FailedEvent",
                "failedConnection",
                Some("failingDevice"),
                Parties::All,
            ),
            Self::Held => shape(
                "HeldEvent",
                "heldConnection",
                Some("holdingDevice"),
                Parties::None,
            ),
            Self::NetworkReached => shape(
                "NetworkReachedEvent",
                "outboundConnection",
                Some("networkInterfaceUsed"),
                Parties::All,
            ),
            Self::Originated => shape(
                "OriginatedEvent",
                "originatedConnection",
                None,
                Parties::CallingAndCalled,
            ),
            Self::Retrieved => shape(
                "RetrievedEvent",
                "retrievedConnection",
                Some("retrievingDevice"),
                Parties::None,
            ),
            Self::ServiceInitiated => shape(
                "ServiceInitiatedEvent",
                "initiatedConnection",
                Some("initiatingDevice"),
                Parties::None,
            ),
        }
    }
}

/// How the schema names what an event of this kind has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) root: &'static str,
    pub(super) connection: &'static str,
    pub(super) subject: Option<&'static str>,
    pub(super) parties: Parties,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parties {
    None,
    CallingAndCalled,
    /// callingDevice, calledDevice, lastRedirectionDevice.
    All,
}

/// SubjectDeviceID, CallingDeviceID, CalledDeviceID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    Identifier(String),
    NotKnown,
    Restricted,
}

impl Device {
    #[must_use]
    pub fn identifier(&self) -> Option<&str> {
        match self {
            Self::Identifier(identifier) => Some(identifier),
            Self::NotKnown | Self::Restricted => None,
        }
    }

    pub fn identifier_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Identifier(identifier) => Some(identifier),
            Self::NotKnown | Self::Restricted => None,
        }
    }
}

/// RedirectionDeviceID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RedirectionDevice {
    NumberDialed(String),
    NotKnown,
    NotRequired,
    NotSpecified,
    Restricted,
}

/// Why an event happened: one of the schema's 113 words, kept as it came so that none is lost on the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause(Cow<'static, str>);

impl Cause {
    pub const BUSY: Self = Self(Cow::Borrowed("busy"));
    pub const CALL_CANCELLED: Self = Self(Cow::Borrowed("callCancelled"));
    pub const CALL_NOT_ANSWERED: Self = Self(Cow::Borrowed("callNotAnswered"));
    pub const DESTINATION_NOT_OBTAINABLE: Self = Self(Cow::Borrowed("destNotObtainable"));
    pub const MAKE_CALL: Self = Self(Cow::Borrowed("makeCall"));
    pub const NEW_CALL: Self = Self(Cow::Borrowed("newCall"));
    pub const NORMAL: Self = Self(Cow::Borrowed("normal"));
    pub const NORMAL_CLEARING: Self = Self(Cow::Borrowed("normalClearing"));

    /// `None` unless it is a word of the schema's form: 1 to 64 ASCII letters and digits.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let well_formed = (1..=WORD_CHARACTERS_MAX).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        well_formed.then(|| Self(Cow::Owned(word.to_owned())))
    }

    #[must_use]
    pub fn word(&self) -> &str {
        &self.0
    }
}

const WORD_CHARACTERS_MAX: usize = 64;
