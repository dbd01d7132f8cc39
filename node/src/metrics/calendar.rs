//! Metrics of calendars, and of the Client Access Servers that they are read from.

use std::collections::BTreeSet;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tandem_cluster::{AssignmentReason, CasId};
use tandem_runtime::io::telemetry::{LATENCY_BUCKETS, Metrics};

use super::gauge;
use crate::calendar::{
    BreakerState, CallbackOutcome, CasHealth, Census, DeliveryKind, Report, SubscriptionState,
};
use tandem_exchange::ews::FailureClass;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct CalendarMetrics {
    enabled: IntGauge,
    users: IntGaugeVec,
    calendars_known: IntGauge,
    subscriptions: IntGaugeVec,
    streams: IntGauge,
    assignments: IntGaugeVec,
    assigned: IntCounterVec,
    moves: IntCounterVec,
    subscription_failures: IntCounterVec,
    deaf: IntCounterVec,
    users_in_trouble: IntCounterVec,
    edges: IntCounterVec,
    lateness: Histogram,
    published: IntCounter,
    callbacks: IntCounterVec,
    notes_dropped: IntCounter,
    credential_refused: IntGauge,
    cas: CasMetrics,
}

/// By CAS.
#[derive(Debug, Clone)]
struct CasMetrics {
    request_seconds: HistogramVec,
    request_failures: IntCounterVec,
    throttled: IntCounterVec,
    in_flight: IntGaugeVec,
    waiting: IntGaugeVec,
    concurrency: IntGaugeVec,
    breaker_open: IntGaugeVec,
    breaker_changes: IntCounterVec,
}

impl CalendarMetrics {
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let metrics = Metrics::new(registry);
        let this = Self {
            enabled: metrics.gauge(
                "tandem_node_calendar_users_enabled",
                "Users of the whole cluster whose calendar is enabled.",
            ),
            users: metrics.gauges(
                "tandem_node_calendar_users",
                "Users whose calendar this node owns, by subscription state.",
                &["state"],
            ),
            calendars_known: metrics.gauge(
                "tandem_node_calendars_known",
                "Users of this node whose calendar has been read at least once.",
            ),
            subscriptions: metrics.gauges(
                "tandem_node_calendar_subscriptions",
                "Exchange subscriptions of this node, by delivery method.",
                &["delivery"],
            ),
            streams: metrics.gauge("tandem_node_exchange_streams", "Open streaming connections to Exchange."),
            assignments: metrics.gauges(
                "tandem_node_cas_assignments",
                "Users of this node, by assigned Client Access Server.",
                &["cas"],
            ),
            assigned: metrics.counters(
                "tandem_node_cas_assigned_total",
                "Users of this node assigned to a Client Access Server, by round robin or by a move.",
                &["cas"],
            ),
            moves: metrics.counters(
                "tandem_node_cas_moves_total",
                "Users of this node moved to another Client Access Server, by reason.",
                &["reason"],
            ),
            subscription_failures: metrics.counters(
                "tandem_node_subscription_failures_total",
                "Subscriptions lost, by Client Access Server and failure class.",
                &["cas", "class"],
            ),
            deaf: metrics.counters(
                "tandem_node_subscriptions_deaf_total",
                "Subscriptions found stale: the calendar changed but no notification arrived.",
                &["cas"],
            ),
            users_in_trouble: metrics.counters(
                "tandem_node_calendar_user_alarms_total",
                "Times a user's calendar could not be followed for a reason specific to the user.",
                &["reason"],
            ),
            edges: metrics.counters(
                "tandem_node_calendar_edges_total",
                "Calendar state changes: on time if published within a second of the due time, otherwise late.",
                &["timeliness"],
            ),
            lateness: metrics.histogram(
                "tandem_node_calendar_edge_lateness_seconds",
                "Delay between the due time of a calendar state change (spread included) and its publication.",
                LATENCY_BUCKETS,
            ),
            published: metrics.counter(
                "tandem_node_presence_published_total",
                "Calendar state changes handed to presence.",
            ),
            callbacks: metrics.counters(
                "tandem_node_calendar_callbacks_total",
                "Push callbacks with a valid token, by outcome.",
                &["outcome"],
            ),
            notes_dropped: metrics.counter(
                "tandem_node_calendar_callbacks_dropped_total",
                "Callbacks for users of other nodes dropped because the queue was full.",
            ),
            credential_refused: metrics.gauge(
                "tandem_node_exchange_credential_refused",
                "1 while Exchange rejects the service account; only one probe per minute is sent.",
            ),
            cas: CasMetrics::register(&metrics),
        };
        this.show_all_labels();
        this
    }

    /// Exports a counter that has not counted yet as zero.
    fn show_all_labels(&self) {
        for reason in MOVE_REASONS {
            self.moves.with_label_values(&[reason_label(reason)]);
        }
        for outcome in CALLBACK_OUTCOMES {
            self.callbacks.with_label_values(&[outcome_label(outcome)]);
        }
        for reason in ALARMS {
            self.users_in_trouble.with_label_values(&[reason]);
        }
        for timeliness in ["on_time", "late"] {
            self.edges.with_label_values(&[timeliness]);
        }
    }

    pub fn record(&self, report: &Report) {
        match report {
            Report::SubscriptionLost { cas, class, .. } => {
                let class = class.map_or("silent", FailureClass::label);
                self.subscription_failures
                    .with_label_values(&[cas.0.as_str(), class])
                    .inc();
            }
            Report::Failed {
                cas,
                operation,
                class,
            } => self
                .cas
                .request_failures
                .with_label_values(&[cas.0.as_str(), *operation, class.label()])
                .inc(),
            Report::Throttled { cas, .. } => self.cas.throttled.with_label_values(&[&cas.0]).inc(),
            Report::BreakerOpened { cas } | Report::BreakerClosed { cas } => {
                self.cas.breaker_changes.with_label_values(&[&cas.0]).inc();
            }
            Report::CredentialRefused { .. } => self.credential_refused.set(1),
            Report::CredentialAccepted => self.credential_refused.set(0),
            Report::Deaf { cas, .. } => self.deaf.with_label_values(&[&cas.0]).inc(),
            Report::MailboxUnavailable { .. } => self.alarm(MAILBOX_UNAVAILABLE),
            Report::RightsMissing { .. } => self.alarm(RIGHTS_MISSING),
            Report::FellBackToStreaming { .. } => self.alarm(FELL_BACK_TO_STREAMING),
            Report::NotificationPortUnreachable { .. } => self.alarm(NOTIFICATION_PORT_UNREACHABLE),
            Report::RequestRefused { .. } => self.alarm(REQUEST_REFUSED),
            Report::Edge { due_ms, published_ms } => self.edge(*due_ms, *published_ms),
            Report::Assigned { cas, reason } => self.assigned(cas, *reason),
            Report::CalledBack(outcome) => self.callbacks.with_label_values(&[outcome_label(*outcome)]).inc(),
            Report::CallbackDropped => self.notes_dropped.inc(),
            Report::Subscribed { .. }
            | Report::CasOffered { .. }
            | Report::Unsubscribed { .. }
            | Report::CredentialRefusedByOne { .. }
            | Report::Moving { .. }
            | Report::UsersLeftOut { .. } => {}
        }
    }

    fn alarm(&self, reason: &str) {
        self.users_in_trouble.with_label_values(&[reason]).inc();
    }

    fn edge(&self, due_ms: u64, published_ms: u64) {
        let late_ms = published_ms.saturating_sub(due_ms);
        let timeliness = if late_ms > ON_TIME_MS { "late" } else { "on_time" };
        self.edges.with_label_values(&[timeliness]).inc();
        self.lateness
            .observe(Duration::from_millis(late_ms).as_secs_f64());
    }

    fn assigned(&self, cas: &CasId, reason: AssignmentReason) {
        self.assigned.with_label_values(&[&cas.0]).inc();
        if reason != AssignmentReason::RoundRobin {
            self.moves.with_label_values(&[reason_label(reason)]).inc();
        }
    }

    pub fn requested(&self, cas: &CasId, operation: &'static str, latency: Duration) {
        self.cas
            .request_seconds
            .with_label_values(&[cas.0.as_str(), operation])
            .observe(latency.as_secs_f64());
    }

    pub fn published(&self) {
        self.published.inc();
    }

    pub fn show_census(&self, census: &Census) {
        self.enabled.set(gauge(census.users_enabled));
        for state in SUBSCRIPTION_STATES {
            let count = census.subscriptions.get(&state).copied().unwrap_or(0);
            self.users.with_label_values(&[state.as_str()]).set(gauge(count));
        }
        for delivery in [DeliveryKind::Push, DeliveryKind::Streaming, DeliveryKind::Pull] {
            let count = census.deliveries.get(&delivery).copied().unwrap_or(0);
            self.subscriptions
                .with_label_values(&[delivery.as_str()])
                .set(gauge(count));
        }
        self.calendars_known.set(gauge(census.calendars_known));
        self.streams.set(gauge(census.streams));
        self.credential_refused.set(i64::from(census.credential_refused));
    }

    pub fn show_cas(&self, health: &CasHealth) {
        let name = &[health.cas.0.as_str()];
        self.assignments.with_label_values(name).set(gauge(health.users));
        self.assigned.with_label_values(name);
        let metrics = &self.cas;
        metrics
            .in_flight
            .with_label_values(name)
            .set(gauge(health.in_flight));
        metrics.waiting.with_label_values(name).set(gauge(health.queued));
        metrics
            .concurrency
            .with_label_values(name)
            .set(gauge(health.concurrency));
        metrics.throttled.with_label_values(name);
        let open = health.breaker != BreakerState::Closed;
        metrics.breaker_open.with_label_values(name).set(i64::from(open));
    }

    /// Removes the series of a CAS that is gone: they would stay for ever.
    pub fn forget_cas(&self, gone: &BTreeSet<CasId>) {
        let metrics = &self.cas;
        for cas in gone {
            let name = &[cas.0.as_str()];
            for gauges in [
                &self.assignments,
                &metrics.in_flight,
                &metrics.waiting,
                &metrics.concurrency,
                &metrics.breaker_open,
            ] {
                // It may never have been exported.
                let _ = gauges.remove_label_values(name);
            }
        }
    }
}

impl CasMetrics {
    fn register(metrics: &Metrics) -> Self {
        let label = &["cas"];
        Self {
            request_seconds: metrics.histograms(
                "tandem_node_exchange_request_seconds",
                "Duration of a request until its answer or failure, handshakes included.",
                &["cas", "operation"],
                LATENCY_BUCKETS,
            ),
            request_failures: metrics.counters(
                "tandem_node_exchange_request_failures_total",
                "Failed requests, by operation and failure class.",
                &["cas", "operation", "class"],
            ),
            throttled: metrics.counters(
                "tandem_node_exchange_throttled_total",
                "Times the Client Access Server throttled requests.",
                label,
            ),
            in_flight: metrics.gauges(
                "tandem_node_exchange_in_flight",
                "Requests that await an answer.",
                label,
            ),
            waiting: metrics.gauges(
                "tandem_node_exchange_requests_waiting",
                "Requests queued for this Client Access Server.",
                label,
            ),
            concurrency: metrics.gauges(
                "tandem_node_exchange_concurrency",
                "Current limit on concurrent requests; adapts to the server's response.",
                label,
            ),
            breaker_open: metrics.gauges(
                "tandem_node_exchange_breaker_open",
                "1 while this node's circuit breaker for the Client Access Server is open.",
                label,
            ),
            breaker_changes: metrics.counters(
                "tandem_node_exchange_breaker_changes_total",
                "Times the circuit breaker opened or closed.",
                label,
            ),
        }
    }
}

fn outcome_label(outcome: CallbackOutcome) -> &'static str {
    match outcome {
        CallbackOutcome::Taken => "taken",
        CallbackOutcome::PassedOn => "passed_on",
        CallbackOutcome::Unsubscribed => "unsubscribed",
    }
}

#[must_use]
pub(crate) fn reason_label(reason: AssignmentReason) -> &'static str {
    match reason {
        AssignmentReason::RoundRobin => "round_robin",
        AssignmentReason::Failed => "failed",
        AssignmentReason::Removed => "removed",
        AssignmentReason::Rebalanced => "rebalanced",
    }
}

const MAILBOX_UNAVAILABLE: &str = "mailbox_unavailable";
const RIGHTS_MISSING: &str = "rights_missing";
const FELL_BACK_TO_STREAMING: &str = "fell_back_to_streaming";
const NOTIFICATION_PORT_UNREACHABLE: &str = "notification_port_unreachable";
const REQUEST_REFUSED: &str = "request_refused";
const ALARMS: [&str; 5] = [
    MAILBOX_UNAVAILABLE,
    RIGHTS_MISSING,
    FELL_BACK_TO_STREAMING,
    NOTIFICATION_PORT_UNREACHABLE,
    REQUEST_REFUSED,
];

const CALLBACK_OUTCOMES: [CallbackOutcome; 3] = [
    CallbackOutcome::Taken,
    CallbackOutcome::PassedOn,
    CallbackOutcome::Unsubscribed,
];
const MOVE_REASONS: [AssignmentReason; 3] = [
    AssignmentReason::Failed,
    AssignmentReason::Removed,
    AssignmentReason::Rebalanced,
];
const SUBSCRIPTION_STATES: [SubscriptionState; 8] = [
    SubscriptionState::Elsewhere,
    SubscriptionState::Unassigned,
    SubscriptionState::Waiting,
    SubscriptionState::Queued,
    SubscriptionState::Asked,
    SubscriptionState::Unconfirmed,
    SubscriptionState::Live,
    SubscriptionState::Moving,
];
const ON_TIME_MS: u64 = 1000;
