//! The clocks: ours, the one on the wall, and the cluster's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tandem_shared::io::raft::Cluster;

use crate::gateway::Now;

#[must_use]
pub fn now(cluster: &Cluster) -> Now {
    Now {
        instant: Instant::now(),
        unix_ms: unix_ms(),
        cluster_ms: cluster.cluster_ms(),
    }
}

/// What our own waits are counted by.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
