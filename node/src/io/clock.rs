//! The two clocks: ours, and the one on the wall.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::gateway::Now;

#[must_use]
pub fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: unix_ms(),
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
