//! The driver of the node set: runs the checks and passes on everything else that concerns nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_cluster::NodeId;
use tandem_runtime::io::admin::Readiness;
use tandem_runtime::io::environment;
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::pair_security::PairSecurity;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::watchdog::Pulse;
use tokio::sync::{Mutex, mpsc};
use tracing::{info, warn};

use crate::balancer::health::HealthInput;
use crate::balancer::node_set::{NodeSet, NodeSetOutput};
use crate::balancer::node_table::{KeepaliveState, NodeTable};
use crate::balancer::settings::ByteBudget;
use crate::membership::ClusterNews;
use crate::metrics::Metrics;

use super::clock;
use super::node_board::NodeBoard;
use super::node_check::{CheckSettings, FailedCheck, NodeCheck};

/// The task that checks all nodes.
pub struct Prober {
    pub nodes: NodeSet,
    pub board: Arc<NodeBoard>,
    pub check: CheckSettings,
    pub pairs: PairSecurity,
    pub checks: BTreeMap<NodeId, Arc<Mutex<NodeCheck>>>,
    pub refusals: LogLimit<NodeId>,
    pub readiness: Readiness,
    pub metrics: Metrics,
    pub kept_in_all: Arc<ByteBudget>,
    pub doubts: mpsc::Receiver<NodeId>,
    pub news: mpsc::Receiver<ClusterNews>,
    pub pulse: Pulse,
    pub shutdown: Shutdown,
}

#[derive(Debug)]
struct CheckResult {
    node: NodeId,
    outcome: Result<Duration, FailedCheck>,
}

impl Prober {
    pub async fn run(mut self) {
        let (results, mut checked) = mpsc::channel::<CheckResult>(CHECKS_MAX);
        let mut last_success = BTreeMap::new();
        let mut failed = None;
        self.publish(NodeTable::default());
        loop {
            self.pulse.beat();
            let deadline = self
                .nodes
                .next_deadline()
                .unwrap_or_else(|| environment::now() + HOUSEKEEPING);
            let deadline = deadline.min(environment::now() + HOUSEKEEPING);
            let outputs = tokio::select! {
                Some(result) = checked.recv() => {
                    failed = result.outcome.clone().err().map(|failed| (result.node, failed));
                    self.checked(&result, &mut last_success)
                }
                Some(node) = self.doubts.recv() => self.nodes.handle(node, HealthInput::Doubted, environment::now()),
                Some(news) = self.news.recv() => self.cluster_reported(&news),
                () = tokio::time::sleep_until(deadline.into()) => self.nodes.deadline_reached(environment::now()),
                () = self.shutdown.reached(Stage::Close) => return,
            };
            for output in outputs {
                self.perform(output, &results);
            }
            if let Some((node, failed)) = failed.take() {
                self.log_refusal(node, &failed);
            }
            let kept = i64::try_from(self.kept_in_all.used()).unwrap_or(i64::MAX);
            self.metrics.kept_bytes.set(kept);
        }
    }

    fn checked(
        &mut self,
        result: &CheckResult,
        last_success: &mut BTreeMap<NodeId, Instant>,
    ) -> Vec<NodeSetOutput> {
        let now = environment::now();
        let label = result.node.to_string();
        let label = [label.as_str()];
        let input = match &result.outcome {
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
                HealthInput::CheckSucceeded
            }
            Err(failed) => {
                self.metrics.keepalive_up.with_label_values(&label).set(0);
                self.metrics
                    .keepalive_failures
                    .with_label_values(&[label[0], failed.failure.label()])
                    .inc();
                HealthInput::CheckFailed(failed.failure)
            }
        };
        if let Some(&last) = last_success.get(&result.node) {
            let age = now.saturating_duration_since(last).as_secs_f64();
            self.metrics.keepalive_age.with_label_values(&label).set(age);
        }
        self.nodes.handle(result.node, input, now)
    }

    /// Logs that a node refuses this front end, once a minute. The node's state tells everything else.
    fn log_refusal(&self, node: NodeId, failed: &FailedCheck) {
        let table = self.board.table();
        let refuses = table
            .node(node)
            .is_some_and(|node| node.state == KeepaliveState::RefusesUs);
        let Some(own) = failed.own.filter(|_| refuses) else {
            return;
        };
        let Some(suppressed) = self.refusals.is_due(node) else {
            return;
        };
        let address = own.ip();
        if let Some(reason) = &failed.reason {
            warn!(
                %node, %address, reason, suppressed,
                "TLS with the node failed: check `pairs` and the certificates of the cluster members on both sides"
            );
        } else {
            warn!(
                %node, %address, suppressed,
                "the node closes this front end's connections without answering: add the address to sip.trusted_front_ends there"
            );
        }
    }

    fn cluster_reported(&mut self, news: &ClusterNews) -> Vec<NodeSetOutput> {
        match news {
            ClusterNews::Node(record) => self.nodes.node_changed(record, environment::now()),
            ClusterNews::NodeForgotten(node) => self.nodes.node_forgotten(*node, environment::now()),
            ClusterNews::Unavailable => self.nodes.cluster_unavailable(environment::now()),
        }
    }

    fn perform(&mut self, output: NodeSetOutput, results: &mpsc::Sender<CheckResult>) {
        match output {
            NodeSetOutput::Check { node, address } => {
                let (settings, pairs) = (&self.check, &self.pairs);
                let check = self.checks.entry(node);
                let check = check.or_insert_with(|| {
                    let check = NodeCheck::new(settings.clone(), node, pairs.clone());
                    Arc::new(Mutex::new(check))
                });
                let (check, results) = (Arc::clone(check), results.clone());
                tokio::spawn(async move {
                    // At most one check per node is running, so this never waits.
                    let outcome = check.lock().await.run(address).await;
                    // The prober may have ended already.
                    let _ = results.send(CheckResult { node, outcome }).await;
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
                info!(node = %node.id, address = %node.address, state = node.state.label(), "node state changed");
            }
        }
        match table.serving_count() {
            0 => self.readiness.not_ready("nodes", why_none_serves(&table)),
            _ => self.readiness.resolved("nodes"),
        }
        self.board.publish(table);
    }
}

fn why_none_serves(table: &NodeTable) -> String {
    let refusing = table
        .nodes()
        .filter(|node| node.state == KeepaliveState::RefusesUs);
    let refusing: Vec<String> = refusing.map(|node| node.id.to_string()).collect();
    match refusing.is_empty() {
        true => "no node is in service".to_owned(),
        false => format!(
            "no node is in service; this front end is refused by {}: check sip.trusted_front_ends there",
            refusing.join(", ")
        ),
    }
}

const CHECKS_MAX: usize = 64;
/// How often gauges without an event of their own are updated.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
