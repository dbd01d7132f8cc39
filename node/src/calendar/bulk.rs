//! Reads free/busy of a hundred users in one request: first, so that presence is right within seconds, and again after
//! their Subscribe, so that no change falls between the two.

use super::job::{BulkPurpose, Flight, Job, Urgency};
use super::lane::LaneId;
use super::reading::end_of;
use super::timeline::Timeline;
use super::user::{Source, User, UserKey};
use super::{Calendars, Now};
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
            match (purpose, result) {
                (_, Err(failure)) => self.has_no_free_busy(*key, purpose, failure.class(), now),
                (BulkPurpose::First, Ok(items)) => self.first_loaded(*key, &items, flight, now),
                (BulkPurpose::Settled, Ok(items)) => self.settled_load(*key, &items, flight, now),
                (BulkPurpose::Sweep, Ok(items)) => self.swept(*key, &items, flight, now),
            }
        }
    }

    /// The failure of one mailbox. FindItem finds out where that matters: it needs other rights.
    fn has_no_free_busy(&mut self, key: UserKey, purpose: BulkPurpose, class: FailureClass, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        if matches!(class, FailureClass::RightsOfUser | FailureClass::RightsOfServer) {
            care.reading.has_no_availability = true;
        }
        if purpose == BulkPurpose::Settled && care.live.is_some() {
            self.queue_read(key, Urgency::Changed, now);
        }
    }

    pub(super) fn first_loaded(&mut self, key: UserKey, items: &[CalendarItem], flight: &Flight, now: Now) {
        let Some(care) = self.users.care(key) else {
            return;
        };
        match care.known.source {
            Source::Nothing | Source::Provisional => {
                let until_ms = end_of(flight.window);
                self.adopt(key, Timeline::of(items), Source::Provisional, until_ms, now);
            }
            // A better read has finished first.
            Source::Availability | Source::View => {}
        }
    }

    fn settled_load(&mut self, key: UserKey, items: &[CalendarItem], flight: &Flight, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        care.trouble.tries = 0;
        let until_ms = end_of(flight.window);
        self.adopt(key, Timeline::of(items), Source::Availability, until_ms, now);
    }
}

fn take_some(set: &mut std::collections::BTreeSet<UserKey>, most: usize) -> Vec<UserKey> {
    let some: Vec<UserKey> = set.iter().copied().take(most).collect();
    for key in &some {
        set.remove(key);
    }
    some
}
