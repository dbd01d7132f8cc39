//! Logs by `tracing`, metrics by `prometheus`.

use std::sync::{Mutex, OnceLock, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};
use thiserror::Error;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

use super::{build, environment};
use crate::config::{LogConfig, LogFormat};

/// Starts logging to standard error. `TANDEM_LOG`, when set, wins over the configured filter. Libraries say no more than
/// what an operator can act on, unless the filter names them.
///
/// # Errors
/// When the filter is not understood, or logging was started before.
pub fn init_logging(config: &LogConfig) -> Result<(), LoggingError> {
    let directives = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| config.filter.clone());
    let (layer, handle) = reload::Layer::new(parse_filter(&directives)?);
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(layer);
    let started = match config.format {
        LogFormat::Text => subscriber.with(format.with_ansi(false)).try_init(),
        LogFormat::Json => subscriber.with(format.json().flatten_event(true)).try_init(),
    };
    started.map_err(LoggingError::Started)?;
    // Nobody can have been here before: starting twice is an error above.
    let _ = FILTER.set(Filter {
        directives: Mutex::new(directives),
        handle,
    });
    Ok(())
}

/// The directives by which lines are chosen now; `None` before [`init_logging`].
#[must_use]
pub fn log_filter() -> Option<String> {
    let filter = FILTER.get()?;
    Some(
        filter
            .directives
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
    )
}

/// Chooses lines by other directives from now on, until the process ends.
///
/// # Errors
/// When they are not understood, or logging was not started.
pub fn set_log_filter(directives: &str) -> Result<(), LoggingError> {
    let parsed = parse_filter(directives)?;
    let filter = FILTER.get().ok_or(LoggingError::NotStarted)?;
    filter
        .handle
        .reload(parsed)
        .map_err(|_| LoggingError::NotStarted)?;
    directives.clone_into(&mut filter.directives.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

/// Later directives win over earlier ones of the same target.
fn parse_filter(directives: &str) -> Result<EnvFilter, LoggingError> {
    let all = format!("{LIBRARIES},{directives}");
    all.parse().map_err(LoggingError::Filter)
}

/// The filter in force, and the way to change it.
struct Filter {
    directives: Mutex<String>,
    handle: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
}

static FILTER: OnceLock<Filter> = OnceLock::new();

/// What they say below these levels concerns those who develop them: a peer that cannot be reached is said by our own code,
/// once a minute.
const LIBRARIES: &str = "openraft=error,hyper=warn,hyper_util=warn,h2=warn,rustls=error,tokio_rustls=error";

#[derive(Debug, Error)]
pub enum LoggingError {
    #[error("the log filter is not understood (log.filter, or TANDEM_LOG in the environment): {0}")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    #[error("this process does not choose what it logs")]
    NotStarted,
    #[error("logging was started twice")]
    Started(#[source] tracing_subscriber::util::TryInitError),
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

/// What every process says of itself: `tandem_build_info`, and of the real one `process_…` (CPU time, memory, open files,
/// start), as the client libraries of Prometheus name them.
///
/// # Panics
/// When the registry has them already.
pub fn register_process(registry: &Registry) {
    let metrics = Metrics::new(registry);
    metrics
        .gauges(
            "tandem_build_info",
            "1, with the version and the commit of the program as labels.",
            &["version", "commit"],
        )
        .with_label_values(&[build::VERSION, build::COMMIT])
        .set(1);
    if let Some(process) = environment::process_collector() {
        registry
            .register(Box::new(process))
            .expect("each metric is registered once");
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
