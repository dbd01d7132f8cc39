//! Everything that can happen to the calendars of a node.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_cluster::{Applied, Assignment, CalendarPresence, CasGateway, NodeId};

use super::output::{RequestId, StreamId};
use super::settings::CalendarSettings;
use tandem_exchange::ews::{Answer, Failure, Mailbox, Notification, StreamPart};

/// A user whose calendar shall be part of their presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarUser {
    /// The directory's user id, as in assignments.
    pub id: String,
    pub mailbox: Mailbox,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// All users of the cluster whose calendar is enabled. Users left out are unsubscribed and unassigned at once.
    Users(Vec<CalendarUser>),
    /// The live nodes; each user's owner is `successor` among them.
    LiveNodes(Vec<NodeId>),
    /// In configured order.
    Gateways(Vec<CasGateway>),
    /// The replicated state's assignments of these users. Comes once for all at the start, even when there are none.
    Assignments(Vec<(String, Option<Assignment>)>),
    /// The calendar states in the log, whichever node reported them. A node that owned users of this one meanwhile may have
    /// reported something else, and what this node reported then was ignored.
    Recorded(BTreeMap<String, CalendarPresence>),
    Settings(CalendarSettings),
    /// The account or its password changed: whatever was paused for it may try again.
    CredentialChanged,
    /// Callbacks shall come to another URL: push subscriptions are renewed, spread over one status frequency and at
    /// most an hour. Callbacks to the old one are accepted until then.
    CallbackAddressChanged,
    /// This node may write to the log (`Authority::Quorum` or `NoLeader`), or must start nothing.
    AuthorityChanged {
        may_start: bool,
    },
    Answered {
        request: RequestId,
        result: Result<Answer, Failure>,
        latency: Duration,
    },
    /// A push callback with a valid token, for a user of this node. `None`: the callback said that the
    /// subscription is gone (`failure`).
    Pushed {
        user: String,
        /// Of the callback URL: which attempt to subscribe this belongs to.
        attempt: u64,
        notification: Result<Notification, Failure>,
    },
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

/// Why a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// We closed it, or the server did after saying so.
    Closed,
    /// Nothing was heard for the read timeout.
    Silent,
    Failed(Failure),
}
