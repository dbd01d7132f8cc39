//! A meeting that begins or ends is shown in time (CAL-4): a watcher is told within the calendar spread and the five seconds
//! between two NOTIFYs. A change of the calendar takes the time to be read besides. Who is disturbed gets the time to
//! recover from the end of it.

use super::{count, nothing_found};
use crate::world::calendars::{Calendars, Told};
use crate::world::disturbances::Disturbances;
use crate::world::truth::{Cause, Turn};

/// Of every turn of a calendar between the two moments (Unix milliseconds) that stands for longer than watchers may be left
/// without it.
pub(in crate::world) async fn judge(
    calendars: &Calendars,
    disturbances: &Disturbances,
    since_ms: i64,
    now_ms: i64,
) -> anyhow::Result<u64> {
    let (mut judged, mut found) = (0, Vec::new());
    for user in calendars.people.clone() {
        let told = calendars.told(user).await;
        let turns = calendars.truth(user).turns();
        for (index, turn) in turns.iter().enumerate() {
            let next_ms = turns.get(index + 1).map_or(i64::MAX, |next| next.at_ms);
            let due = disturbances.put_off(turn.at_ms + bound_ms(turn.cause), RECOVERY_MS);
            let Some(due_ms) = due.filter(|due| turn.at_ms >= since_ms && *due < next_ms && *due <= now_ms)
            else {
                continue;
            };
            judged += 1;
            found.extend(wrong(user, *turn, due_ms, &told));
        }
    }
    nothing_found(&found)?;
    Ok(count(judged))
}

fn wrong(user: usize, turn: Turn, due_ms: i64, told: &[Told]) -> Option<String> {
    let last = told.iter().rfind(|told| told.at_ms <= due_ms);
    let is_told = last.is_some_and(|told| turn.shows.is_told_by(&told.document));
    let later = told
        .iter()
        .find(|told| told.at_ms > due_ms && turn.shows.is_told_by(&told.document));
    let took = later.map(|later| later.at_ms - turn.at_ms);
    (!is_told).then(|| {
        format!("user{user}: {turn:?} was not told by {due_ms}, but {last:?}; it was told after {took:?} ms")
    })
}

fn bound_ms(cause: Cause) -> i64 {
    match cause {
        Cause::Clock => SPREAD_MS + BETWEEN_NOTIFIES_MS + ON_THE_WAY_MS,
        Cause::Change => SPREAD_MS + BETWEEN_NOTIFIES_MS + ON_THE_WAY_MS + READ_MS,
    }
}

/// The longest that an administrator sets in a world.
const SPREAD_MS: i64 = 3000;
const BETWEEN_NOTIFIES_MS: i64 = 5000;
const ON_THE_WAY_MS: i64 = 2000;
/// A calendar is read some seconds after a change, with others that change meanwhile.
const READ_MS: i64 = 7000;
/// Subscriptions are made again, calendars are read again.
const RECOVERY_MS: i64 = 60_000;
