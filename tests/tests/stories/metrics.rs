//! What Prometheus would read is well-formed, and there.

use std::io::Write as _;
use std::process::{Command, Stdio};

use tandem_tests::cluster::{ClusterOptions, Member};
use tandem_tests::scenario::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_binaries_expose_metrics_that_promtool_accepts() {
    let options = ClusterOptions {
        users: 8,
        peer_tls: false,
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..8).await.unwrap();
    scene.every_phone_rings_and_stops().await.unwrap();
    for member in [Member::Lb, Member::Node(1), Member::Node(2)] {
        let exposed = scene.cluster.http(member, "GET", "/metrics", "").await.unwrap();
        assert_eq!(exposed.status, 200);
        promtool_accepts(member, &exposed.body);
        let metrics = scene.cluster.metrics(member).await.unwrap();
        let wanted = if member == Member::Lb { LB } else { NODE };
        let missing: Vec<_> = wanted.iter().filter(|name| !metrics.contains(name)).collect();
        assert!(
            missing.is_empty(),
            "{member} lacks {missing:?}:\n{}",
            exposed.body
        );
        assert_eq!(
            scene
                .cluster
                .http(member, "GET", "/livez", "")
                .await
                .unwrap()
                .status,
            200
        );
    }
    scene.verdict_without_failures().await.unwrap();
}

pub(super) fn promtool_accepts(member: Member, text: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        println!("promtool is not installed; ./test fetches it");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "{member}: {said}\n{text}"
    );
}

const LB: &[&str] = &[
    "tandem_lb_pending_requests",
    "tandem_lb_keepalive_up",
    "tandem_lb_sessions_assigned_total",
    "tandem_raft_is_leader",
];
const NODE: &[&str] = &[
    "tandem_node_cti_up",
    "tandem_node_cti_heartbeat_failures_total",
    "tandem_node_cti_transitions_total",
    "tandem_node_rebalanced_sessions_total",
    "tandem_raft_is_leader",
    "tandem_raft_term",
];
