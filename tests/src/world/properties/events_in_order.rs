//! Each event reaches its client once and in order (RCC-6), apart from what ARCHITECTURE.md §7 excepts, which the clients
//! count as tolerated.

use super::{count, nothing_found};
use crate::peers::violation::Promise;
use crate::scenario::Office;

/// Of every event so far.
pub(in crate::world) async fn judge(office: &Office) -> anyhow::Result<u64> {
    let (found, events) = office
        .ocs
        .ask(|front_end| {
            let events = front_end.users().iter().map(|user| user.events().len()).sum();
            (front_end.violations_of(Promise::EventsInOrder), events)
        })
        .await;
    nothing_found(&found)?;
    Ok(count(events))
}
