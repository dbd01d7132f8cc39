//! Reads calendars: after every Subscribe, after events (once for several of them), and again before the window ends.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::job::{Job, Urgency};
use super::lane::{Lane, LaneId};
use super::membership::Parting;
use super::output::Report;
use super::timeline::Timeline;
use super::user::{Known, Reading, Source, Step, Task};
use super::{Now, OneUser};
use tandem_exchange::ews::{CalendarItem, ChangeStamp, Operation, TimeWindow};

impl OneUser<'_> {
    /// The read that counts: from now on nothing can be missed.
    pub(super) fn read_after_subscribe(&mut self) {
        let is_crowded = self.lane.as_deref().is_some_and(Lane::is_crowded);
        let reading = &self.care.reading;
        match is_crowded && reading.step == Step::Items && !reading.has_no_availability {
            true => self.read_with_others(),
            false => self.queue_read(Urgency::Changed),
        }
    }

    /// Events may have been lost on the way; the subscription still works.
    pub(super) fn read_after_gap(&mut self) {
        if self.care.reading.has_no_availability {
            self.care.reading.step = Step::StampAfterLoss;
            self.queue_read(Urgency::Changed);
        } else {
            self.read_with_others();
        }
    }

    fn read_with_others(&mut self) {
        if let Some(lane) = &mut self.lane {
            lane.bulk.settled.insert(self.key);
            lane.bulk.settle_at.get_or_insert(self.now.instant + SETTLE);
        }
    }

    /// An event: read soon, so that a burst of them is one read.
    pub(super) fn calendar_told_of(&mut self) {
        let at = self.now.instant + self.jittered(COALESCE);
        self.care.last_event = Some(self.now.instant);
        let reading = &mut self.care.reading;
        reading.is_dirty = true;
        reading.stamp = None;
        reading.is_suspicious = false;
        reading.step = Step::Items;
        match reading.task {
            Task::Idle => reading.task = Task::Waiting(at),
            Task::Waiting(planned) => reading.task = Task::Waiting(planned.min(at)),
            Task::Queued | Task::InFlight => {}
        }
    }

    pub(super) fn read_at(&mut self, wait: Duration) {
        self.care.reading.task = Task::Waiting(self.now.instant + wait);
    }

    pub(super) fn queue_read(&mut self, urgency: Urgency) {
        let wait = self.jittered(QUEUE_FULL_WAIT);
        let queue_max = self.settings.queue_max;
        let Some(lane) = &mut self.lane else {
            return;
        };
        let reading = &mut self.care.reading;
        if matches!(reading.task, Task::Queued | Task::InFlight) {
            reading.is_dirty = true;
            return;
        }
        let queued = lane.enqueue(Job::Read(self.key), urgency, queue_max).is_ok();
        reading.task = match queued {
            true => Task::Queued,
            false => Task::Waiting(self.now.instant + wait),
        };
    }

    /// The wait for more events, a retry or the refresh is over.
    pub(super) fn reading_due(&mut self) {
        let (now, is_live) = (self.now.instant, self.care.live.is_some());
        let reading = &mut self.care.reading;
        match (reading.task, reading.refresh_at) {
            (Task::Waiting(at), _) if at <= now => {
                reading.task = Task::Idle;
                // Without a subscription there will be a read after the next one.
                if is_live {
                    self.queue_read(Urgency::Changed);
                }
            }
            (Task::Idle, Some(at)) if at <= now => {
                reading.refresh_at = None;
                if is_live {
                    reading.step = Step::Stamp;
                    reading.halvings = reading.halvings.saturating_sub(1);
                    self.queue_read(Urgency::Refresh);
                }
            }
            (Task::Waiting(_) | Task::Idle | Task::Queued | Task::InFlight, _) => {}
        }
    }

    /// Its turn has come. `None`: it is no longer wanted, or not at this CAS.
    pub(super) fn begin_read(&mut self, lane: LaneId) -> Option<(Operation, TimeWindow)> {
        let entries_max = self.entries_max;
        if !self.is_at(lane) || self.care.reading.task != Task::Queued {
            return None;
        }
        let is_live = self.care.live.is_some();
        let reading = &mut self.care.reading;
        if !is_live {
            reading.task = Task::Idle;
            return None;
        }
        reading.task = Task::InFlight;
        let window = window_from(self.now, self.settings.window, reading.halvings);
        let operation = match reading.step {
            Step::Stamp | Step::StampAfterLoss => Operation::GetChangeStamp,
            Step::Items => {
                reading.is_dirty = false;
                Operation::FindCalendarItems { window, entries_max }
            }
        };
        Some((operation, window))
    }

    /// GetFolder was answered: what follows is the read, unless nothing has changed since the last one.
    pub(super) fn stamp_read(&mut self, stamp: &ChangeStamp) {
        let reading = &mut self.care.reading;
        let (former, step) = (reading.stamp, reading.step);
        reading.task = Task::Idle;
        reading.step = Step::Items;
        reading.stamp = hash_of(stamp);
        let is_unchanged = reading.stamp.is_some() && reading.stamp == former && !reading.is_dirty;
        match step {
            Step::StampAfterLoss if is_unchanged => {
                reading.refresh_at.get_or_insert(self.now.instant);
            }
            Step::StampAfterLoss => self.queue_read(Urgency::Changed),
            Step::Stamp => self.queue_read(Urgency::Refresh),
            // An event came while GetFolder was under way.
            Step::Items => {
                reading.stamp = None;
                self.queue_read(Urgency::Changed);
            }
        }
    }

    /// FindItem was answered.
    pub(super) fn items_read(&mut self, window: TimeWindow, items: &[CalendarItem], is_complete: bool) {
        self.care.reading.task = Task::Idle;
        self.care.trouble.settled();
        if !is_complete && self.care.reading.ask_for_less(window) {
            self.queue_read(Urgency::Changed);
            return;
        }
        let timeline = Timeline::of(items);
        let was_suspicious = std::mem::take(&mut self.care.reading.is_suspicious);
        let (known, until_ms) = (&self.care.known, end_of(window));
        let until_both = until_ms.min(known.until_ms);
        let is_same = known
            .timeline
            .is_same_within(&timeline, self.now.unix_ms, until_both);
        self.adopt(timeline, Source::View, until_ms);
        match was_suspicious {
            true if is_same => self.suspicion_dispelled(),
            true => self.found_deaf(),
            false => {}
        }
        self.read_again();
    }

    /// A stale subscription: the mailbox has moved, or the server dropped it silently (docs/spec/ews.md §1.9).
    fn found_deaf(&mut self) {
        if self.lane.is_none() {
            return;
        }
        let (user, cas) = (self.name(), self.cas());
        self.report(Report::Deaf { user, cas });
        self.avoid_group();
        self.resubscribe(Duration::ZERO, Parting::Unsubscribe);
    }

    /// Takes what is known now, from any source, and plans the refresh.
    pub(super) fn adopt(&mut self, timeline: Timeline, source: Source, until_ms: u64) {
        let until_left = Duration::from_millis(until_ms.saturating_sub(self.now.unix_ms) / 2);
        let refresh = self.settings.refresh_interval.min(until_left).max(REFRESH_MIN);
        let refresh = self.jittered(refresh);
        let new = Known {
            timeline,
            source,
            until_ms,
            read_at_ms: self.now.unix_ms,
        };
        let former = std::mem::replace(&mut self.care.known, new);
        if self.care.live.is_some() {
            self.care.reading.refresh_at = Some(self.now.instant + refresh);
        }
        self.calendar_changed(&former);
    }

    /// Events that came while the read was under way.
    fn read_again(&mut self) {
        let wait = self.jittered(COALESCE);
        if self.care.reading.is_dirty && self.care.reading.task == Task::Idle {
            self.read_at(wait);
        }
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
