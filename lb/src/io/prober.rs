//! Keepalives, and everything else that is heard of nodes: the driver of the node set.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tandem_shared::cluster::NodeId;
use tandem_shared::io::admin::Readiness;
use tandem_shared::io::shutdown::{Shutdown, Stage};
use tandem_shared::io::watchdog::Pulse;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::info;

use crate::balancer::health::HealthInput;
use crate::balancer::node_set::{NodeSet, NodeSetOutput};
use crate::balancer::node_table::NodeTable;
use crate::balancer::output::LiveFailure;
use crate::balancer::settings::ByteBudget;
use crate::membership::ClusterNews;
use crate::metrics::Metrics;

use super::clock;
use super::node_board::NodeBoard;

/// One task for all nodes.
pub struct Prober {
    pub nodes: NodeSet,
    pub board: Arc<NodeBoard>,
    pub connect_timeout: Duration,
    pub readiness: Readiness,
    pub metrics: Metrics,
    pub kept_in_all: Arc<ByteBudget>,
    pub failures: mpsc::Receiver<(NodeId, LiveFailure)>,
    pub news: mpsc::Receiver<ClusterNews>,
    pub pulse: Pulse,
    pub shutdown: Shutdown,
}

#[derive(Debug)]
struct ProbeResult {
    node: NodeId,
    outcome: Result<Duration, &'static str>,
}

impl Prober {
    pub async fn run(mut self) {
        let (results, mut probed) = mpsc::channel(PROBES_MAX);
        let mut last_success = BTreeMap::new();
        self.publish(NodeTable::default());
        loop {
            self.pulse.beat();
            let deadline = self
                .nodes
                .next_deadline()
                .unwrap_or_else(|| Instant::now() + HOUSEKEEPING);
            let deadline = deadline.min(Instant::now() + HOUSEKEEPING);
            let outputs = tokio::select! {
                Some(result) = probed.recv() => self.probed(&result, &mut last_success),
                Some((node, failure)) = self.failures.recv() => self.failed_live(node, failure),
                Some(news) = self.news.recv() => self.hear(&news),
                () = tokio::time::sleep_until(deadline.into()) => self.nodes.deadline_reached(Instant::now()),
                () = self.shutdown.reached(Stage::Close) => return,
            };
            for output in outputs {
                self.perform(output, &results);
            }
            let kept = i64::try_from(self.kept_in_all.used()).unwrap_or(i64::MAX);
            self.metrics.kept_bytes.set(kept);
        }
    }

    fn probed(
        &mut self,
        result: &ProbeResult,
        last_success: &mut BTreeMap<NodeId, Instant>,
    ) -> Vec<NodeSetOutput> {
        let now = Instant::now();
        let label = result.node.to_string();
        let label = [label.as_str()];
        let input = match result.outcome {
            Ok(latency) => {
                last_success.insert(result.node, now);
                self.metrics.keepalive_up.with_label_values(&label).set(1);
                self.metrics
                    .keepalive_latency
                    .with_label_values(&label)
                    .observe(latency.as_secs_f64());
                self.metrics
                    .keepalive_last_success
                    .with_label_values(&label)
                    .set(clock::unix_time_secs());
                HealthInput::ProbeSucceeded
            }
            Err(reason) => {
                self.metrics.keepalive_up.with_label_values(&label).set(0);
                self.metrics
                    .keepalive_failures
                    .with_label_values(&[label[0], reason])
                    .inc();
                HealthInput::ProbeFailed
            }
        };
        if let Some(&last) = last_success.get(&result.node) {
            let age = now.saturating_duration_since(last).as_secs_f64();
            self.metrics.keepalive_age.with_label_values(&label).set(age);
        }
        self.nodes.handle(result.node, input, now)
    }

    fn failed_live(&mut self, node: NodeId, failure: LiveFailure) -> Vec<NodeSetOutput> {
        let input = match failure {
            LiveFailure::ConnectionFailed => HealthInput::ConnectionFailed,
            LiveFailure::RequestsUnanswered => HealthInput::RequestsUnanswered,
        };
        self.nodes.handle(node, input, Instant::now())
    }

    fn hear(&mut self, news: &ClusterNews) -> Vec<NodeSetOutput> {
        match news {
            ClusterNews::Node(record) => self.nodes.node_changed(record, Instant::now()),
            ClusterNews::NodeForgotten(node) => self.nodes.node_forgotten(*node, Instant::now()),
            ClusterNews::Silent => self.nodes.cluster_silent(Instant::now()),
        }
    }

    fn perform(&self, output: NodeSetOutput, results: &mpsc::Sender<ProbeResult>) {
        match output {
            NodeSetOutput::Probe { node, address } => {
                let (results, connect_timeout) = (results.clone(), self.connect_timeout);
                tokio::spawn(async move {
                    let outcome = probe(address, connect_timeout).await;
                    // Without a prober nobody is interested.
                    let _ = results.send(ProbeResult { node, outcome }).await;
                });
            }
            NodeSetOutput::Publish(table) => self.publish(table),
        }
    }

    fn publish(&self, table: NodeTable) {
        let before = self.board.table();
        self.metrics.publish_table(&before, &table);
        for node in table.nodes() {
            let was = before.node(node.id).map(|before| before.state);
            if was != Some(node.state) {
                info!(node = %node.id, address = %node.address, state = node.state.label(), "a node's state");
            }
        }
        match table.serving_count() {
            0 => self.readiness.not_ready("nodes", "no node is in service"),
            _ => self.readiness.resolved("nodes"),
        }
        self.board.publish(table);
    }
}

/// Connects to the traffic port and leaves without a word. With a reset, so that neither side keeps the connection's
/// remains: nodes know such a visitor and log nothing.
async fn probe(address: SocketAddr, connect_timeout: Duration) -> Result<Duration, &'static str> {
    let started = Instant::now();
    match tokio::time::timeout(connect_timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // A close with FIN does as well.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Ok(started.elapsed())
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Err("refused"),
        Ok(Err(_)) => Err("unreachable"),
        Err(_) => Err("timeout"),
    }
}

const PROBES_MAX: usize = 64;
/// Gauges that nobody pushes are looked at this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
