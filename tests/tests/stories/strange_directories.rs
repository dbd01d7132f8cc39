//! Members on directories that are not their own, and two processes where there should be one.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tandem_tests::cluster::{Backup, Beside, ClusterOptions, DEADLINE, Member};
use tandem_tests::scenario::{DiskScene, NODES, other};

const USERS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_on_each_others_directories_refuse_by_name_and_change_nothing() {
    let mut scene = scene().await;
    swap_and_swap_back(&mut scene).await.unwrap();
    scene.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_a_directory_says_so_and_ends() {
    let scene = scene().await;
    for (index, node) in NODES.into_iter().enumerate() {
        let started_again = scene.cluster.start_once_more(node).await.unwrap();
        assert_eq!(started_again.status, 1, "{started_again:?}");
        assert!(started_again.text.contains("in use"), "{started_again:?}");
        let elsewhere = scene.cluster.start_on_the_same_directory(node).await.unwrap();
        assert_eq!(elsewhere.status, 1, "{elsewhere:?}");
        let words = format!("node{} is in use by another process", index + 1);
        assert!(elsewhere.text.contains(&words), "{elsewhere:?}");
        scene.ledger.write(node, 10).await.unwrap();
    }
    let told = scene
        .cluster
        .ask_about_members(NODES[0], &["status"])
        .await
        .unwrap();
    assert_eq!(told.status, 0, "{told:?}");
    scene.end().await.unwrap();
}

/// The process that was started last is believed, as after any restart; the one before it takes no part from then on. Where
/// one member believes the copy before another finds entries missing in it, neither takes part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_node_and_a_process_on_a_copy_of_its_directory_never_both_take_part() {
    let mut scene = scene().await;
    let node = scene.leading_node().await.unwrap();
    scene.ledger.write(node, 10).await.unwrap();
    let backup = scene.cluster.back_up(node).unwrap();
    run_beside(&mut scene, node, &backup).await.unwrap();
    scene.end().await.unwrap();
}

/// Entries that were committed since are known to be missing in the copy: the node goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_on_a_copy_that_is_out_of_date_does_not_disturb_the_node() {
    let mut scene = scene().await;
    let node = scene.leading_node().await.unwrap();
    let backup = scene.cluster.back_up(node).unwrap();
    scene.ledger.write(node, 50).await.unwrap();
    scene.all_is_well().await.unwrap();
    let goes_on = run_beside(&mut scene, node, &backup).await.unwrap();
    assert_eq!(goes_on, GoesOn::Node);
    scene.end().await.unwrap();
}

/// Who takes part in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GoesOn {
    Node,
    Copy,
    Neither,
}

async fn scene() -> DiskScene {
    let options = ClusterOptions {
        users: USERS,
        cti_managers: 2,
        ..ClusterOptions::default()
    };
    DiskScene::start(options).await.unwrap()
}

async fn swap_and_swap_back(scene: &mut DiskScene) -> anyhow::Result<()> {
    scene.ledger.write(NODES[0], 10).await?;
    for node in NODES {
        scene.cluster.kill(node).await?;
    }
    scene.cluster.swap_data(NODES[0], NODES[1])?;
    for (node, words) in [
        (
            NODES[0],
            "belongs to node n2 of cluster \"story\", but this is node n1",
        ),
        (
            NODES[1],
            "belongs to node n1 of cluster \"story\", but this is node n2",
        ),
    ] {
        let before = scene.cluster.data(node)?;
        let told = scene.cluster.start_once_more(node).await?;
        ensure!(told.status == 1 && told.text.contains(words), "{told:?}");
        ensure!(
            scene.cluster.data(node)? == before,
            "{node} has changed what is not its own"
        );
    }
    scene.cluster.swap_data(NODES[0], NODES[1])?;
    scene.cluster.restart_all(&NODES).await?;
    scene.all_is_well().await
}

/// While others write at the other node.
async fn run_beside(scene: &mut DiskScene, node: Member, backup: &Backup) -> anyhow::Result<GoesOn> {
    let elsewhere = scene.ledger.keep_writing(vec![scene.cluster.admin(other(node))?]);
    let beside = scene.cluster.start_beside(node, backup.path())?;
    let copy_goes_on = copy_goes_on(scene, node, &beside).await?;
    let written = elsewhere.end().await?;
    ensure!(written > 0, "nothing was written at the other node");
    let words = "another process runs on a copy of it";
    let goes_on = if copy_goes_on {
        scene.cluster.wait_for_obstacle(node, words).await?;
        GoesOn::Copy
    } else if scene.cluster.wait_until_ready_or_obstacle(node, words).await? {
        GoesOn::Node
    } else {
        GoesOn::Neither
    };
    println!("{goes_on:?} takes part; {written} writes were acknowledged at the other node");
    beside.kill().await?;
    match goes_on {
        GoesOn::Node => scene.all_is_well().await?,
        GoesOn::Copy | GoesOn::Neither => scene.take_back(other(node), node).await?,
    }
    Ok(goes_on)
}

/// Writes at both for a while: once the process on the copy has acknowledged a write, the one before it acknowledges none
/// that is begun later. True when it has acknowledged any.
async fn copy_goes_on(scene: &DiskScene, node: Member, beside: &Beside) -> anyhow::Result<bool> {
    let before = scene.cluster.admin(node)?;
    let started = Instant::now();
    let (mut of_copy, mut settled) = (0, 0);
    while settled < ASKED_LATER {
        ensure!(started.elapsed() < DEADLINE, "nobody gives up: {}", beside.log());
        let (first, second) = futures::join!(
            tokio::time::timeout(PATIENCE, scene.ledger.write_one(before)),
            tokio::time::timeout(PATIENCE, scene.ledger.write_one(beside.admin())),
        );
        ensure!(
            of_copy == 0 || !matches!(first, Ok(Ok(()))),
            "{node} acknowledged a write after the process on the copy had done so"
        );
        of_copy += usize::from(matches!(second, Ok(Ok(()))));
        let one_is_refused = beside.log().contains(REFUSED) || scene.cluster.log(node).contains(REFUSED);
        settled += usize::from(of_copy > 0 || one_is_refused);
    }
    Ok(of_copy > 0)
}

/// A write that takes longer may have been committed or not.
const PATIENCE: Duration = Duration::from_millis(300);
const ASKED_LATER: usize = 10;
const REFUSED: &str = "this member takes no part in the cluster";
