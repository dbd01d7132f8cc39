//! Each request is answered, once (RFC 3261 §17.2), whichever node answers.

use anyhow::ensure;

use super::{count, nothing_found};
use crate::peers::violation::Promise;
use crate::scenario::Office;

/// Of every request so far, when nobody waits for anything any more.
pub(in crate::world) async fn judge(office: &Office) -> anyhow::Result<u64> {
    let (twice, waiting, requests) = office
        .ocs
        .ask(|front_end| {
            let requests = front_end.all_requests().count();
            (
                front_end.violations_of(Promise::OneAnswer),
                front_end.waiting(),
                requests,
            )
        })
        .await;
    nothing_found(&twice)?;
    ensure!(
        waiting.is_empty(),
        "{} wait for an answer: {:?}",
        waiting.len(),
        waiting.first()
    );
    Ok(count(requests))
}
