//! The life cycle of a subscription: requested, confirmed, heard from, lost, requested again (CAL-3, docs/spec/ews.md §1.2
//! to §1.4).

use std::time::{Duration, Instant};

use tandem_planted::{Bug, planted};

use super::explain::{CallbackVerdict, DeliveryKind};
use super::job::{Job, Urgency};
use super::membership::Parting;
use tandem_exchange::affinity::AffinityKey;

use super::output::Report;
use super::proposals::MoveCause;
use super::settings::Delivery;
use super::user::{Asking, Care, Live, LiveKind, Step, User, UserKey};
use super::{Calendars, LaneId, Now, OneUser};
use tandem_exchange::ews::{EventKind, Failure, FailureClass, Notification, SubscriptionId};

/// What is needed to request a subscription.
#[derive(Debug)]
pub(super) struct SubscribeOrder {
    pub kind: DeliveryKind,
    pub attempt: u64,
    pub affinity: AffinityKey,
}

impl OneUser<'_> {
    /// Queues a Subscribe at the user's CAS.
    pub(super) fn want_subscription(&mut self) {
        let wait = self.jittered(QUEUE_FULL_WAIT);
        let Some(lane) = &mut self.lane else {
            return;
        };
        match self.care.asking {
            Asking::Queued | Asking::Sent { .. } | Asking::Moving => return,
            Asking::Idle | Asking::Waiting(_) => {}
        }
        let job = Job::Subscribe(self.key);
        let queued = lane.enqueue(job, Urgency::Subscribe, self.settings.queue_max);
        self.care.asking = match queued {
            Ok(()) => Asking::Queued,
            Err(_) => Asking::Waiting(self.now.instant + wait),
        };
    }

    pub(super) fn subscribe_at(&mut self, at: Instant) {
        self.give_up_reservation();
        self.care.asking = Asking::Waiting(at);
    }

    /// Its turn has come. `None`: it is no longer wanted.
    pub(super) fn begin_subscribe(&mut self, lane: LaneId) -> Option<SubscribeOrder> {
        if !self.is_at(lane) || self.care.asking != Asking::Queued {
            return None;
        }
        let kind = kind_for(self.settings.delivery, self.care);
        // Larger than any number of a former owner, as far as clocks agree, so that its callbacks can be told apart; and
        // larger than the time of the assignment in any case, so that every node can tell those of a former CAS.
        let assigned_ms = self.placement.map_or(0, |placement| placement.since_ms);
        let former = self.care.attempt.max(assigned_ms);
        self.care.attempt = self.now.unix_ms.max(former.saturating_add(1));
        self.care.asking = Asking::Sent { kind, heard: false };
        let affinity = match kind {
            DeliveryKind::Streaming => AffinityKey::Group(self.reserve_group(lane).0),
            DeliveryKind::Push | DeliveryKind::Pull => AffinityKey::User(self.name()),
        };
        Some(SubscribeOrder {
            kind,
            attempt: self.care.attempt,
            affinity,
        })
    }

    /// Subscribe was answered. `false`: the answer is no longer wanted.
    pub(super) fn subscribed(
        &mut self,
        lane: LaneId,
        attempt: u64,
        id: SubscriptionId,
        watermark: Option<String>,
    ) -> bool {
        let Some((kind, heard)) = self.expected(lane, attempt) else {
            return false;
        };
        // The previous one, when this is a renewal: its callbacks are obsolete from now on.
        let had_one = self.care.live.is_some();
        self.release(Parting::Unsubscribe);
        let kind = self.live_of(lane, kind, heard, watermark);
        self.care.live = Some(Live {
            id: id.0.into_boxed_str(),
            attempt,
            since_ms: self.now.unix_ms,
            heard: self.now.instant,
            kind,
        });
        self.care.asking = Asking::Idle;
        let trouble = &mut self.care.trouble;
        trouble.tries = 0;
        trouble.store_failures = 0;
        trouble.throttled = 0;
        trouble.class = None;
        trouble.reported = None;
        if let Some(lane) = &mut self.lane {
            lane.subscribed += 1;
        }
        if !had_one {
            let (user, cas) = (self.name(), self.cas());
            self.report(Report::Subscribed { user, cas });
            self.read_after_subscribe();
        }
        true
    }

    /// Whether this is the answer that the user waits for.
    fn expected(&self, lane: LaneId, attempt: u64) -> Option<(DeliveryKind, bool)> {
        match self.care.asking {
            Asking::Sent { kind, heard } if self.is_at(lane) && self.care.attempt == attempt => {
                Some((kind, heard))
            }
            Asking::Sent { .. } | Asking::Idle | Asking::Waiting(_) | Asking::Queued | Asking::Moving => None,
        }
    }

    fn live_of(
        &mut self,
        lane: LaneId,
        kind: DeliveryKind,
        heard: bool,
        watermark: Option<String>,
    ) -> LiveKind {
        let (now, status_frequency) = (self.now.instant, self.settings.status_frequency);
        match kind {
            DeliveryKind::Push => LiveKind::Push {
                confirmed: heard,
                overdue_at: now
                    + match heard {
                        true => silence_of(status_frequency),
                        false => FIRST_STATUS_WITHIN,
                    },
                status_frequency,
                // A callback may have been faster; then the watermark of the answer is no longer the latest.
                watermark: watermark.filter(|_| !heard).map(String::into_boxed_str),
                renew_at: None,
            },
            DeliveryKind::Streaming => {
                let group = match self.care.reserved.take() {
                    Some(group) => group,
                    None => self.reserve_group(lane),
                };
                self.streams.gather(group, now);
                LiveKind::Streaming { group }
            }
            DeliveryKind::Pull => LiveKind::Pull {
                watermark: watermark.unwrap_or_default().into_boxed_str(),
                next_at: Some(now + self.jitter(self.settings.pull_interval)),
            },
        }
    }

    /// A retry, a silence, a renewal or a poll is due.
    pub(super) fn subscription_due(&mut self) {
        let now = self.now.instant;
        if let Asking::Waiting(at) = self.care.asking
            && at <= now
        {
            self.want_subscription();
        }
        let Some(live) = &mut self.care.live else {
            return;
        };
        match &mut live.kind {
            LiveKind::Push {
                overdue_at,
                confirmed,
                ..
            } if *overdue_at <= now => match *confirmed {
                true => self.lost(None),
                false => self.never_called_back(),
            },
            LiveKind::Push { renew_at, .. } if renew_at.is_some_and(|at| at <= now) => {
                *renew_at = None;
                self.want_subscription();
            }
            LiveKind::Pull { next_at, .. } if next_at.is_some_and(|at| at <= now) => {
                *next_at = None;
                self.queue_poll();
            }
            LiveKind::Push { .. } | LiveKind::Pull { .. } | LiveKind::Streaming { .. } => {}
        }
    }

    fn queue_poll(&mut self) {
        let (job, queue_max) = (Job::Events(self.key), self.settings.queue_max);
        let lane = self.lane.as_deref_mut();
        if lane.is_none_or(|lane| lane.enqueue(job, Urgency::Changed, queue_max).is_err()) {
            self.poll_at(self.now.instant + QUEUE_FULL_WAIT);
        }
    }

    pub(super) fn poll_at(&mut self, at: Instant) {
        if let Some(live) = &mut self.care.live
            && let LiveKind::Pull { next_at, .. } = &mut live.kind
        {
            *next_at = Some(at);
        }
    }

    /// GetEvents was answered.
    pub(super) fn polled(&mut self, attempt: u64, notification: &Notification) {
        if !self.is_live_as(attempt) {
            return;
        }
        self.notified(notification);
        let wait = match notification.more_events {
            true => Duration::ZERO,
            false => self.settings.pull_interval,
        };
        self.poll_at(self.now.instant + wait);
    }

    /// Whether the subscription is the one that this attempt brought.
    pub(super) fn is_live_as(&self, attempt: u64) -> bool {
        let live = self.care.live.as_ref();
        live.is_some_and(|live| live.attempt == attempt)
    }

    /// Subscribed for push, and the CAS has not called back within a minute: it cannot reach the notification port. Any later
    /// callback is answered with Unsubscribe.
    fn never_called_back(&mut self) {
        let wait = self.jittered(PORT_RETRY);
        self.release(Parting::Quiet);
        self.care.push_unreachable = true;
        let user = self.name();
        match self.settings.delivery == Delivery::PushFirst {
            true => {
                self.report(Report::FellBackToStreaming { user });
                self.want_subscription();
            }
            false => {
                let cas = self.cas();
                self.report(Report::NotificationPortUnreachable { user, cas });
                self.subscribe_at(self.now.instant + wait);
            }
        }
    }

    /// The subscription is gone: the user gets another CAS (CAL-2); until then the last presence stays.
    pub(super) fn lost(&mut self, class: Option<FailureClass>) {
        let (user, cas) = (self.name(), self.cas());
        self.report(Report::SubscriptionLost { user, cas, class });
        self.release(Parting::Quiet);
        self.mark_missed();
        self.care.trouble.class = Some(FailureClass::Lost);
        self.ask_for_another(MoveCause::Lost);
    }

    /// Subscribes again at the same CAS, which is not at fault.
    pub(super) fn resubscribe(&mut self, wait: Duration, parting: Parting) {
        self.release(parting);
        self.mark_missed();
        self.subscribe_at(self.now.instant + wait);
    }

    /// Notes that events may have been missed: after the next Subscribe the calendar's change stamp is compared.
    fn mark_missed(&mut self) {
        let reading = &mut self.care.reading;
        reading.step = match reading.stamp {
            Some(_) if !reading.is_dirty => Step::StampAfterLoss,
            Some(_) | None => Step::Items,
        };
    }

    /// A push callback with a valid token.
    pub(super) fn pushed(&mut self, attempt: u64, told: Result<Notification, Failure>) {
        if let Some(live) = self.care.live.as_mut().filter(|live| live.attempt == attempt) {
            live.heard_of_push(self.now);
            match told {
                Ok(notification) => self.notified(&notification),
                Err(failure) => self.lost(Some(failure.class())),
            }
        } else if self.care.attempt == attempt
            && let Asking::Sent { heard, .. } = &mut self.care.asking
        {
            // The callback was faster than the answer to Subscribe; the read that follows the answer covers its events.
            *heard = true;
        }
    }

    /// Exchange reported on the user's calendar, by push, stream or pull.
    pub(super) fn notified(&mut self, notification: &Notification) {
        let Some(live) = &mut self.care.live else {
            return;
        };
        if *live.id != *notification.subscription.0 {
            return;
        }
        live.heard = self.now.instant;
        let is_duplicate = live.is_duplicate(notification);
        let has_gap = live.has_gap(notification);
        live.remember_watermark(notification);
        let tells_change = notification.events.iter().any(|event| tells_change(event.kind));
        if !is_duplicate && (tells_change || has_gap || notification.more_events) {
            self.calendar_told_of();
        }
    }

    /// Renews a push subscription with the current settings, at some time within that in which it would have called.
    fn renew_push(&mut self) {
        let share = self.jitter(Duration::from_secs(1));
        self.care.push_unreachable = false;
        if let Some(live) = &mut self.care.live
            && let LiveKind::Push {
                status_frequency,
                renew_at,
                ..
            } = &mut live.kind
        {
            let within = Duration::from_secs(60 * u64::from(*status_frequency)).min(RENEWED_WITHIN);
            *renew_at = Some(self.now.instant + within.mul_f64(share.as_secs_f64()));
        }
    }

    /// Subscribes again within some minutes if the delivery is not what it should be.
    fn change_delivery(&mut self) {
        let wait = self.jitter(DELIVERY_CHANGED_WITHIN);
        self.care.push_unreachable = false;
        let wanted = kind_for(self.settings.delivery, self.care);
        let live = self.care.live.as_ref();
        if live.is_some_and(|live| live.delivery() != wanted) && self.care.asking == Asking::Idle {
            self.care.asking = Asking::Waiting(self.now.instant + wait);
        }
    }
}

impl Calendars {
    /// Of whichever user of this node; another node's has been passed on.
    pub(super) fn pushed(&mut self, user: &str, attempt: u64, told: Result<Notification, Failure>, now: Now) {
        let key = self.users.find(user);
        if let Some(mut user) = key.and_then(|key| self.one_user(key, now)) {
            user.pushed(attempt, told);
        }
    }

    /// Whether a callback for this user's `attempt` to subscribe is wanted. For another node's user it is, as long as this may
    /// be the user's present subscription as far as the log tells.
    #[must_use]
    pub fn callback_verdict(
        &self,
        user: &str,
        attempt: u64,
        subscription: &SubscriptionId,
    ) -> CallbackVerdict {
        let Some(known) = self.users.find(user).and_then(|key| self.users.get(key)) else {
            // Until the directory is known, every user is wanted.
            return match self.users_known {
                true => CallbackVerdict::Unsubscribe,
                false => CallbackVerdict::Keep,
            };
        };
        if is_of_former_cas(known, attempt) || self.unwanted.contains(user, attempt, subscription) {
            return CallbackVerdict::Unsubscribe;
        }
        match &known.care {
            // A node that cannot reach the others may be the only one that believes it owns the user.
            Some(care) if self.may_start => self.verdict_of(care, attempt, subscription),
            Some(_) | None if planted(Bug::ForeignCallbackRefused) => CallbackVerdict::Unsubscribe,
            Some(_) | None => CallbackVerdict::Keep,
        }
    }

    fn verdict_of(&self, care: &Care, attempt: u64, subscription: &SubscriptionId) -> CallbackVerdict {
        let is_pending = attempt == care.attempt && matches!(care.asking, Asking::Sent { .. });
        if is_pending {
            return CallbackVerdict::Keep;
        }
        let Some(live) = &care.live else {
            // There is no subscription: a larger number may belong to a former owner, which knows better.
            return match attempt > care.attempt {
                true => CallbackVerdict::Keep,
                false => CallbackVerdict::Unsubscribe,
            };
        };
        let is_settled = self
            .last
            .is_some_and(|last| last.unix_ms.saturating_sub(live.since_ms) > OWNERSHIP_SETTLES_IN_MS);
        match attempt.cmp(&live.attempt) {
            std::cmp::Ordering::Equal if *live.id == *subscription.0 => CallbackVerdict::Keep,
            std::cmp::Ordering::Equal | std::cmp::Ordering::Less => CallbackVerdict::Unsubscribe,
            std::cmp::Ordering::Greater if is_settled => CallbackVerdict::Unsubscribe,
            std::cmp::Ordering::Greater => CallbackVerdict::Keep,
        }
    }

    /// Renews push subscriptions with the current settings, spread over the time in which they would have called.
    pub(super) fn renew_push_subscriptions(&mut self, now: Now) {
        let keys: Vec<UserKey> = self.users.keys().collect();
        for key in keys {
            if let Some(mut user) = self.one_user(key, now) {
                user.renew_push();
            }
        }
    }

    /// Subscribes users again whose delivery is not what it should be, spread over some minutes.
    pub(super) fn change_delivery(&mut self, now: Now) {
        let keys: Vec<UserKey> = self.users.keys().collect();
        for key in keys {
            if let Some(mut user) = self.one_user(key, now) {
                user.change_delivery();
            }
        }
    }
}

impl Live {
    fn heard_of_push(&mut self, now: Now) {
        self.heard = now.instant;
        if let LiveKind::Push {
            confirmed,
            overdue_at,
            status_frequency,
            ..
        } = &mut self.kind
        {
            *confirmed = true;
            *overdue_at = now.instant + silence_of(*status_frequency);
        }
    }

    fn watermark(&self) -> Option<&str> {
        match &self.kind {
            LiveKind::Push { watermark, .. } => watermark.as_deref(),
            LiveKind::Pull { watermark, .. } => Some(watermark),
            LiveKind::Streaming { .. } => None,
        }
    }

    /// Sent again, because our answer was lost.
    fn is_duplicate(&self, notification: &Notification) -> bool {
        let last = notification
            .events
            .last()
            .and_then(|event| event.watermark.as_deref());
        last.is_some() && last == self.watermark() && notification.previous_watermark.as_deref() != last
    }

    fn has_gap(&self, notification: &Notification) -> bool {
        match (self.watermark(), notification.previous_watermark.as_deref()) {
            (Some(known), Some(previous)) => known != previous,
            (Some(_) | None, None) | (None, Some(_)) => false,
        }
    }

    fn remember_watermark(&mut self, notification: &Notification) {
        let mut marks = notification
            .events
            .iter()
            .filter_map(|event| event.watermark.as_deref());
        let Some(last) = marks.next_back() else {
            return;
        };
        match &mut self.kind {
            LiveKind::Push { watermark, .. } => *watermark = Some(last.into()),
            LiveKind::Pull { watermark, .. } => *watermark = last.into(),
            LiveKind::Streaming { .. } => {}
        }
    }
}

/// How the user's changes are to be delivered, by the settings and by what did not work for this user.
fn kind_for(delivery: Delivery, care: &Care) -> DeliveryKind {
    match delivery {
        Delivery::PushFirst if care.push_unreachable => DeliveryKind::Streaming,
        Delivery::StreamingFirst if care.streaming_refused => DeliveryKind::Push,
        Delivery::PushFirst | Delivery::PushOnly => DeliveryKind::Push,
        Delivery::StreamingFirst | Delivery::StreamingOnly => DeliveryKind::Streaming,
        Delivery::Pull => DeliveryKind::Pull,
    }
}

/// Whether the attempt is older than the assignment: a later one has a number beyond the time of the assignment. Where the
/// log lags behind, an earlier assignment tells less, and nothing wrong.
fn is_of_former_cas(user: &User, attempt: u64) -> bool {
    let placement = user.placement.as_ref();
    placement.is_some_and(|placement| attempt <= placement.since_ms)
}

fn tells_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Status => false,
        EventKind::Created
        | EventKind::Modified
        | EventKind::Moved
        | EventKind::Copied
        | EventKind::Deleted
        | EventKind::NewMail
        | EventKind::FreeBusyChanged => true,
    }
}

/// Silence for twice the status frequency means that the subscription is lost (docs/spec/ews.md §1.3).
fn silence_of(status_frequency: u16) -> Duration {
    Duration::from_secs(2 * 60 * u64::from(status_frequency))
}

const FIRST_STATUS_WITHIN: Duration = Duration::from_secs(60);
const QUEUE_FULL_WAIT: Duration = Duration::from_secs(20);

/// When only push is allowed and the port cannot be reached.
const PORT_RETRY: Duration = Duration::from_secs(10 * 60);

/// After this time an owner knows that it is the owner: callbacks for larger attempts come from a former owner.
const OWNERSHIP_SETTLES_IN_MS: u64 = 60_000;

const RENEWED_WITHIN: Duration = Duration::from_secs(3600);
const DELIVERY_CHANGED_WITHIN: Duration = Duration::from_secs(300);
