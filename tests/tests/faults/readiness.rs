//! Who is cut off says so, and who has lost one peer disturbs nobody.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tandem_tests::cluster::{Block, Hub, Member, Needs, in_a_network_of_its_own};
use tandem_tests::scenario::{DiskScene, Fault, Load, NODES, Way, Who, other};

use super::{begin_calls, cases, end, judge, options};

#[test]
fn a_follower_that_reaches_nobody_is_not_ready_within_two_seconds() {
    in_a_network_of_its_own(Needs::Nothing, |hub| async move {
        let mut scene = DiskScene::start(options(hub)).await?;
        let load = Load::start(&scene.cluster, &scene.ledger)?;
        for &by in cases(&Block::ALL, &[Block::Drop, Block::Reset]) {
            cut_off_a_follower(&mut scene, &load, by).await?;
        }
        end(scene, load).await
    });
}

#[test]
fn a_follower_that_has_lost_one_peer_disturbs_nobody() {
    in_a_network_of_its_own(Needs::Nothing, |hub| lose_one_peer(hub, Block::Drop));
}

async fn cut_off_a_follower(scene: &mut DiskScene, load: &Load, by: Block) -> anyhow::Result<()> {
    let follower = other(scene.leading_node().await?);
    let fault = Fault::CutOff {
        who: Who::Follower,
        by,
    };
    let since = Instant::now();
    let trouble = fault.begin(scene).await?;
    let begun = begin_calls(scene, &fault).await;
    while is_ready(scene, follower).await? {
        ensure!(since.elapsed() < READY_MAX, "{follower} is still ready");
        tokio::time::sleep(POLL).await;
    }
    println!("{fault}: not ready after {:?}", since.elapsed());
    scene.ledger.ensure_refused(follower, REFUSED_FOR).await?;
    trouble.end(scene).await?;
    judge(scene, load, begun).await.map(drop)
}

async fn lose_one_peer(hub: Hub, by: Block) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub)).await?;
    let load = Load::start(&scene.cluster, &scene.ledger)?;
    for peer in [Who::FrontEnd, Who::Leader] {
        let leader = scene.leading_node().await?;
        let term = term(&scene, leader).await?;
        let fault = Fault::Cut {
            one: Who::Follower,
            other: peer,
            way: Way::Both,
            by,
        };
        let _ = load.take_longest_pause();
        let trouble = fault.begin(&mut scene).await?;
        let begun = scene.begin_calls(&[], &[]).await;
        // Without its leader it hears of nothing that is committed, and may say that it is not ready.
        let ready: &[Member] = if peer == Who::FrontEnd { &NODES } else { &[leader] };
        stay_ready(&scene, ready).await?;
        trouble.end(&mut scene).await?;
        let pause = judge(&mut scene, &load, begun).await?;
        println!("{fault}: longest pause {pause:?}");
        ensure!(
            pause <= PAUSE_MAX,
            "{fault}: nothing was acknowledged for {pause:?}"
        );
        let after = self::term(&scene, leader).await?;
        ensure!(after == term, "{fault}: the term went from {term} to {after}");
    }
    end(scene, load).await
}

async fn stay_ready(scene: &DiskScene, nodes: &[Member]) -> anyhow::Result<()> {
    let since = Instant::now();
    while since.elapsed() < CUT_FOR {
        for node in nodes {
            ensure!(is_ready(scene, *node).await?, "{node} is not ready any more");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn is_ready(scene: &DiskScene, node: Member) -> anyhow::Result<bool> {
    let answer = scene.cluster.http(node, "GET", "/readyz", "").await?;
    Ok(answer.status == 200)
}

async fn term(scene: &DiskScene, node: Member) -> anyhow::Result<f64> {
    let metrics = scene.cluster.metrics(node).await?;
    Ok(metrics.sum("tandem_raft_term", &[]))
}

const POLL: Duration = Duration::from_millis(50);
const READY_MAX: Duration = Duration::from_secs(2);
const REFUSED_FOR: Duration = Duration::from_secs(1);
const CUT_FOR: Duration = Duration::from_secs(3);
const PAUSE_MAX: Duration = Duration::from_secs(1);
