//! Users of a world and their meetings.

use super::*;
use crate::directory::{RemoteCallControl, User};

pub(in crate::calendar) fn name(number: usize) -> String {
    format!("user{number:05}")
}

pub(in crate::calendar) fn address(number: usize) -> String {
    format!("user{number:05}@lab.test")
}

pub(in crate::calendar) fn user(number: usize) -> CalendarUser {
    CalendarUser {
        id: name(number),
        mailbox: Mailbox(address(number)),
    }
}

pub(in crate::calendar) fn meeting(start: i64, end: i64, status: FreeBusyStatus) -> CalendarItem {
    CalendarItem {
        start,
        end,
        status,
        all_day: false,
        cancelled: false,
        declined: false,
    }
}

/// So many minutes after the start of the world.
pub(in crate::calendar) fn minute(minutes: i64) -> i64 {
    i64::try_from(START_MS / 1000).unwrap() + minutes * 60
}

/// In the directory.
pub(super) fn entry(user: &CalendarUser) -> User {
    User {
        id: user.id.clone(),
        mail: Some(user.mailbox.0.clone()),
        ocs_primary_address: None,
        display_name: None,
        remote_call_control: RemoteCallControl::Enabled,
        calendar: true,
    }
}
