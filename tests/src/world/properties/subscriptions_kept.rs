//! While all is well, nobody ends the subscription by which a user is heard (CAL-2): Exchange would tell nothing more until
//! another one is made.

use std::time::Instant;

use super::{count, nothing_found};
use crate::cluster::mailbox;
use crate::world::calendars::Calendars;

/// Of every user with a calendar, from that moment on, by the clock of the mail store.
pub(in crate::world) async fn judge(calendars: &Calendars, since: Instant) -> anyhow::Result<u64> {
    let given_up = calendars
        .backend
        .ask(move |servers| servers.given_up_since(since))
        .await;
    let found: Vec<_> = calendars
        .people
        .clone()
        .filter(|user| given_up.contains(&mailbox(*user)))
        .map(|user| format!("the only subscription of user{user} was ended by the answer to a callback"))
        .collect();
    nothing_found(&found)?;
    Ok(count(calendars.people.len()))
}
