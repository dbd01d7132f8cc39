//! Series of meetings, expanded in the local time of their organiser: daylight saving moves them in UTC.

use std::collections::{BTreeMap, BTreeSet};

const DAY: i64 = 86_400;
const HOUR: i64 = 3600;
/// No story looks at more, and an endless series ends.
const OCCURRENCES_MAX: u32 = 1000;

/// Where the organiser sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    Utc,
    /// One hour ahead of UTC, two in summer by the rule of the European Union.
    CentralEurope,
}

impl Zone {
    /// Seconds to be added to UTC for local time.
    #[must_use]
    pub fn offset_at(self, utc: i64) -> i64 {
        match self {
            Self::Utc => 0,
            Self::CentralEurope if is_summer(utc) => 2 * HOUR,
            Self::CentralEurope => HOUR,
        }
    }

    /// The instant at which clocks show `local`, in seconds as if it were UTC. Of two, the first.
    #[must_use]
    pub fn to_utc(self, local: i64) -> i64 {
        match self {
            Self::Utc => local,
            Self::CentralEurope if is_summer(local - 2 * HOUR) => local - 2 * HOUR,
            Self::CentralEurope => local - HOUR,
        }
    }
}

/// Every so many days at the same local time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recurrence {
    /// 7 for every week.
    pub every_days: u32,
    /// How often altogether; `None`: without end.
    pub count: Option<u32>,
    pub zone: Zone,
    /// Original starts of occurrences that were taken out.
    pub removed: BTreeSet<i64>,
    /// Original start → start and end of an occurrence that was changed.
    pub changed: BTreeMap<i64, (i64, i64)>,
}

impl Recurrence {
    #[must_use]
    pub fn every_days(days: u32, count: u32, zone: Zone) -> Self {
        Self {
            every_days: days.max(1),
            count: Some(count),
            zone,
            removed: BTreeSet::new(),
            changed: BTreeMap::new(),
        }
    }

    /// Start, end, and whether it was changed, of every occurrence that originally starts before `until`.
    #[must_use]
    pub fn expand(&self, start: i64, end: i64, until: i64) -> Vec<(i64, i64, bool)> {
        let local = start + self.zone.offset_at(start);
        let count = self.count.unwrap_or(OCCURRENCES_MAX).min(OCCURRENCES_MAX);
        let step = DAY * i64::from(self.every_days);
        let original = (0..i64::from(count)).map(|number| self.zone.to_utc(local + number * step));
        original
            .take_while(|original| *original < until)
            .filter(|original| !self.removed.contains(original))
            .map(|original| match self.changed.get(&original) {
                Some((start, end)) => (*start, *end, true),
                None => (original, original + (end - start), false),
            })
            .collect()
    }
}

/// From the last Sunday of March to the last Sunday of October, both at 01:00 UTC.
fn is_summer(utc: i64) -> bool {
    let year = year_of(utc);
    (last_sunday(year, 3) + HOUR..last_sunday(year, 10) + HOUR).contains(&utc)
}

fn year_of(utc: i64) -> i64 {
    let mut year = 1970 + utc.div_euclid(366 * DAY);
    while days_before(year + 1, 1) * DAY <= utc {
        year += 1;
    }
    year
}

/// Midnight of the last Sunday of a month that has 31 days.
fn last_sunday(year: i64, month: i64) -> i64 {
    let last = days_before(year, month) + 30;
    // 1970-01-01 was a Thursday.
    let weekday = (last + 4).rem_euclid(7);
    (last - weekday) * DAY
}

/// Days from 1970-01-01 to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    let months = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let leaps = |year: i64| year / 4 - year / 100 + year / 400;
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    let index = usize::try_from(month - 1).expect("months count from 1");
    years + months[index] + i64::from(is_leap && month > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summer_begins_and_ends_with_the_rule() {
        // 2026-03-29 and 2026-10-25, 01:00 UTC.
        for (change, summer_after) in [(1_774_746_000, true), (1_792_890_000, false)] {
            assert_eq!(is_summer(change), summer_after);
            assert_eq!(is_summer(change - 1), !summer_after);
        }
    }

    #[test]
    fn a_weekly_meeting_stays_at_nine_in_local_time_across_the_change_of_clocks() {
        // 2026-10-19 09:00 in Berlin is 07:00 UTC; a week later it is 08:00 UTC.
        let first = 1_792_393_200;
        let recurrence = Recurrence::every_days(7, 2, Zone::CentralEurope);
        let starts = recurrence.expand(first, first + 1800, i64::MAX);
        let week = 7 * DAY;
        assert_eq!(
            starts,
            [
                (first, first + 1800, false),
                (first + week + HOUR, first + week + HOUR + 1800, false)
            ]
        );
    }

    #[test]
    fn an_endless_series_ends_with_the_window() {
        let recurrence = Recurrence {
            count: None,
            ..Recurrence::every_days(1, 1, Zone::Utc)
        };
        assert_eq!(recurrence.expand(0, 60, 10 * DAY).len(), 10);
    }
}
