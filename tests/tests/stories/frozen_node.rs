//! A node that stands still is as good as dead, until it wakes up and believes that it still owns its sessions.

use tandem_tests::cluster::{ClusterOptions, Member, Signal};
use tandem_tests::scenario::Scene;

const USERS: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_follower_loses_its_sessions_and_disturbs_nobody_when_it_wakes_up() {
    let scene = scene().await;
    let leader = scene.cluster.leader().await.unwrap();
    freeze_and_wake(scene, other(leader)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_loses_its_sessions_and_disturbs_nobody_when_it_wakes_up() {
    let scene = scene().await;
    let mut leader = scene.cluster.leader().await.unwrap();
    while leader == Member::Lb {
        leader = scene.cluster.leader().await.unwrap();
    }
    freeze_and_wake(scene, leader).await.unwrap();
}

async fn scene() -> Scene {
    let options = ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    };
    let scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    scene
}

async fn freeze_and_wake(mut scene: Scene, victim: Member) -> anyhow::Result<()> {
    let survivor = other(victim);
    let calls = scene.put_incoming_calls_up(&(0..40).collect::<Vec<_>>()).await?;
    // What clients know is replicated moments after they know it; a successor would say it again.
    scene.everyone_gets_a_snapshot().await?;
    scene.cluster.signal(victim, Signal::Stop)?;
    scene
        .until_node(survivor, victim, |view| view["sessions"] == 0)
        .await?;

    // What the PBX tells of these calls lies unread in the victim's sockets as well.
    let ringing = scene.ring(&(40..USERS).collect::<Vec<_>>()).await?;
    scene.everyone_gets_a_snapshot().await?;
    scene.cluster.signal(victim, Signal::Continue)?;
    scene.far_ends_hang_up(&ringing).await?;
    scene
        .until_node(survivor, victim, |view| view["state"] == "live")
        .await?;

    scene.everyone_gets_a_snapshot().await?;
    scene.far_ends_hang_up(&calls).await?;
    scene.every_phone_rings_and_stops().await?;
    scene.verdict_without_failures().await
}

fn other(node: Member) -> Member {
    if node == Member::Node(1) {
        Member::Node(2)
    } else {
        Member::Node(1)
    }
}
