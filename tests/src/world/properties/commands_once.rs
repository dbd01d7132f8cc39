//! The PBX is told no command twice (LB-8): it would dial twice.

use super::{count, nothing_found};
use crate::scenario::Office;

/// Of every command so far. Each number is called once only.
pub(in crate::world) async fn judge(office: &Office) -> anyhow::Result<u64> {
    let (repeated, commands) = office
        .pbx()
        .ask(|switch| (switch.repeated_commands(), switch.log().len()))
        .await;
    nothing_found(&repeated)?;
    Ok(count(commands))
}
