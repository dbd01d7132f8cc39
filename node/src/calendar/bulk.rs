//! Reads free/busy of a hundred users in one request: first, so that presence is right within seconds, and again after
//! their Subscribe, so that no change falls between the two.

use super::job::{BulkPurpose, Flight, Job, Urgency};
use super::lane::LaneId;
use super::reading::end_of;
use super::timeline::Timeline;
use super::user::{Source, User, UserKey};
use super::{Calendars, Now, OneUser};
use tandem_exchange::ews::{CalendarItem, Failure, FailureClass, Mailbox};

impl Calendars {
    pub(super) fn next_first_load(&mut self, id: LaneId, now: Now) -> Option<Job> {
        let bulk = &mut self.lane_mut(id)?.bulk;
        if bulk.retry_at.is_some_and(|at| at > now.instant) {
            return None;
        }
        let wanted = take_some(&mut bulk.first, bulk.mailboxes_max);
        let users = self.still_at(id, wanted);
        (!users.is_empty()).then_some(Job::Availability {
            purpose: BulkPurpose::First,
            users,
        })
    }

    pub(super) fn next_settled_load(&mut self, id: LaneId, now: Now) -> Option<Job> {
        let bulk = &mut self.lane_mut(id)?.bulk;
        let is_full = bulk.settled.len() >= bulk.mailboxes_max;
        let is_due = bulk.settle_at.is_some_and(|at| at <= now.instant);
        if !is_full && !is_due || bulk.retry_at.is_some_and(|at| at > now.instant) {
            return None;
        }
        let wanted = take_some(&mut bulk.settled, bulk.mailboxes_max);
        if bulk.settled.is_empty() {
            bulk.settle_at = None;
        }
        let users = self.still_at(id, wanted);
        (!users.is_empty()).then_some(Job::Availability {
            purpose: BulkPurpose::Settled,
            users,
        })
    }

    fn still_at(&self, id: LaneId, mut wanted: Vec<UserKey>) -> Box<[UserKey]> {
        wanted.retain(|key| self.users.care(*key).is_some() && self.lane_of(*key) == Some(id));
        wanted.into_boxed_slice()
    }

    pub(super) fn mailboxes_of(&self, users: &[UserKey]) -> Option<Vec<Mailbox>> {
        users
            .iter()
            .map(|key| self.users.get(*key).map(User::mailbox))
            .collect()
    }

    /// One result per user, in order.
    pub(super) fn bulk_read(
        &mut self,
        flight: &Flight,
        purpose: BulkPurpose,
        users: &[UserKey],
        results: Vec<Result<Vec<CalendarItem>, Failure>>,
        now: Now,
    ) {
        if let Some(lane) = self.lane_mut(flight.lane) {
            lane.bulk.failures = 0;
        }
        let mut results = results.into_iter();
        for key in users {
            // A server that returns fewer results than requested has left out the last ones.
            let result = results
                .next()
                .unwrap_or(Err(Failure::Malformed("a mailbox without an answer")));
            // A user who is gone needs no result.
            if let Some(mut user) = self.one_user(*key, now) {
                user.free_busy_read(purpose, result, flight);
            }
        }
    }
}

impl OneUser<'_> {
    fn free_busy_read(
        &mut self,
        purpose: BulkPurpose,
        result: Result<Vec<CalendarItem>, Failure>,
        flight: &Flight,
    ) {
        match (purpose, result) {
            (_, Err(failure)) => self.has_no_free_busy(purpose, failure.class()),
            (BulkPurpose::First, Ok(items)) => self.first_loaded(&items, flight),
            (BulkPurpose::Settled, Ok(items)) => self.settled_load(&items, flight),
            (BulkPurpose::Sweep, Ok(items)) => self.swept(&items, flight),
        }
    }

    /// The failure of one mailbox. FindItem finds out where that matters: it needs other rights.
    fn has_no_free_busy(&mut self, purpose: BulkPurpose, class: FailureClass) {
        if matches!(class, FailureClass::RightsOfUser | FailureClass::RightsOfServer) {
            self.care.reading.has_no_availability = true;
        }
        if purpose == BulkPurpose::Settled && self.care.live.is_some() {
            self.queue_read(Urgency::Changed);
        }
    }

    fn first_loaded(&mut self, items: &[CalendarItem], flight: &Flight) {
        match self.care.known.source {
            Source::Nothing | Source::Provisional => {
                let until_ms = end_of(flight.window);
                self.adopt(Timeline::of(items), Source::Provisional, until_ms);
            }
            // A better read has finished first.
            Source::Availability | Source::View => {}
        }
    }

    fn settled_load(&mut self, items: &[CalendarItem], flight: &Flight) {
        self.care.trouble.tries = 0;
        let until_ms = end_of(flight.window);
        self.adopt(Timeline::of(items), Source::Availability, until_ms);
    }
}

fn take_some(set: &mut std::collections::BTreeSet<UserKey>, most: usize) -> Vec<UserKey> {
    let some: Vec<UserKey> = set.iter().copied().take(most).collect();
    for key in &some {
        set.remove(key);
    }
    some
}
