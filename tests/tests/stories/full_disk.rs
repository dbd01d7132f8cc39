//! The disk of a node fills up while everybody works.

use anyhow::ensure;
use tandem_tests::cluster::{ClusterOptions, SmallDisk};
use tandem_tests::scenario::{DiskScene, NODES};

const USERS: usize = 12;
/// Room enough for all members to be content with it.
const DISK_BYTES: u64 = 192 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_ends_by_name_and_starts_again_once_there_is_space() {
    let options = ClusterOptions {
        users: USERS,
        cti_managers: 2,
        log_bounds: Some((100, 20)),
        ..ClusterOptions::default()
    };
    let mut scene = DiskScene::start(options).await.unwrap();
    scene.cluster.kill(NODES[1]).await.unwrap();
    let Some(disk) = scene.small_disk_or_skip(NODES[1], DISK_BYTES) else {
        return;
    };
    fill_up_and_make_space(&mut scene, &disk).await.unwrap();
    scene.cluster.kill(NODES[1]).await.unwrap();
    drop(disk);
}

async fn fill_up_and_make_space(scene: &mut DiskScene, disk: &SmallDisk) -> anyhow::Result<()> {
    scene.cluster.restart(NODES[1]).await?;
    scene.all_is_well().await?;
    let calls = scene
        .put_incoming_calls_up(&(0..USERS).collect::<Vec<_>>())
        .await?;
    let logged = scene.cluster.log_length(NODES[1]);
    disk.fill()?;
    let says = |told: &str| told.contains("n2 (!): its disk is nearly full");
    scene.cluster.wait_for_member_status(NODES[0], 1, says).await?;
    scene
        .cluster
        .wait_for_log(NODES[1], logged, &["the disk is nearly full"])
        .await?;
    let status = scene.write_until_ended(NODES[0], NODES[1]).await?;
    ensure!(status == 1, "it ended with {status}");
    scene
        .cluster
        .wait_for_log(NODES[1], logged, &["No space left on device"])
        .await?;

    scene.everyone_gets_a_snapshot().await?;
    scene.ledger.write(NODES[0], 50).await?;
    let still_full = scene.cluster.start_once_more(NODES[1]).await?;
    ensure!(
        still_full.status == 1 && still_full.text.contains("No space left on device"),
        "{still_full:?}"
    );

    disk.make_space()?;
    for _ in 0..3 {
        scene.cluster.restart(NODES[1]).await?;
        scene.ledger.write(NODES[1], 120).await?;
        scene.all_is_well().await?;
        scene.cluster.kill(NODES[1]).await?;
    }
    scene.cluster.restart(NODES[1]).await?;
    scene.far_ends_hang_up(&calls).await?;
    scene.all_is_well().await?;
    scene.everyone_gets_a_snapshot().await?;
    scene.every_phone_rings_and_stops().await?;
    scene.verdict().await
}
