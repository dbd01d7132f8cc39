//! Everything that the calendars of a node can request.

use std::time::Duration;

use tandem_cluster::{AssignmentReason, CalendarPresence, CasGateway, CasId, Command};

use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{FailureClass, Mailbox, Operation, SubscriptionId, SubscriptionStatus};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `Input::Answered` follows in any case.
    Request {
        request: RequestId,
        cas: CasId,
        operation: Operation,
        impersonate: Option<Mailbox>,
        affinity: AffinityKey,
        timeout: Duration,
    },
    /// As `SubscribePush`, whose URL the shell makes of the user and the attempt. `Input::Answered` follows.
    SubscribePush {
        request: RequestId,
        cas: CasId,
        user: String,
        mailbox: Mailbox,
        attempt: u64,
        /// Minutes.
        status_frequency: u16,
        timeout: Duration,
    },
    /// `Input::StreamEnded` follows in any case.
    OpenStream {
        stream: StreamId,
        cas: CasId,
        subscriptions: Vec<SubscriptionId>,
        /// Whom to impersonate: the connection is charged to this mailbox.
        anchor: Mailbox,
        affinity: AffinityKey,
        /// Minutes.
        connection_timeout: u8,
        /// Silence after which the connection is closed.
        read_timeout: Duration,
    },
    CloseStream {
        stream: StreamId,
    },
    /// `Input::Committed` follows in any case.
    Propose {
        proposal: u64,
        command: Command,
    },
    /// The user's calendar state now. Emitted when it is due to be published, spread included.
    Publish {
        user: String,
        presence: CalendarPresence,
    },
    /// The CAS that are configured, all of them.
    UseCas(Vec<CasGateway>),
    /// Callbacks shall come to this port (`None`: the one of the configuration file); a former one is called for one more
    /// status frequency (minutes).
    ListenForCallbacks {
        port: Option<u16>,
        status_frequency: u16,
    },
    AnswerCallback {
        callback: CallbackId,
        status: SubscriptionStatus,
    },
    Report(Report),
}

/// A callback that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallbackId(pub u64);

/// What was done with a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// For a user of this node.
    Taken,
    /// For a user of another node, which learns of it through the log.
    PassedOn,
    /// No longer wanted: the CAS was told to unsubscribe.
    Unsubscribed,
}

/// An event worth a log line or a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Subscribed {
        user: String,
        cas: CasId,
    },
    /// Why a subscription was lost, by class; `None`: it was silent for too long.
    SubscriptionLost {
        user: String,
        cas: CasId,
        class: Option<FailureClass>,
    },
    Unsubscribed {
        user: String,
    },
    /// A request failed.
    Failed {
        cas: CasId,
        operation: &'static str,
        class: FailureClass,
    },
    Throttled {
        cas: CasId,
        for_: Duration,
    },
    BreakerOpened {
        cas: CasId,
    },
    BreakerClosed {
        cas: CasId,
    },
    /// One alarm, not one per user.
    CredentialRefused {
        cas: CasId,
        reason: String,
    },
    CredentialAccepted,
    /// No push callback came: streaming is used instead.
    FellBackToStreaming {
        user: String,
    },
    /// No push callback came, and no other delivery is allowed: the CAS cannot reach the notification port.
    NotificationPortUnreachable {
        user: String,
        cas: CasId,
    },
    /// Only one CAS refuses the account that others accept.
    CredentialRefusedByOne {
        cas: CasId,
        reason: String,
    },
    /// A request was not understood or not accepted: a bug, or a mistake in the configuration.
    RequestRefused {
        user: String,
        cas: CasId,
        reason: String,
    },
    /// Another CAS was requested.
    Moving {
        user: String,
        cas: CasId,
        cause: &'static str,
    },
    /// More users are enabled than can be followed.
    UsersLeftOut {
        count: usize,
    },
    /// Events stopped coming although the calendar changed: the mailbox has moved, or the subscription is stale.
    Deaf {
        user: String,
        cas: CasId,
    },
    MailboxUnavailable {
        user: String,
        reason: String,
    },
    RightsMissing {
        user: String,
        reason: String,
    },
    /// The log assigned a CAS to a user of this node.
    Assigned {
        cas: CasId,
        reason: AssignmentReason,
    },
    CalledBack(CallbackOutcome),
    /// A callback for another node's user found no room among those that wait.
    CallbackDropped,
    /// The CAS of the configuration file, to a cluster that had none.
    CasOffered {
        count: usize,
        /// Otherwise the cluster refused them.
        is_taken: bool,
    },
    /// A change of state was due at the first time and published at the second (Unix milliseconds).
    Edge {
        due_ms: u64,
        published_ms: u64,
    },
}
