//! Reads calendars: after every Subscribe, after events (once for several of them), and again before the window ends.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::job::{Job, Urgency};
use super::membership::Parting;
use super::output::Report;
use super::timeline::Timeline;
use super::user::{Known, Reading, Source, Step, Task, UserKey};
use super::{Calendars, LaneId, Now};
use tandem_exchange::ews::{CalendarItem, ChangeStamp, Operation, TimeWindow};

impl Calendars {
    /// The read that counts: from now on nothing can be missed.
    pub(super) fn read_after_subscribe(&mut self, key: UserKey, lane: LaneId, now: Now) {
        let is_crowded = self.lane(lane).is_some_and(super::lane::Lane::is_crowded);
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        match is_crowded && care.reading.step == Step::Items && !care.reading.has_no_availability {
            true => self.read_with_others(key, lane, now),
            false => self.queue_read(key, Urgency::Changed, now),
        }
    }

    /// Events may have been lost on the way; the subscription still works.
    pub(super) fn read_after_gap(&mut self, key: UserKey, now: Now) {
        let Some((care, lane)) = self.cared_for(key) else {
            return;
        };
        if care.reading.has_no_availability {
            care.reading.step = Step::StampAfterLoss;
            self.queue_read(key, Urgency::Changed, now);
        } else {
            self.read_with_others(key, lane, now);
        }
    }

    fn read_with_others(&mut self, key: UserKey, lane: LaneId, now: Now) {
        let settle_at = now.instant + SETTLE;
        if let Some(lane) = self.lane_mut(lane) {
            lane.bulk.settled.insert(key);
            lane.bulk.settle_at.get_or_insert(settle_at);
        }
    }

    /// An event: read soon, so that a burst of them is one read.
    pub(super) fn calendar_told_of(&mut self, key: UserKey, now: Now) {
        let wait = self.jittered(COALESCE);
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        care.last_event = Some(now.instant);
        let reading = &mut care.reading;
        reading.is_dirty = true;
        reading.stamp = None;
        reading.is_suspicious = false;
        reading.step = Step::Items;
        let at = now.instant + wait;
        match reading.task {
            Task::Idle => reading.task = Task::Waiting(at),
            Task::Waiting(planned) => reading.task = Task::Waiting(planned.min(at)),
            Task::Queued | Task::InFlight => {}
        }
        self.touch(key);
    }

    pub(super) fn read_at(&mut self, key: UserKey, wait: Duration, now: Now) {
        if let Some(care) = self.users.care_mut(key) {
            care.reading.task = Task::Waiting(now.instant + wait);
        }
        self.touch(key);
    }

    pub(super) fn queue_read(&mut self, key: UserKey, urgency: Urgency, now: Now) {
        let wait = self.jittered(QUEUE_FULL_WAIT);
        let queue_max = self.settings.queue_max;
        let Some(lane) = self.lane_of(key) else {
            return;
        };
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        if matches!(care.reading.task, Task::Queued | Task::InFlight) {
            care.reading.is_dirty = true;
            return;
        }
        let queued = self
            .lanes
            .get_mut(usize::from(lane.0))
            .is_some_and(|lane| lane.enqueue(Job::Read(key), urgency, queue_max).is_ok());
        care.reading.task = match queued {
            true => Task::Queued,
            false => Task::Waiting(now.instant + wait),
        };
        self.touch(key);
    }

    /// The wait for more events, a retry or the refresh is over.
    pub(super) fn reading_due(&mut self, key: UserKey, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        let reading = &mut care.reading;
        match (reading.task, reading.refresh_at) {
            (Task::Waiting(at), _) if at <= now.instant => {
                reading.task = Task::Idle;
                // Without a subscription there will be a read after the next one.
                if care.live.is_some() {
                    self.queue_read(key, Urgency::Changed, now);
                }
            }
            (Task::Idle, Some(at)) if at <= now.instant => {
                reading.refresh_at = None;
                if care.live.is_some() {
                    reading.step = Step::Stamp;
                    reading.halvings = reading.halvings.saturating_sub(1);
                    self.queue_read(key, Urgency::Refresh, now);
                }
            }
            (Task::Waiting(_) | Task::Idle | Task::Queued | Task::InFlight, _) => {}
        }
    }

    /// Its turn has come. `None`: it is no longer wanted, or not at this CAS.
    pub(super) fn begin_read(
        &mut self,
        key: UserKey,
        lane: LaneId,
        now: Now,
    ) -> Option<(Operation, TimeWindow)> {
        let (length, entries_max) = (self.settings.window, self.config.entries_max);
        let (care, at) = self.cared_for(key)?;
        if at != lane || care.reading.task != Task::Queued {
            return None;
        }
        if care.live.is_none() {
            care.reading.task = Task::Idle;
            self.touch(key);
            return None;
        }
        care.reading.task = Task::InFlight;
        let window = window_from(now, length, care.reading.halvings);
        let operation = match care.reading.step {
            Step::Stamp | Step::StampAfterLoss => Operation::GetChangeStamp,
            Step::Items => {
                care.reading.is_dirty = false;
                Operation::FindCalendarItems { window, entries_max }
            }
        };
        Some((operation, window))
    }

    /// GetFolder was answered: what follows is the read, unless nothing has changed since the last one.
    pub(super) fn stamp_read(&mut self, key: UserKey, stamp: &ChangeStamp, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        let reading = &mut care.reading;
        let (former, step) = (reading.stamp, reading.step);
        reading.task = Task::Idle;
        reading.step = Step::Items;
        reading.stamp = hash_of(stamp);
        let is_unchanged = reading.stamp.is_some() && reading.stamp == former && !reading.is_dirty;
        match step {
            Step::StampAfterLoss if is_unchanged => {
                care.reading.refresh_at.get_or_insert(now.instant);
                self.touch(key);
            }
            Step::StampAfterLoss => self.queue_read(key, Urgency::Changed, now),
            Step::Stamp => self.queue_read(key, Urgency::Refresh, now),
            // An event came while GetFolder was under way.
            Step::Items => {
                if let Some(care) = self.users.care_mut(key) {
                    care.reading.stamp = None;
                }
                self.queue_read(key, Urgency::Changed, now);
            }
        }
    }

    /// FindItem was answered.
    pub(super) fn items_read(
        &mut self,
        key: UserKey,
        window: TimeWindow,
        (items, is_complete): (&[CalendarItem], bool),
        now: Now,
    ) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        care.reading.task = Task::Idle;
        care.trouble.settled();
        if !is_complete && care.reading.ask_for_less(window) {
            self.queue_read(key, Urgency::Changed, now);
            return;
        }
        let timeline = Timeline::of(items);
        let was_suspicious = std::mem::take(&mut care.reading.is_suspicious);
        let until_ms = end_of(window);
        let is_same =
            care.known
                .timeline
                .is_same_within(&timeline, now.unix_ms, until_ms.min(care.known.until_ms));
        self.adopt(key, timeline, Source::View, until_ms, now);
        match was_suspicious {
            true if is_same => self.suspicion_dispelled(key),
            true => self.found_deaf(key, now),
            false => {}
        }
        self.read_again(key, now);
    }

    /// A stale subscription: the mailbox has moved, or the server dropped it silently (docs/spec/ews.md §1.9).
    fn found_deaf(&mut self, key: UserKey, now: Now) {
        let Some(lane) = self.lane_of(key) else {
            return;
        };
        let (user, cas) = (self.name_of(key), self.cas_of(lane));
        self.report(Report::Deaf { user, cas });
        self.avoid_group(key, now);
        self.resubscribe(key, Duration::ZERO, Parting::Unsubscribe, now);
    }

    /// Takes what is known now, from any source, and plans the refresh.
    pub(super) fn adopt(
        &mut self,
        key: UserKey,
        timeline: Timeline,
        source: Source,
        until_ms: u64,
        now: Now,
    ) {
        let until_left = Duration::from_millis(until_ms.saturating_sub(now.unix_ms) / 2);
        let refresh = self.jittered(self.settings.refresh_interval.min(until_left).max(REFRESH_MIN));
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        let new = Known {
            timeline,
            source,
            until_ms,
            read_at_ms: now.unix_ms,
        };
        let former = std::mem::replace(&mut care.known, new);
        if care.live.is_some() {
            care.reading.refresh_at = Some(now.instant + refresh);
        }
        self.calendar_changed(key, &former, now);
        self.touch(key);
    }

    /// Events that came while the read was under way.
    pub(super) fn read_again(&mut self, key: UserKey, now: Now) {
        let wait = self.jittered(COALESCE);
        if let Some(care) = self.users.care_mut(key)
            && care.reading.is_dirty
            && care.reading.task == Task::Idle
        {
            care.reading.task = Task::Waiting(now.instant + wait);
        }
        self.touch(key);
    }
}

impl Reading {
    /// `false`: the window cannot be shorter.
    pub(super) fn ask_for_less(&mut self, window: TimeWindow) -> bool {
        let may = window.until.saturating_sub(window.from) > WINDOW_SECS_MIN;
        if may {
            self.halvings = self.halvings.saturating_add(1);
        }
        may
    }
}

/// From an hour ago on, so that it is known when the present state began.
pub(super) fn window_from(now: Now, length: Duration, halvings: u8) -> TimeWindow {
    let now_secs = i64::try_from(now.unix_ms / 1000).unwrap_or(0);
    let length = i64::try_from(length.as_secs()).unwrap_or(0) >> halvings.min(16);
    TimeWindow {
        from: now_secs - LOOK_BACK_SECS,
        until: now_secs + length.max(LOOK_BACK_SECS),
    }
}

/// Unix milliseconds.
pub(super) fn end_of(window: TimeWindow) -> u64 {
    u64::try_from(window.until).unwrap_or(0).saturating_mul(1000)
}

/// `None`: the server fills in neither, so nothing follows from them.
fn hash_of(stamp: &ChangeStamp) -> Option<u64> {
    if stamp.local_commit_time_max.is_none() && stamp.deleted_count_total.is_none() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    stamp.local_commit_time_max.hash(&mut hasher);
    stamp.deleted_count_total.hash(&mut hasher);
    Some(hasher.finish())
}

/// Microsoft advises some seconds: dragging a meeting in Outlook causes many events.
const COALESCE: Duration = Duration::from_secs(3);

/// Users who are subscribed one after the other are read together.
const SETTLE: Duration = Duration::from_secs(3);

const QUEUE_FULL_WAIT: Duration = Duration::from_secs(20);
const LOOK_BACK_SECS: i64 = 3600;
const WINDOW_SECS_MIN: i64 = 3 * 3600;
const REFRESH_MIN: Duration = Duration::from_secs(60);
