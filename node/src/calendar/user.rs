//! One user: the CAS they are read at, the state of the subscription, and what is known of the calendar. Kept small: there
//! may be a hundred thousand of them.

use std::sync::Arc;
use std::time::Instant;

use tandem_cluster::{AssignmentReason, CalendarPresence};

use super::explain::{DeliveryKind, SubscriptionState};
use super::lane::LaneId;
use super::streams::GroupId;
use super::timeline::Timeline;
use tandem_exchange::ews::{FailureClass, Mailbox};

/// A user, for as long as this node follows them. A user who comes back has another generation, so results of earlier work
/// are recognised as old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct UserKey {
    pub index: u32,
    pub generation: u32,
}

/// Any user of the cluster whose calendar is enabled.
#[derive(Debug)]
pub(super) struct User {
    pub id: Arc<str>,
    /// As in the directory.
    pub configured_address: Box<str>,
    /// The primary address according to Exchange, where it differs.
    pub primary_address: Option<Box<str>>,
    pub placement: Option<Placement>,
    /// What this node does for the user; `None`: another node owns them.
    pub care: Option<Box<Care>>,
}

/// The replicated assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    pub lane: LaneId,
    pub epoch: u32,
    pub since_ms: u64,
    pub reason: AssignmentReason,
}

#[derive(Debug, Default)]
pub(super) struct Care {
    /// The current subscription.
    pub live: Option<Live>,
    /// The subscription that is being requested.
    pub asking: Asking,
    /// The number of the latest attempt to subscribe.
    pub attempt: u64,
    pub reading: Reading,
    pub known: Known,
    pub published: Option<CalendarPresence>,
    pub edge: Option<Edge>,
    pub trouble: Trouble,
    /// As entered in the index of deadlines.
    pub deadline: Option<Instant>,
    pub last_event: Option<Instant>,
    /// A push callback never came.
    pub push_unreachable: bool,
    /// The CAS is too old for streaming.
    pub streaming_refused: bool,
    /// How often a group's stream refused the subscription: from the second time on, the user has a stream of their own.
    pub rejections: u8,
    /// The place reserved while the user is being subscribed for a stream.
    pub reserved: Option<GroupId>,
    /// The group that must not get the user again.
    pub left_group: Option<GroupId>,
}

/// A subscription that Exchange has granted.
#[derive(Debug)]
pub(super) struct Live {
    pub id: Box<str>,
    pub attempt: u64,
    pub since_ms: u64,
    pub heard: Instant,
    pub kind: LiveKind,
}

#[derive(Debug)]
pub(super) enum LiveKind {
    Push {
        confirmed: bool,
        /// If nothing is heard until then, it was never confirmed, or is lost.
        overdue_at: Instant,
        /// Minutes.
        status_frequency: u16,
        /// The last one seen.
        watermark: Option<Box<str>>,
        /// When it is renewed with the settings of that time.
        renew_at: Option<Instant>,
    },
    Streaming {
        group: GroupId,
    },
    Pull {
        watermark: Box<str>,
        /// `None`: GetEvents is queued or under way.
        next_at: Option<Instant>,
    },
}

/// Progress towards a new subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Asking {
    /// Nothing is wanted, or the user has no CAS.
    #[default]
    Idle,
    Waiting(Instant),
    Queued,
    /// Subscribe is under way, under the last attempt.
    Sent {
        kind: DeliveryKind,
        /// Its callback came before its answer.
        heard: bool,
    },
    /// Another CAS was requested.
    Moving,
}

/// Progress towards the calendar's content.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub task: Task,
    pub step: Step,
    /// Something changed after the last read was sent.
    pub is_dirty: bool,
    pub refresh_at: Option<Instant>,
    /// How often the window was halved.
    pub halvings: u8,
    /// [`super::reading`]: a hash of the change stamp before the last read; `None`: events came since.
    pub stamp: Option<u64>,
    /// A sweep contradicts what is known.
    pub is_suspicious: bool,
    /// False suspicions in a row, and how many sweeps are skipped because of them.
    pub false_alarms: u8,
    pub sweeps_to_skip: u8,
    /// Free/busy is not available for the user.
    pub has_no_availability: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Task {
    #[default]
    Idle,
    Waiting(Instant),
    Queued,
    InFlight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Step {
    /// GetFolder; equal stamps make the read unnecessary after a loss.
    StampAfterLoss,
    /// GetFolder, then FindItem whatever the result.
    Stamp,
    #[default]
    Items,
}

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub timeline: Timeline,
    pub source: Source,
    /// Unix milliseconds; later times are unknown.
    pub until_ms: u64,
    pub read_at_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Source {
    #[default]
    Nothing,
    /// Free/busy, before the subscription: there may be a gap.
    Provisional,
    /// Free/busy, after it.
    Availability,
    /// FindItem.
    View,
}

/// The next change of state: when it is, and when it is published (Unix milliseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    pub at_ms: u64,
    pub due_ms: u64,
}

/// Recent failures.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub class: Option<FailureClass>,
    /// Failures in a row that were retried.
    pub tries: u8,
    /// Of the class `Moved`.
    pub store_failures: u8,
    pub throttled: u8,
    /// Moves in close succession.
    pub moves: u8,
    pub last_move: Option<Instant>,
    /// Impersonation was denied at one CAS, and another was requested.
    pub elsewhere_tried: bool,
    pub address_adopted: bool,
    /// What was reported already, so that it is reported only once.
    pub reported: Option<FailureClass>,
}

impl Trouble {
    /// The calendar was read, so earlier failures are over. Moves are forgotten by time alone.
    pub(super) fn settled(&mut self) {
        *self = Self {
            moves: self.moves,
            last_move: self.last_move,
            ..Self::default()
        };
    }
}

impl User {
    pub(super) fn mailbox(&self) -> Mailbox {
        mailbox_of(self.primary_address.as_deref(), &self.configured_address)
    }

    pub(super) fn state(&self) -> SubscriptionState {
        match &self.care {
            None => SubscriptionState::Elsewhere,
            Some(_) if self.placement.is_none() => SubscriptionState::Unassigned,
            Some(care) => care.state(),
        }
    }
}

/// The primary address counts where it differs from the configured one.
pub(super) fn mailbox_of(primary: Option<&str>, configured: &str) -> Mailbox {
    Mailbox(primary.unwrap_or(configured).to_owned())
}

impl Care {
    pub(super) fn state(&self) -> SubscriptionState {
        match (&self.live, self.asking) {
            (_, Asking::Moving) => SubscriptionState::Moving,
            (Some(live), _) if live.is_confirmed() => SubscriptionState::Live,
            (Some(_), _) => SubscriptionState::Unconfirmed,
            (None, Asking::Idle | Asking::Waiting(_)) => SubscriptionState::Waiting,
            (None, Asking::Queued) => SubscriptionState::Queued,
            (None, Asking::Sent { .. }) => SubscriptionState::Asked,
        }
    }

    /// The earliest deadline of everything except edges.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let asking = match self.asking {
            Asking::Waiting(at) => Some(at),
            Asking::Idle | Asking::Queued | Asking::Sent { .. } | Asking::Moving => None,
        };
        let reading = match self.reading.task {
            Task::Waiting(at) => Some(at),
            Task::Idle => self.reading.refresh_at,
            Task::Queued | Task::InFlight => None,
        };
        let live = self.live.as_ref().and_then(Live::next_deadline);
        [asking, reading, live].into_iter().flatten().min()
    }

    pub(super) fn delivery(&self) -> Option<DeliveryKind> {
        self.live.as_ref().map(Live::delivery)
    }
}

impl Live {
    pub(super) fn delivery(&self) -> DeliveryKind {
        match self.kind {
            LiveKind::Push { .. } => DeliveryKind::Push,
            LiveKind::Streaming { .. } => DeliveryKind::Streaming,
            LiveKind::Pull { .. } => DeliveryKind::Pull,
        }
    }

    /// Streams and pulls confirm themselves; a push subscription counts only after its first callback.
    fn is_confirmed(&self) -> bool {
        match self.kind {
            LiveKind::Push { confirmed, .. } => confirmed,
            LiveKind::Streaming { .. } | LiveKind::Pull { .. } => true,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.kind {
            LiveKind::Push {
                overdue_at, renew_at, ..
            } => renew_at.map_or(Some(*overdue_at), |renew_at| Some(renew_at.min(*overdue_at))),
            LiveKind::Streaming { .. } => None,
            LiveKind::Pull { next_at, .. } => *next_at,
        }
    }
}
