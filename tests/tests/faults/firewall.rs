//! A firewall that rejects what passes between two members looks like a process that has died, and is none.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use tandem_tests::cluster::{Block, Hub, Needs, in_a_network_of_its_own};
use tandem_tests::scenario::{DiskScene, Fault, Load, MEMBERS, NODES, Way, Who, other};

use super::{begin_calls, cases, end, give_sessions_to, judge, options};

#[test]
fn a_follower_whose_leader_is_told_that_it_is_gone_is_lost_once_at_most() {
    in_a_network_of_its_own(Needs::Nothing, |hub| reject(hub, Who::Leader, Who::Follower));
}

#[test]
fn a_node_whose_front_end_is_told_that_it_is_gone_is_not_lost() {
    in_a_network_of_its_own(Needs::Nothing, |hub| reject(hub, Who::FrontEnd, Who::Follower));
}

#[test]
fn a_follower_whose_leader_is_told_for_a_second_that_it_is_gone_is_not_lost() {
    in_a_network_of_its_own(Needs::Nothing, reject_shortly);
}

/// As when rules are laid down one by one. The front end reaches the node all the time.
async fn reject_shortly(hub: Hub) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub)).await?;
    let load = Load::start(&scene.cluster, &scene.ledger)?;
    for way in Way::ALL {
        let fault = Fault::Cut {
            one: Who::Leader,
            other: Who::Follower,
            way,
            by: Block::Reset,
        };
        let lost = losses(&scene).await?;
        let trouble = fault.begin(&mut scene).await?;
        tokio::time::sleep(SHORTLY).await;
        trouble.end(&mut scene).await?;
        let none = scene.begin_calls(&[], &[]).await;
        judge(&mut scene, &load, none).await?;
        let lost = losses(&scene).await? - lost;
        ensure!(
            lost == 0.0,
            "{fault}: {lost} times a living node was declared lost"
        );
    }
    end(scene, load).await
}

async fn reject(hub: Hub, one: Who, other: Who) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub)).await?;
    let load = Load::start(&scene.cluster, &scene.ledger)?;
    for way in cases(&Way::ALL, &[Way::There]) {
        let by = Block::Reset;
        let fault = Fault::Cut {
            one,
            other,
            way: *way,
            by,
        };
        reject_and_count(&mut scene, &load, &fault, one).await?;
    }
    end(scene, load).await
}

/// A node that its leader does not reach for two seconds may be lost, once; others may not.
async fn reject_and_count(scene: &mut DiskScene, load: &Load, fault: &Fault, one: Who) -> anyhow::Result<()> {
    give_sessions_to(scene, other(scene.leading_node().await?)).await?;
    let (lost, epochs) = (losses(scene).await?, epochs(scene).await?);
    let trouble = fault.begin(scene).await?;
    let begun = begin_calls(scene, fault).await;
    tokio::time::sleep(LASTS).await;
    let lost = losses(scene).await? - lost;
    trouble.end(scene).await?;
    judge(scene, load, begun).await?;
    let after = self::epochs(scene).await?;
    let moves = after
        .iter()
        .map(|(key, epoch)| epoch - epochs.get(key).unwrap_or(epoch));
    let moves = moves.max().unwrap_or_default();
    println!("{fault}: {lost} nodes declared lost, sessions moved {moves} times at most");
    let allowed = if one == Who::Leader { 1 } else { 0 };
    ensure!(
        lost <= f64::from(allowed),
        "{fault}: {lost} times a living node was declared lost"
    );
    ensure!(moves <= MOVES_MAX, "{fault}: a session moved {moves} times");
    Ok(())
}

/// How many nodes all members together have declared lost.
async fn losses(scene: &DiskScene) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for member in MEMBERS {
        let metrics = scene.cluster.metrics(member).await?;
        sum += metrics.sum("tandem_raft_nodes_lost_total", &[]);
    }
    Ok(sum)
}

/// Of every session; it rises with every move.
async fn epochs(scene: &DiskScene) -> anyhow::Result<BTreeMap<String, u64>> {
    let sessions = scene.cluster.get(NODES[0], "/sessions").await?;
    let sessions = sessions.as_array().into_iter().flatten();
    let epochs = sessions.map(|session| {
        let key = session["key"].as_str().unwrap_or_default().to_owned();
        (key, session["epoch"].as_u64().unwrap_or_default())
    });
    Ok(epochs.collect())
}

/// Long enough to register again, and to be lost again, several times.
const LASTS: Duration = Duration::from_secs(5);
/// Less than the silence after which a node is lost.
const SHORTLY: Duration = Duration::from_secs(1);
/// To the successor, and perhaps back by a request that reaches the former owner only.
const MOVES_MAX: u64 = 2;
