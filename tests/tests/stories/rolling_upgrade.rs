//! From one release to the next and back, member by member, while users work.
//!
//! With `newest_format = 1` a member passes for release 0.1: it reads and writes nothing newer.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tandem_tests::cluster::{ClusterOptions, Finalise, Member};
use tandem_tests::scenario::{DiskScene, MEMBERS, NODES};

const USERS: usize = 24;
const FINALISE_AFTER: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_upgraded_one_by_one_and_the_new_format_is_written_after_the_last() {
    let mut scene = scene(Finalise::AfterSecs(FINALISE_AFTER.as_secs())).await;
    there_and_back(&mut scene).await.unwrap();
    upgrade_under_load(&mut scene).await.unwrap();
    cannot_go_back(&mut scene).await.unwrap();
    scene.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_decides_when_the_new_format_is_written() {
    let mut scene = scene(Finalise::Manual).await;
    finalise_by_hand(&mut scene).await.unwrap();
    scene.end().await.unwrap();
}

/// Everybody signs in and something is written while all members pass for release 0.1.
async fn scene(finalise: Finalise) -> DiskScene {
    let options = ClusterOptions {
        users: USERS,
        cti_managers: 2,
        log_bounds: Some((200, 20)),
        newest_format: Some(1),
        finalise,
        ..ClusterOptions::default()
    };
    let scene = DiskScene::start(options).await.unwrap();
    scene.ledger.write(NODES[0], 20).await.unwrap();
    status_says(&scene, NODES[0], "the log is written in format 1\n")
        .await
        .unwrap();
    scene
}

/// The first member runs the current release and then the former one again.
async fn there_and_back(scene: &mut DiskScene) -> anyhow::Result<()> {
    runs(scene, NODES[0], None).await?;
    status_says(scene, NODES[0], "format 1; format 2 waits for n2.").await?;
    scene.ledger.write(NODES[0], 20).await?;
    scene.every_phone_rings_and_stops().await?;
    runs(scene, NODES[0], Some(1)).await?;
    scene.ledger.write(NODES[0], 20).await?;
    scene.all_is_well().await
}

async fn upgrade_under_load(scene: &mut DiskScene) -> anyhow::Result<()> {
    let admins = NODES.map(|node| scene.cluster.admin(node)).into_iter();
    let writer = scene.ledger.keep_writing(admins.collect::<Result<_, _>>()?);
    runs(scene, Member::Lb, None).await?;
    runs(scene, NODES[0], None).await?;
    let upgraded = Instant::now();
    while upgraded.elapsed() < FINALISE_AFTER {
        scene.everyday_life(Duration::from_millis(100)).await?;
    }
    status_says(scene, NODES[0], "format 1; format 2 waits for n2.").await?;
    runs(scene, NODES[1], None).await?;
    status_says(scene, NODES[1], "the log is written in format 2\n").await?;
    scene.everyday_life(Duration::from_millis(100)).await?;
    let written = writer.end().await?;
    ensure!(written > 100, "only {written} writes were acknowledged meanwhile");
    scene.all_is_well().await
}

/// The former release does not read what is written now.
async fn cannot_go_back(scene: &mut DiskScene) -> anyhow::Result<()> {
    for node in NODES {
        scene.cluster.stop(node).await?;
        scene
            .cluster
            .configure(node, |options| options.newest_format = Some(1))?;
        let before = scene.cluster.data(node)?;
        let refused = scene.cluster.start_once_more(node).await?;
        ensure!(
            refused.status == 1 && refused.text.contains("format 2 (release 0.2)"),
            "{refused:?}"
        );
        ensure!(
            scene.cluster.data(node)? == before,
            "{node} has changed what it does not read"
        );
        scene
            .cluster
            .configure(node, |options| options.newest_format = None)?;
        scene.cluster.restart(node).await?;
        scene.all_is_well().await?;
    }
    Ok(())
}

async fn finalise_by_hand(scene: &mut DiskScene) -> anyhow::Result<()> {
    runs(scene, NODES[0], None).await?;
    let early = scene.cluster.ask_about_members(NODES[0], &["finalize"]).await?;
    ensure!(
        early.status == 1 && early.text.contains("these read no later one"),
        "{early:?}"
    );
    runs(scene, NODES[1], None).await?;
    runs(scene, Member::Lb, None).await?;
    scene.all_is_well().await?;
    status_says(
        scene,
        NODES[0],
        "format 1; format 2 waits for `tandem-node cluster finalize`",
    )
    .await?;

    // A member that is away has run the current release: it is not waited for.
    scene.cluster.stop(NODES[1]).await?;
    let told = scene.cluster.ask_about_members(NODES[0], &["finalize"]).await?;
    ensure!(
        told.status == 0 && told.text.contains("format 2 (release 0.2)"),
        "{told:?}"
    );
    scene.ledger.write(NODES[0], 20).await?;
    // It comes back as the former release, with nothing on its disk that this does not read.
    scene
        .cluster
        .configure(NODES[1], |options| options.newest_format = Some(1))?;
    scene.cluster.launch(NODES[1])?;
    scene
        .cluster
        .wait_for_obstacle(NODES[1], "start the current release")
        .await?;
    let says = |text: &str| text.contains("n2 (!): it reads up to format 1");
    scene.cluster.wait_for_member_status(NODES[0], 1, says).await?;
    scene.cluster.kill(NODES[1]).await?;
    scene
        .cluster
        .configure(NODES[1], |options| options.newest_format = None)?;
    scene.cluster.restart(NODES[1]).await?;
    scene.all_is_well().await?;
    for member in MEMBERS {
        scene.kill(member).await?;
    }
    scene.cluster.restart_all(&MEMBERS).await?;
    scene.all_is_well().await
}

/// Stops a member and starts it as the release with that newest format; `None`: the current one.
async fn runs(scene: &mut DiskScene, member: Member, newest_format: Option<u16>) -> anyhow::Result<()> {
    let status = scene.cluster.stop(member).await?;
    ensure!(status == 0, "{member} did not drain: {status}");
    scene
        .cluster
        .configure(member, |options| options.newest_format = newest_format)?;
    scene.cluster.restart(member).await
}

async fn status_says(scene: &DiskScene, node: Member, words: &str) -> anyhow::Result<()> {
    let says = |text: &str| text.contains(words);
    scene
        .cluster
        .wait_for_member_status(node, 0, says)
        .await
        .map(drop)
}
