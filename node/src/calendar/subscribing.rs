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
use super::streams::GATHER;
use super::user::{Asking, Care, Live, LiveKind, Step, UserKey};
use super::{Calendars, LaneId, Now};
use tandem_exchange::ews::{EventKind, Failure, FailureClass, Notification, SubscriptionId};

/// What is needed to request a subscription.
#[derive(Debug)]
pub(super) struct SubscribeOrder {
    pub kind: DeliveryKind,
    pub attempt: u64,
    pub affinity: AffinityKey,
}

impl Calendars {
    /// Queues a Subscribe at the user's CAS.
    pub(super) fn want_subscription(&mut self, key: UserKey, now: Now) {
        let wait = self.jittered(QUEUE_FULL_WAIT);
        let queue_max = self.settings.queue_max;
        let Some(lane) = self.lane_of(key) else {
            return;
        };
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        match care.asking {
            Asking::Queued | Asking::Sent { .. } | Asking::Moving => return,
            Asking::Idle | Asking::Waiting(_) => {}
        }
        let queued = self.lanes.get_mut(usize::from(lane.0)).is_some_and(|lane| {
            lane.enqueue(Job::Subscribe(key), Urgency::Subscribe, queue_max)
                .is_ok()
        });
        care.asking = match queued {
            true => Asking::Queued,
            false => Asking::Waiting(now.instant + wait),
        };
        self.touch(key);
    }

    pub(super) fn subscribe_at(&mut self, key: UserKey, at: Instant) {
        self.give_up_reservation(key);
        if let Some(care) = self.users.care_mut(key) {
            care.asking = Asking::Waiting(at);
        }
        self.touch(key);
    }

    /// Its turn has come. `None`: it is no longer wanted.
    pub(super) fn begin_subscribe(&mut self, key: UserKey, lane: LaneId, now: Now) -> Option<SubscribeOrder> {
        let delivery = self.settings.delivery;
        let (care, at) = self.cared_for(key)?;
        if at != lane || care.asking != Asking::Queued {
            return None;
        }
        let kind = kind_for(delivery, care);
        // Larger than any number of a former owner, as far as clocks agree, so that its callbacks can be told apart.
        care.attempt = now.unix_ms.max(care.attempt + 1);
        care.asking = Asking::Sent { kind, heard: false };
        let attempt = care.attempt;
        let affinity = match kind {
            DeliveryKind::Streaming => AffinityKey::Group(self.reserve_group(key, lane).0),
            DeliveryKind::Push | DeliveryKind::Pull => AffinityKey::User(self.name_of(key)),
        };
        Some(SubscribeOrder {
            kind,
            attempt,
            affinity,
        })
    }

    /// Subscribe was answered. `false`: the answer is no longer wanted.
    pub(super) fn subscribed(
        &mut self,
        key: UserKey,
        lane: LaneId,
        attempt: u64,
        (id, watermark): (SubscriptionId, Option<String>),
        now: Now,
    ) -> bool {
        let Some((kind, heard)) = self.expected(key, lane, attempt) else {
            return false;
        };
        // The previous one, when this is a renewal: its callbacks are obsolete from now on.
        let had_one = self.users.care(key).is_some_and(|care| care.live.is_some());
        self.release(key, Parting::Unsubscribe);
        let live = self.live_of(key, kind, heard, watermark, now);
        let Some(care) = self.users.care_mut(key) else {
            return false;
        };
        care.live = Some(Live {
            id: id.0.into_boxed_str(),
            attempt,
            since_ms: now.unix_ms,
            heard: now.instant,
            kind: live,
        });
        care.asking = Asking::Idle;
        care.trouble.tries = 0;
        care.trouble.store_failures = 0;
        care.trouble.throttled = 0;
        care.trouble.class = None;
        care.trouble.reported = None;
        if let Some(lane) = self.lane_mut(lane) {
            lane.subscribed += 1;
        }
        if !had_one {
            let cas = self.cas_of(lane);
            let user = self.name_of(key);
            self.report(Report::Subscribed { user, cas });
            self.read_after_subscribe(key, lane, now);
        }
        self.touch(key);
        true
    }

    /// Whether this is the answer that the user waits for.
    fn expected(&mut self, key: UserKey, lane: LaneId, attempt: u64) -> Option<(DeliveryKind, bool)> {
        let (care, at) = self.cared_for(key)?;
        match care.asking {
            Asking::Sent { kind, heard } if at == lane && care.attempt == attempt => Some((kind, heard)),
            Asking::Sent { .. } | Asking::Idle | Asking::Waiting(_) | Asking::Queued | Asking::Moving => None,
        }
    }

    fn live_of(
        &mut self,
        key: UserKey,
        kind: DeliveryKind,
        heard: bool,
        watermark: Option<String>,
        now: Now,
    ) -> LiveKind {
        let status_frequency = self.settings.status_frequency;
        match kind {
            DeliveryKind::Push => LiveKind::Push {
                confirmed: heard,
                overdue_at: now.instant
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
                let reserved = self.users.care_mut(key).and_then(|care| care.reserved.take());
                let lane = self.lane_of(key).unwrap_or(LaneId(0));
                let group = match reserved {
                    Some(group) => group,
                    None => self.reserve_group(key, lane),
                };
                self.gather(group, GATHER, now);
                LiveKind::Streaming { group }
            }
            DeliveryKind::Pull => LiveKind::Pull {
                watermark: watermark.unwrap_or_default().into_boxed_str(),
                next_at: Some(now.instant + self.jitter(self.settings.pull_interval)),
            },
        }
    }

    /// A retry, a silence, a renewal or a poll is due.
    pub(super) fn subscription_due(&mut self, key: UserKey, now: Now) {
        let Some((care, lane)) = self.cared_for(key) else {
            return;
        };
        if let Asking::Waiting(at) = care.asking
            && at <= now.instant
        {
            self.want_subscription(key, now);
        }
        let Some(live) = self.users.care_mut(key).and_then(|care| care.live.as_mut()) else {
            return;
        };
        match &mut live.kind {
            LiveKind::Push {
                overdue_at,
                confirmed,
                ..
            } if *overdue_at <= now.instant => match *confirmed {
                true => self.lost(key, None, now),
                false => self.never_called_back(key, lane, now),
            },
            LiveKind::Push { renew_at, .. } if renew_at.is_some_and(|at| at <= now.instant) => {
                *renew_at = None;
                self.want_subscription(key, now);
            }
            LiveKind::Pull { next_at, .. } if next_at.is_some_and(|at| at <= now.instant) => {
                *next_at = None;
                self.queue_poll(key, lane, now);
            }
            LiveKind::Push { .. } | LiveKind::Pull { .. } | LiveKind::Streaming { .. } => {}
        }
    }

    fn queue_poll(&mut self, key: UserKey, lane: LaneId, now: Now) {
        let queue_max = self.settings.queue_max;
        let queued = self.lane_mut(lane).is_some_and(|lane| {
            lane.enqueue(Job::Events(key), Urgency::Changed, queue_max)
                .is_ok()
        });
        if !queued {
            self.poll_at(key, now.instant + QUEUE_FULL_WAIT);
        }
    }

    pub(super) fn poll_at(&mut self, key: UserKey, at: Instant) {
        if let Some(live) = self.users.care_mut(key).and_then(|care| care.live.as_mut())
            && let LiveKind::Pull { next_at, .. } = &mut live.kind
        {
            *next_at = Some(at);
        }
        self.touch(key);
    }

    /// Subscribed for push, and the CAS has not called back within a minute: it cannot reach the notification port. Any later
    /// callback is answered with Unsubscribe.
    fn never_called_back(&mut self, key: UserKey, lane: LaneId, now: Now) {
        let may_stream = self.settings.delivery == Delivery::PushFirst;
        let wait = self.jittered(PORT_RETRY);
        self.release(key, Parting::Quiet);
        if let Some(care) = self.users.care_mut(key) {
            care.push_unreachable = true;
        }
        let (user, cas) = (self.name_of(key), self.cas_of(lane));
        match may_stream {
            true => {
                self.report(Report::FellBackToStreaming { user });
                self.want_subscription(key, now);
            }
            false => {
                self.report(Report::NotificationPortUnreachable { user, cas });
                self.subscribe_at(key, now.instant + wait);
            }
        }
    }

    /// The subscription is gone: the user gets another CAS (CAL-2); until then the last presence stays.
    pub(super) fn lost(&mut self, key: UserKey, class: Option<FailureClass>, now: Now) {
        let Some(lane) = self.lane_of(key) else {
            return;
        };
        let (user, cas) = (self.name_of(key), self.cas_of(lane));
        self.report(Report::SubscriptionLost { user, cas, class });
        self.release(key, Parting::Quiet);
        self.mark_missed(key);
        if let Some(care) = self.users.care_mut(key) {
            care.trouble.class = Some(FailureClass::Lost);
        }
        self.ask_for_another(key, MoveCause::Lost, now);
    }

    /// Subscribes again at the same CAS, which is not at fault.
    pub(super) fn resubscribe(&mut self, key: UserKey, wait: Duration, parting: Parting, now: Now) {
        self.release(key, parting);
        self.mark_missed(key);
        self.subscribe_at(key, now.instant + wait);
    }

    /// Notes that events may have been missed: after the next Subscribe the calendar's change stamp is compared.
    fn mark_missed(&mut self, key: UserKey) {
        if let Some(care) = self.users.care_mut(key) {
            care.reading.step = match care.reading.stamp {
                Some(_) if !care.reading.is_dirty => Step::StampAfterLoss,
                Some(_) | None => Step::Items,
            };
        }
    }

    /// A push callback with a valid token.
    pub(super) fn pushed(&mut self, user: &str, attempt: u64, told: Result<Notification, Failure>, now: Now) {
        let Some(key) = self.users.find(user) else {
            return;
        };
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        if let Some(live) = care.live.as_mut().filter(|live| live.attempt == attempt) {
            live.heard_of_push(now);
            match told {
                Ok(notification) => self.notified(key, &notification, now),
                Err(failure) => self.lost(key, Some(failure.class()), now),
            }
        } else if care.attempt == attempt
            && let Asking::Sent { heard, .. } = &mut care.asking
        {
            // The callback was faster than the answer to Subscribe; the read that follows the answer covers its events.
            *heard = true;
        }
        self.touch(key);
    }

    /// Whether a callback for this user's `attempt` to subscribe is wanted. For another node's user it is, as long as the user
    /// is enabled.
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

    /// Exchange reported on the user's calendar, by push, stream or pull.
    pub(super) fn notified(&mut self, key: UserKey, notification: &Notification, now: Now) {
        let Some(live) = self.users.care_mut(key).and_then(|care| care.live.as_mut()) else {
            return;
        };
        if *live.id != *notification.subscription.0 {
            return;
        }
        live.heard = now.instant;
        let is_duplicate = live.is_duplicate(notification);
        let has_gap = live.has_gap(notification);
        live.remember_watermark(notification);
        let tells_change = notification.events.iter().any(|event| tells_change(event.kind));
        if !is_duplicate && (tells_change || has_gap || notification.more_events) {
            self.calendar_told_of(key, now);
        }
    }

    /// Renews push subscriptions with the current settings, spread over the time in which they would have called.
    pub(super) fn renew_push_subscriptions(&mut self, now: Now) {
        let keys: Vec<UserKey> = self.users.keys().collect();
        for key in keys {
            let share = self.jitter(Duration::from_secs(1));
            let Some(care) = self.users.care_mut(key) else {
                continue;
            };
            care.push_unreachable = false;
            if let Some(live) = &mut care.live
                && let LiveKind::Push {
                    status_frequency,
                    renew_at,
                    ..
                } = &mut live.kind
            {
                let within = Duration::from_secs(60 * u64::from(*status_frequency)).min(RENEWED_WITHIN);
                *renew_at = Some(now.instant + within.mul_f64(share.as_secs_f64()));
            }
            self.touch(key);
        }
    }

    /// Subscribes users again whose delivery is not what it should be, spread over some minutes.
    pub(super) fn change_delivery(&mut self, now: Now) {
        let delivery = self.settings.delivery;
        let keys: Vec<UserKey> = self.users.keys().collect();
        for key in keys {
            let wait = self.jitter(DELIVERY_CHANGED_WITHIN);
            let Some(care) = self.users.care_mut(key) else {
                continue;
            };
            care.push_unreachable = false;
            let wanted = kind_for(delivery, care);
            if care.live.as_ref().is_some_and(|live| live.delivery() != wanted) && care.asking == Asking::Idle
            {
                care.asking = Asking::Waiting(now.instant + wait);
                self.touch(key);
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
