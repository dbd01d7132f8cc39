//! What time it is.

use std::time::Instant;
use tandem_runtime::io::environment;

#[must_use]
pub fn now() -> Instant {
    environment::now()
}

/// For metrics.
#[must_use]
pub fn unix_time_secs() -> f64 {
    environment::unix_time().as_secs_f64()
}
