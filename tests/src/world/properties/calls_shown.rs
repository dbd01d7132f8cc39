//! A call that is over is not shown, and one that stands is: what each client believes, and what its next snapshot says, is
//! what the PBX has.

use super::count;
use crate::scenario::{Begun, Office};

/// Of the calls that were begun while something was wrong, and of every client's snapshot while they stand and when they
/// are over.
pub(in crate::world) async fn judge(office: &mut Office, begun: Begun) -> anyhow::Result<u64> {
    let clients = office.signed_in().await.len();
    office.end_calls(begun).await?;
    Ok(count(2 * clients))
}
