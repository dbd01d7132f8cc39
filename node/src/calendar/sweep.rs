//! Sweeps the free/busy of all users periodically, to find stale subscriptions: the calendar changed and no event came
//! (CAL-9, docs/spec/ews.md §1.9).

use std::ops::Bound;
use std::time::Duration;

use super::job::{BulkPurpose, Flight, Job, Urgency};
use super::lane::LaneId;
use super::reading::end_of;
use super::timeline::Timeline;
use super::user::{Care, Source, Step, Task, UserKey};
use super::{Calendars, Now, OneUser};
use tandem_exchange::ews::CalendarItem;

impl Calendars {
    /// The next hundred of the CAS's users, so that every user is checked once per interval.
    pub(super) fn next_sweep(&mut self, id: LaneId, now: Now) -> Option<Job> {
        let interval = self.settings.sweep_interval;
        let first = self.jitter(interval);
        let lane = self.lane_mut(id)?;
        let (members, most) = (lane.members.len(), lane.bulk.mailboxes_max);
        if members == 0 {
            lane.sweep.next_at = None;
            return None;
        }
        let batches = u32::try_from(members.div_ceil(most)).unwrap_or(u32::MAX).max(1);
        let next_at = *lane.sweep.next_at.get_or_insert(now.instant + first / batches);
        if next_at > now.instant {
            return None;
        }
        lane.sweep.next_at = Some(now.instant + interval / batches);
        let after = lane.sweep.after.map_or(Bound::Unbounded, Bound::Excluded);
        let batch: Vec<UserKey> = lane
            .members
            .range((after, Bound::Unbounded))
            .copied()
            .take(most)
            .collect();
        // After the last one it begins again with the first.
        lane.sweep.after = batch.last().copied().filter(|_| batch.len() == most);
        let users: Box<[UserKey]> = batch
            .into_iter()
            .filter(|key| {
                let user = self.one_user(*key, now);
                user.is_some_and(|mut user| user.is_to_be_swept())
            })
            .collect();
        (!users.is_empty()).then_some(Job::Availability {
            purpose: BulkPurpose::Sweep,
            users,
        })
    }
}

impl OneUser<'_> {
    fn is_to_be_swept(&mut self) -> bool {
        let is_live = self.care.live.is_some();
        let reading = &mut self.care.reading;
        if reading.has_no_availability {
            if is_live && reading.is_quiet() {
                reading.step = Step::StampAfterLoss;
                self.queue_read(Urgency::Refresh);
            }
            return false;
        }
        if reading.sweeps_to_skip > 0 {
            reading.sweeps_to_skip -= 1;
            return false;
        }
        !is_live || reading.is_quiet()
    }

    /// A user without a subscription depends on what sweeps find. With one, an event is given some time to explain a
    /// contradiction; then the calendar is read.
    pub(super) fn swept(&mut self, items: &[CalendarItem], flight: &Flight) {
        let timeline = Timeline::of(items);
        let until_ms = end_of(flight.window);
        if self.care.live.is_none() {
            self.adopt(timeline, Source::Provisional, until_ms);
            return;
        }
        if !self.care.may_be_judged(flight) {
            return;
        }
        let known = &self.care.known;
        let until_ms = until_ms.min(known.until_ms);
        if known
            .timeline
            .is_same_within(&timeline, self.now.unix_ms, until_ms)
        {
            self.care.reading.false_alarms = 0;
            return;
        }
        self.care.reading.is_suspicious = true;
        self.read_at(EVENT_MAY_COME_WITHIN.min(self.settings.sweep_interval));
    }

    /// FindItem returned what was known already: the two operations differ about this calendar.
    pub(super) fn suspicion_dispelled(&mut self) {
        let reading = &mut self.care.reading;
        reading.false_alarms = reading.false_alarms.saturating_add(1).min(FALSE_ALARMS_MAX);
        reading.sweeps_to_skip = (1 << reading.false_alarms) - 1;
    }
}

impl Care {
    /// No event came since the sweep was sent, and what is known was read after the subscription.
    fn may_be_judged(&self, flight: &Flight) -> bool {
        let is_read = matches!(self.known.source, Source::Availability | Source::View);
        let told_since = self.last_event.is_some_and(|event| event >= flight.sent_at);
        is_read && !told_since && self.reading.is_quiet()
    }
}

impl super::user::Reading {
    fn is_quiet(&self) -> bool {
        self.task == Task::Idle && !self.is_dirty && !self.is_suspicious
    }
}

/// Time for an event on its way, which would explain the contradiction.
const EVENT_MAY_COME_WITHIN: Duration = Duration::from_secs(20);

/// At most 63 sweeps are skipped in a row.
const FALSE_ALARMS_MAX: u8 = 6;
