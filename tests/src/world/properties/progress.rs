//! Work goes on soon after what was wrong is put right: every member is ready, waiting requests are answered, and new ones
//! are.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tandem_runtime::io::environment;

/// How long it took since then, which must not be too long.
pub(in crate::world) fn judge(healed_at: Instant) -> anyhow::Result<Duration> {
    let took = environment::now().saturating_duration_since(healed_at);
    ensure!(
        took <= WITHIN,
        "it took {took:?} until work went on, and {WITHIN:?} are allowed"
    );
    Ok(took)
}

/// A member that was gone starts, replays its log and catches up; the front end tries each node again once a second; a client
/// finds a dead connection by its probes; then some calls are made and ended.
const WITHIN: Duration = Duration::from_secs(20);
