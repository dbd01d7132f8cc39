//! Push callbacks: answered at once, and passed on to the owner through the log where another node owns the user
//! (docs/spec/ews.md §1.3). The owner says in the log which of them belong to subscriptions that are no longer wanted.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use tandem_cluster::{CallbackNote, Command};

use super::explain::CallbackVerdict;
use super::input::{Callback, View};
use super::output::{CallbackOutcome, Output, Report};
use super::proposals::Purpose;
use super::{Calendars, Now};
use tandem_exchange::ews::{
    Event, EventKind, Failure, Notification, ResponseCode, SubscriptionId, SubscriptionStatus,
};

/// One subscription: its user, the attempt that brought it, and its id.
type Subscription = (String, u64, String);

/// Callbacks that are not in the log yet.
#[derive(Debug, Default)]
pub(super) struct Notes {
    waiting: BTreeMap<Subscription, CallbackNote>,
    /// When those that wait are gathered.
    due_at: Option<Instant>,
}

impl Notes {
    /// The owner needs to know that something happened, not how often. `false`: there was no room.
    fn add(&mut self, note: CallbackNote, now: Instant) -> bool {
        let has_room = self.waiting.len() < NOTES_MAX;
        match self.waiting.entry(subscription_of(&note)) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.has_events |= note.has_events;
                known.failed = note.failed.or_else(|| known.failed.take());
            }
            Entry::Vacant(place) if has_room => drop(place.insert(note)),
            Entry::Vacant(_) => return false,
        }
        self.due_at.get_or_insert(now + GATHER);
        true
    }

    /// As many as an entry of the log may hold.
    fn take_due(&mut self, now: Instant) -> Vec<CallbackNote> {
        let mut callbacks = Vec::new();
        if self.due_at.is_none_or(|at| at > now) {
            return callbacks;
        }
        while callbacks.len() < NOTES_PER_COMMAND
            && let Some((_, note)) = self.waiting.pop_first()
        {
            callbacks.push(note);
        }
        self.due_at = (!self.waiting.is_empty()).then_some(now + GATHER);
        callbacks
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due_at
    }
}

/// Subscriptions that their owners no longer want, as far as there is room: the oldest is forgotten first, and its next
/// callback is passed on once more.
#[derive(Debug, Default)]
pub(super) struct Unwanted {
    known: BTreeSet<Subscription>,
    in_order: VecDeque<Subscription>,
}

impl Unwanted {
    fn add(&mut self, subscription: Subscription) {
        if !self.known.insert(subscription.clone()) {
            return;
        }
        self.in_order.push_back(subscription);
        if self.in_order.len() > UNWANTED_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, user: &str, attempt: u64, id: &SubscriptionId) -> bool {
        !self.known.is_empty() && self.known.contains(&(user.to_owned(), attempt, id.0.clone()))
    }
}

impl Calendars {
    /// The CAS gets its answer in any case.
    pub(super) fn called_back(&mut self, callback: Callback, view: View<'_>, now: Now) {
        let Callback {
            id,
            user,
            attempt,
            notifications,
        } = callback;
        // A callback that reports the end of a subscription is wanted in any case.
        let is_wanted = notifications.iter().flatten().all(|notification| {
            self.callback_verdict(&user, attempt, &notification.subscription) == CallbackVerdict::Keep
        });
        let (outcome, status) = match (is_wanted, self.owns(&user, view.state)) {
            (false, _) => (CallbackOutcome::Unsubscribed, SubscriptionStatus::Unsubscribe),
            (true, true) => (CallbackOutcome::Taken, SubscriptionStatus::Ok),
            (true, false) => (CallbackOutcome::PassedOn, SubscriptionStatus::Ok),
        };
        self.outputs.push(Output::AnswerCallback { callback: id, status });
        self.report(Report::CalledBack(outcome));
        for notification in notifications {
            match outcome {
                CallbackOutcome::Unsubscribed => {}
                CallbackOutcome::Taken => self.pushed(&user, attempt, notification, now),
                CallbackOutcome::PassedOn => self.note(note_of(&user, attempt, &notification), now),
            }
        }
    }

    fn note(&mut self, note: CallbackNote, now: Now) {
        if !self.notes.add(note, now.instant) {
            self.report(Report::CallbackDropped);
        }
    }

    /// A note in the log. To the owner it counts as if the callback had come here. It was answered with OK, though: if the
    /// subscription is not wanted, every node learns it, and answers the next callback with Unsubscribe.
    pub(super) fn passed_on(&mut self, note: &CallbackNote, view: View<'_>, now: Now) {
        if tells_unwanted(note) {
            return self.unwanted.add(subscription_of(note));
        }
        if !self.owns(&note.user, view.state) {
            return;
        }
        match self.verdict_on(note) {
            CallbackVerdict::Keep => self.pushed(&note.user, note.attempt, notification_of(note), now),
            CallbackVerdict::Unsubscribe => self.note(unwanted_note(note), now),
        }
    }

    /// What reports the end of a subscription is wanted in any case.
    fn verdict_on(&self, note: &CallbackNote) -> CallbackVerdict {
        match note.failed {
            Some(_) => CallbackVerdict::Keep,
            None => {
                let id = SubscriptionId(note.subscription.clone());
                self.callback_verdict(&note.user, note.attempt, &id)
            }
        }
    }

    /// What is not committed in time is not tried again: the owner's sweep finds what it missed.
    pub(super) fn callbacks_to_pass_on(&mut self, now: Now) -> Option<(Purpose, Command)> {
        let callbacks = self.notes.take_due(now.instant);
        (!callbacks.is_empty()).then_some((Purpose::PassOn, Command::CallbacksReceived { callbacks }))
    }
}

fn note_of(user: &str, attempt: u64, notification: &Result<Notification, Failure>) -> CallbackNote {
    let (subscription, has_events, failed) = match notification {
        Ok(notification) => {
            let mut events = notification.events.iter();
            let has_events = events.any(|event| event.kind != EventKind::Status);
            (notification.subscription.0.clone(), has_events, None)
        }
        Err(failure) => (String::new(), false, Some(code_of(failure))),
    };
    CallbackNote {
        user: user.to_owned(),
        attempt,
        subscription,
        has_events,
        failed,
    }
}

/// Says that the owner no longer wants the subscription of this note.
fn unwanted_note(note: &CallbackNote) -> CallbackNote {
    CallbackNote {
        has_events: false,
        failed: Some(NO_LONGER_WANTED.to_owned()),
        ..note.clone()
    }
}

/// A failure that a CAS reports names no subscription.
fn tells_unwanted(note: &CallbackNote) -> bool {
    note.failed.is_some() && !note.subscription.is_empty()
}

fn subscription_of(note: &CallbackNote) -> Subscription {
    (note.user.clone(), note.attempt, note.subscription.clone())
}

fn notification_of(note: &CallbackNote) -> Result<Notification, Failure> {
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

/// Callbacks that come within this time share an entry of the log.
const GATHER: Duration = Duration::from_millis(500);
const NOTES_MAX: usize = 20_000;
const NOTES_PER_COMMAND: usize = 500;

const NO_LONGER_WANTED: &str = "ErrorSubscriptionUnsubscribed";
const UNWANTED_MAX: usize = 20_000;

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
            let note = note_of("ana", 7, &notification(kind));
            assert_eq!(notification_of(&note), notification(kind));
        }
        let ended = Failure::Response {
            code: ResponseCode("ErrorEventNotFound".to_owned()),
            message: "gone".to_owned(),
            back_off: None,
            primary_address: None,
            inner: None,
        };
        let note = note_of("ana", 7, &Err(ended));
        let Err(Failure::Response { code, .. }) = notification_of(&note) else {
            panic!("{note:?}");
        };
        assert_eq!(code.0, "ErrorEventNotFound");
    }
}
