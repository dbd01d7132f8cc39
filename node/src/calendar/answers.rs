//! Takes the outcome of a request: first what it says about the CAS and the account, then what it says about the user.

use std::time::{Duration, Instant};

use tandem_planted::{Bug, planted};

use super::breaker::Turn;
use super::credential::{Acceptance, probe_wait};
use super::job::{Farewell, Flight, Job};
use super::lane::{LaneId, Refusal};
use super::output::{Report, RequestId};
use super::{Calendars, Now};
use tandem_exchange::ews::{Answer, Failure, FailureClass, SubscriptionId};

impl Calendars {
    pub(super) fn answered(
        &mut self,
        request: RequestId,
        result: Result<Answer, Failure>,
        latency: Duration,
        now: Now,
    ) {
        let Some(flight) = self.requests.remove(&request) else {
            return;
        };
        if let Some(lane) = self.lane_mut(flight.lane) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
            lane.heard_at = Some(now.instant);
            if matches!(flight.job, Job::Probe(_)) {
                lane.probe_in_flight = false;
            }
        }
        match result {
            Ok(answer) => {
                self.cas_succeeded(flight.lane, flight.sent_at, latency, now);
                self.succeeded(flight, answer, now);
            }
            Err(failure) => {
                let class = failure.class();
                self.cas_failed(flight.lane, flight.operation, flight.sent_at, &failure, now);
                self.job_failed(flight, &failure, class, now);
            }
        }
    }

    fn cas_succeeded(&mut self, id: LaneId, sent_at: Instant, latency: Duration, now: Now) {
        if let Some(lane) = self.lane_mut(id) {
            lane.pace.succeeded();
            lane.counters.last_success_ms = Some(now.unix_ms);
            lane.counters.last_latency = Some(latency);
        }
        self.account_accepted(id, sent_at, now);
        self.cas_answered(id, sent_at, now);
    }

    /// Counts the failure, and slows the CAS down, stops the account or opens the breaker as the failure requires.
    pub(super) fn cas_failed(
        &mut self,
        id: LaneId,
        operation: &'static str,
        sent_at: Instant,
        failure: &Failure,
        now: Now,
    ) {
        let class = failure.class();
        let cas = self.cas_of(id);
        if let Some(lane) = self.lane_mut(id) {
            lane.counters.failures += 1;
            lane.counters.last_failure = Some((now.unix_ms, failure.to_string()));
        }
        self.report(Report::Failed {
            cas,
            operation,
            class,
        });
        self.judge_account(id, sent_at, failure, class, now);
        match class == FailureClass::Throttled {
            true => self.cas_throttled(id, sent_at, failure, now),
            false if is_of_the_network(failure) => self.network_failed(id, sent_at, now),
            false => self.cas_answered(id, sent_at, now),
        }
    }

    fn cas_throttled(&mut self, id: LaneId, sent_at: Instant, failure: &Failure, now: Now) {
        let asked = failure.back_off().unwrap_or_default();
        let wait = asked.max(THROTTLE_WAIT_MIN) + self.jitter(THROTTLE_JITTER);
        let cas = self.cas_of(id);
        if let Some(lane) = self.lane_mut(id) {
            lane.counters.throttled += 1;
            lane.pace.throttled(sent_at, wait, now.instant);
        }
        self.report(Report::Throttled { cas, for_: wait });
        self.cas_answered(id, sent_at, now);
    }

    fn cas_answered(&mut self, id: LaneId, sent_at: Instant, now: Now) {
        let turn = self
            .lane_mut(id)
            .map(|lane| lane.breaker.answered(sent_at, now.instant));
        if turn == Some(Turn::Closed) {
            let cas = self.cas_of(id);
            if let Some(lane) = self.lane_mut(id) {
                lane.evacuate_at = None;
            }
            self.report(Report::BreakerClosed { cas });
        }
    }

    fn network_failed(&mut self, id: LaneId, sent_at: Instant, now: Now) {
        let Some(lane) = self.lane_mut(id) else {
            return;
        };
        let was_suspicious = lane.breaker.is_suspicious();
        let turn = lane.breaker.failed(sent_at, now.instant);
        if !was_suspicious && lane.breaker.is_suspicious() {
            self.suspect_the_others(id);
        }
        if turn == Turn::Opened {
            let cas = self.cas_of(id);
            self.report(Report::BreakerOpened { cas });
            self.plan_evacuations(now);
        }
    }

    /// What goes down together must be found down together: otherwise users would move to a CAS that is down as well.
    fn suspect_the_others(&mut self, id: LaneId) {
        for other in self.lane_ids().filter(|other| *other != id) {
            if let Some(lane) = self.lane_mut(other) {
                lane.probe_wanted = true;
            }
        }
    }

    /// An answer from Exchange, even an error, means that the account was accepted.
    fn judge_account(
        &mut self,
        id: LaneId,
        sent_at: Instant,
        failure: &Failure,
        class: FailureClass,
        now: Now,
    ) {
        match failure {
            _ if class == FailureClass::Credential => self.account_refused(id, sent_at, failure, now),
            Failure::Response { .. } if class != FailureClass::Throttled => {
                self.account_accepted(id, sent_at, now);
            }
            Failure::Response { .. }
            | Failure::Http { .. }
            | Failure::Unauthorized(_)
            | Failure::Malformed(_)
            | Failure::TooLarge
            | Failure::Unreachable(_)
            | Failure::Tls(_)
            | Failure::TimedOut => self.credential.undecided(sent_at, now.instant),
        }
    }

    fn account_accepted(&mut self, id: LaneId, sent_at: Instant, now: Now) {
        if let Some(lane) = self.lane_mut(id) {
            lane.refusal = None;
        }
        match self.credential.accepted(sent_at) {
            Acceptance::Nothing => {}
            Acceptance::Again { refused_by } => {
                if refused_by != id {
                    self.ask_apart(refused_by, now);
                }
                self.report(Report::CredentialAccepted);
            }
        }
    }

    /// Others accept the account that this CAS refused: one more request asks it again.
    fn ask_apart(&mut self, id: LaneId, now: Now) {
        if let Some(lane) = self.lane_mut(id) {
            lane.refusal = Some(Refusal {
                probe_at: now.instant,
                times: 0,
            });
        }
    }

    /// One CAS refuses what the others accept: only that one is paused.
    fn refused_by_one(&mut self, id: LaneId, refusal: Refusal, reason: String, now: Now) {
        let cas = self.cas_of(id);
        if let Some(lane) = self.lane_mut(id) {
            lane.refusal = Some(Refusal {
                probe_at: now.instant + probe_wait(refusal.times),
                times: refusal.times.saturating_add(1),
            });
        }
        if refusal.times == 0 {
            self.report(Report::CredentialRefusedByOne { cas, reason });
        }
    }

    fn account_refused(&mut self, id: LaneId, sent_at: Instant, failure: &Failure, now: Now) {
        let reason = failure.to_string();
        if let Some(refusal) = self.lane(id).and_then(|lane| lane.refusal) {
            self.refused_by_one(id, refusal, reason, now);
        } else if self.credential.refused(id, sent_at, now.instant) {
            let cas = self.cas_of(id);
            self.report(Report::CredentialRefused { cas, reason });
        }
    }

    pub(super) fn credential_changed(&mut self, now: Now) {
        self.credential.changed(now.instant);
        for lane in &mut self.lanes {
            lane.refusal = None;
        }
    }

    fn succeeded(&mut self, flight: Flight, answer: Answer, now: Now) {
        match (&flight.job, answer) {
            (
                Job::Subscribe(key),
                Answer::Subscribed {
                    subscription,
                    watermark,
                },
            ) => {
                let user = self.one_user(*key, now);
                let (lane, attempt) = (flight.lane, flight.attempt);
                let is_wanted = user
                    .is_some_and(|mut user| user.subscribed(lane, attempt, subscription.clone(), watermark));
                if !is_wanted {
                    self.take_back(flight, subscription);
                }
            }
            (Job::Read(key), Answer::Items { items, complete }) => {
                if let Some(mut user) = self.one_user(*key, now) {
                    user.items_read(flight.window, &items, complete);
                }
            }
            (Job::Read(key), Answer::ChangeStamp(stamp)) => {
                if let Some(mut user) = self.one_user(*key, now) {
                    user.stamp_read(&stamp);
                }
            }
            (Job::Events(key), Answer::Events(notification)) => {
                if let Some(mut user) = self.one_user(*key, now) {
                    user.polled(flight.attempt, &notification);
                }
            }
            (Job::Availability { purpose, users }, Answer::Availability(results)) => {
                let (purpose, users) = (*purpose, users.clone());
                self.bulk_read(&flight, purpose, &users, results, now);
            }
            (Job::Probe(_) | Job::Unsubscribe(_), _) => {}
            // The client answers what was asked; anything else is treated as malformed.
            (Job::Subscribe(_) | Job::Read(_) | Job::Events(_) | Job::Availability { .. }, _) => {
                let failure = Failure::Malformed("the answer to a different request");
                let class = failure.class();
                self.job_failed(flight, &failure, class, now);
            }
        }
    }

    /// A subscription that is no longer wanted. For push, its callbacks are answered with Unsubscribe.
    fn take_back(&mut self, flight: Flight, subscription: SubscriptionId) {
        if flight.operation != "subscribe_push"
            && let Some(mailbox) = flight.mailbox
        {
            let farewell = Farewell {
                subscription: subscription.0.into_boxed_str(),
                mailbox,
                affinity: flight.affinity,
                tries: 0,
            };
            let queue_max = self.settings.queue_max;
            if let Some(lane) = self.lane_mut(flight.lane) {
                lane.queue_farewell(farewell, queue_max);
            }
        }
    }
}

/// The connection failed, or a machine in front of Exchange answered in its place.
pub(super) fn is_of_the_network(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable(_) | Failure::Tls(_) | Failure::TimedOut => true,
        Failure::Http { status, .. } => *status >= 500 && *status != 503,
        Failure::Response { .. } => planted(Bug::UserErrorCountsForCas),
        Failure::Unauthorized(_) | Failure::Malformed(_) | Failure::TooLarge => false,
    }
}

const THROTTLE_WAIT_MIN: Duration = Duration::from_secs(1);
const THROTTLE_JITTER: Duration = Duration::from_millis(500);
