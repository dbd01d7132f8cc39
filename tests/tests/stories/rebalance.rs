//! A node that returns takes its share, and no client notices.

use std::time::Instant;

use serde_json::json;
use tandem_tests::cluster::{ClusterOptions, DEADLINE, Member};
use tandem_tests::scenario::{Scene, ensure_even};

const USERS: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_returns_takes_its_share_while_phones_ring_and_clients_ask() {
    let options = ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    let returning = Member::Node(1);
    scene.cluster.kill(returning).await.unwrap();
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.cluster.restart(returning).await.unwrap();
    assert_eq!(owned(&scene).await, [0, USERS]);
    // A connection of the front end that was refused is tried again after a second.
    let reached = "the clients' requests can reach the node again";
    let waited = scene.cluster.wait_for_metrics(returning, reached, |metrics| {
        metrics.sum("tandem_node_pairs", &[]) >= 1.0
    });
    waited.await.unwrap();

    // Asked of the node that has nothing to give.
    let asked = json!({ "per_second": 200 });
    let answer = scene.cluster.post(returning, "/sessions/rebalance", &asked).await;
    assert_eq!(answer.unwrap(), json!({ "moves": USERS / 2 }));
    let again = scene
        .cluster
        .http(returning, "POST", "/sessions/rebalance", &asked.to_string())
        .await;
    assert_eq!(again.unwrap().status, 409, "one run at a time");

    let rounds = live_until_done(&mut scene).await;
    println!("evened out after {rounds} rounds of calls and snapshots");
    assert_eq!(owned(&scene).await.iter().sum::<usize>(), USERS);
    ensure_even("sessions per node", &owned(&scene).await, 2).unwrap();
    let moved = scene.cluster.metrics(Member::Node(2)).await.unwrap();
    let moved = moved.sum("tandem_node_rebalanced_sessions_total", &[]);
    assert_eq!(moved as usize, USERS / 2, "each session moves once");

    scene.every_phone_rings_and_stops().await.unwrap();
    scene.everyone_gets_a_snapshot().await.unwrap();
    assert_eq!(owned(&scene).await, [USERS / 2; 2], "nothing moves back");
    scene.verdict_without_failures().await.unwrap();
}

/// Phones ring and clients ask until both nodes say that the run is over.
async fn live_until_done(scene: &mut Scene) -> usize {
    let started = Instant::now();
    for round in 1.. {
        let users = scene.signed_in().await;
        let calls = scene.ring(&users).await.unwrap();
        scene.everyone_gets_a_snapshot().await.unwrap();
        scene.far_ends_hang_up(&calls).await.unwrap();
        scene.everyone_gets_a_snapshot().await.unwrap();
        if is_done(scene).await {
            return round;
        }
        assert!(started.elapsed() < DEADLINE, "the run does not end");
    }
    unreachable!("rounds do not run out")
}

async fn is_done(scene: &Scene) -> bool {
    let mut done = true;
    for node in [Member::Node(1), Member::Node(2)] {
        let progress = scene.cluster.get(node, "/sessions/rebalance").await.unwrap();
        assert_ne!(progress["state"], "stopped", "{progress}");
        done &= progress["state"] == "done" && progress["remaining"] == 0;
    }
    done
}

/// Sessions of node 1 and of node 2, as node 1 has it.
async fn owned(scene: &Scene) -> Vec<usize> {
    let view = scene.cluster.get(Member::Node(1), "/cluster").await.unwrap();
    let nodes = view["nodes"].as_array().unwrap();
    nodes
        .iter()
        .map(|node| usize::try_from(node["sessions"].as_u64().unwrap()).unwrap())
        .collect()
}
