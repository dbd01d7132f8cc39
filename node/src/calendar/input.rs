//! Everything that can happen to the calendars of a node.

use std::time::Duration;

use tandem_cluster::{Applied, Authority, Change, ClusterState};

use super::output::{CallbackId, RequestId, StreamId};
use crate::directory::Directory;
use tandem_exchange::ews::{Answer, Failure, Mailbox, Notification, StreamPart};

/// What the calendars look at while they handle an input.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// It may be ahead of the changes that the calendars have been told of.
    pub state: &'a ClusterState,
    pub directory: &'a Directory,
    /// Under which this node registers.
    pub incarnation: u64,
    pub authority: Authority,
}

/// A user whose calendar shall be part of their presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarUser {
    /// The directory's user id, as in assignments.
    pub id: String,
    pub mailbox: Mailbox,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// What the log has changed. Users who are no longer enabled are unsubscribed and unassigned at once.
    Changes(Vec<Change>),
    /// The state may show this node otherwise, it may have begun another incarnation, or its authority may have changed.
    StandingChanged,
    DirectoryChanged,
    /// The account or its password changed: whatever was paused for it may try again.
    CredentialChanged,
    /// Callbacks shall come to another URL: push subscriptions are renewed, spread over one status frequency and at
    /// most an hour. Callbacks to the old one are accepted until then.
    CallbackAddressChanged,
    Answered {
        request: RequestId,
        result: Result<Answer, Failure>,
        latency: Duration,
    },
    /// [`super::Output::AnswerCallback`] follows.
    CalledBack(Callback),
    StreamPart {
        stream: StreamId,
        part: StreamPart,
    },
    /// The connection ended, for whatever reason; nothing more comes from this stream.
    StreamEnded {
        stream: StreamId,
        end: StreamEnd,
    },
    /// `None`: not committed in time.
    Committed {
        proposal: u64,
        applied: Option<Applied>,
    },
    DeadlineReached,
}

/// A push callback with a valid token, for any user of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Callback {
    pub id: CallbackId,
    pub user: String,
    /// Of the callback URL: which attempt to subscribe this belongs to.
    pub attempt: u64,
    /// In the order sent. A failure says that the subscription is gone.
    pub notifications: Vec<Result<Notification, Failure>>,
}

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// We closed it, or the server did after saying so.
    Closed,
    /// Nothing was heard for the read timeout.
    Silent,
    Failed(Failure),
}
