//! All processes are killed at the same moment, and started again.

use serde_json::{Value, json};
use tandem_tests::cluster::{ClusterOptions, DEADLINE, Member};
use tandem_tests::scenario::Scene;

const USERS: usize = 200;
const ASSIGNED: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assignments_and_sessions_are_the_same_after_everything_was_killed_at_once() {
    let options = ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    let calls = scene
        .put_incoming_calls_up(&(0..20).collect::<Vec<_>>())
        .await
        .unwrap();
    let assigned = assign(&scene).await;

    let everything = scene.cluster.members();
    scene.cluster.kill_all(&everything).await.unwrap();
    scene
        .ocs
        .wait_until("OCS has noticed", DEADLINE, |front_end| !front_end.is_connected())
        .await
        .unwrap();
    scene.cluster.restart_all(&everything).await.unwrap();

    for node in [Member::Node(1), Member::Node(2)] {
        assert_eq!(
            scene.cluster.get(node, "/cas/assignments").await.unwrap(),
            assigned,
            "{node}"
        );
    }
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.far_ends_hang_up(&calls).await.unwrap();
    scene.every_phone_rings_and_stops().await.unwrap();
    scene.verdict_without_failures().await.unwrap();
}

/// 1,000 users over five gateways, some of whom have failed over since.
async fn assign(scene: &Scene) -> Value {
    let users: Vec<_> = (0..ASSIGNED).map(|user| format!("mailbox{user}")).collect();
    let gateways: Vec<_> = (1..=5).map(|number| format!("cas-{number}")).collect();
    let node = Member::Node(1);
    scene
        .cluster
        .post(node, "/cas/gateways", &json!({ "gateways": gateways }))
        .await
        .unwrap();
    scene
        .cluster
        .post(node, "/cas/assign", &json!({ "users": users }))
        .await
        .unwrap();
    let first = scene.cluster.get(node, "/cas/assignments").await.unwrap();
    let counts = counts(&first);
    assert_eq!(counts, vec![200; 5], "round robin");
    scene
        .cluster
        .post(node, "/cas/assign", &json!({ "users": users }))
        .await
        .unwrap();
    assert_eq!(
        scene.cluster.get(node, "/cas/assignments").await.unwrap(),
        first,
        "sticky"
    );
    scene
        .cluster
        .post(node, "/cas/fail", &json!({ "users": &users[..50] }))
        .await
        .unwrap();
    let failed = scene.cluster.get(node, "/cas/assignments").await.unwrap();
    assert_eq!(moved(&first, &failed), 50);
    failed
}

fn counts(assignments: &Value) -> Vec<usize> {
    let mut counts = std::collections::BTreeMap::new();
    for assignment in assignments.as_object().unwrap().values() {
        *counts
            .entry(assignment["cas"].as_str().unwrap().to_owned())
            .or_insert(0) += 1;
    }
    counts.into_values().collect()
}

fn moved(before: &Value, after: &Value) -> usize {
    let before = before.as_object().unwrap();
    before
        .iter()
        .filter(|(user, assignment)| after[user.as_str()]["cas"] != assignment["cas"])
        .count()
}
