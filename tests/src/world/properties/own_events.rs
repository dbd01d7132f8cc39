//! No event reaches anybody but the client whose line and monitor it is of.

use super::{count, nothing_found};
use crate::peers::violation::Promise;
use crate::scenario::Office;

/// Of every event so far.
pub(in crate::world) async fn judge(office: &Office) -> anyhow::Result<u64> {
    let (found, events) = office
        .ocs
        .ask(|front_end| {
            let events = front_end.users().iter().map(|user| user.events().len()).sum();
            (front_end.violations_of(Promise::OwnEvents), events)
        })
        .await;
    nothing_found(&found)?;
    Ok(count(events))
}
