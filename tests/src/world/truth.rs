//! What one calendar says at each moment, as far as it is known: pure.
//!
//! Owns the turns, past and to come, of what presence must show. A change of the calendar rewrites only what is to come.

use crate::peers::exchange::mail_store::{Mailbox, Status};
use crate::peers::watcher::document::Document;

/// What presence shows of a calendar (CAL-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Available,
    InAMeeting,
    Away,
}

/// From a moment on something else is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Unix milliseconds.
    pub(super) at_ms: i64,
    pub(super) shows: Shown,
    pub(super) cause: Cause,
}

/// Why a turn comes when it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A meeting that was known begins or ends.
    Clock,
    /// Somebody has changed the calendar.
    Change,
}

/// The turns of one calendar, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Truth {
    turns: Vec<Turn>,
}

impl Shown {
    pub(super) fn of(status: Status) -> Self {
        match status {
            Status::NoData | Status::Free | Status::Tentative | Status::WorkingElsewhere => Self::Available,
            Status::Busy => Self::InAMeeting,
            Status::OutOfOffice => Self::Away,
        }
    }

    /// Whether a watcher is told that.
    pub(super) fn is_told_by(self, document: &Document) -> bool {
        // Both profiles of Busy say `busy` (RFC 4480 §3.2).
        let (busy, away) = (document.says("busy"), document.says("away"));
        document.is_open
            && match self {
                Self::Available => !busy && !away,
                Self::InAMeeting => busy,
                Self::Away => away,
            }
    }
}

impl Truth {
    /// The calendar has been changed: what will be is read anew.
    pub(super) fn changed(&mut self, mailbox: &Mailbox, now_ms: i64) {
        self.turns.retain(|turn| turn.at_ms <= now_ms);
        let now = Shown::of(mailbox.status_at(now_ms.div_euclid(1000)));
        self.turn(now_ms, now, Cause::Change);
        let ends = mailbox.items.values().flat_map(|item| [item.start, item.end]);
        let mut later: Vec<i64> = ends.filter(|end| end * 1000 > now_ms).collect();
        later.sort_unstable();
        for at in later {
            self.turn(at * 1000, Shown::of(mailbox.status_at(at)), Cause::Clock);
        }
    }

    fn turn(&mut self, at_ms: i64, shows: Shown, cause: Cause) {
        if self.turns.last().is_none_or(|last| last.shows != shows) {
            self.turns.push(Turn { at_ms, shows, cause });
        }
    }

    pub(super) fn turns(&self) -> &[Turn] {
        &self.turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::exchange::mail_store::{Appointment, MailStore};

    const ANA: &str = "ana@lab.test";

    fn truth_of(store: &MailStore, truth: &mut Truth, now_ms: i64) -> Vec<(i64, Shown, Cause)> {
        truth.changed(store.get(ANA).unwrap(), now_ms);
        truth
            .turns()
            .iter()
            .map(|turn| (turn.at_ms, turn.shows, turn.cause))
            .collect()
    }

    #[test]
    fn a_change_rewrites_what_is_to_come_and_nothing_else() {
        use Cause::{Change, Clock};
        use Shown::{Available, Away, InAMeeting};
        let (mut store, mut truth) = (MailStore::default(), Truth::default());
        store.add(ANA, &[], "mbx1");
        store.create(ANA, Appointment::new(10, 20, Status::Busy), 0);
        store.create(ANA, Appointment::new(15, 25, Status::OutOfOffice), 0);
        let first = [
            (1000, Available, Change),
            (10_000, InAMeeting, Clock),
            (15_000, Away, Clock),
            (25_000, Available, Clock),
        ];
        assert_eq!(truth_of(&store, &mut truth, 1000), first);
        store.create(ANA, Appointment::new(12, 30, Status::Tentative), 0);
        store.create(ANA, Appointment::new(16, 40, Status::Busy), 0);
        let second = [
            first[0],
            first[1],
            first[2],
            (25_000, InAMeeting, Clock),
            (40_000, Available, Clock),
        ];
        assert_eq!(truth_of(&store, &mut truth, 16_500), second);
    }
}
