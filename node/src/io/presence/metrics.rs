//! Metrics of presence.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use tandem_runtime::io::telemetry::Metrics;

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
                "Users whose latest calendar state is not committed yet.",
            ),
            batches: metrics.counters(
                "tandem_presence_batches_total",
                "Batches of calendar states proposed to the log, by outcome.",
                &["outcome"],
            ),
            changes: metrics.counter(
                "tandem_presence_changes_total",
                "Presence changes delivered to consumers on this node.",
            ),
            streams: metrics.gauge("tandem_presence_streams", "Open live streams of presence."),
            streams_ended: metrics.counters(
                "tandem_presence_streams_ended_total",
                "Live streams of presence that ended, by reason.",
                &["reason"],
            ),
        }
    }
}
