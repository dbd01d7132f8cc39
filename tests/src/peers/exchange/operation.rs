//! What a strict server can be asked, and in which words.

use std::collections::BTreeSet;

use super::mail_store::EventKind;

/// `t:RequestServerVersion`, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    Exchange2007,
    Exchange2007Sp1,
    Exchange2010,
    Exchange2010Sp1,
    Exchange2010Sp2,
    Exchange2013,
    Exchange2013Sp1,
    Exchange2015,
    Exchange2016,
}

impl Version {
    const NAMES: [(Self, &'static str); 9] = [
        (Self::Exchange2007, "Exchange2007"),
        (Self::Exchange2007Sp1, "Exchange2007_SP1"),
        (Self::Exchange2010, "Exchange2010"),
        (Self::Exchange2010Sp1, "Exchange2010_SP1"),
        (Self::Exchange2010Sp2, "Exchange2010_SP2"),
        (Self::Exchange2013, "Exchange2013"),
        (Self::Exchange2013Sp1, "Exchange2013_SP1"),
        (Self::Exchange2015, "Exchange2015"),
        (Self::Exchange2016, "Exchange2016"),
    ];

    /// Major, minor and build of `t:ServerVersionInfo`.
    #[must_use]
    pub fn server(self) -> (u32, u32, u32) {
        match self {
            Self::Exchange2007 | Self::Exchange2007Sp1 => (8, 1, 240),
            Self::Exchange2010 => (14, 0, 639),
            Self::Exchange2010Sp1 => (14, 1, 218),
            Self::Exchange2010Sp2 => (14, 2, 247),
            Self::Exchange2013 | Self::Exchange2013Sp1 => (15, 0, 1497),
            Self::Exchange2015 | Self::Exchange2016 => (15, 1, 2507),
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(version, _)| *version)
    }
}

/// `t:ConnectingSID`, as far as it is an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impersonation {
    /// Only the primary address will do.
    PrimarySmtpAddress(String),
    SmtpAddress(String),
    PrincipalName(String),
}

impl Impersonation {
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::PrimarySmtpAddress(address) | Self::SmtpAddress(address) | Self::PrincipalName(address) => {
                address
            }
        }
    }
}

/// What kind of notifications is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Push {
        /// 1–1440.
        status_frequency_minutes: u32,
        url: String,
    },
    Streaming,
    Pull {
        /// 1–1440.
        timeout_minutes: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Subscribe {
        wanted: Wanted,
        events: BTreeSet<EventKind>,
        /// The watermark of an old subscription: allowed, dear, and nothing that a client should do.
        watermark: Option<String>,
    },
    GetEvents {
        subscription: String,
        watermark: String,
    },
    GetStreamingEvents {
        subscriptions: Vec<String>,
        /// 1–30.
        minutes: u32,
    },
    Unsubscribe {
        subscription: String,
    },
    FindItem {
        from: i64,
        until: i64,
        entries_max: usize,
        /// `calendar:Start` and the like.
        properties: Vec<String>,
    },
    GetUserAvailability {
        mailboxes: Vec<String>,
        from: i64,
        until: i64,
    },
    GetFolder {
        /// Property tags such as `0x670A`.
        tags: Vec<String>,
    },
}

impl Operation {
    #[must_use]
    pub fn name(&self) -> OperationName {
        match self {
            Self::Subscribe { .. } => OperationName::Subscribe,
            Self::GetEvents { .. } => OperationName::GetEvents,
            Self::GetStreamingEvents { .. } => OperationName::GetStreamingEvents,
            Self::Unsubscribe { .. } => OperationName::Unsubscribe,
            Self::FindItem { .. } => OperationName::FindItem,
            Self::GetUserAvailability { .. } => OperationName::GetUserAvailability,
            Self::GetFolder { .. } => OperationName::GetFolder,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationName {
    Subscribe,
    GetEvents,
    GetStreamingEvents,
    Unsubscribe,
    FindItem,
    GetUserAvailability,
    GetFolder,
}

impl OperationName {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "Subscribe",
            Self::GetEvents => "GetEvents",
            Self::GetStreamingEvents => "GetStreamingEvents",
            Self::Unsubscribe => "Unsubscribe",
            Self::FindItem => "FindItem",
            Self::GetUserAvailability => "GetUserAvailability",
            Self::GetFolder => "GetFolder",
        }
    }
}
