//! What the node tells Prometheus.
//!
//! Owns the names, help texts and labels of all metrics: those of calendars in a file of their own, the others here. Does
//! not observe anything itself: the loops around the machines report what happened. What always holds: names pass
//! `promtool check metrics`, and a counter whose labels are known in advance is exported as zero before it first counts.

mod calendar;

use std::time::Instant;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tandem_runtime::io::sip_stream::StreamCounters;
use tandem_runtime::io::telemetry::Metrics;
use tandem_sip::{FramingError, RefusalReason};

use crate::cti::{ConnectionStatus, CtiConnectionId, LinkFailure};
use crate::gateway::{Census, EndOfSubscription, EndReason, Report, WatcherReport};
use crate::presence::publication::PublishOutcome;

pub use calendar::CalendarMetrics;
pub(crate) use calendar::reason_label;

/// Every metric of this process except Raft's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeMetrics {
    sessions_by_state: IntGaugeVec,
    sessions_by_connection: IntGaugeVec,
    sessions_assigned: IntCounterVec,
    sessions_started: IntCounterVec,
    sessions_ended: IntCounterVec,
    sessions_moved: IntCounterVec,
    sessions_rebalanced: IntCounter,
    sessions_relinked: IntCounter,
    requests: IntCounterVec,
    responses: IntCounterVec,
    csta_errors: IntCounterVec,
    events_sent: IntCounterVec,
    events_unanswered: IntCounter,
    events_dropped: IntCounter,
    events_unknown_monitor: IntCounter,
    fenced: IntCounter,
    intents_repeated: IntCounterVec,
    pairs: IntGauge,
    pairs_opened: IntCounterVec,
    pairs_refused: IntCounterVec,
    pub framing_errors: IntCounterVec,
    pub send_failures: IntCounter,
    pub streams: StreamCounters,
    cti: CtiMetrics,
    watchers: WatcherMetrics,
    started_at: Instant,
}

#[derive(Debug, Clone)]
struct WatcherMetrics {
    watchers: IntGauge,
    replicated: IntGauge,
    presentities: IntGauge,
    started: IntCounter,
    ended: IntCounterVec,
    moved: IntCounterVec,
    notifies: IntCounterVec,
    suppressed: IntCounter,
    publications: IntCounterVec,
}

#[derive(Debug, Clone)]
struct CtiMetrics {
    up: IntGaugeVec,
    heartbeat_latency: GaugeVec,
    heartbeat_age: GaugeVec,
    heartbeats_failed: IntCounterVec,
    transitions: IntCounterVec,
    outstanding: IntGaugeVec,
    links_lost: IntCounterVec,
}

impl NodeMetrics {
    /// Heartbeat ages count from `started_at` until the first heartbeat is answered.
    #[must_use]
    pub fn register(registry: &Registry, started_at: Instant) -> Self {
        let metrics = Metrics::new(registry);
        let this = Self {
            sessions_by_state: metrics.gauges(
                "tandem_node_sessions_by_state",
                "Sessions of this node, by state.",
                &["state"],
            ),
            sessions_by_connection: metrics.gauges(
                "tandem_node_sessions",
                "Sessions of this node, by CTI connection.",
                &["connection"],
            ),
            sessions_assigned: metrics.counters(
                "tandem_node_sessions_assigned_total",
                "New sessions assigned to a CTI connection by round robin.",
                &["connection"],
            ),
            sessions_started: metrics.counters(
                "tandem_node_sessions_started_total",
                "Sessions opened at this node.",
                &["replicated"],
            ),
            sessions_ended: metrics.counters(
                "tandem_node_sessions_ended_total",
                "Sessions that ended at this node.",
                &["reason"],
            ),
            sessions_moved: metrics.counters(
                "tandem_node_adoptions_total",
                "Sessions that changed owner: adopted by this node, or released to another one.",
                &["direction"],
            ),
            sessions_rebalanced: metrics.counter(
                "tandem_node_rebalanced_sessions_total",
                "Sessions that this node handed over to rebalance the cluster.",
            ),
            sessions_relinked: metrics.counter(
                "tandem_node_sessions_relinked_total",
                "Sessions that were moved to another CTI connection.",
            ),
            requests: metrics.counters(
                "tandem_node_requests_total",
                "Requests from clients, by SIP method or CSTA service.",
                &["service"],
            ),
            responses: metrics.counters(
                "tandem_node_responses_total",
                "Final responses to clients, by SIP method or CSTA service and status.",
                &["service", "status"],
            ),
            csta_errors: metrics.counters(
                "tandem_node_csta_errors_total",
                "CSTA errors returned to clients, by service and category.",
                &["service", "category"],
            ),
            events_sent: metrics.counters(
                "tandem_node_events_sent_total",
                "CSTA events sent to clients.",
                &["event"],
            ),
            events_unanswered: metrics.counter(
                "tandem_node_events_unanswered_total",
                "Events that a client did not answer in time.",
            ),
            events_dropped: metrics.counter(
                "tandem_node_events_dropped_total",
                "Events dropped because the session's queue was full.",
            ),
            events_unknown_monitor: metrics.counter(
                "tandem_node_events_of_unknown_monitors_total",
                "Events from monitors that belong to no session; such monitors are stopped.",
            ),
            fenced: metrics.counter(
                "tandem_node_fenced_total",
                "Requests from this node that a front end rejected because another node owns the session.",
            ),
            intents_repeated: metrics.counters(
                "tandem_node_intents_repeated_total",
                "Repeated commands that were answered without being executed again.",
                &["service", "result"],
            ),
            pairs: metrics.gauge("tandem_node_pairs", "Open connections with front ends."),
            pairs_opened: metrics.counters(
                "tandem_node_pairs_opened_total",
                "Connections with front ends that were opened, by purpose.",
                &["purpose"],
            ),
            pairs_refused: metrics.counters(
                "tandem_node_connections_refused_total",
                "Connections that were closed before their first message.",
                &["reason"],
            ),
            framing_errors: metrics.counters(
                "tandem_node_framing_errors_total",
                "Messages that could not be framed or read.",
                &["reason"],
            ),
            send_failures: metrics.counter(
                "tandem_node_send_failures_total",
                "Messages that could not be queued on their connection and were dropped.",
            ),
            streams: StreamCounters {
                bytes_received: metrics
                    .counter("tandem_node_sip_received_bytes_total", "SIP bytes received."),
                messages_received: metrics.counter(
                    "tandem_node_sip_messages_received_total",
                    "SIP messages received.",
                ),
                bytes_sent: metrics.counter("tandem_node_sip_sent_bytes_total", "SIP bytes sent."),
                messages_sent: metrics.counter("tandem_node_sip_messages_sent_total", "SIP messages sent."),
            },
            cti: CtiMetrics::register(&metrics),
            watchers: WatcherMetrics::register(&metrics),
            started_at,
        };
        this.show_all_labels();
        this
    }

    /// Exports a counter that has not counted yet as zero.
    fn show_all_labels(&self) {
        for reason in EndReason::ALL {
            self.sessions_ended.with_label_values(&[reason.label()]);
        }
        for reason in RefusalReason::ALL {
            self.framing_errors.with_label_values(&[reason.label()]);
        }
        for reason in FramingError::ALL {
            self.framing_errors.with_label_values(&[reason.label()]);
        }
        for direction in ["here", "away"] {
            self.sessions_moved.with_label_values(&[direction]);
            self.watchers.moved.with_label_values(&[direction]);
        }
        for reason in EndOfSubscription::ALL {
            self.watchers.ended.with_label_values(&[reason.label()]);
        }
        for outcome in PublishOutcome::ALL {
            let publications = &self.watchers.publications;
            publications.with_label_values(&[outcome.label()]);
        }
        for outcome in ["sent", "accepted", "refused", "unanswered"] {
            self.watchers.notifies.with_label_values(&[outcome]);
        }
        for replicated in ["true", "false"] {
            self.sessions_started.with_label_values(&[replicated]);
        }
    }

    /// `connections` are the names of the CTI connections, in configured order.
    pub fn record(&self, report: &Report, connections: &[String]) {
        let name_of =
            |connection: &CtiConnectionId| connections.get(connection.0).map_or("unknown", String::as_str);
        match report {
            Report::CtiInService { .. } => {}
            Report::CtiOutOfService { connection, reason } => self.link_lost(name_of(connection), *reason),
            Report::SessionStarted {
                connection,
                replicated,
                ..
            } => {
                self.sessions_started
                    .with_label_values(&[if *replicated { "true" } else { "false" }])
                    .inc();
                self.sessions_assigned
                    .with_label_values(&[name_of(connection)])
                    .inc();
            }
            Report::SessionMovedHere { .. } => self.sessions_moved.with_label_values(&["here"]).inc(),
            Report::SessionMovedAway { .. } => self.sessions_moved.with_label_values(&["away"]).inc(),
            Report::SessionRebalanced { .. } => self.sessions_rebalanced.inc(),
            Report::SessionRelinked { .. } => self.sessions_relinked.inc(),
            Report::SessionEnded { reason, .. } => {
                self.sessions_ended.with_label_values(&[reason.label()]).inc()
            }
            Report::Answered { service, status } => {
                self.requests.with_label_values(&[service]).inc();
                self.responses
                    .with_label_values(&[*service, status.to_string().as_str()])
                    .inc();
            }
            Report::CstaError { service, error } => {
                self.csta_errors
                    .with_label_values(&[service, error.category.element()])
                    .inc();
            }
            Report::EventSent { kind } => self.events_sent.with_label_values(&[kind.name()]).inc(),
            Report::EventUnanswered => self.events_unanswered.inc(),
            Report::EventDropped => self.events_dropped.inc(),
            Report::EventOfUnknownMonitor => self.events_unknown_monitor.inc(),
            Report::Fenced { .. } => self.fenced.inc(),
            Report::Watcher(report) => self.watchers.record(*report),
            Report::Published(outcome) => {
                let publications = &self.watchers.publications;
                publications.with_label_values(&[outcome.label()]).inc();
            }
            Report::IntentRepeated {
                service,
                known_result,
            } => {
                let result = if *known_result { "known" } else { "from_snapshot" };
                self.intents_repeated.with_label_values(&[service, result]).inc();
            }
        }
    }

    pub fn show_census(&self, census: &Census, connections: &[String]) {
        for state in ["opening", "established", "resuming", "no_cti"] {
            let count = census.by_state.get(state).copied().unwrap_or(0);
            self.sessions_by_state
                .with_label_values(&[state])
                .set(gauge(count));
        }
        for (name, count) in connections.iter().zip(&census.by_connection) {
            self.sessions_by_connection
                .with_label_values(&[name])
                .set(gauge(*count));
            self.sessions_assigned.with_label_values(&[name]);
        }
        self.pairs.set(gauge(census.pairs));
        self.watchers.watchers.set(gauge(census.watchers));
        self.watchers.presentities.set(gauge(census.presentities));
    }

    pub fn show_replicated_watchers(&self, count: usize) {
        self.watchers.replicated.set(gauge(count));
    }

    pub fn show_cti(&self, status: &ConnectionStatus<'_>, now: Instant) {
        let name = &[status.name];
        let counters = &status.counters;
        self.cti
            .up
            .with_label_values(name)
            .set(i64::from(status.in_service));
        let latency = counters
            .heartbeat_latency
            .map_or(0.0, |latency| latency.as_secs_f64());
        self.cti.heartbeat_latency.with_label_values(name).set(latency);
        let since = counters.heartbeat_answered_at.unwrap_or(self.started_at);
        let age = now.saturating_duration_since(since).as_secs_f64();
        self.cti.heartbeat_age.with_label_values(name).set(age);
        let failed = self.cti.heartbeats_failed.with_label_values(name);
        raise(&failed, counters.heartbeats_failed);
        let transitions = self.cti.transitions.with_label_values(name);
        raise(&transitions, status.transitions);
        self.cti
            .outstanding
            .with_label_values(name)
            .set(gauge(status.outstanding));
    }

    fn link_lost(&self, name: &str, reason: LinkFailure) {
        self.cti
            .links_lost
            .with_label_values(&[name, reason.label()])
            .inc();
    }

    pub fn pair_opened(&self, purpose: &'static str) {
        self.pairs_opened.with_label_values(&[purpose]).inc();
    }

    pub fn connection_refused(&self, reason: &'static str) {
        self.pairs_refused.with_label_values(&[reason]).inc();
    }
}

impl WatcherMetrics {
    fn register(metrics: &Metrics) -> Self {
        Self {
            watchers: metrics.gauge(
                "tandem_node_watchers",
                "Presence subscriptions served by this node.",
            ),
            replicated: metrics.gauge(
                "tandem_node_watchers_replicated",
                "Presence subscriptions in this node's copy of the replicated state, of all nodes.",
            ),
            presentities: metrics.gauge("tandem_node_presentities", "Users with at least one watcher at this node."),
            started: metrics.counter(
                "tandem_node_watchers_started_total",
                "Presence subscriptions started at this node.",
            ),
            ended: metrics.counters(
                "tandem_node_watchers_ended_total",
                "Presence subscriptions that ended at this node, by reason.",
                &["reason"],
            ),
            moved: metrics.counters(
                "tandem_node_watchers_moved_total",
                "Presence subscriptions that changed owner: adopted by this node, or released to another one.",
                &["direction"],
            ),
            notifies: metrics.counters(
                "tandem_node_notifies_total",
                "NOTIFY requests, by outcome.",
                &["outcome"],
            ),
            suppressed: metrics.counter(
                "tandem_node_notifies_suppressed_total",
                "Presence changes not sent to a watcher because a newer one followed within five seconds.",
            ),
            publications: metrics.counters(
                "tandem_node_publications_total",
                "PUBLISH requests, by outcome.",
                &["outcome"],
            ),
        }
    }

    fn record(&self, report: WatcherReport) {
        let notify = |outcome| self.notifies.with_label_values(&[outcome]).inc();
        match report {
            WatcherReport::Started => self.started.inc(),
            WatcherReport::Ended { reason } => self.ended.with_label_values(&[reason.label()]).inc(),
            WatcherReport::MovedHere => self.moved.with_label_values(&["here"]).inc(),
            WatcherReport::MovedAway => self.moved.with_label_values(&["away"]).inc(),
            WatcherReport::NotifySent => notify("sent"),
            WatcherReport::NotifyAnswered { status: ..300 } => notify("accepted"),
            WatcherReport::NotifyAnswered { .. } => notify("refused"),
            WatcherReport::NotifyUnanswered => notify("unanswered"),
            WatcherReport::NotifySuppressed => self.suppressed.inc(),
        }
    }
}

impl CtiMetrics {
    fn register(metrics: &Metrics) -> Self {
        let label = &["connection"];
        Self {
            up: metrics.gauges(
                "tandem_node_cti_up",
                "1 while the CTI connection is in service.",
                label,
            ),
            heartbeat_latency: metrics.real_gauges(
                "tandem_node_cti_heartbeat_latency_seconds",
                "Round-trip time of the last answered heartbeat.",
                label,
            ),
            heartbeat_age: metrics.real_gauges(
                "tandem_node_cti_heartbeat_age_seconds",
                "Time since the last answered heartbeat, or since the start of the process.",
                label,
            ),
            heartbeats_failed: metrics.counters(
                "tandem_node_cti_heartbeat_failures_total",
                "Heartbeats that were not answered in time.",
                label,
            ),
            transitions: metrics.counters(
                "tandem_node_cti_transitions_total",
                "Times the CTI connection went into or out of service.",
                label,
            ),
            outstanding: metrics.gauges(
                "tandem_node_cti_requests_outstanding",
                "Requests to the CTI manager that await an answer.",
                label,
            ),
            links_lost: metrics.counters(
                "tandem_node_cti_links_lost_total",
                "CTI connections that went out of service, by reason.",
                &["connection", "reason"],
            ),
        }
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Raises a counter to a total that is kept elsewhere and never falls.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
