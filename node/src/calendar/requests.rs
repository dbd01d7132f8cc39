//! Chooses the requests to send next, to each CAS as many as it can take.

use std::time::{Duration, Instant};

use super::explain::DeliveryKind;
use super::job::{Farewell, Flight, Job, Urgency};
use super::lane::LaneId;
use tandem_exchange::affinity::AffinityKey;

use super::output::{Output, RequestId};
use super::reading::window_from;
use super::subscribing::SubscribeOrder;
use super::user::{LiveKind, UserKey};
use super::{Calendars, Now};
use tandem_exchange::ews::{Mailbox, Operation, SubscriptionId, TimeWindow};

/// A request, ready to go.
#[derive(Debug)]
struct Order {
    ask: Ask,
    impersonate: Option<Mailbox>,
    affinity: AffinityKey,
    window: TimeWindow,
    attempt: u64,
    timeout: Duration,
}

#[derive(Debug)]
enum Ask {
    Operation(Operation),
    SubscribePush { user: String, mailbox: Mailbox },
}

impl Calendars {
    /// Everything that may go out now.
    pub(super) fn dispatch(&mut self, now: Now) {
        if !self.may_start {
            return;
        }
        for lane in self.lane_ids() {
            while let Some(job) = self.next_job(lane, now) {
                self.send(lane, job, now);
            }
        }
    }

    fn next_job(&mut self, id: LaneId, now: Now) -> Option<Job> {
        let is_permitted = self.credential.permits(id, now.instant);
        let lane = self.lane_mut(id)?;
        let is_held = lane
            .refusal
            .is_some_and(|refusal| refusal.probe_at > now.instant || lane.in_flight > 0);
        if !lane.is_configured() || !is_permitted || is_held {
            return None;
        }
        if let Some(probe) = self.next_probe(id, now) {
            return Some(probe);
        }
        let lane = self.lane_mut(id)?;
        let is_busy = lane.in_flight >= lane.pace.concurrency();
        if is_busy || !lane.breaker.is_closed() || lane.pace.back_off_until(now.instant).is_some() {
            return None;
        }
        self.take_in_order(id, now)
    }

    fn take_in_order(&mut self, id: LaneId, now: Now) -> Option<Job> {
        if let Some(job) = self.lane_mut(id)?.take(Urgency::Farewell) {
            return Some(job);
        }
        if let Some(job) = self.next_first_load(id, now) {
            return Some(job);
        }
        if let Some(job) = self.lane_mut(id)?.take(Urgency::Changed) {
            return Some(job);
        }
        if let Some(job) = self.next_settled_load(id, now) {
            return Some(job);
        }
        let lane = self.lane_mut(id)?;
        lane.take(Urgency::Subscribe)
            .or_else(|| lane.take(Urgency::Refresh))
            .or_else(|| self.next_sweep(id, now))
    }

    /// Probes the CAS: when its breaker is open, when something failed, and when it was silent.
    fn next_probe(&mut self, id: LaneId, now: Now) -> Option<Job> {
        let due_at = self.lane(id)?.probe_due_at()?;
        if due_at > now.instant {
            return None;
        }
        let member = self.lane(id)?.members.first().copied();
        let key = member.or_else(|| self.anybody())?;
        let lane = self.lane_mut(id)?;
        lane.probe_in_flight = true;
        lane.probe_wanted = false;
        lane.probe_at = Some(now.instant + PROBE_EVERY);
        lane.breaker.probe_sent();
        Some(Job::Probe(key))
    }

    fn anybody(&self) -> Option<UserKey> {
        let mut ours = self.users.iter().filter(|(_, user)| user.care.is_some());
        ours.next().map(|(key, _)| key)
    }

    fn send(&mut self, lane: LaneId, job: Job, now: Now) {
        let Some(order) = self.order(lane, &job, now) else {
            return;
        };
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let cas = self.cas_of(lane);
        let operation = match &order.ask {
            Ask::Operation(operation) => operation.label(),
            Ask::SubscribePush { .. } => "subscribe_push",
        };
        let flight = Flight {
            lane,
            job,
            sent_at: now.instant,
            attempt: order.attempt,
            window: order.window,
            operation,
            mailbox: order.impersonate.clone(),
            affinity: order.affinity.clone(),
        };
        self.requests.insert(request, flight);
        self.credential.sent(now.instant);
        if let Some(lane) = self.lane_mut(lane) {
            lane.in_flight += 1;
            lane.counters.requests += 1;
        }
        let timeout = order.timeout;
        let output = match order.ask {
            Ask::Operation(operation) => Output::Request {
                request,
                cas,
                operation,
                impersonate: order.impersonate,
                affinity: order.affinity,
                timeout,
            },
            Ask::SubscribePush { user, mailbox } => Output::SubscribePush {
                request,
                cas,
                user,
                mailbox,
                attempt: order.attempt,
                status_frequency: self.settings.status_frequency,
                timeout,
            },
        };
        self.outputs.push(output);
    }

    /// `None`: it is no longer wanted.
    fn order(&mut self, lane: LaneId, job: &Job, now: Now) -> Option<Order> {
        match job {
            Job::Subscribe(key) => {
                let order = self.one_user(*key, now)?.begin_subscribe(lane)?;
                self.subscribe_order(*key, order)
            }
            Job::Read(key) => {
                let mut user = self.one_user(*key, now)?;
                let (operation, window) = user.begin_read(lane)?;
                let mailbox = user.mailbox();
                let order = self.plain(operation, Some(mailbox));
                Some(Order { window, ..order })
            }
            Job::Events(key) => self.poll_order(*key, lane),
            Job::Unsubscribe(farewell) => Some(self.farewell_order(farewell)),
            Job::Availability { users, .. } => {
                let mailboxes = self.mailboxes_of(users)?;
                let window = window_from(now, self.settings.window, 0);
                let operation = Operation::GetUserAvailability { mailboxes, window };
                let order = self.plain(operation, None);
                Some(Order { window, ..order })
            }
            Job::Probe(key) => {
                let mailbox = self.users.get(*key).map(super::user::User::mailbox);
                let order = self.plain(Operation::GetChangeStamp, mailbox);
                let timeout = order.timeout.min(PROBE_TIMEOUT);
                Some(Order { timeout, ..order })
            }
        }
    }

    fn plain(&self, operation: Operation, impersonate: Option<Mailbox>) -> Order {
        Order {
            ask: Ask::Operation(operation),
            impersonate,
            affinity: AffinityKey::None,
            window: TimeWindow { from: 0, until: 0 },
            attempt: 0,
            timeout: self.settings.request_timeout,
        }
    }

    fn subscribe_order(&self, key: UserKey, order: SubscribeOrder) -> Option<Order> {
        let mailbox = self.users.get(key)?.mailbox();
        let ask = match order.kind {
            DeliveryKind::Push => Ask::SubscribePush {
                user: self.name_of(key),
                mailbox: mailbox.clone(),
            },
            DeliveryKind::Streaming => Ask::Operation(Operation::SubscribeStreaming),
            DeliveryKind::Pull => {
                let minutes = self.settings.pull_interval.as_secs() * 3 / 60;
                let timeout = u16::try_from(minutes).unwrap_or(u16::MAX).clamp(10, 1440);
                Ask::Operation(Operation::SubscribePull { timeout })
            }
        };
        let plain = self.plain(Operation::SubscribeStreaming, Some(mailbox));
        Some(Order {
            ask,
            affinity: order.affinity,
            attempt: order.attempt,
            ..plain
        })
    }

    fn poll_order(&self, key: UserKey, lane: LaneId) -> Option<Order> {
        let user = self.users.get(key)?;
        let live = user.care.as_ref()?.live.as_ref()?;
        let LiveKind::Pull { watermark, .. } = &live.kind else {
            return None;
        };
        if user.placement?.lane != lane {
            return None;
        }
        let operation = Operation::GetEvents {
            subscription: SubscriptionId(live.id.to_string()),
            watermark: watermark.to_string(),
        };
        let order = self.plain(operation, Some(user.mailbox()));
        Some(Order {
            affinity: AffinityKey::User(user.id.to_string()),
            attempt: live.attempt,
            ..order
        })
    }

    fn farewell_order(&self, farewell: &Farewell) -> Order {
        let subscription = SubscriptionId(farewell.subscription.to_string());
        let operation = Operation::Unsubscribe { subscription };
        let order = self.plain(operation, Some(farewell.mailbox.clone()));
        Order {
            affinity: farewell.affinity.clone(),
            ..order
        }
    }

    /// When something that is held back now may go out. What waits for an answer needs no deadline.
    pub(super) fn next_request_deadline(&self, last: Instant) -> Option<Instant> {
        if !self.may_start {
            return None;
        }
        let lanes = self.lanes.iter().filter_map(|lane| lane.next_deadline(last));
        let credential = [self.credential.next_deadline(), self.credential.second_deadline()];
        let credential = credential.into_iter().flatten().filter(|at| *at > last);
        lanes.chain(credential).min()
    }
}

impl super::lane::Lane {
    fn probe_due_at(&self) -> Option<Instant> {
        if self.probe_in_flight {
            return None;
        }
        if let Some(at) = self.breaker.probe_at() {
            return Some(at);
        }
        let heard_at = self.heard_at.filter(|_| self.breaker.is_closed())?;
        if self.breaker.is_suspicious() {
            return Some(self.probe_at.map_or(heard_at, |at| at.min(heard_at + IDLE)));
        }
        if self.probe_wanted {
            return Some(heard_at + PROBE_EVERY);
        }
        let is_idle = !self.members.is_empty() && self.in_flight == 0;
        is_idle.then_some(heard_at + IDLE)
    }

    fn next_deadline(&self, last: Instant) -> Option<Instant> {
        if !self.is_configured() {
            return None;
        }
        let held = self.refusal.map(|refusal| refusal.probe_at);
        [
            self.probe_due_at(),
            self.pace.back_off_until(last).filter(|_| self.has_work()),
            self.bulk.settle_at,
            self.bulk.retry_at,
            self.sweep.next_at,
            self.evacuate_at,
            held,
        ]
        .into_iter()
        .flatten()
        // What is due and was not done is held up by something else, which has a deadline of its own.
        .filter(|at| *at > last)
        .min()
    }
}

/// A CAS that was silent for this long is probed.
const IDLE: Duration = Duration::from_secs(10);

/// Interval of probes after a failure.
const PROBE_EVERY: Duration = Duration::from_secs(1);

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
