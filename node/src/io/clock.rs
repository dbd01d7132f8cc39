//! The clocks: ours, the one on the wall, and the cluster's.

use std::time::Instant;

use tandem_raft::Cluster;
use tandem_runtime::io::environment;

use crate::gateway::Now;

#[must_use]
pub fn now(cluster: &Cluster) -> Now {
    Now {
        instant: environment::now(),
        unix_ms: unix_ms(),
        cluster_ms: cluster.cluster_ms(),
    }
}

/// What our own waits are counted by.
#[must_use]
pub fn instant() -> Instant {
    environment::now()
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    environment::unix_ms()
}
