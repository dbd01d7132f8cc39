//! What presence tells Prometheus.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use tandem_shared::io::telemetry::Metrics;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct PresenceMetrics {
    pub(super) waiting: IntGauge,
    pub(super) batches: IntCounterVec,
    pub(super) changes: IntCounter,
    pub(super) streams: IntGauge,
    pub(super) streams_ended: IntCounterVec,
}

impl PresenceMetrics {
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let metrics = Metrics::new(registry);
        Self {
            waiting: metrics.gauge(
                "tandem_presence_changes_waiting",
                "Users whose calendar's last word is not in the log yet.",
            ),
            batches: metrics.counters(
                "tandem_presence_batches_total",
                "Entries of the log with what calendars say, by what came of them.",
                &["outcome"],
            ),
            changes: metrics.counter(
                "tandem_presence_changes_total",
                "Changes of users' presence that were told to whoever watches on this node.",
            ),
            streams: metrics.gauge(
                "tandem_presence_streams",
                "Live streams of presence that are open.",
            ),
            streams_ended: metrics.counters(
                "tandem_presence_streams_ended_total",
                "Live streams of presence that are over, by reason.",
                &["reason"],
            ),
        }
    }
}
