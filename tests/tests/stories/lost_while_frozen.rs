//! A node that stands still for so long that the others' logs begin after it: it learns of its loss from a snapshot alone.

use futures::future::try_join_all;
use serde_json::{Value, json};
use tandem_tests::cluster::{ClusterOptions, Member, Signal};
use tandem_tests::scenario::Scene;

const USERS: usize = 120;
/// A snapshot after so many entries, and so many kept behind it.
const LOG_BOUNDS: (u64, u64) = (200, 20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_a_snapshot_brings_up_to_date_learns_that_it_was_declared_lost() {
    let scene = scene().await;
    let victim = other(scene.cluster.leader().await.unwrap());
    freeze_wake_and_rely_on(scene, victim).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_leader_that_a_snapshot_brings_up_to_date_learns_that_it_was_declared_lost() {
    let scene = scene().await;
    let mut leader = scene.cluster.leader().await.unwrap();
    while leader == Member::Lb {
        leader = scene.cluster.leader().await.unwrap();
    }
    freeze_wake_and_rely_on(scene, leader).await.unwrap();
}

async fn scene() -> Scene {
    let options = ClusterOptions {
        users: USERS,
        log_bounds: Some(LOG_BOUNDS),
        ..ClusterOptions::default()
    };
    let scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    scene
}

async fn freeze_wake_and_rely_on(mut scene: Scene, victim: Member) -> anyhow::Result<()> {
    let survivor = other(victim);
    let calls = scene.put_incoming_calls_up(&(0..40).collect::<Vec<_>>()).await?;
    scene.everyone_gets_a_snapshot().await?;
    let snapshots_before = count(&scene, victim, SNAPSHOT_REPLACED_STATE);

    scene.cluster.signal(victim, Signal::Stop)?;
    let seen = gauge(&scene, survivor, "tandem_raft_applied_index").await?;
    scene
        .until_node(survivor, victim, |view| view["state"] == "lost")
        .await?;
    commit_until_purged(&scene, survivor, seen).await?;
    scene.cluster.signal(victim, Signal::Continue)?;

    // By its own state as well as by the other's: it is the one that did not know.
    scene
        .until_node(victim, victim, |view| view["state"] == "live")
        .await?;
    scene
        .until_node(survivor, victim, |view| view["state"] == "live")
        .await?;
    scene.cluster.wait_until_ready(&[victim]).await?;
    anyhow::ensure!(
        count(&scene, victim, SNAPSHOT_REPLACED_STATE) > snapshots_before,
        "the log of the others still held what the node had missed"
    );
    let said = count(&scene, victim, BEGINS_AGAIN);
    anyhow::ensure!(said == 1, "it said {said} times that it begins again");
    scene.everyone_gets_a_snapshot().await?;

    scene.cluster.kill(survivor).await?;
    scene
        .until_node(victim, victim, |view| view["sessions"] == USERS)
        .await?;
    scene.everyone_gets_a_snapshot().await?;
    scene.far_ends_hang_up(&calls).await?;
    scene.every_phone_rings_and_stops().await?;
    scene.verdict_without_failures().await
}

/// Small entries, some at a time, until the leader's log begins after all that the victim can have seen.
async fn commit_until_purged(scene: &Scene, node: Member, seen: f64) -> anyhow::Result<()> {
    let post = |path: &'static str, body: Value| async move { scene.cluster.post(node, path, &body).await };
    post("/cas/gateways", json!({ "gateways": ["cas-1", "cas-2"] })).await?;
    for first in (0..ENTRIES_MAX).step_by(AT_A_TIME) {
        let assigned = (first..first + AT_A_TIME)
            .map(|user| post("/cas/assign", json!({ "users": [format!("mailbox{user}")] })));
        try_join_all(assigned).await?;
        for member in [node, Member::Lb] {
            let leads = gauge(scene, member, "tandem_raft_is_leader").await? == 1.0;
            if leads && gauge(scene, member, "tandem_raft_log_first_index").await? > seen {
                return Ok(());
            }
        }
    }
    anyhow::bail!("after {ENTRIES_MAX} entries the leader still holds what the node has missed")
}

async fn gauge(scene: &Scene, member: Member, name: &str) -> anyhow::Result<f64> {
    Ok(scene.cluster.metrics(member).await?.sum(name, &[]))
}

fn count(scene: &Scene, member: Member, text: &str) -> usize {
    scene.cluster.log(member).matches(text).count()
}

fn other(node: Member) -> Member {
    if node == Member::Node(1) {
        Member::Node(2)
    } else {
        Member::Node(1)
    }
}

const AT_A_TIME: usize = 20;
/// Many times as many as it takes.
const ENTRIES_MAX: usize = 20_000;
const SNAPSHOT_REPLACED_STATE: &str = "a snapshot has replaced the state";
const BEGINS_AGAIN: &str = "registering again under a new incarnation";
