//! Composes a user's presence from calendar, phone and manual state.
//!
//! In order of precedence: manual do-not-disturb; on the phone; out of office; busy by the calendar; manual away or busy;
//! available. A manual state ends at its time, a calendar state when the user's owner says so: what was published last
//! stays until something better is known.

use tandem_cluster::{CalendarPresence, CalendarState, ManualPresence, ManualState, PresenceRecord};

/// A user's availability, as shown to watchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Availability {
    /// No source has an opinion.
    Unknown,
    Available,
    Away,
    /// Set by the user, or by the calendar where Idle/Busy is chosen (CAL-4).
    Busy,
    InAMeeting,
    OnThePhone,
    DoNotDisturb,
}

impl Availability {
    /// For the JSON API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Available => "available",
            Self::Away => "away",
            Self::Busy => "busy",
            Self::InAMeeting => "in_a_meeting",
            Self::OnThePhone => "on_the_phone",
            Self::DoNotDisturb => "do_not_disturb",
        }
    }
}

/// RFC 4480 §3.2. Watchers that know only a few of them know `busy` and `away`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    Away,
    Busy,
    Meeting,
    OnThePhone,
    Working,
}

impl Activity {
    /// The name of the element.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Meeting => "meeting",
            Self::OnThePhone => "on-the-phone",
            Self::Working => "working",
        }
    }
}

/// The source that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Nothing,
    Calendar,
    Phone,
    Manual,
}

impl Source {
    /// For the JSON API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Calendar => "calendar",
            Self::Phone => "phone",
            Self::Manual => "manual",
        }
    }
}

/// A user's presence, the same on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Composed {
    pub availability: Availability,
    /// The most specific one first.
    pub activities: &'static [Activity],
    /// For people to read.
    pub note: Option<&'static str>,
    pub source: Source,
    /// Unix milliseconds, where the source knows them.
    pub since_ms: Option<u64>,
    pub until_ms: Option<u64>,
}

impl Composed {
    /// The presence of a user of whom nothing is known.
    pub const UNKNOWN: Self = Self {
        availability: Availability::Unknown,
        activities: &[],
        note: None,
        source: Source::Nothing,
        since_ms: None,
        until_ms: None,
    };

    /// `basic` of RFC 3863 §4.1.4: closed while nothing is known.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self.availability {
            Availability::Unknown => false,
            Availability::Available
            | Availability::Away
            | Availability::Busy
            | Availability::InAMeeting
            | Availability::OnThePhone
            | Availability::DoNotDisturb => true,
        }
    }
}

/// How calendars are composed, as an administrator may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompositionSettings {
    pub busy_shows_as: BusyShowsAs,
    pub working_elsewhere_shows_as: WorkingElsewhereShowsAs,
}

/// How Busy in the calendar is shown (CAL-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyShowsAs {
    /// "In a meeting".
    Meeting,
    /// The "Idle/Busy" of CAL-4.
    Busy,
}

/// How WorkingElsewhere is shown (CAL-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkingElsewhereShowsAs {
    Available,
    Away,
    Busy,
}

impl Default for CompositionSettings {
    fn default() -> Self {
        Self {
            busy_shows_as: BusyShowsAs::Meeting,
            working_elsewhere_shows_as: WorkingElsewhereShowsAs::Available,
        }
    }
}

/// A user without a record has neither manual state nor calendar, but may be on the phone.
#[must_use]
pub fn compose(
    record: Option<&PresenceRecord>,
    on_the_phone: bool,
    settings: CompositionSettings,
    now_ms: u64,
) -> Composed {
    let manual = record.and_then(|record| manual_in_force(record, now_ms));
    let calendar = record.and_then(|record| record.calendar);
    let by_manual = manual.map(|manual| (manual.state, of_manual(manual)));
    let by_calendar = calendar.and_then(|calendar| of_calendar(calendar, settings));
    match (by_manual, by_calendar) {
        (Some((ManualState::DoNotDisturb, manual)), _) => manual,
        _ if on_the_phone => ON_THE_PHONE,
        (_, Some(calendar)) if calendar.availability > Availability::Available => calendar,
        (Some((ManualState::Available, _)), Some(calendar)) => calendar,
        (Some((_, manual)), _) => manual,
        (None, Some(calendar)) => calendar,
        (None, None) => Composed::UNKNOWN,
    }
}

/// When the composition changes by itself, because the manual state ends.
#[must_use]
pub fn next_change_ms(record: &PresenceRecord, now_ms: u64) -> Option<u64> {
    manual_in_force(record, now_ms)?.until_ms
}

fn manual_in_force(record: &PresenceRecord, now_ms: u64) -> Option<ManualPresence> {
    record
        .manual
        .filter(|manual| manual.until_ms.is_none_or(|until| now_ms < until))
}

fn of_manual(manual: ManualPresence) -> Composed {
    let (availability, activities, note): (_, &'static [Activity], _) = match manual.state {
        ManualState::Available => (Availability::Available, &[], None),
        ManualState::Away => (Availability::Away, &[Activity::Away], Some("Away")),
        ManualState::Busy => (Availability::Busy, &[Activity::Busy], Some("Busy")),
        ManualState::DoNotDisturb => (
            Availability::DoNotDisturb,
            &[Activity::Busy],
            Some("Do not disturb"),
        ),
    };
    Composed {
        availability,
        activities,
        note,
        source: Source::Manual,
        since_ms: Some(manual.set_at_ms),
        until_ms: manual.until_ms,
    }
}

/// `None`: the calendar has no opinion.
fn of_calendar(calendar: CalendarPresence, settings: CompositionSettings) -> Option<Composed> {
    let (availability, activities, note): (_, &'static [Activity], _) = match calendar.state {
        CalendarState::Unknown => return None,
        CalendarState::Free | CalendarState::Tentative => (Availability::Available, &[], None),
        CalendarState::WorkingElsewhere => match settings.working_elsewhere_shows_as {
            WorkingElsewhereShowsAs::Available => {
                (Availability::Available, &[Activity::Working], Some(ELSEWHERE))
            }
            WorkingElsewhereShowsAs::Away => (Availability::Away, &[Activity::Away], Some(ELSEWHERE)),
            WorkingElsewhereShowsAs::Busy => (Availability::Busy, &[Activity::Busy], Some(ELSEWHERE)),
        },
        CalendarState::Busy => match settings.busy_shows_as {
            BusyShowsAs::Meeting => (
                Availability::InAMeeting,
                &[Activity::Meeting, Activity::Busy],
                Some("In a meeting"),
            ),
            BusyShowsAs::Busy => (Availability::Busy, &[Activity::Busy], Some("Busy")),
        },
        CalendarState::OutOfOffice => (Availability::Away, &[Activity::Away], Some("Out of office")),
    };
    Some(Composed {
        availability,
        activities,
        note,
        source: Source::Calendar,
        since_ms: Some(calendar.from_ms).filter(|from| *from > 0),
        until_ms: calendar.until_ms,
    })
}

/// Since when the call lasts is not replicated, and nodes must not differ.
const ON_THE_PHONE: Composed = Composed {
    availability: Availability::OnThePhone,
    activities: &[Activity::OnThePhone, Activity::Busy],
    note: Some("On the phone"),
    source: Source::Phone,
    since_ms: None,
    until_ms: None,
};

const ELSEWHERE: &str = "Working elsewhere";

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn calendar(state: CalendarState) -> Option<CalendarPresence> {
        Some(CalendarPresence {
            state,
            from_ms: NOW - 1000,
            until_ms: Some(NOW + 1000),
        })
    }

    fn manual(state: ManualState) -> Option<ManualPresence> {
        Some(ManualPresence {
            state,
            set_at_ms: NOW - 5000,
            until_ms: None,
        })
    }

    fn composed(
        calendar: Option<CalendarPresence>,
        manual: Option<ManualPresence>,
        on_the_phone: bool,
    ) -> Composed {
        let record = PresenceRecord {
            calendar,
            manual,
            version: 1,
        };
        compose(Some(&record), on_the_phone, CompositionSettings::default(), NOW)
    }

    fn availability(
        calendar_state: Option<CalendarState>,
        manual_state: Option<ManualState>,
        on_the_phone: bool,
    ) -> Availability {
        let calendar = calendar_state.and_then(calendar);
        let manual = manual_state.and_then(manual);
        composed(calendar, manual, on_the_phone).availability
    }

    const CALENDARS: [Option<CalendarState>; 7] = [
        None,
        Some(CalendarState::Unknown),
        Some(CalendarState::Free),
        Some(CalendarState::Tentative),
        Some(CalendarState::Busy),
        Some(CalendarState::OutOfOffice),
        Some(CalendarState::WorkingElsewhere),
    ];

    const MANUALS: [Option<ManualState>; 5] = [
        None,
        Some(ManualState::Available),
        Some(ManualState::Away),
        Some(ManualState::Busy),
        Some(ManualState::DoNotDisturb),
    ];

    #[test]
    fn the_calendar_alone_shows_as_required() {
        let expected = [
            Availability::Unknown,
            Availability::Unknown,
            Availability::Available,
            Availability::Available,
            Availability::InAMeeting,
            Availability::Away,
            Availability::Available,
        ];
        assert_eq!(CALENDARS.map(|state| availability(state, None, false)), expected);
    }

    #[test]
    fn do_not_disturb_by_his_own_word_beats_everything() {
        for state in CALENDARS {
            for on_the_phone in [false, true] {
                let found = availability(state, Some(ManualState::DoNotDisturb), on_the_phone);
                assert_eq!(found, Availability::DoNotDisturb, "{state:?}");
            }
        }
    }

    #[test]
    fn the_phone_beats_calendar_and_every_other_word() {
        for state in CALENDARS {
            for manual in MANUALS {
                if manual != Some(ManualState::DoNotDisturb) {
                    assert_eq!(availability(state, manual, true), Availability::OnThePhone);
                }
            }
        }
        let without_record = compose(None, true, CompositionSettings::default(), NOW);
        assert_eq!(without_record.availability, Availability::OnThePhone);
    }

    #[test]
    fn a_meeting_and_an_absence_beat_away_busy_and_available_by_his_own_word() {
        for manual in [ManualState::Available, ManualState::Away, ManualState::Busy] {
            assert_eq!(
                availability(Some(CalendarState::Busy), Some(manual), false),
                Availability::InAMeeting
            );
            assert_eq!(
                availability(Some(CalendarState::OutOfOffice), Some(manual), false),
                Availability::Away
            );
        }
    }

    #[test]
    fn his_own_word_beats_a_calendar_that_leaves_him_available() {
        for state in [
            CalendarState::Free,
            CalendarState::Tentative,
            CalendarState::WorkingElsewhere,
        ] {
            for (manual, expected) in [
                (ManualState::Available, Availability::Available),
                (ManualState::Away, Availability::Away),
                (ManualState::Busy, Availability::Busy),
            ] {
                assert_eq!(availability(Some(state), Some(manual), false), expected);
            }
        }
        assert_eq!(
            availability(None, Some(ManualState::Available), false),
            Availability::Available
        );
    }

    #[test]
    fn his_own_word_ends_at_its_time() {
        let until = |until_ms| {
            Some(ManualPresence {
                state: ManualState::DoNotDisturb,
                set_at_ms: NOW - 5000,
                until_ms: Some(until_ms),
            })
        };
        let busy = calendar(CalendarState::Busy);
        assert_eq!(
            composed(busy, until(NOW + 1), false).availability,
            Availability::DoNotDisturb
        );
        assert_eq!(
            composed(busy, until(NOW), false).availability,
            Availability::InAMeeting
        );
        let record = |manual| PresenceRecord {
            calendar: busy,
            manual,
            version: 1,
        };
        assert_eq!(next_change_ms(&record(until(NOW + 1)), NOW), Some(NOW + 1));
        assert_eq!(next_change_ms(&record(until(NOW)), NOW), None);
        assert_eq!(next_change_ms(&record(manual(ManualState::Away)), NOW), None);
        assert_eq!(next_change_ms(&record(None), NOW), None);
    }

    #[test]
    fn the_times_are_those_of_the_source() {
        let meeting = composed(calendar(CalendarState::Busy), manual(ManualState::Busy), false);
        assert_eq!(
            (meeting.source, meeting.since_ms, meeting.until_ms),
            (Source::Calendar, Some(NOW - 1000), Some(NOW + 1000))
        );
        let busy = composed(calendar(CalendarState::Free), manual(ManualState::Busy), false);
        assert_eq!(
            (busy.source, busy.since_ms, busy.until_ms),
            (Source::Manual, Some(NOW - 5000), None)
        );
        let since_ever = CalendarPresence {
            state: CalendarState::Free,
            from_ms: 0,
            until_ms: None,
        };
        assert_eq!(composed(Some(since_ever), None, false).since_ms, None);
    }

    #[test]
    fn busy_and_working_elsewhere_show_as_was_chosen() {
        let record = |state| PresenceRecord {
            calendar: calendar(state),
            manual: None,
            version: 1,
        };
        let settings = CompositionSettings {
            busy_shows_as: BusyShowsAs::Busy,
            working_elsewhere_shows_as: WorkingElsewhereShowsAs::Away,
        };
        let found = |state| compose(Some(&record(state)), false, settings, NOW);
        assert_eq!(found(CalendarState::Busy).availability, Availability::Busy);
        let elsewhere = found(CalendarState::WorkingElsewhere);
        assert_eq!(
            (elsewhere.availability, elsewhere.note),
            (Availability::Away, Some("Working elsewhere"))
        );
    }

    #[test]
    fn only_a_user_of_whom_nothing_is_known_is_closed() {
        assert!(!composed(None, None, false).is_open());
        assert!(!composed(calendar(CalendarState::Unknown), None, false).is_open());
        assert!(composed(calendar(CalendarState::Free), None, false).is_open());
        assert!(composed(None, None, true).is_open());
    }
}
