//! Notifications about a subscription, by push, stream or pull.

use super::failure::Failure;
use super::operation::SubscriptionId;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Nothing happened; the subscription is alive.
    Status,
    Created,
    Modified,
    Moved,
    Copied,
    Deleted,
    NewMail,
    FreeBusyChanged,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// Push and pull; not every server sends it.
    pub watermark: Option<String>,
}

/// `t:Notification`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub subscription: SubscriptionId,
    /// If it differs from the last watermark seen, something was missed.
    pub previous_watermark: Option<String>,
    pub more_events: bool,
    pub events: Vec<Event>,
}

/// One of the documents that make up the answer to GetStreamingEvents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamPart {
    /// `ConnectionStatus` OK without notifications: the stream is open.
    Opened,
    Notifications(Vec<Notification>),
    /// These ids are invalid; the others get nothing on this connection either.
    Rejected {
        subscriptions: Vec<SubscriptionId>,
        failure: Failure,
    },
    /// `ConnectionStatus` Closed: its time is over; open the next one immediately.
    Closed,
}
