//! The faults, one file per kind, and a walk at random through all of them.
//!
//! Owns what the files share: a scene in namespaces, and the judgement of one fault under load. A test does not wait for
//! time to pass, but for the time that a fault lasts.

mod behind_a_cut;
mod clock;
mod cuts;
mod firewall;
mod five_voters;
mod ipv6;
mod kills;
mod readiness;
mod slow;
mod walk;

use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_tests::cluster::{ClusterOptions, Hub, Member};
use tandem_tests::peers::communicator::Tolerance;
use tandem_tests::scenario::{Begun, DiskScene, Fault, Load, every_case, other};

const USERS: usize = 12;

/// Two nodes and a front end, each in a namespace of its own.
fn options(hub: Hub) -> ClusterOptions {
    ClusterOptions {
        hub: Some(hub),
        users: USERS,
        cti_managers: 2,
        ..ClusterOptions::default()
    }
}

/// Every case in long runs, and those in short ones that show most.
fn cases<T>(every: &'static [T], in_short_runs: &'static [T]) -> &'static [T] {
    if every_case() { every } else { in_short_runs }
}

/// A node that has returned owns nothing, and could lose nothing.
async fn give_sessions_to(scene: &DiskScene, node: Member) -> anyhow::Result<()> {
    let even = serde_json::json!({ "per_second": 100 });
    scene
        .cluster
        .post(other(node), "/sessions/rebalance", &even)
        .await?;
    let has_some = |view: &serde_json::Value| view["sessions"].as_u64() >= Some(3);
    scene.until_node(node, node, has_some).await?;
    scene.until_node(other(node), node, has_some).await
}

/// As [`befall_and_judge`], and no longer than `pause_max` may pass without an acknowledged write.
async fn befall_with_short_pauses(
    scene: &mut DiskScene,
    load: &Load,
    fault: &Fault,
    lasts: Duration,
    pause_max: Duration,
) -> anyhow::Result<()> {
    let pause = befall_and_judge(scene, load, fault, lasts).await?;
    println!("{fault}: longest pause {pause:?}");
    ensure!(
        pause <= pause_max,
        "{fault}: nothing was acknowledged for {pause:?}"
    );
    Ok(())
}

/// Lets a fault last for a while under load, puts it right, and asks the judges. Returns the longest time without an
/// acknowledged write.
async fn befall_and_judge(
    scene: &mut DiskScene,
    load: &Load,
    fault: &Fault,
    lasts: Duration,
) -> anyhow::Result<Duration> {
    let _ = load.take_longest_pause();
    load.excuse(!fault.leaves_a_quorum());
    let trouble = fault.begin(scene).await?;
    let begun = begin_calls(scene, fault).await;
    tokio::time::sleep(lasts).await;
    trouble.end(scene).await?;
    judge(scene, load, begun).await.with_context(|| fault.to_string())
}

/// A client that loses its connection cannot know what became of what it asked for, so none asks then. What clients
/// hear across a cut, and in which order, are stories of their own.
async fn begin_calls(scene: &mut DiskScene, fault: &Fault) -> Begun {
    let calling: &[usize] = if fault.breaks_clients_off() { &[] } else { &[2, 3] };
    let called: &[usize] = if fault.parts_nodes_from_clients() {
        &[]
    } else {
        &[0, 1]
    };
    scene.tolerate(Tolerance::EarlyEvents).await;
    scene.begin_calls(called, calling).await
}

async fn judge(scene: &mut DiskScene, load: &Load, begun: Begun) -> anyhow::Result<Duration> {
    let rest = load.rest().await;
    let pause = load.take_longest_pause();
    scene.all_is_well().await?;
    load.excuse(false);
    scene.end_calls(begun).await?;
    scene.nothing_was_wrong().await?;
    drop(rest);
    Ok(pause)
}

/// Ends the load and the scene, with the last word of all judges.
async fn end(scene: DiskScene, load: Load) -> anyhow::Result<()> {
    let tally = load.end().await?;
    ensure!(tally.acknowledged > 0, "nothing was acknowledged");
    let tolerated = scene.ocs.ask(|front_end| front_end.tolerated()).await;
    println!(
        "{} writes acknowledged, {} operations on registers, {tolerated} events told twice or too early",
        tally.acknowledged,
        tally.history.operations().len()
    );
    scene.end().await
}
