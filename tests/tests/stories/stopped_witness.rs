//! The disk of the front end's member fails: clients notice nothing, and the last node goes on beside it.

use std::time::Instant;

use anyhow::ensure;
use tandem_tests::cluster::{ClusterOptions, DEADLINE, Member, SmallDisk};
use tandem_tests::scenario::{DiskScene, NODES, other};

const USERS: usize = 16;
const DISK_BYTES: u64 = 192 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_stopped_witness_the_last_node_goes_on_and_the_witness_comes_back_by_itself() {
    let options = ClusterOptions {
        users: USERS,
        cti_managers: 2,
        log_bounds: Some((100, 20)),
        serves_without_quorum: true,
        ..ClusterOptions::default()
    };
    let mut scene = DiskScene::start_with(options, 0..USERS / 2).await.unwrap();
    scene.kill(Member::Lb).await.unwrap();
    let Some(disk) = scene.small_disk_or_skip(Member::Lb, DISK_BYTES) else {
        return;
    };
    scene.cluster.restart(Member::Lb).await.unwrap();
    scene.all_is_well().await.unwrap();
    stop_the_witness(&scene, &disk).await.unwrap();
    go_on_alone_and_recover(&mut scene, &disk).await.unwrap();
    scene.kill(Member::Lb).await.unwrap();
    drop(disk);
}

/// Both nodes run, so writing goes on.
async fn stop_the_witness(scene: &DiskScene, disk: &SmallDisk) -> anyhow::Result<()> {
    disk.fill()?;
    let mut written = 0;
    while scene
        .cluster
        .metrics(Member::Lb)
        .await?
        .sum("tandem_lb_witness_up", &[])
        == 1.0
    {
        ensure!(written < 5000, "the witness goes on after {written} writes");
        scene.ledger.write(NODES[0], 20).await?;
        written += 20;
    }
    scene.everyone_gets_a_snapshot().await?;
    scene.ledger.write(NODES[1], 20).await
}

async fn go_on_alone_and_recover(scene: &mut DiskScene, disk: &SmallDisk) -> anyhow::Result<()> {
    let survivor = NODES[0];
    let kept = scene.users_opened_by(survivor).await?;
    scene.cluster.kill(other(survivor)).await?;
    authority_becomes(scene, survivor, "no_leader").await?;
    ensure!(!kept.is_empty(), "{survivor} has no session");
    scene.get_snapshots(&kept).await?;
    // A user whose session cannot be replicated now. lb leaves the dead node out by its own probes.
    scene.cluster.wait_until_nodes_are_in_service().await?;
    scene.sign_in(USERS / 2..USERS / 2 + 1).await?;

    disk.make_space()?;
    authority_becomes(scene, survivor, "quorum").await?;
    let restarts = scene.cluster.metrics(Member::Lb).await?;
    ensure!(restarts.sum("tandem_lb_witness_restarts_total", &[]) >= 1.0);
    scene
        .until_node(survivor, survivor, |view| view["sessions"] == USERS / 2 + 1)
        .await?;
    scene.everyone_gets_a_snapshot().await?;
    scene.cluster.restart(other(survivor)).await?;
    scene.all_is_well().await?;
    scene.every_phone_rings_and_stops().await?;
    scene.verdict_without_failures().await
}

async fn authority_becomes(scene: &DiskScene, node: Member, wanted: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let cluster = scene.cluster.get(node, "/cluster").await?;
        if cluster["authority"] == wanted {
            return Ok(());
        }
        ensure!(
            started.elapsed() < DEADLINE,
            "{node} does not get {wanted}: {cluster}"
        );
        tokio::task::yield_now().await;
    }
}
