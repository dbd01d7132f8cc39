//! Operations of a Client Access Server, and their answers.

use std::fmt;

use super::calendar_item::CalendarItem;
use super::failure::Failure;
use super::notification::Notification;

/// A primary SMTP address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox(pub String);

impl fmt::Display for Mailbox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Opaque; owned by the calling account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub String);

/// Unix seconds, `from` included, `until` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeWindow {
    pub from: i64,
    pub until: i64,
}

/// `RequestServerVersion`: it chooses the vocabulary of the answer. Best first in [`Self::LADDER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SchemaVersion {
    Exchange2007Sp1,
    /// The first with streaming notifications.
    Exchange2010Sp1,
    Exchange2010Sp2,
    /// The first that reports `WorkingElsewhere`.
    Exchange2013,
}

impl SchemaVersion {
    pub const LADDER: [Self; 4] = [
        Self::Exchange2013,
        Self::Exchange2010Sp2,
        Self::Exchange2010Sp1,
        Self::Exchange2007Sp1,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exchange2007Sp1 => "Exchange2007_SP1",
            Self::Exchange2010Sp1 => "Exchange2010_SP1",
            Self::Exchange2010Sp2 => "Exchange2010_SP2",
            Self::Exchange2013 => "Exchange2013",
        }
    }

    #[must_use]
    pub fn has_streaming(self) -> bool {
        self >= Self::Exchange2010Sp1
    }

    /// After `ErrorInvalidServerVersion`.
    #[must_use]
    pub fn next_older(self) -> Option<Self> {
        let position = Self::LADDER.iter().position(|version| *version == self)?;
        Self::LADDER.get(position + 1).copied()
    }
}

/// One request; the folder is always the mailbox's default calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    SubscribePush {
        /// `https`, or `http` where that is configured; shorter than 2,083 bytes.
        callback_url: String,
        /// Minutes, 1–1440.
        status_frequency: u16,
    },
    SubscribeStreaming,
    SubscribePull {
        /// Minutes, 1–1440.
        timeout: u16,
    },
    GetEvents {
        subscription: SubscriptionId,
        watermark: String,
    },
    /// Its answer is a stream, see [`super::StreamPart`].
    GetStreamingEvents {
        /// At most 200.
        subscriptions: Vec<SubscriptionId>,
        /// Minutes, 1–30.
        connection_timeout: u8,
    },
    /// Not for push: those subscriptions end by the answer to a callback.
    Unsubscribe {
        subscription: SubscriptionId,
    },
    FindCalendarItems {
        window: TimeWindow,
        entries_max: u16,
    },
    /// Needs no impersonation.
    GetUserAvailability {
        /// At most [`Self::AVAILABILITY_MAILBOXES_MAX`].
        mailboxes: Vec<Mailbox>,
        window: TimeWindow,
    },
    /// GetFolder with the folder's change stamp: the cheap test for missed events, and the test that impersonation works.
    GetChangeStamp,
}

impl Operation {
    pub const AVAILABILITY_MAILBOXES_MAX: usize = 100;

    /// For metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::SubscribePush { .. } => "subscribe_push",
            Self::SubscribeStreaming => "subscribe_streaming",
            Self::SubscribePull { .. } => "subscribe_pull",
            Self::GetEvents { .. } => "get_events",
            Self::GetStreamingEvents { .. } => "get_streaming_events",
            Self::Unsubscribe { .. } => "unsubscribe",
            Self::FindCalendarItems { .. } => "find_item",
            Self::GetUserAvailability { .. } => "get_user_availability",
            Self::GetChangeStamp => "get_folder",
        }
    }
}

/// PR_LOCAL_COMMIT_TIME_MAX and PR_DELETED_COUNT_TOTAL as the server wrote them; compared, never interpreted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeStamp {
    pub local_commit_time_max: Option<String>,
    pub deleted_count_total: Option<String>,
}

/// The result of an operation that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Subscribed {
        subscription: SubscriptionId,
        /// Push and pull.
        watermark: Option<String>,
    },
    Events(Notification),
    Unsubscribed,
    Items {
        items: Vec<CalendarItem>,
        /// `false`: there are more than were returned; request half the window.
        complete: bool,
    },
    /// One result per mailbox, in the order asked.
    Availability(Vec<Result<Vec<CalendarItem>, Failure>>),
    ChangeStamp(ChangeStamp),
}
