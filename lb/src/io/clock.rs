//! The clock.

use std::time::Instant;
use tandem_runtime::io::environment;

/// The monotonic time.
#[must_use]
pub fn now() -> Instant {
    environment::now()
}

/// Seconds since the Unix epoch, for metrics.
#[must_use]
pub fn unix_time_secs() -> f64 {
    environment::unix_time().as_secs_f64()
}
