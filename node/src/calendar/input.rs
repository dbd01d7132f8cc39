//! Everything that can happen to the calendars of a node.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_shared::cluster::{Applied, Assignment, CalendarPresence, CasGateway, NodeId};

use super::output::{RequestId, StreamId};
use super::settings::CalendarSettings;
use crate::exchange::ews::{Answer, Failure, Mailbox, Notification, StreamPart};

/// A user whose calendar shall show in his presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarUser {
    /// The directory's user id, as in assignments.
    pub id: String,
    pub mailbox: Mailbox,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// All users of the cluster whose calendar is enabled. Who is left out is unsubscribed and unassigned at once.
    Users(Vec<CalendarUser>),
    /// The live nodes; each user's owner is `successor` among them.
    LiveNodes(Vec<NodeId>),
    /// In configured order.
    Gateways(Vec<CasGateway>),
    /// What the replicated state says of these users now. Comes once for all at the start, even when there are none.
    Assignments(Vec<(String, Option<Assignment>)>),
    /// What the log holds of calendars, whoever said it. A node that kept users of this one meanwhile may have said
    /// something else, and what this node said then was not heard.
    Recorded(BTreeMap<String, CalendarPresence>),
    Settings(CalendarSettings),
    /// The account or its password was changed: whatever stood still for it may try again.
    CredentialChanged,
    /// Callbacks shall come to another URL: push subscriptions are renewed, spread over one status frequency and at
    /// most an hour. Callbacks to the old one are heard until then.
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
    /// A push callback whose token was genuine, for a user of this node. `None`: the callback said that the
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
    /// The connection is over, for whatever reason; nothing more comes of this stream.
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

/// Why a stream is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// We closed it, or the server did after saying so.
    Closed,
    /// Nothing was heard for the read timeout.
    Silent,
    Failed(Failure),
}
