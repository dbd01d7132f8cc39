//! A calendar as a timeline: its state at any instant, and when that changes (CAL-4).

use std::time::Duration;

use tandem_cluster::stable_hash::stable_hash;
use tandem_cluster::{CalendarPresence, CalendarState};

use tandem_exchange::ews::{CalendarItem, FreeBusyStatus};

/// The states of a calendar over a period. Overlaps are resolved and equal neighbours merged into one interval, so every
/// edge is a change of state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    /// In order, without overlap, never `Free`: time outside all of them is free.
    intervals: Box<[Interval]>,
}

/// Unix milliseconds, `start` included, `end` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Interval {
    start: u64,
    end: u64,
    state: CalendarState,
}

impl Timeline {
    /// Builds a timeline. Of several items at an instant the strongest counts: out of office, busy, working elsewhere,
    /// tentative. Cancelled and declined items, those without length and those without an opinion are ignored. Beyond
    /// `INTERVALS_MAX` intervals the latest are left out: the calendar is read again long before they begin.
    #[must_use]
    pub fn of(items: &[CalendarItem]) -> Self {
        let mut edges: Vec<Edge> = items.iter().filter_map(Edge::pair_of).flatten().collect();
        edges.sort_unstable_by_key(|edge| edge.at);
        let mut drawing = Drawing::default();
        for together in edges.chunk_by(|left, right| left.at == right.at) {
            drawing.advance(together);
        }
        let mut intervals = drawing.intervals;
        intervals.truncate(INTERVALS_MAX);
        Self {
            intervals: intervals.into_boxed_slice(),
        }
    }

    /// Free time begins where the interval before it ended, and ends where the next one starts.
    #[must_use]
    pub fn at(&self, unix_ms: u64) -> CalendarPresence {
        let next = self.first_ending_after(unix_ms);
        match self.intervals.get(next) {
            Some(interval) if interval.start <= unix_ms => CalendarPresence {
                state: interval.state,
                from_ms: interval.start,
                until_ms: Some(interval.end),
            },
            upcoming => CalendarPresence {
                state: CalendarState::Free,
                from_ms: next
                    .checked_sub(1)
                    .and_then(|former| self.intervals.get(former))
                    .map_or(0, |former| former.end),
                until_ms: upcoming.map(|interval| interval.start),
            },
        }
    }

    /// When the state changes next.
    #[must_use]
    pub fn next_edge_after(&self, unix_ms: u64) -> Option<u64> {
        self.at(unix_ms).until_ms
    }

    /// Whether both have the same state at every instant of the window, however their items are cut. Unix milliseconds,
    /// `until_ms` not included.
    #[must_use]
    pub fn is_same_within(&self, other: &Self, from_ms: u64, until_ms: u64) -> bool {
        self.clipped(from_ms, until_ms)
            .eq(other.clipped(from_ms, until_ms))
    }

    fn first_ending_after(&self, unix_ms: u64) -> usize {
        self.intervals.partition_point(|interval| interval.end <= unix_ms)
    }

    fn clipped(&self, from_ms: u64, until_ms: u64) -> impl Iterator<Item = Interval> + '_ {
        self.intervals
            .iter()
            .map(move |interval| Interval {
                start: interval.start.max(from_ms),
                end: interval.end.min(until_ms),
                state: interval.state,
            })
            .filter(|interval| interval.start < interval.end)
    }
}

/// The offset after an edge at which its change is published: the same for a user at any time and on any node, and spread
/// evenly over users (CAL-4). Less than `spread_secs`, of which only 59 count: meeting counters use the tick of the minute.
#[must_use]
pub fn edge_offset(user: &str, spread_secs: u32) -> Duration {
    let spread_ms = u64::from(spread_secs.min(SPREAD_SECS_MAX)) * 1000;
    let share = (u128::from(stable_hash(user.bytes())) * u128::from(spread_ms)) >> 64;
    Duration::from_millis(u64::try_from(share).unwrap_or(0))
}

/// One end of an item.
#[derive(Debug, Clone, Copy)]
struct Edge {
    at: u64,
    /// Index into [`BY_STRENGTH`].
    strength: usize,
    begins: bool,
}

impl Edge {
    fn pair_of(item: &CalendarItem) -> Option<[Self; 2]> {
        let strength = strength_of(item.status)?;
        let (start, end) = (unix_ms(item.start), unix_ms(item.end));
        let edge = |at, begins| Self { at, strength, begins };
        let counts = !item.cancelled && !item.declined && start < end;
        counts.then(|| [edge(start, true), edge(end, false)])
    }
}

fn strength_of(status: FreeBusyStatus) -> Option<usize> {
    match status {
        FreeBusyStatus::NoData | FreeBusyStatus::Free => None,
        FreeBusyStatus::Tentative => Some(0),
        FreeBusyStatus::WorkingElsewhere => Some(1),
        FreeBusyStatus::Busy => Some(2),
        FreeBusyStatus::OutOfOffice => Some(3),
    }
}

/// Anything before 1970 begins in 1970.
fn unix_ms(unix_secs: i64) -> u64 {
    u64::try_from(unix_secs).unwrap_or(0).saturating_mul(1000)
}

/// Builds a timeline by passing edges in order.
#[derive(Debug, Default)]
struct Drawing {
    intervals: Vec<Interval>,
    /// How many items are open, by strength.
    open: [usize; BY_STRENGTH.len()],
    /// The interval that has begun and not ended: since when, and its state.
    current: Option<(u64, CalendarState)>,
}

impl Drawing {
    /// Past all edges of one instant: meetings back to back leave no gap between them.
    fn advance(&mut self, edges: &[Edge]) {
        for edge in edges {
            if let Some(open) = self.open.get_mut(edge.strength) {
                *open = if edge.begins {
                    open.saturating_add(1)
                } else {
                    open.saturating_sub(1)
                };
            }
        }
        let (Some(edge), state) = (edges.first(), self.strongest()) else {
            return;
        };
        if self.current.map(|(_, current)| current) != state {
            let ended = self.current.take().map(|(start, state)| Interval {
                start,
                end: edge.at,
                state,
            });
            self.intervals.extend(ended);
            self.current = state.map(|state| (edge.at, state));
        }
    }

    fn strongest(&self) -> Option<CalendarState> {
        let open = BY_STRENGTH.iter().zip(self.open).rev();
        open.into_iter()
            .find(|(_, count)| *count > 0)
            .map(|(state, _)| *state)
    }
}

/// Weakest first.
const BY_STRENGTH: [CalendarState; 4] = [
    CalendarState::Tentative,
    CalendarState::WorkingElsewhere,
    CalendarState::Busy,
    CalendarState::OutOfOffice,
];

/// 12 kB; a window of two days with a meeting every ten minutes needs a tenth of it.
const INTERVALS_MAX: usize = 512;

const SPREAD_SECS_MAX: u32 = 59;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-22T00:00:00Z.
    const MIDNIGHT: i64 = 1_795_305_600;

    fn item(from: (i64, i64), until: (i64, i64), status: FreeBusyStatus) -> CalendarItem {
        let at = |(hour, minute): (i64, i64)| MIDNIGHT + hour * 3600 + minute * 60;
        CalendarItem {
            start: at(from),
            end: at(until),
            status,
            all_day: false,
            cancelled: false,
            declined: false,
        }
    }

    fn ms(hour: i64, minute: i64) -> u64 {
        unix_ms(MIDNIGHT + hour * 3600 + minute * 60)
    }

    /// Every change from `first` on, as hour, minute and what begins there.
    fn changes(timeline: &Timeline) -> Vec<(u64, u64, CalendarState)> {
        let mut found = Vec::new();
        let mut edge = timeline.next_edge_after(0);
        while let Some(at) = edge {
            let minutes = (at - ms(0, 0)) / 60_000;
            found.push((minutes / 60, minutes % 60, timeline.at(at).state));
            edge = timeline.next_edge_after(at);
        }
        found
    }

    #[test]
    fn every_status_has_its_state() {
        for (status, state) in [
            (FreeBusyStatus::Free, CalendarState::Free),
            (FreeBusyStatus::NoData, CalendarState::Free),
            (FreeBusyStatus::Tentative, CalendarState::Tentative),
            (FreeBusyStatus::Busy, CalendarState::Busy),
            (FreeBusyStatus::OutOfOffice, CalendarState::OutOfOffice),
            (FreeBusyStatus::WorkingElsewhere, CalendarState::WorkingElsewhere),
        ] {
            let timeline = Timeline::of(&[item((9, 0), (10, 0), status)]);
            assert_eq!(timeline.at(ms(9, 30)).state, state, "{status:?}");
        }
    }

    #[test]
    fn a_meeting_begins_on_its_first_millisecond_and_is_over_on_its_last() {
        let timeline = Timeline::of(&[item((9, 0), (10, 0), FreeBusyStatus::Busy)]);
        let free = |from_ms, until_ms| CalendarPresence {
            state: CalendarState::Free,
            from_ms,
            until_ms,
        };
        let busy = CalendarPresence {
            state: CalendarState::Busy,
            from_ms: ms(9, 0),
            until_ms: Some(ms(10, 0)),
        };
        assert_eq!(timeline.at(ms(9, 0) - 1), free(0, Some(ms(9, 0))));
        assert_eq!(timeline.at(ms(9, 0)), busy);
        assert_eq!(timeline.at(ms(10, 0) - 1), busy);
        assert_eq!(timeline.at(ms(10, 0)), free(ms(10, 0), None));
        assert_eq!(timeline.next_edge_after(ms(9, 0)), Some(ms(10, 0)));
        assert_eq!(timeline.next_edge_after(ms(10, 0)), None);
        assert_eq!(Timeline::of(&[]).at(5), free(0, None));
    }

    #[test]
    fn the_strongest_of_overlapping_items_counts() {
        let timeline = Timeline::of(&[
            item((8, 0), (18, 0), FreeBusyStatus::Tentative),
            item((9, 0), (17, 0), FreeBusyStatus::WorkingElsewhere),
            item((10, 0), (16, 0), FreeBusyStatus::Busy),
            item((12, 0), (13, 0), FreeBusyStatus::OutOfOffice),
            item((12, 30), (12, 45), FreeBusyStatus::Free),
        ]);
        let expected = [
            (8, 0, CalendarState::Tentative),
            (9, 0, CalendarState::WorkingElsewhere),
            (10, 0, CalendarState::Busy),
            (12, 0, CalendarState::OutOfOffice),
            (13, 0, CalendarState::Busy),
            (16, 0, CalendarState::WorkingElsewhere),
            (17, 0, CalendarState::Tentative),
            (18, 0, CalendarState::Free),
        ];
        assert_eq!(changes(&timeline), expected);
    }

    #[test]
    fn meetings_back_to_back_are_one_and_free_time_does_not_flash_between_them() {
        let timeline = Timeline::of(&[
            item((9, 30), (10, 0), FreeBusyStatus::Busy),
            item((9, 0), (9, 30), FreeBusyStatus::Busy),
            item((10, 0), (11, 0), FreeBusyStatus::OutOfOffice),
        ]);
        let expected = [
            (9, 0, CalendarState::Busy),
            (10, 0, CalendarState::OutOfOffice),
            (11, 0, CalendarState::Free),
        ];
        assert_eq!(changes(&timeline), expected);
        assert_eq!(timeline.at(ms(9, 15)).until_ms, Some(ms(10, 0)));
    }

    #[test]
    fn cancelled_declined_empty_and_reversed_items_count_for_nothing() {
        let busy = item((9, 0), (10, 0), FreeBusyStatus::Busy);
        let cancelled = CalendarItem {
            cancelled: true,
            ..busy
        };
        let declined = CalendarItem {
            declined: true,
            ..busy
        };
        let empty = item((9, 0), (9, 0), FreeBusyStatus::Busy);
        let reversed = item((10, 0), (9, 0), FreeBusyStatus::Busy);
        assert_eq!(
            Timeline::of(&[cancelled, declined, empty, reversed]),
            Timeline::default()
        );
    }

    #[test]
    fn an_all_day_absence_holds_from_the_instant_to_the_instant_that_the_server_gave() {
        let berlin_midnight = item((-1, 0), (23, 0), FreeBusyStatus::OutOfOffice);
        let all_day = CalendarItem {
            all_day: true,
            ..berlin_midnight
        };
        let birthday = CalendarItem {
            all_day: true,
            ..item((-1, 0), (23, 0), FreeBusyStatus::Free)
        };
        let timeline = Timeline::of(&[all_day, birthday]);
        assert_eq!(timeline.at(ms(0, 0)).state, CalendarState::OutOfOffice);
        assert_eq!(timeline.at(ms(23, 0)).state, CalendarState::Free);
    }

    #[test]
    fn a_recurring_meeting_is_as_many_intervals_as_it_has_occurrences() {
        let daily: Vec<CalendarItem> = (0..5)
            .map(|day| item((day * 24 + 9, 0), (day * 24 + 9, 30), FreeBusyStatus::Busy))
            .collect();
        let timeline = Timeline::of(&daily);
        assert_eq!(timeline.intervals.len(), 5);
        for day in 0..5 {
            assert_eq!(timeline.at(ms(day * 24 + 9, 10)).state, CalendarState::Busy);
            assert_eq!(
                timeline.at(ms(day * 24 + 9, 30)).until_ms,
                (day < 4).then(|| ms((day + 1) * 24 + 9, 0))
            );
        }
    }

    /// 09:00 in Berlin on the day before and on the day after the clocks go back (25 October 2026): 07:00 and then
    /// 08:00 UTC. The server says so, and one meeting that spans the change lasts an hour longer than it looks.
    #[test]
    fn across_a_change_of_daylight_saving_the_instants_of_the_server_count() {
        let at = |unix_secs: i64, length: i64| CalendarItem {
            start: unix_secs,
            end: unix_secs + length,
            ..item((0, 0), (1, 0), FreeBusyStatus::Busy)
        };
        let seven_utc = 1_792_911_600; // 2026-10-25T07:00:00Z
        let (before, after) = (seven_utc - 86_400, seven_utc + 3600);
        let night_shift = after - 10 * 3600;
        let timeline = Timeline::of(&[at(before, 1800), at(after, 1800), at(night_shift, 9 * 3600)]);
        assert_eq!(timeline.intervals.len(), 3);
        assert_eq!(
            timeline.at(unix_ms(before)).until_ms,
            Some(unix_ms(before + 1800))
        );
        assert_eq!(
            timeline.at(unix_ms(night_shift)).until_ms,
            Some(unix_ms(after - 3600))
        );
        assert_eq!(
            timeline.next_edge_after(unix_ms(after - 3600)),
            Some(unix_ms(after))
        );
    }

    #[test]
    fn calendars_that_are_cut_differently_are_the_same() {
        let whole = Timeline::of(&[item((9, 0), (11, 0), FreeBusyStatus::Busy)]);
        let cut = Timeline::of(&[
            item((8, 30), (10, 0), FreeBusyStatus::Busy),
            item((9, 45), (11, 0), FreeBusyStatus::Busy),
            item((13, 0), (14, 0), FreeBusyStatus::Busy),
        ]);
        assert!(whole.is_same_within(&cut, ms(9, 0), ms(13, 0)));
        assert!(!whole.is_same_within(&cut, ms(8, 0), ms(13, 0)));
        assert!(!whole.is_same_within(&cut, ms(9, 0), ms(13, 1)));
        assert!(
            whole.is_same_within(&cut, ms(13, 1), ms(13, 0)),
            "there is no instant to differ at"
        );
    }

    #[test]
    fn any_number_of_items_is_bounded_and_the_first_ones_stay() {
        let many: Vec<CalendarItem> = (0..5000)
            .map(|number| item((number, 0), (number, 30), FreeBusyStatus::Busy))
            .collect();
        let timeline = Timeline::of(&many);
        assert_eq!(timeline.intervals.len(), INTERVALS_MAX);
        assert_eq!(timeline.at(ms(100, 0)).state, CalendarState::Busy);
    }

    #[test]
    fn times_beyond_all_reason_harm_nobody() {
        let forever = CalendarItem {
            start: i64::MIN,
            end: i64::MAX,
            ..item((0, 0), (1, 0), FreeBusyStatus::OutOfOffice)
        };
        let timeline = Timeline::of(&[forever]);
        assert_eq!(timeline.at(0).state, CalendarState::OutOfOffice);
        assert_eq!(timeline.at(u64::MAX).state, CalendarState::Free);
    }

    #[test]
    fn offsets_are_spread_evenly_and_always_the_same() {
        let mut seconds = [0_u32; 50];
        for number in 0..5000 {
            let offset = edge_offset(&format!("user{number:04}"), 50);
            assert!(offset < Duration::from_secs(50));
            seconds[usize::try_from(offset.as_secs()).unwrap()] += 1;
        }
        assert!(
            seconds.iter().all(|count| (60..=145).contains(count)),
            "{seconds:?}"
        );
        assert_eq!(edge_offset("ana", 50), Duration::from_millis(ANA_MS));
        assert_eq!(edge_offset("ana", 0), Duration::ZERO);
        assert!(edge_offset("ana", u32::MAX) < Duration::from_secs(59));
    }

    /// Written down once: a new version that said otherwise would make the whole company flicker while it rolls out.
    const ANA_MS: u64 = 22_259;

    fn status() -> impl Strategy<Value = FreeBusyStatus> {
        prop::sample::select(vec![
            FreeBusyStatus::Free,
            FreeBusyStatus::Tentative,
            FreeBusyStatus::Busy,
            FreeBusyStatus::OutOfOffice,
            FreeBusyStatus::WorkingElsewhere,
            FreeBusyStatus::NoData,
        ])
    }

    fn items() -> impl Strategy<Value = Vec<CalendarItem>> {
        let one = (0..180_i64, -10..60_i64, status(), any::<bool>(), 0..10_u8);
        let one = one.prop_map(|(start, length, status, all_day, fate)| CalendarItem {
            start: start * 60,
            end: (start + length) * 60,
            status,
            all_day,
            cancelled: fate == 0,
            declined: fate == 1,
        });
        prop::collection::vec(one, 0..12)
    }

    /// What anybody would do without thinking.
    fn naive(items: &[CalendarItem], minute: u64) -> CalendarState {
        let at = i64::try_from(minute * 60).unwrap();
        let open: Vec<FreeBusyStatus> = items
            .iter()
            .filter(|item| item.start <= at && at < item.end && !item.cancelled && !item.declined)
            .map(|item| item.status)
            .collect();
        let order = [
            (FreeBusyStatus::OutOfOffice, CalendarState::OutOfOffice),
            (FreeBusyStatus::Busy, CalendarState::Busy),
            (FreeBusyStatus::WorkingElsewhere, CalendarState::WorkingElsewhere),
            (FreeBusyStatus::Tentative, CalendarState::Tentative),
        ];
        let strongest = order.into_iter().find(|(status, _)| open.contains(status));
        strongest.map_or(CalendarState::Free, |(_, state)| state)
    }

    proptest! {
        #[test]
        fn every_minute_says_what_its_items_say(items in items()) {
            let timeline = Timeline::of(&items);
            for minute in 0..260 {
                prop_assert_eq!(timeline.at(minute * 60_000).state, naive(&items, minute));
            }
        }

        #[test]
        fn edges_are_where_the_state_changes_and_nowhere_else(items in items()) {
            let timeline = Timeline::of(&items);
            let mut edges = Vec::new();
            let mut edge = timeline.next_edge_after(0);
            while let Some(at) = edge {
                edges.push(at / 60_000);
                prop_assert_eq!(timeline.at(at).from_ms, at);
                edge = timeline.next_edge_after(at);
            }
            let expected: Vec<u64> = (1..260).filter(|&minute| naive(&items, minute) != naive(&items, minute - 1)).collect();
            prop_assert_eq!(edges, expected);
        }

        #[test]
        fn sameness_is_sameness_of_every_minute(left in items(), right in items(), from in 0..240_u64, length in 0..100_u64) {
            let window = from..from + length;
            let same = window.clone().all(|minute| naive(&left, minute) == naive(&right, minute));
            let (left, right) = (Timeline::of(&left), Timeline::of(&right));
            prop_assert_eq!(left.is_same_within(&right, window.start * 60_000, window.end * 60_000), same);
            prop_assert!(left.is_same_within(&left.clone(), 0, u64::MAX));
        }
    }
}
