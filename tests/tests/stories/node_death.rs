//! `kill -9` of a node that owns half the sessions, with calls up and requests inside.

use std::time::Duration;

use tandem_tests::cluster::{ClusterOptions, Member};
use tandem_tests::scenario::{Death, DeathReport, Scene};

/// Signed in before the death.
const USERS: usize = 210;
/// Sign in while the victim is frozen.
const NEWCOMERS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_dies_that_does_not_lead_then_it_returns_and_the_other_dies() {
    let mut scene = scene(ClusterOptions::default()).await.unwrap();
    let leader = node_that_leads(&scene).await;
    let follower = other(leader);
    report(&kill(&mut scene, follower, 0).await.unwrap());
    scene.cluster.restart(follower).await.unwrap();
    report(&kill_the_other(&mut scene, leader).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_that_leads_dies_then_it_returns_and_the_other_dies() {
    let options = ClusterOptions {
        secure_pairs: true,
        ..ClusterOptions::default()
    };
    let mut scene = scene(options).await.unwrap();
    let leader = node_that_leads(&scene).await;
    report(&kill(&mut scene, leader, 0).await.unwrap());
    scene.cluster.restart(leader).await.unwrap();
    report(&kill_the_other(&mut scene, other(leader)).await.unwrap());
}

/// The planted fault: without adoption the same judges must find the loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_judges_notice_when_adoption_is_switched_off() {
    let options = ClusterOptions {
        adoption_disabled: true,
        ..ClusterOptions::default()
    };
    let mut scene = scene(options).await.unwrap();
    scene.patience = Duration::from_secs(8);
    let victim = other(node_that_leads(&scene).await);
    let found = kill(&mut scene, victim, 0).await;
    println!("found: {:#}", found.as_ref().unwrap_err());
    scene.cluster.dismiss();
}

async fn scene(options: ClusterOptions) -> anyhow::Result<Scene> {
    let options = ClusterOptions {
        users: USERS + 2 * NEWCOMERS,
        ..options
    };
    let scene = Scene::start(options, 1).await?;
    scene.sign_in(0..USERS).await?;
    Ok(scene)
}

async fn kill(scene: &mut Scene, victim: Member, newcomers: usize) -> anyhow::Result<DeathReport> {
    let owned = scene.users_opened_by(victim).await?;
    let first = USERS + newcomers * NEWCOMERS;
    let death = Death {
        victim,
        owned,
        newcomers: (first..first + NEWCOMERS).collect(),
    };
    scene.kill_and_judge(death).await
}

/// After the first death the survivor owns every session, whoever opened it.
async fn kill_the_other(scene: &mut Scene, victim: Member) -> anyhow::Result<DeathReport> {
    let death = Death {
        victim,
        owned: (0..USERS).collect(),
        newcomers: (USERS + NEWCOMERS..USERS + 2 * NEWCOMERS).collect(),
    };
    scene.kill_and_judge(death).await
}

/// lb leads only for a moment, to bring a node up to date.
async fn node_that_leads(scene: &Scene) -> Member {
    loop {
        let leader = scene.cluster.leader().await.unwrap();
        if leader != Member::Lb {
            return leader;
        }
        tokio::task::yield_now().await;
    }
}

fn other(node: Member) -> Member {
    if node == Member::Node(1) {
        Member::Node(2)
    } else {
        Member::Node(1)
    }
}

fn report(report: &DeathReport) {
    println!("{report:?}");
    // A second is promised on a quiet machine; this one may be busy.
    assert!(report.longest_pause < Duration::from_secs(5), "{report:?}");
}
