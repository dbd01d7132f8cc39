//! A data directory is put back as it was earlier: whoever starts on it has acknowledged what it does not know any more.

use anyhow::ensure;
use tandem_tests::cluster::{Backup, ClusterOptions, Member};
use tandem_tests::scenario::{DiskScene, NODES, every_case, name, other};

const USERS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_was_put_back_takes_no_part_and_nothing_is_lost() {
    let mut scene = scene().await;
    for (member, copied) in [
        (NODES[0], Copied::Stopped),
        (NODES[1], Copied::Running),
        (Member::Lb, Copied::Killed),
    ] {
        put_back(&mut scene, member, copied).await.unwrap();
    }
    scene.end().await.unwrap();
}

/// The member whose directory is put back would be a majority with the one that was away; the third one knows better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_was_put_back_is_no_majority_with_a_member_that_was_away() {
    let mut scene = scene().await;
    let mut cases = vec![
        (NODES[0], NODES[1], Copied::Stopped),
        (NODES[1], Member::Lb, Copied::Killed),
        (Member::Lb, NODES[0], Copied::Stopped),
    ];
    if every_case() {
        cases.extend([
            (NODES[0], Member::Lb, Copied::Killed),
            (NODES[1], NODES[0], Copied::Stopped),
            (Member::Lb, NODES[1], Copied::Killed),
        ]);
    }
    for (member, away, copied) in cases {
        put_back_while_another_is_away(&mut scene, member, away, copied)
            .await
            .unwrap();
    }
    scene.end().await.unwrap();
}

/// What the member's process was when its directory was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copied {
    Stopped,
    Killed,
    /// As a hypervisor does it.
    Running,
}

async fn scene() -> DiskScene {
    let options = ClusterOptions {
        users: USERS,
        cti_managers: 2,
        ..ClusterOptions::default()
    };
    DiskScene::start(options).await.unwrap()
}

async fn put_back(scene: &mut DiskScene, member: Member, copied: Copied) -> anyhow::Result<()> {
    println!("{member} is put back as it was when {copied:?}");
    let asked = if member == Member::Lb {
        NODES[0]
    } else {
        other(member)
    };
    let backup = back_up(scene, member, copied).await?;
    scene.ledger.write(asked, 30).await?;
    // Also for those who know the member by its log alone.
    scene.all_is_well().await?;

    start_on(scene, member, &backup).await?;
    scene
        .wait_until_stranger(asked, member, "went back in time")
        .await?;
    scene.ledger.write(asked, 10).await?;
    let number = name(member);
    let refused = scene
        .cluster
        .ask_about_members(asked, &["replace", &number])
        .await?;
    ensure!(
        refused.status == 1 && refused.text.contains("empty its data directory"),
        "{refused:?}"
    );
    scene.take_back(asked, member).await
}

async fn put_back_while_another_is_away(
    scene: &mut DiskScene,
    member: Member,
    away: Member,
    copied: Copied,
) -> anyhow::Result<()> {
    println!("{member} is put back as it was when {copied:?}, {away} is away");
    let backup = back_up(scene, member, copied).await?;
    scene.cluster.kill(away).await?;
    let written_at = if away == NODES[0] { NODES[1] } else { NODES[0] };
    scene.ledger.write(written_at, 30).await?;

    start_on(scene, member, &backup).await?;
    let asked = NODES.into_iter().find(|node| ![member, away].contains(node));
    match asked {
        Some(asked) => {
            scene
                .wait_until_stranger(asked, member, "went back in time")
                .await?
        }
        // The witness alone knows, and says so to the member.
        None => {
            scene
                .cluster
                .wait_for_obstacle(member, "went back in time")
                .await?
        }
    }
    scene.cluster.launch(away)?;
    let whole: Vec<Member> = NODES.into_iter().filter(|node| *node != member).collect();
    scene.cluster.wait_until_ready(&whole).await?;
    for node in &whole {
        scene.ledger.is_held_by(*node).await?;
        scene.ledger.write(*node, 10).await?;
    }
    scene.take_back(whole[0], member).await
}

/// Something is written, the copy is made, and the member goes on.
async fn back_up(scene: &mut DiskScene, member: Member, copied: Copied) -> anyhow::Result<Backup> {
    let at = if member == NODES[1] { NODES[1] } else { NODES[0] };
    scene.ledger.write(at, 10).await?;
    match copied {
        Copied::Stopped => {
            let status = scene.cluster.stop(member).await?;
            ensure!(status == 0, "{member} did not drain: {status}");
        }
        Copied::Killed => scene.kill(member).await?,
        Copied::Running => {}
    }
    let backup = scene.cluster.back_up(member)?;
    if copied != Copied::Running {
        scene.cluster.launch(member)?;
    }
    scene.all_is_well().await?;
    Ok(backup)
}

async fn start_on(scene: &mut DiskScene, member: Member, backup: &Backup) -> anyhow::Result<()> {
    scene.kill(member).await?;
    scene.cluster.put_back(member, backup)?;
    scene.cluster.launch(member)
}
