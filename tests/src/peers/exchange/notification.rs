//! What a Client Access Server tells of its subscriptions, and how fast it lives.

use std::time::Duration;

use super::mail_store::{EventKind, ItemId};

/// How fast this server lives. A story shortens what it wants to see.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Of StatusFrequency, pull timeouts and ConnectionTimeout.
    pub minute: Duration,
    /// Between Subscribe and the first status event.
    pub first_call: Duration,
    /// After a callback that failed; doubles each time.
    pub first_retry: Duration,
    /// Of streams.
    pub heartbeat: Duration,
    /// How long a streaming subscription lives without a connection.
    pub idle_expiry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            minute: Duration::from_secs(60),
            first_call: Duration::from_millis(50),
            first_retry: Duration::from_secs(30),
            heartbeat: Duration::from_secs(45),
            idle_expiry: Duration::from_secs(300),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNumber(pub u64);

/// Something that happened in a calendar, as a subscription keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub item: ItemId,
    pub change_key: u64,
    /// The watermark.
    pub number: u64,
    pub at_ms: i64,
}

/// `t:Notification`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub subscription: String,
    /// Push and pull: the last watermark that the client has.
    pub previous: Option<u64>,
    pub more: bool,
    /// None at all: a status event.
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `callback_answered` follows in any case.
    Call { url: String, notification: Notification },
    Say {
        stream: StreamNumber,
        notifications: Vec<Notification>,
    },
    /// The connection's time is over.
    Close { stream: StreamNumber },
    /// Another stream took one of its ids.
    Supersede {
        stream: StreamNumber,
        subscriptions: Vec<String>,
    },
}

/// What came back from a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackAnswer {
    Ok,
    Unsubscribe,
    /// No connection, another status, or nothing that can be understood.
    Failed(String),
}
