//! The reaction to a failure, row by row of docs/spec/ews.md §1.8. What it says about the CAS and the account has been dealt
//! with before.

use std::time::Duration;

use super::job::{BulkPurpose, Farewell, Flight, Job, Urgency};
use super::membership::Parting;
use super::output::Report;
use super::proposals::MoveCause;
use super::settings::Delivery;
use super::user::{Asking, Step, Task, UserKey};
use super::{Calendars, LaneId, Now, OneUser};
use tandem_exchange::ews::{Failure, FailureClass, ResponseCode};

/// What failed for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Subscribe,
    Read,
    Poll,
}

impl Calendars {
    pub(super) fn job_failed(&mut self, flight: Flight, failure: &Failure, class: FailureClass, now: Now) {
        match flight.job {
            Job::Probe(_) => {}
            Job::Unsubscribe(farewell) => self.farewell_failed(flight.lane, farewell, class),
            Job::Availability { purpose, users } => {
                self.bulk_failed(flight.lane, purpose, &users, class, now);
            }
            // A user who is gone waits for nothing.
            Job::Subscribe(key) => {
                if let Some(mut user) = self.one_user(key, now)
                    && user.is_asking_as(flight.attempt)
                {
                    user.failed(Work::Subscribe, failure, class);
                }
            }
            Job::Read(key) => {
                if let Some(mut user) = self.one_user(key, now)
                    && user.care.reading.task == Task::InFlight
                {
                    user.care.reading.task = Task::Idle;
                    match user.is_at(flight.lane) {
                        true => user.failed(Work::Read, failure, class),
                        false => user.read_failed_elsewhere(),
                    }
                }
            }
            Job::Events(key) => {
                if let Some(mut user) = self.one_user(key, now)
                    && user.is_live_as(flight.attempt)
                {
                    user.failed(Work::Poll, failure, class);
                }
            }
        }
    }

    fn farewell_failed(&mut self, lane: LaneId, mut farewell: Box<Farewell>, class: FailureClass) {
        let is_worth_it = matches!(
            class,
            FailureClass::Throttled | FailureClass::Transient | FailureClass::Credential
        );
        farewell.tries = farewell.tries.saturating_add(1);
        let queue_max = self.settings.queue_max;
        if is_worth_it
            && farewell.tries < FAREWELLS_MAX
            && let Some(lane) = self.lane_mut(lane)
        {
            drop(lane.enqueue(Job::Unsubscribe(farewell), Urgency::Farewell, queue_max));
        }
    }

    /// A whole request for many users failed, which is no user's fault. They stay in the set, or are read one by one.
    pub(super) fn bulk_failed(
        &mut self,
        id: LaneId,
        purpose: BulkPurpose,
        users: &[UserKey],
        class: FailureClass,
        now: Now,
    ) {
        let retry_wait = self.jittered(BULK_WAIT);
        let Some(lane) = self.lane_mut(id) else {
            return;
        };
        let bulk = &mut lane.bulk;
        let again = match class {
            FailureClass::Throttled | FailureClass::Credential => true,
            FailureClass::TooMuch if bulk.mailboxes_max > 1 => {
                bulk.mailboxes_max = (bulk.mailboxes_max / 2).max(1);
                true
            }
            FailureClass::Transient | FailureClass::Moved | FailureClass::Version => {
                bulk.failures = bulk.failures.saturating_add(1);
                bulk.retry_at = Some(now.instant + retry_wait);
                bulk.failures < BULK_FAILURES_MAX
            }
            FailureClass::Lost
            | FailureClass::OtherOwner
            | FailureClass::Gone
            | FailureClass::Identity
            | FailureClass::RightsOfServer
            | FailureClass::RightsOfUser
            | FailureClass::TooMuch
            | FailureClass::Request => false,
        };
        match (purpose, again) {
            (BulkPurpose::First, true) => lane.bulk.first.extend(users),
            (BulkPurpose::Settled, true) => {
                lane.bulk.settled.extend(users);
                lane.bulk.settle_at.get_or_insert(now.instant);
            }
            (BulkPurpose::Settled, false) => {
                for key in users {
                    if let Some(mut user) = self.one_user(*key, now) {
                        user.queue_read(Urgency::Refresh);
                    }
                }
            }
            (BulkPurpose::First, false) | (BulkPurpose::Sweep, _) => {}
        }
    }
}

impl OneUser<'_> {
    fn is_asking_as(&self, attempt: u64) -> bool {
        self.care.attempt == attempt && matches!(self.care.asking, Asking::Sent { .. })
    }

    /// At a former CAS, of which the present one knows nothing: the same is read here. Without a subscription there will be a
    /// read after the next one.
    fn read_failed_elsewhere(&mut self) {
        if self.care.live.is_some() {
            self.queue_read(Urgency::Changed);
        }
    }

    fn failed(&mut self, work: Work, failure: &Failure, class: FailureClass) {
        self.care.trouble.class = Some(class);
        match class {
            FailureClass::Lost => match work {
                Work::Subscribe | Work::Poll => self.lost(Some(class)),
                Work::Read => self.failed_transiently(work),
            },
            FailureClass::OtherOwner => {
                let wait = self.jittered(OTHER_OWNER_WAIT);
                self.resubscribe(wait, Parting::Quiet);
            }
            FailureClass::Moved => self.store_failed(work),
            FailureClass::Gone => {
                let (user, reason) = (self.name(), failure.to_string());
                self.report_once(class, Report::MailboxUnavailable { user, reason });
                self.retry_slowly(work);
            }
            FailureClass::Identity => self.adopt_address(work, failure),
            FailureClass::Throttled => self.throttled(work),
            FailureClass::Transient => self.failed_transiently(work),
            FailureClass::Credential => self.again_at_once(work),
            FailureClass::RightsOfServer => self.denied_by_cas(work, failure),
            FailureClass::RightsOfUser => self.denied_for_user(work, failure),
            FailureClass::Version => self.too_old(work),
            FailureClass::TooMuch => self.too_much(work),
            FailureClass::Request => self.not_understood(work, failure),
        }
    }

    fn retry(&mut self, work: Work, wait: Duration) {
        let at = self.now.instant + wait;
        match work {
            Work::Subscribe => self.subscribe_at(at),
            Work::Read => self.read_at(wait),
            Work::Poll => self.poll_at(at),
        }
    }

    fn retry_slowly(&mut self, work: Work) {
        let wait = SLOW_RETRY + self.jitter(SLOW_RETRY / 10);
        self.retry(work, wait);
    }

    /// Back into the queue: something other than the user decides when its turn comes.
    fn again_at_once(&mut self, work: Work) {
        match work {
            Work::Subscribe => {
                self.give_up_reservation();
                self.care.asking = Asking::Idle;
                self.want_subscription();
            }
            Work::Read => self.queue_read(Urgency::Changed),
            Work::Poll => self.poll_at(self.now.instant + Duration::from_secs(1)),
        }
    }

    /// The CAS as a whole waits; a mailbox that is throttled again and again waits on its own as well.
    fn throttled(&mut self, work: Work) {
        let throttled = &mut self.care.trouble.throttled;
        *throttled = throttled.saturating_add(1);
        match throttled.checked_sub(THROTTLES_WITHOUT_WAIT) {
            None | Some(0) => self.again_at_once(work),
            Some(times) => {
                let wait = self.jittered(exponential(THROTTLE_WAIT, times, THROTTLE_WAIT_MAX));
                self.retry(work, wait);
            }
        }
    }

    /// Three tries, then it counts against the CAS.
    fn failed_transiently(&mut self, work: Work) {
        let tries = self.care.trouble.tries.saturating_add(1);
        self.care.trouble.tries = tries;
        if tries < TRIES_MAX {
            let wait = self.jittered(exponential(TRANSIENT_WAIT, tries - 1, TRANSIENT_WAIT_MAX));
            self.retry(work, wait);
        } else {
            self.give_up_here(work, MoveCause::Failed);
        }
    }

    /// The store is down or the mailbox is being moved: wait, then another CAS.
    fn store_failed(&mut self, work: Work) {
        let failures = self.care.trouble.store_failures.saturating_add(1);
        self.care.trouble.store_failures = failures;
        if failures < STORE_FAILURES_MAX {
            self.retry(work, exponential(STORE_WAIT, failures - 1, STORE_WAIT_MAX));
        } else {
            self.give_up_here(work, MoveCause::Store);
        }
    }

    /// Requests another CAS; where there is none, the same one is tried again, with growing pauses.
    fn give_up_here(&mut self, work: Work, cause: MoveCause) {
        if work == Work::Read {
            self.care.reading.step = Step::Items;
        }
        self.ask_for_another(cause);
    }

    fn adopt_address(&mut self, work: Work, failure: &Failure) {
        let address = primary_address(failure).map(Box::from);
        if self.care.trouble.address_adopted || address.is_none() {
            return self.denied_for_user(work, failure);
        }
        *self.primary_address = address;
        self.care.trouble.address_adopted = true;
        self.again_at_once(work);
    }

    /// Exchange 2007 grants the right per CAS: another one is tried, once.
    fn denied_by_cas(&mut self, work: Work, failure: &Failure) {
        let was_tried = std::mem::replace(&mut self.care.trouble.elsewhere_tried, true);
        if !was_tried && self.another_takes_users {
            self.ask_for_another(MoveCause::Denied);
        } else {
            self.denied_for_user(work, failure);
        }
    }

    fn denied_for_user(&mut self, work: Work, failure: &Failure) {
        let (user, reason) = (self.name(), failure.to_string());
        self.report_once(failure.class(), Report::RightsMissing { user, reason });
        self.retry_slowly(work);
    }

    /// The client has tried every version; what is left is another delivery.
    fn too_old(&mut self, work: Work) {
        let other_way = work == Work::Subscribe && self.settings.delivery == Delivery::StreamingFirst;
        if other_way && !self.care.streaming_refused {
            self.care.streaming_refused = true;
            self.again_at_once(work);
        } else {
            let wait = self.jittered(VERSION_WAIT);
            self.retry(work, wait);
        }
    }

    fn too_much(&mut self, work: Work) {
        let reading = &mut self.care.reading;
        let window = super::reading::window_from(self.now, self.settings.window, reading.halvings);
        match work == Work::Read && reading.ask_for_less(window) {
            true => self.again_at_once(work),
            false => self.retry_slowly(work),
        }
    }

    /// For us to fix. A URL that the CAS does not accept cannot be called back.
    fn not_understood(&mut self, work: Work, failure: &Failure) {
        let is_url = code(failure).is_some_and(|code| code.0 == "ErrorInvalidPushSubscriptionUrl");
        let user = self.name();
        if is_url && self.settings.delivery == Delivery::PushFirst {
            self.care.push_unreachable = true;
            self.report(Report::FellBackToStreaming { user });
            return self.again_at_once(work);
        }
        let (cas, reason) = (self.cas(), failure.to_string());
        self.report_once(
            FailureClass::Request,
            Report::RequestRefused { user, cas, reason },
        );
        self.retry_slowly(work);
    }

    fn report_once(&mut self, class: FailureClass, report: Report) {
        if self.care.trouble.reported != Some(class) {
            self.care.trouble.reported = Some(class);
            self.report(report);
        }
    }
}

fn exponential(first: Duration, times: u8, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(12)).min(most)
}

fn primary_address(failure: &Failure) -> Option<&str> {
    match failure {
        Failure::Response { primary_address, .. } => primary_address.as_deref().filter(|it| !it.is_empty()),
        Failure::Http { .. }
        | Failure::Unauthorized(_)
        | Failure::Malformed(_)
        | Failure::TooLarge
        | Failure::Unreachable(_)
        | Failure::Tls(_)
        | Failure::TimedOut => None,
    }
}

fn code(failure: &Failure) -> Option<&ResponseCode> {
    match failure {
        Failure::Response { code, .. } => Some(code),
        Failure::Http { .. }
        | Failure::Unauthorized(_)
        | Failure::Malformed(_)
        | Failure::TooLarge
        | Failure::Unreachable(_)
        | Failure::Tls(_)
        | Failure::TimedOut => None,
    }
}

const TRIES_MAX: u8 = 3;
const TRANSIENT_WAIT: Duration = Duration::from_secs(1);
const TRANSIENT_WAIT_MAX: Duration = Duration::from_secs(8);

const STORE_FAILURES_MAX: u8 = 2;
const STORE_WAIT: Duration = Duration::from_secs(30);
const STORE_WAIT_MAX: Duration = Duration::from_secs(600);

const SLOW_RETRY: Duration = Duration::from_secs(3600);
const VERSION_WAIT: Duration = Duration::from_secs(600);

/// Long enough for ownership to change, if it is about to.
const OTHER_OWNER_WAIT: Duration = Duration::from_secs(10);

const THROTTLES_WITHOUT_WAIT: u8 = 3;
const THROTTLE_WAIT: Duration = Duration::from_secs(5);
const THROTTLE_WAIT_MAX: Duration = Duration::from_secs(600);

const FAREWELLS_MAX: u8 = 3;

const BULK_WAIT: Duration = Duration::from_secs(2);
const BULK_FAILURES_MAX: u32 = 5;
