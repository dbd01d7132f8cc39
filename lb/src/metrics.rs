//! What the front end tells Prometheus.

use prometheus::{Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tandem_cluster::NodeId;
use tandem_runtime::io::sip_stream::StreamCounters;
use tandem_runtime::io::telemetry::{LATENCY_BUCKETS, Metrics as Maker};
use tandem_sip::{FramingError, RefusalReason};

use crate::balancer::PairLoss;
use crate::balancer::node_table::{KeepaliveState, NodeTable};
use crate::balancer::output::{Count, DropReason, Limit, MethodLabel, RedispatchReason, ResentOutcome};

/// All of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub sessions_assigned: IntCounterVec,
    pub pending_requests: IntGaugeVec,
    pub resent_requests: IntCounterVec,
    pub redispatches: IntCounterVec,
    pub answers_generated: IntCounterVec,
    pub fenced: IntCounterVec,
    pub limits_reached: IntCounterVec,
    pub dropped: IntCounterVec,
    pub framing_errors: IntCounterVec,
    pub client_messages: IntCounterVec,
    pub node_messages: IntCounterVec,
    pub client_bytes: IntCounterVec,
    pub node_bytes: IntCounterVec,
    pub client_connections: IntGaugeVec,
    pub client_connections_accepted: IntCounterVec,
    pub client_connections_refused: IntCounterVec,
    pub client_connections_ended: IntCounterVec,
    pub certificate_expires: IntGaugeVec,
    pub pairs: IntGaugeVec,
    pub pairs_lost: IntCounterVec,
    pub outbound_connections: IntCounterVec,
    pub overrides: IntGauge,
    pub kept_bytes: IntGauge,
    pub nodes_in_service: IntGauge,
    pub node_state: IntGaugeVec,
    pub keepalive_up: IntGaugeVec,
    pub keepalive_latency: HistogramVec,
    pub keepalive_last_success: GaugeVec,
    pub keepalive_age: GaugeVec,
    pub keepalive_failures: IntCounterVec,
    pub keepalive_transitions: IntCounterVec,
    pub witness_up: IntGauge,
    pub witness_restarts: IntCounter,
    pub start_time: Gauge,
}

impl Metrics {
    /// Makes them all, with every label that is known beforehand, so that a rate over the first event is seen.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let maker = Maker::new(registry);
        let metrics = Self::register(&maker);
        metrics.initialize();
        metrics
    }

    fn register(maker: &Maker) -> Self {
        Self {
            sessions_assigned: maker.counters(
                "tandem_lb_sessions_assigned_total",
                "Requests that open a session, by the node that was given them; one that goes to another node counts again.",
                &["listener", "node"],
            ),
            pending_requests: maker.gauges(
                "tandem_lb_pending_requests",
                "Requests of clients that are at a node and have no final answer.",
                &["node", "method"],
            ),
            resent_requests: maker.counters(
                "tandem_lb_resent_requests_total",
                "Requests sent again after their node was lost, and what came of them.",
                &["method", "outcome"],
            ),
            redispatches: maker.counters(
                "tandem_lb_redispatches_total",
                "Requests that open a session and had to go to another node.",
                &["reason"],
            ),
            answers_generated: maker.counters(
                "tandem_lb_answers_generated_total",
                "Answers of the front end's own.",
                &["status"],
            ),
            fenced: maker.counters(
                "tandem_lb_fenced_requests_total",
                "Requests of nodes that did not own the session any more, kept from the client.",
                &["node"],
            ),
            limits_reached: maker.counters(
                "tandem_lb_limits_reached_total",
                "Times that a configured limit was reached.",
                &["limit"],
            ),
            dropped: maker.counters("tandem_lb_dropped_messages_total", "Messages that went nowhere.", &["reason"]),
            framing_errors: maker.counters(
                "tandem_lb_framing_errors_total",
                "Bytes or messages that are not what SIP over TCP allows.",
                &["reason", "side"],
            ),
            client_messages: maker.counters(
                "tandem_lb_client_messages_total",
                "Messages received from and sent to clients.",
                &["direction", "kind"],
            ),
            node_messages: maker.counters(
                "tandem_lb_node_messages_total",
                "Messages received from and sent to nodes.",
                &["direction", "kind", "node"],
            ),
            client_bytes: maker.counters("tandem_lb_client_bytes_total", "Bytes from and to clients.", &["direction"]),
            node_bytes: maker.counters("tandem_lb_node_bytes_total", "Bytes from and to nodes.", &["direction"]),
            client_connections: maker.gauges(
                "tandem_lb_client_connections",
                "Connections of clients.",
                &["listener"],
            ),
            client_connections_accepted: maker.counters(
                "tandem_lb_client_connections_accepted_total",
                "Connections of clients that were accepted.",
                &["listener"],
            ),
            client_connections_refused: maker.counters(
                "tandem_lb_client_connections_refused_total",
                "Connections of clients that were accepted and not served, by reason.",
                &["listener", "reason"],
            ),
            client_connections_ended: maker.counters(
                "tandem_lb_client_connections_ended_total",
                "Connections of clients that were served and then ended for what became known of them, by reason.",
                &["listener", "reason"],
            ),
            certificate_expires: maker.gauges(
                "tandem_lb_certificate_expires_timestamp_seconds",
                "Unix time at which the certificate of a listener ends; 0 while there is none.",
                &["listener"],
            ),
            pairs: maker.gauges("tandem_lb_pairs", "Connections to nodes on behalf of clients.", &["node"]),
            pairs_lost: maker.counters(
                "tandem_lb_pairs_lost_total",
                "Connections to nodes that ended while their client's went on.",
                &["node", "loss"],
            ),
            outbound_connections: maker.counters(
                "tandem_lb_outbound_connections_total",
                "Connections that nodes asked for, by what came of them.",
                &["outcome"],
            ),
            overrides: maker.gauge(
                "tandem_lb_moved_sessions",
                "Sessions known to belong to another node than the one that their tag names.",
            ),
            kept_bytes: maker.gauge(
                "tandem_lb_kept_bytes",
                "Bytes of unanswered requests that are kept for sending again.",
            ),
            nodes_in_service: maker.gauge("tandem_lb_nodes_in_service", "Nodes that may be given new sessions."),
            node_state: maker.gauges(
                "tandem_lb_node_state",
                "1 for the state that the node is in.",
                &["node", "state"],
            ),
            keepalive_up: maker.gauges(
                "tandem_lb_keepalive_up",
                "1 while the node's last check succeeded.",
                &["node"],
            ),
            keepalive_latency: maker.histograms(
                "tandem_lb_keepalive_latency_seconds",
                "How long successful checks took.",
                &["node"],
                LATENCY_BUCKETS,
            ),
            keepalive_last_success: maker.real_gauges(
                "tandem_lb_keepalive_last_success_timestamp_seconds",
                "Unix time of the last successful check.",
                &["node"],
            ),
            keepalive_age: maker.real_gauges(
                "tandem_lb_keepalive_age_seconds",
                "Time since the last successful check, as of the last check.",
                &["node"],
            ),
            keepalive_failures: maker.counters(
                "tandem_lb_keepalive_failures_total",
                "Failed checks.",
                &["node", "reason"],
            ),
            keepalive_transitions: maker.counters(
                "tandem_lb_keepalive_transitions_total",
                "Times that the node came into a state.",
                &["node", "state"],
            ),
            witness_up: maker.gauge(
                "tandem_lb_witness_up",
                "1 while this process's member of the cluster runs.",
            ),
            witness_restarts: maker.counter(
                "tandem_lb_witness_restarts_total",
                "Times that this process's member of the cluster was started again after it had stopped.",
            ),
            start_time: maker.real_gauge(
                "tandem_lb_start_timestamp_seconds",
                "Unix time at which the process started.",
            ),
        }
    }

    fn initialize(&self) {
        for side in ["client", "node"] {
            let reasons = FramingError::ALL.iter().map(|reason| reason.label());
            let refusals = RefusalReason::ALL.iter().map(|reason| reason.label());
            for reason in reasons.chain(refusals).chain(SHELL_FRAMING_REASONS) {
                self.framing_errors.with_label_values(&[reason, side]).reset();
            }
        }
        for method in MethodLabel::ALL {
            for outcome in ResentOutcome::ALL {
                self.resent_requests
                    .with_label_values(&[method.label(), outcome.label()])
                    .reset();
            }
        }
        RedispatchReason::ALL
            .iter()
            .for_each(|reason| self.redispatches.with_label_values(&[reason.label()]).reset());
        DropReason::ALL
            .iter()
            .for_each(|reason| self.dropped.with_label_values(&[reason.label()]).reset());
        let limits = Limit::ALL.iter().map(|limit| limit.label()).chain(SHELL_LIMITS);
        limits.for_each(|limit| self.limits_reached.with_label_values(&[limit]).reset());
        OWN_STATUSES
            .iter()
            .for_each(|status| self.answers_generated.with_label_values(&[status]).reset());
    }

    /// What a balancer asked to be counted.
    pub fn count(&self, listener: &str, count: &Count) {
        match *count {
            Count::SessionAssigned(node) => {
                self.sessions_assigned
                    .with_label_values(&[listener, &node.to_string()])
                    .inc();
            }
            Count::Pending { node, method, change } => {
                self.pending_requests
                    .with_label_values(&[&node.to_string(), method.label()])
                    .add(change);
            }
            Count::Resent { method, outcome } => {
                self.resent_requests
                    .with_label_values(&[method.label(), outcome.label()])
                    .inc();
            }
            Count::Redispatched(reason) => self.redispatches.with_label_values(&[reason.label()]).inc(),
            Count::Generated(status) => {
                self.answers_generated
                    .with_label_values(&[&status.to_string()])
                    .inc();
            }
            Count::Fenced(node) => self.fenced.with_label_values(&[&node.to_string()]).inc(),
            Count::LimitReached(limit) => self.limit_reached(limit.label()),
            Count::Dropped(reason) => self.dropped.with_label_values(&[reason.label()]).inc(),
        }
    }

    pub fn connection_refused(&self, listener: &str, reason: &str) {
        self.client_connections_refused
            .with_label_values(&[listener, reason])
            .inc();
    }

    pub fn connection_ended(&self, listener: &str, reason: &str) {
        self.client_connections_ended
            .with_label_values(&[listener, reason])
            .inc();
    }

    pub fn limit_reached(&self, limit: &str) {
        self.limits_reached.with_label_values(&[limit]).inc();
    }

    pub fn framing_error(&self, reason: &str, side: &str) {
        self.framing_errors.with_label_values(&[reason, side]).inc();
    }

    pub fn pair_lost(&self, node: NodeId, loss: PairLoss) {
        let loss = match loss {
            PairLoss::ConnectFailed => "connect_failed",
            PairLoss::OutOfDescriptors => "out_of_descriptors",
            PairLoss::Broken => "broken",
            PairLoss::Drained => "drained",
            PairLoss::FramingLost => "framing_lost",
        };
        self.pairs_lost
            .with_label_values(&[&node.to_string(), loss])
            .inc();
    }

    /// Counters for the byte streams of one side; messages are counted by kind elsewhere.
    #[must_use]
    pub fn stream_counters(&self, side: Side) -> StreamCounters {
        let bytes = match side {
            Side::Client => &self.client_bytes,
            Side::Node => &self.node_bytes,
        };
        StreamCounters {
            bytes_received: bytes.with_label_values(&["received"]),
            bytes_sent: bytes.with_label_values(&["sent"]),
            ..StreamCounters::unregistered()
        }
    }

    /// The table as it is published.
    pub fn publish_table(&self, before: &NodeTable, table: &NodeTable) {
        let in_service = table.nodes().filter(|node| node.is_in_service()).count();
        self.nodes_in_service
            .set(i64::try_from(in_service).unwrap_or(i64::MAX));
        for node in table.nodes() {
            let label = node.id.to_string();
            self.fenced.with_label_values(&[&label]);
            for state in KeepaliveState::ALL {
                self.keepalive_transitions
                    .with_label_values(&[label.as_str(), state.label()]);
                let is_this = i64::from(state == node.state);
                self.node_state
                    .with_label_values(&[label.as_str(), state.label()])
                    .set(is_this);
            }
            if before
                .node(node.id)
                .is_some_and(|before| before.state != node.state)
            {
                self.keepalive_transitions
                    .with_label_values(&[label.as_str(), node.state.label()])
                    .inc();
            }
        }
    }
}

/// Whose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Node,
}

/// A message that passes a connection, by direction and kind, without a look into label tables.
#[derive(Debug, Clone)]
pub struct MessageCounters {
    pub requests_received: IntCounter,
    pub responses_received: IntCounter,
    pub requests_sent: IntCounter,
    pub responses_sent: IntCounter,
}

impl MessageCounters {
    #[must_use]
    pub fn of_clients(metrics: &Metrics) -> Self {
        Self::new(|direction, kind| metrics.client_messages.with_label_values(&[direction, kind]))
    }

    #[must_use]
    pub fn of_node(metrics: &Metrics, node: NodeId) -> Self {
        let node = node.to_string();
        Self::new(|direction, kind| metrics.node_messages.with_label_values(&[direction, kind, &node]))
    }

    fn new(counter: impl Fn(&str, &str) -> IntCounter) -> Self {
        Self {
            requests_received: counter("received", "request"),
            responses_received: counter("received", "response"),
            requests_sent: counter("sent", "request"),
            responses_sent: counter("sent", "response"),
        }
    }

    pub fn received(&self, is_request: bool) {
        match is_request {
            true => self.requests_received.inc(),
            false => self.responses_received.inc(),
        }
    }

    pub fn sent(&self, bytes: &[u8]) {
        if bytes.starts_with(b"SIP/") {
            self.responses_sent.inc();
        } else if bytes.len() > b"\r\n".len() {
            self.requests_sent.inc();
        }
    }
}

/// Framing errors that the shell finds, beyond those of the framer.
const SHELL_FRAMING_REASONS: [&str; 4] = ["truncated", "overdue_head", "overdue_body", "bare_line_feed"];
/// Limits that the shell keeps, beyond those of the balancer.
const SHELL_LIMITS: [&str; 5] = [
    "connections",
    "connections_per_address",
    "messages_per_second",
    "client_queue",
    "idle",
];
const OWN_STATUSES: [&str; 6] = ["400", "481", "500", "503", "505", "513"];
