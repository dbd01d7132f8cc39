//! What time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// For metrics.
#[must_use]
pub fn unix_time_secs() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
