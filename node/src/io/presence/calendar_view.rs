//! How a calendar state is shown in JSON, wherever it appears.

use serde::Serialize;
use tandem_cluster::{CalendarPresence, CalendarState};

/// The current state of a user's calendar.
#[derive(Debug, Serialize)]
pub(in crate::io) struct CalendarView {
    state: &'static str,
    from_ms: u64,
    until_ms: Option<u64>,
}

impl CalendarView {
    pub(in crate::io) fn of(calendar: CalendarPresence) -> Self {
        Self {
            state: match calendar.state {
                CalendarState::Unknown => "unknown",
                CalendarState::Free => "free",
                CalendarState::Tentative => "tentative",
                CalendarState::Busy => "busy",
                CalendarState::OutOfOffice => "out_of_office",
                CalendarState::WorkingElsewhere => "working_elsewhere",
            },
            from_ms: calendar.from_ms,
            until_ms: calendar.until_ms,
        }
    }
}
