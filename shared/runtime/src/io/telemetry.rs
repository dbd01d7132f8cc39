//! Logs by `tracing`, metrics by `prometheus`.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts logging to standard error. `TANDEM_LOG`, when set, wins over the configured filter.
///
/// # Errors
/// When the filter is not understood, or logging was started before.
pub fn init_logging(config: &LogConfig) -> Result<(), LoggingError> {
    let directives = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| config.filter.clone());
    let filter: EnvFilter = directives.parse().map_err(LoggingError::Filter)?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(LoggingError::Started)
}

#[derive(Debug, Error)]
pub enum LoggingError {
    #[error("the log filter is not understood (log.filter, or TANDEM_LOG in the environment)")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("logging was started twice")]
    Started(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Makes metrics and puts them into a registry. Names are ours and constant, so a name that is not valid or is
/// used twice is a mistake of the program and found by the first test that starts it.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
        }
    }

    /// Counts what happened; the name ends in `_total`.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Whole numbers that rise and fall.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// As [`Self::gauge`], for seconds and ratios.
    #[must_use]
    pub fn real_gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    #[must_use]
    pub fn real_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    /// A distribution, in seconds unless the name says otherwise.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }

    #[must_use]
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.add(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
            labels,
        ))
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: Result<C, prometheus::Error>) -> C {
        let metric = metric.expect("metric names and labels are constants");
        self.registry
            .register(Box::new(metric.clone()))
            .expect("each metric is registered once");
        metric
    }
}

/// From half a millisecond to ten seconds: commits, round trips on a LAN, and the pause of a take-over.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const FILTER_VARIABLE: &str = "TANDEM_LOG";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_stands_in_the_registry() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        metrics.counter("tandem_test_things_total", "Things.").inc_by(2);
        metrics.gauge("tandem_test_level", "Level.").set(-1);
        metrics
            .histogram("tandem_test_pause_seconds", "Pause.", LATENCY_BUCKETS)
            .observe(0.3);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        assert!(text.contains("tandem_test_things_total 2"), "{text}");
        assert!(text.contains("tandem_test_level -1"), "{text}");
        assert!(
            text.contains("tandem_test_pause_seconds_bucket{le=\"0.5\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn a_filter_that_is_not_understood_is_refused() {
        let config = LogConfig {
            format: LogFormat::Text,
            filter: "tandem=loud=very".to_owned(),
        };
        assert!(matches!(init_logging(&config), Err(LoggingError::Filter(_))));
    }
}
