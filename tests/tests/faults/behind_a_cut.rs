//! A node has a quorum, keeps its sessions, hears what happens at their phones, and does not reach the front end.

use std::time::{Duration, Instant};

use anyhow::Context;
use tandem_tests::cluster::{Block, Hub, Needs, in_a_network_of_its_own};
use tandem_tests::peers::communicator::Tolerance;
use tandem_tests::scenario::{DiskScene, Fault, Way, Who, other};

use super::{USERS, cases, give_sessions_to, options};

#[test]
#[ignore = "open: what a node is told while it does not reach the front end is not told to clients afterwards"]
fn a_phone_that_rings_behind_a_cut_is_heard_of_afterwards() {
    in_a_network_of_its_own(Needs::Nothing, ring);
}

#[test]
#[ignore = "open: an event may overtake the answer that its successor gives to the request sent again"]
fn a_call_that_is_made_behind_a_cut_is_answered_before_it_is_told_of() {
    in_a_network_of_its_own(Needs::Nothing, make_calls);
}

async fn ring(hub: Hub) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub)).await?;
    for &by in cases(&Block::ALL, &[Block::Drop]) {
        let fault = Fault::Cut {
            one: Who::Follower,
            other: Who::FrontEnd,
            way: Way::Both,
            by,
        };
        give_sessions_to(&scene, other(scene.leading_node().await?)).await?;
        let trouble = fault.begin(&mut scene).await?;
        // What arrived, and could not be said to have arrived, may come once more.
        scene.tolerate(Tolerance::Repeats).await;
        let begun = scene.begin_calls(&(0..USERS).collect::<Vec<_>>(), &[]).await;
        tokio::time::sleep(UNTIL_FRONT_END_GIVES_UP).await;
        trouble.end(&mut scene).await?;
        scene.all_is_well().await?;
        scene.end_calls(begun).await?;
    }
    scene.end().await
}

/// The front end's requests reach the leader; what the leader says is rejected on its way.
async fn make_calls(hub: Hub) -> anyhow::Result<()> {
    let mut scene = DiskScene::start(options(hub)).await?;
    for who in [Who::Leader, Who::Follower] {
        let fault = Fault::Cut {
            one: who,
            other: Who::FrontEnd,
            way: Way::There,
            by: Block::Reset,
        };
        let trouble = fault.begin(&mut scene).await?;
        scene.tolerate(Tolerance::Repeats).await;
        let since = Instant::now();
        let begun = scene.begin_calls(&[], &(0..USERS).collect::<Vec<_>>()).await;
        tokio::time::sleep(LASTS).await;
        trouble.end(&mut scene).await?;
        scene.all_is_well().await?;
        scene.end_calls(begun).await?;
        let waited = scene
            .ocs
            .ask(move |front_end| front_end.longest_wait(since))
            .await;
        println!("{fault}: the longest wait for an answer was {waited:?}");
        let wrong = scene.nothing_was_wrong().await;
        wrong.with_context(|| fault.to_string())?;
    }
    scene.end().await
}

const UNTIL_FRONT_END_GIVES_UP: Duration = Duration::from_secs(5);
const LASTS: Duration = Duration::from_secs(1);
