//! A machine loses its disk: whoever starts on an empty directory takes no part until it is given its seat back.

use anyhow::ensure;
use tandem_tests::cluster::{ClusterOptions, Member};
use tandem_tests::scenario::{DiskScene, NODES, PlacedCall, name, other};

const USERS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_comes_back_by_one_command_and_carries_everybody_afterwards() {
    let mut scene = scene().await;
    let leader = scene.leading_node().await.unwrap();
    lose_the_disk_of(&mut scene, leader).await.unwrap();
    // It has led alone at the end.
    let follower = other(scene.leading_node().await.unwrap());
    lose_the_disk_of(&mut scene, follower).await.unwrap();
    scene.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_end_that_lost_its_disk_goes_on_forwarding_and_votes_again_after_one_command() {
    let mut scene = scene().await;
    lose_the_disk_of_the_front_end(&mut scene).await.unwrap();
    scene.end().await.unwrap();
}

async fn scene() -> DiskScene {
    let options = ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    };
    DiskScene::start(options).await.unwrap()
}

/// With calls up: the others go on, the one without a disk waits for the command, and carries all sessions in the end.
async fn lose_the_disk_of(scene: &mut DiskScene, node: Member) -> anyhow::Result<()> {
    let other = other(node);
    let calls = scene.put_incoming_calls_up(&(0..20).collect::<Vec<_>>()).await?;
    scene.ledger.write(node, 21).await?;
    let logged = NODES.map(|node| scene.cluster.log_length(node));

    scene.restart_without_disk(node).await?;
    scene
        .wait_until_stranger(other, node, "it is not among the members")
        .await?;
    let told = scene.cluster.ask_about_members(other, &["status"]).await?.text;
    ensure!(
        told.lines()
            .any(|line| line.starts_with(&name(node)) && line.contains(" none ")),
        "{told}"
    );
    scene.everyone_gets_a_snapshot().await?;
    scene.ledger.write(other, 10).await?;
    let command = format!("tandem-node cluster replace {}", name(node));
    is_said_and_not_repeated(scene, node, logged, &command).await?;
    is_said_and_not_repeated(
        scene,
        other,
        logged,
        "a process that is not the member answers under its number",
    )
    .await?;

    let told = scene.cluster.replace(other, node).await?;
    ensure!(told.text.contains("has its seat"), "{told:?}");
    scene.all_is_well().await?;
    carries_everybody(scene, node, &calls).await
}

async fn lose_the_disk_of_the_front_end(scene: &mut DiskScene) -> anyhow::Result<()> {
    scene.ledger.write(NODES[0], 21).await?;
    let calls = scene.put_incoming_calls_up(&(0..20).collect::<Vec<_>>()).await?;
    let logged = scene.cluster.log_length(Member::Lb);
    scene.restart_without_disk(Member::Lb).await?;
    scene
        .wait_until_stranger(NODES[0], Member::Lb, "it is not among the members")
        .await?;
    scene.cluster.wait_until_ready(&[Member::Lb]).await?;
    scene.wait_until_ocs_is_back().await?;
    scene.everyone_gets_a_snapshot().await?;
    scene.ledger.write(NODES[0], 10).await?;
    is_said_and_not_repeated(scene, Member::Lb, [logged; 2], "tandem-node cluster replace n100").await?;

    let told = scene.cluster.replace(NODES[0], Member::Lb).await?;
    ensure!(told.text.contains("has its seat"), "{told:?}");
    scene.all_is_well().await?;
    carries_everybody(scene, NODES[0], &calls).await
}

/// The other node dies, and nobody notices.
async fn carries_everybody(scene: &mut DiskScene, node: Member, calls: &[PlacedCall]) -> anyhow::Result<()> {
    let other = other(node);
    scene.cluster.kill(other).await?;
    scene
        .until_node(node, node, |view| view["sessions"] == USERS)
        .await?;
    scene.everyone_gets_a_snapshot().await?;
    scene.ledger.write(node, 10).await?;
    scene.far_ends_hang_up(calls).await?;
    scene.every_phone_rings_and_stops().await?;
    scene.cluster.restart(other).await?;
    scene.all_is_well().await
}

/// `logged`: how long the logs of the nodes were before.
async fn is_said_and_not_repeated(
    scene: &DiskScene,
    member: Member,
    logged: [usize; 2],
    words: &str,
) -> anyhow::Result<()> {
    let after = logged[usize::from(member == NODES[1])];
    scene.cluster.wait_for_log(member, after, &[words]).await?;
    for (words, lines_max) in [(words, LINES_A_MINUTE), ("raft", LINES_OF_RAFT)] {
        let lines = scene.cluster.log_lines(member, after, &[words]);
        ensure!(lines <= lines_max, "{member} logged {words:?} {lines} times");
    }
    Ok(())
}

const LINES_A_MINUTE: usize = 3;
/// Whatever a member says of the others, elections included.
const LINES_OF_RAFT: usize = 20;
