//! What a log says of a peer that is gone: that it is, once, and not more than a few lines a minute, whoever is reminded of it.

use tandem_tests::cluster::{ClusterOptions, Member, Metrics};
use tandem_tests::scenario::Scene;

/// As an operator sets it who knows nothing of the libraries inside.
const FILTER: &str = "info";
/// For each peer that is gone, by each process that misses it.
const LINES_MAX: usize = 5;
const GONE_FOR_SECS: f64 = 15.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_does_not_flood_the_log() {
    let options = ClusterOptions {
        users: 4,
        log_filter: FILTER.to_owned(),
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 1).await.unwrap();
    let all = [Member::Lb, Member::Node(1), Member::Node(2)];
    for member in all {
        let log = scene.cluster.log(member);
        let alarming: Vec<_> = log
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("tv_sec"))
            // Which is so on this machine, and is to be said.
            .filter(|line| !line.contains("too few file descriptors"))
            .collect();
        assert!(alarming.is_empty(), "{member} starts and is well: {alarming:#?}");
    }

    let survivors = [Member::Lb, Member::Node(1)];
    let before = survivors.map(|member| scene.cluster.log_length(member));
    scene.cluster.kill(Member::Node(2)).await.unwrap();
    let is_gone = |metrics: &Metrics| {
        metrics.sum("tandem_raft_peer_last_contact_seconds", &[("peer", "n2")]) > GONE_FOR_SECS
    };
    for member in survivors {
        let waited = scene.cluster.wait_for_metrics(member, "n2 is silent", is_gone);
        waited.await.unwrap();
    }
    for (member, before) in survivors.into_iter().zip(before) {
        let log = scene.cluster.log(member);
        let said: Vec<_> = log.lines().skip(before).collect();
        assert!(said.len() <= LINES_MAX, "{member}: {said:#?}");
        assert!(!said.is_empty(), "{member} says nothing of a peer that is gone");
    }
    scene.cluster.restart(Member::Node(2)).await.unwrap();
    scene.verdict_without_failures().await.unwrap();
}
