//! An acknowledged session is never lost (CL-2): nobody has to sign in again, and no gateway ends a dialog.

use std::ops::Range;

use super::{count, nothing_found};
use crate::peers::violation::Promise;
use crate::scenario::Office;

/// Of these users, who were signed in before anything went wrong.
pub(in crate::world) async fn judge(office: &Office, users: Range<usize>) -> anyhow::Result<u64> {
    let ended =
        |promise| move |front_end: &mut crate::peers::front_end::FrontEnd| front_end.violations_of(promise);
    nothing_found(&office.ocs.ask(ended(Promise::SessionKept)).await)?;
    office.nobody_signed_in_again(users.clone()).await?;
    Ok(count(users.len()))
}
