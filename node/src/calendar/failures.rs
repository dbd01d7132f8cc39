//! The reaction to a failure, row by row of docs/spec/ews.md §1.8. What it says about the CAS and the account has been dealt
//! with before.

use std::time::Duration;

use super::job::{BulkPurpose, Farewell, Flight, Job, Urgency};
use super::membership::Parting;
use super::output::Report;
use super::proposals::MoveCause;
use super::settings::Delivery;
use super::user::{Asking, Step, Task, UserKey};
use super::{Calendars, LaneId, Now};
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
            Job::Subscribe(key) => {
                let is_awaited = self.users.care(key).is_some_and(|care| {
                    care.attempt == flight.attempt && matches!(care.asking, Asking::Sent { .. })
                });
                if is_awaited {
                    self.user_failed(key, Work::Subscribe, failure, class, now);
                }
            }
            Job::Read(key) => {
                if let Some(care) = self.users.care_mut(key)
                    && care.reading.task == Task::InFlight
                {
                    care.reading.task = Task::Idle;
                    self.user_failed(key, Work::Read, failure, class, now);
                }
            }
            Job::Events(key) => {
                let live = self.users.care(key).and_then(|care| care.live.as_ref());
                if live.is_some_and(|live| live.attempt == flight.attempt) {
                    self.user_failed(key, Work::Poll, failure, class, now);
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

    fn user_failed(&mut self, key: UserKey, work: Work, failure: &Failure, class: FailureClass, now: Now) {
        if let Some(care) = self.users.care_mut(key) {
            care.trouble.class = Some(class);
        }
        match class {
            FailureClass::Lost => match work {
                Work::Subscribe | Work::Poll => self.lost(key, Some(class), now),
                Work::Read => self.failed_transiently(key, work, now),
            },
            FailureClass::OtherOwner => {
                let wait = self.jittered(OTHER_OWNER_WAIT);
                self.resubscribe(key, wait, Parting::Quiet, now);
            }
            FailureClass::Moved => self.store_failed(key, work, now),
            FailureClass::Gone => {
                let user = self.name_of(key);
                let reason = failure.to_string();
                self.report_once(key, class, Report::MailboxUnavailable { user, reason });
                self.retry_slowly(key, work, now);
            }
            FailureClass::Identity => self.adopt_address(key, work, failure, now),
            FailureClass::Throttled => self.throttled(key, work, now),
            FailureClass::Transient => self.failed_transiently(key, work, now),
            FailureClass::Credential => self.again_at_once(key, work, now),
            FailureClass::RightsOfServer => self.denied_by_cas(key, work, failure, now),
            FailureClass::RightsOfUser => self.denied_for_user(key, work, failure, now),
            FailureClass::Version => self.too_old(key, work, now),
            FailureClass::TooMuch => self.too_much(key, work, now),
            FailureClass::Request => self.not_understood(key, work, failure, now),
        }
        self.touch(key);
    }

    fn retry(&mut self, key: UserKey, work: Work, wait: Duration, now: Now) {
        match work {
            Work::Subscribe => self.subscribe_at(key, now.instant + wait),
            Work::Read => self.read_at(key, wait, now),
            Work::Poll => self.poll_at(key, now.instant + wait),
        }
    }

    fn retry_slowly(&mut self, key: UserKey, work: Work, now: Now) {
        let wait = SLOW_RETRY + self.jitter(SLOW_RETRY / 10);
        self.retry(key, work, wait, now);
    }

    /// Back into the queue: something other than the user decides when its turn comes.
    fn again_at_once(&mut self, key: UserKey, work: Work, now: Now) {
        match work {
            Work::Subscribe => {
                self.give_up_reservation(key);
                if let Some(care) = self.users.care_mut(key) {
                    care.asking = Asking::Idle;
                }
                self.want_subscription(key, now);
            }
            Work::Read => self.queue_read(key, Urgency::Changed, now),
            Work::Poll => self.poll_at(key, now.instant + Duration::from_secs(1)),
        }
    }

    /// The CAS as a whole waits; a mailbox that is throttled again and again waits on its own as well.
    fn throttled(&mut self, key: UserKey, work: Work, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        care.trouble.throttled = care.trouble.throttled.saturating_add(1);
        match care.trouble.throttled.checked_sub(THROTTLES_WITHOUT_WAIT) {
            None | Some(0) => self.again_at_once(key, work, now),
            Some(times) => {
                let wait = self.jittered(exponential(THROTTLE_WAIT, times, THROTTLE_WAIT_MAX));
                self.retry(key, work, wait, now);
            }
        }
    }

    /// Three tries, then it counts against the CAS.
    fn failed_transiently(&mut self, key: UserKey, work: Work, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        care.trouble.tries = care.trouble.tries.saturating_add(1);
        let tries = care.trouble.tries;
        if tries < TRIES_MAX {
            let wait = self.jittered(exponential(TRANSIENT_WAIT, tries - 1, TRANSIENT_WAIT_MAX));
            self.retry(key, work, wait, now);
        } else {
            self.give_up_here(key, work, MoveCause::Failed, now);
        }
    }

    /// The store is down or the mailbox is being moved: wait, then another CAS.
    fn store_failed(&mut self, key: UserKey, work: Work, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        care.trouble.store_failures = care.trouble.store_failures.saturating_add(1);
        let failures = care.trouble.store_failures;
        if failures < STORE_FAILURES_MAX {
            let wait = exponential(STORE_WAIT, failures - 1, STORE_WAIT_MAX);
            self.retry(key, work, wait, now);
        } else {
            self.give_up_here(key, work, MoveCause::Store, now);
        }
    }

    /// Requests another CAS; where there is none, the same one is tried again, with growing pauses.
    fn give_up_here(&mut self, key: UserKey, work: Work, cause: MoveCause, now: Now) {
        if work == Work::Read
            && let Some(care) = self.users.care_mut(key)
        {
            care.reading.step = Step::Items;
        }
        self.ask_for_another(key, cause, now);
    }

    fn adopt_address(&mut self, key: UserKey, work: Work, failure: &Failure, now: Now) {
        let address = primary_address(failure).map(Box::from);
        let adopted = self.users.get_mut(key).is_some_and(|user| {
            let first_time = user
                .care
                .as_ref()
                .is_some_and(|care| !care.trouble.address_adopted);
            let is_new = first_time && address.is_some();
            if is_new {
                user.primary_address = address;
            }
            is_new
        });
        if !adopted {
            return self.denied_for_user(key, work, failure, now);
        }
        if let Some(care) = self.users.care_mut(key) {
            care.trouble.address_adopted = true;
        }
        self.again_at_once(key, work, now);
    }

    /// Exchange 2007 grants the right per CAS: another one is tried, once.
    fn denied_by_cas(&mut self, key: UserKey, work: Work, failure: &Failure, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        if !std::mem::replace(&mut care.trouble.elsewhere_tried, true) && self.another_takes_users(key) {
            self.ask_for_another(key, MoveCause::Denied, now);
        } else {
            self.denied_for_user(key, work, failure, now);
        }
    }

    fn denied_for_user(&mut self, key: UserKey, work: Work, failure: &Failure, now: Now) {
        let user = self.name_of(key);
        let reason = failure.to_string();
        self.report_once(key, failure.class(), Report::RightsMissing { user, reason });
        self.retry_slowly(key, work, now);
    }

    /// The client has tried every version; what is left is another delivery.
    fn too_old(&mut self, key: UserKey, work: Work, now: Now) {
        let other_way = work == Work::Subscribe && self.settings.delivery == Delivery::StreamingFirst;
        match self.users.care_mut(key) {
            Some(care) if other_way && !care.streaming_refused => {
                care.streaming_refused = true;
                self.again_at_once(key, work, now);
            }
            Some(_) | None => {
                let wait = self.jittered(VERSION_WAIT);
                self.retry(key, work, wait, now);
            }
        }
    }

    fn too_much(&mut self, key: UserKey, work: Work, now: Now) {
        let window = super::reading::window_from(now, self.settings.window, self.halvings_of(key));
        let asks_less = work == Work::Read
            && self
                .users
                .care_mut(key)
                .is_some_and(|care| care.reading.ask_for_less(window));
        match asks_less {
            true => self.again_at_once(key, work, now),
            false => self.retry_slowly(key, work, now),
        }
    }

    fn halvings_of(&self, key: UserKey) -> u8 {
        self.users.care(key).map_or(0, |care| care.reading.halvings)
    }

    /// For us to fix. A URL that the CAS does not accept cannot be called back.
    fn not_understood(&mut self, key: UserKey, work: Work, failure: &Failure, now: Now) {
        let is_url = code(failure).is_some_and(|code| code.0 == "ErrorInvalidPushSubscriptionUrl");
        if is_url && self.settings.delivery == Delivery::PushFirst {
            let user = self.name_of(key);
            if let Some(care) = self.users.care_mut(key) {
                care.push_unreachable = true;
            }
            self.report(Report::FellBackToStreaming { user });
            return self.again_at_once(key, work, now);
        }
        let user = self.name_of(key);
        let cas = self.cas_of(self.lane_of(key).unwrap_or(LaneId(0)));
        let reason = failure.to_string();
        let refused = Report::RequestRefused { user, cas, reason };
        self.report_once(key, FailureClass::Request, refused);
        self.retry_slowly(key, work, now);
    }

    fn report_once(&mut self, key: UserKey, class: FailureClass, report: Report) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        if care.trouble.reported != Some(class) {
            care.trouble.reported = Some(class);
            self.report(report);
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
                    self.queue_read(*key, Urgency::Refresh, now);
                }
            }
            (BulkPurpose::First, false) | (BulkPurpose::Sweep, _) => {}
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
