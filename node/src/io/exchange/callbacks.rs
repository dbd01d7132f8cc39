//! Handles push callbacks: answers at once, and passes those for another node's user to the owner through the log.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tandem_cluster::{CallbackNote, Command};
use tandem_raft::Cluster;
use tracing::debug;

use crate::calendar::{Calendars, CallbackVerdict, Input};
use crate::metrics::{CalendarMetrics, CallbackOutcome};
use tandem_exchange::ews::{
    Event, EventKind, Failure, Notification, ResponseCode, SubscriptionId, SubscriptionStatus,
};

use super::push_listener::CallbackArrived;

pub(super) struct Callbacks {
    cluster: Cluster,
    metrics: CalendarMetrics,
    /// Callbacks that are not in the log yet, by user and attempt.
    notes: BTreeMap<(String, u64), CallbackNote>,
    proposing: Arc<AtomicBool>,
}

impl Callbacks {
    pub(super) fn new(cluster: Cluster, metrics: CalendarMetrics) -> Self {
        Self {
            cluster,
            metrics,
            notes: BTreeMap::new(),
            proposing: Arc::default(),
        }
    }

    /// Answers the CAS; whatever else is to be done follows.
    pub(super) fn take(
        &mut self,
        arrived: CallbackArrived,
        is_ours: bool,
        calendars: &Calendars,
    ) -> Vec<Input> {
        let (user, attempt) = (arrived.user, arrived.attempt);
        // A callback that reports the end of a subscription is wanted in any case.
        let wanted = arrived.notifications.iter().flatten().all(|notification| {
            let subscription = &notification.subscription;
            calendars.callback_verdict(&user, attempt, subscription) == CallbackVerdict::Keep
        });
        let status = match wanted {
            true => SubscriptionStatus::Ok,
            false => SubscriptionStatus::Unsubscribe,
        };
        // The CAS may have closed the connection.
        let _ = arrived.verdict.send(status);
        if !wanted {
            self.metrics.called_back(CallbackOutcome::Unsubscribed);
            return Vec::new();
        }
        if is_ours {
            self.metrics.called_back(CallbackOutcome::Taken);
            let pushed = |notification| Input::Pushed {
                user: user.clone(),
                attempt,
                notification,
            };
            return arrived.notifications.into_iter().map(pushed).collect();
        }
        self.metrics.called_back(CallbackOutcome::PassedOn);
        for notification in &arrived.notifications {
            self.note(note_of(user.clone(), attempt, notification));
        }
        Vec::new()
    }

    /// The owner needs to know that something happened, not how often.
    fn note(&mut self, note: CallbackNote) {
        let has_room = self.notes.len() < NOTES_MAX;
        match self.notes.entry((note.user.clone(), note.attempt)) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.has_events |= note.has_events;
                known.failed = note.failed.or_else(|| known.failed.take());
            }
            Entry::Vacant(place) if has_room => drop(place.insert(note)),
            Entry::Vacant(_) => self.metrics.note_dropped(),
        }
    }

    /// One proposal at a time, with as many callbacks as a log entry may hold.
    pub(super) fn flush(&mut self) {
        if self.notes.is_empty() || self.proposing.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut callbacks = Vec::new();
        while callbacks.len() < NOTES_PER_COMMAND
            && let Some((_, note)) = self.notes.pop_first()
        {
            callbacks.push(note);
        }
        let (cluster, proposing) = (self.cluster.clone(), self.proposing.clone());
        tokio::spawn(async move {
            let command = Command::CallbacksReceived { callbacks };
            if let Err(error) = cluster.propose(command, PROPOSE_TIMEOUT).await {
                // The owner's sweep finds what it missed.
                debug!(%error, "callbacks could not be passed to their owner");
            }
            proposing.store(false, Ordering::Release);
        });
    }
}

fn note_of(user: String, attempt: u64, notification: &Result<Notification, Failure>) -> CallbackNote {
    let (subscription, has_events, failed) = match notification {
        Ok(notification) => {
            let mut events = notification.events.iter();
            let has_events = events.any(|event| event.kind != EventKind::Status);
            (notification.subscription.0.clone(), has_events, None)
        }
        Err(failure) => (String::new(), false, Some(code_of(failure))),
    };
    CallbackNote {
        user,
        attempt,
        subscription,
        has_events,
        failed,
    }
}

/// Treats another node's note as if the callback had come here.
pub(super) fn notification_of(note: &CallbackNote) -> Result<Notification, Failure> {
    if let Some(code) = &note.failed {
        return Err(Failure::Response {
            code: ResponseCode(code.clone()),
            message: "reported by another node".to_owned(),
            back_off: None,
            primary_address: None,
            inner: None,
        });
    }
    let kind = match note.has_events {
        true => EventKind::Modified,
        false => EventKind::Status,
    };
    Ok(Notification {
        subscription: SubscriptionId(note.subscription.clone()),
        previous_watermark: None,
        more_events: false,
        events: vec![Event {
            kind,
            watermark: None,
        }],
    })
}

fn code_of(failure: &Failure) -> String {
    match failure {
        Failure::Response { code, .. } => code.0.clone(),
        // A server that gives no better reason has lost the subscription.
        Failure::Http { .. }
        | Failure::Unauthorized(_)
        | Failure::Malformed(_)
        | Failure::TooLarge
        | Failure::Unreachable(_)
        | Failure::Tls(_)
        | Failure::TimedOut => "ErrorInvalidSubscription".to_owned(),
    }
}

const NOTES_MAX: usize = 20_000;
const NOTES_PER_COMMAND: usize = 500;
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(kind: EventKind) -> Result<Notification, Failure> {
        Ok(Notification {
            subscription: SubscriptionId("sub-1".to_owned()),
            previous_watermark: None,
            more_events: false,
            events: vec![Event {
                kind,
                watermark: None,
            }],
        })
    }

    #[test]
    fn the_owner_learns_from_a_note_what_the_callback_said() {
        for kind in [EventKind::Status, EventKind::Modified] {
            let note = note_of("ana".to_owned(), 7, &notification(kind));
            assert_eq!(notification_of(&note), notification(kind));
        }
        let ended = Failure::Response {
            code: ResponseCode("ErrorEventNotFound".to_owned()),
            message: "gone".to_owned(),
            back_off: None,
            primary_address: None,
            inner: None,
        };
        let note = note_of("ana".to_owned(), 7, &Err(ended));
        let Err(Failure::Response { code, .. }) = notification_of(&note) else {
            panic!("{note:?}");
        };
        assert_eq!(code.0, "ErrorEventNotFound");
    }
}
