//! The wall clock of one node is stepped while it runs: time goes on for everybody else, and for its own sessions.

use std::time::{Duration, Instant};

use tandem_tests::cluster::{ClusterOptions, Hub, Needs, in_a_network_of_its_own};
use tandem_tests::peers::switch::Switch;
use tandem_tests::scenario::{DiskScene, Fault, Load, NODES, STEPS, Who, other};

use super::kills::users_owned_by;
use super::{USERS, befall_and_judge, cases, end, give_sessions_to, options};

#[test]
fn a_step_of_a_clock_under_load_is_not_noticed() {
    in_a_network_of_its_own(Needs::SteppedClocks, step_under_load);
}

#[test]
fn a_successor_whose_clock_is_ahead_ends_no_session() {
    in_a_network_of_its_own(Needs::SteppedClocks, |hub| {
        adopt_by_another_clock(hub, &[64, 1800])
    });
}

#[test]
fn a_successor_whose_clock_is_behind_ends_no_session() {
    in_a_network_of_its_own(Needs::SteppedClocks, |hub| {
        adopt_by_another_clock(hub, &[-64, -1800])
    });
}

#[test]
fn a_repeated_make_call_is_carried_out_once_when_the_leaders_clock_is_ahead() {
    in_a_network_of_its_own(Needs::SteppedClocks, |hub| {
        repeat(hub, Who::Leader, cases(&[0, 64, 1800], &[64]))
    });
}

#[test]
fn a_repeated_make_call_is_carried_out_once_when_its_owners_clock_is_behind() {
    in_a_network_of_its_own(Needs::SteppedClocks, |hub| {
        repeat(hub, Who::Follower, cases(&[0, -64, -1800], &[-64]))
    });
}

async fn scene(hub: Hub) -> anyhow::Result<DiskScene> {
    DiskScene::start(ClusterOptions {
        stepped_clocks: NODES.to_vec(),
        // Less than the greatest step.
        session_timer_secs: 1200,
        // A command is unanswered for longer than a leader takes to forget what is old.
        cti_request_timeout: Some(Duration::from_secs(40)),
        ..options(hub)
    })
    .await
}

async fn step_under_load(hub: Hub) -> anyhow::Result<()> {
    let mut scene = scene(hub).await?;
    let load = Load::start(&scene.cluster, &scene.ledger)?;
    for &secs in cases(&STEPS, &[1800]) {
        for who in [Who::Leader, Who::Follower] {
            let fault = Fault::ClockStepped { who, secs };
            let pause = befall_and_judge(&mut scene, &load, &fault, STEPPED_FOR).await?;
            println!("{fault}: longest pause {pause:?}");
        }
    }
    end(scene, load).await
}

async fn adopt_by_another_clock(hub: Hub, steps: &[i64]) -> anyhow::Result<()> {
    let mut scene = scene(hub).await?;
    for &secs in steps {
        let dead = scene.leading_node().await?;
        println!("{} adopts with a clock that is {secs} s ahead", other(dead));
        let calls = scene.put_incoming_calls_up(&[0, 1, 2, 3]).await?;
        // What clients know is replicated moments after they know it.
        scene.everyone_gets_a_snapshot().await?;
        scene.cluster.step_wall_clock(other(dead), secs)?;
        scene.cluster.kill(dead).await?;
        scene.everyone_gets_a_snapshot().await?;
        scene.every_phone_rings_and_stops().await?;
        scene.far_ends_hang_up(&calls).await?;
        scene.cluster.step_wall_clock(other(dead), 0)?;
        scene.cluster.restart(dead).await?;
        scene.all_is_well().await?;
    }
    scene.end().await
}

/// MakeCall is carried out and not answered; its node dies, and the front end sends it to the successor.
async fn repeat(hub: Hub, stepped: Who, steps: &[i64]) -> anyhow::Result<()> {
    let mut scene = scene(hub).await?;
    for &secs in steps {
        let leader = scene.leading_node().await?;
        let owner = other(leader);
        let member = if stepped == Who::Leader { leader } else { owner };
        println!("the clock of {member}, {stepped:?}, is {secs} s ahead; {owner} dies");
        give_sessions_to(&scene, owner).await?;
        let users = users_owned_by(&scene, owner).await?;
        scene.cluster.step_wall_clock(member, secs)?;
        make_calls_without_answers(&mut scene, &users).await?;
        let others: Vec<_> = (0..USERS).filter(|user| !users.contains(user)).collect();
        calls_come_and_go(&mut scene, &others, FORGOTTEN_AFTER).await?;
        scene.cluster.kill(owner).await?;
        scene.wait_until_answered().await?;
        scene.nothing_was_wrong().await?;
        scene.everyone_gets_a_snapshot().await?;
        scene.cluster.step_wall_clock(member, 0)?;
        scene.cluster.restart(owner).await?;
        hang_everything_up(&scene).await?;
        scene.all_is_well().await?;
        scene.everyone_gets_a_snapshot().await?;
    }
    scene.end().await
}

async fn make_calls_without_answers(scene: &mut DiskScene, users: &[usize]) -> anyhow::Result<()> {
    scene.pbx().set_answer_delay(NEVER).await;
    let calls: Vec<_> = users
        .iter()
        .take(3)
        .map(|&user| (user, scene.unused_number()))
        .collect();
    let numbers: Vec<_> = calls.iter().map(|(_, number)| number.clone()).collect();
    scene
        .ocs
        .ask(move |front_end| {
            for (user, number) in &calls {
                front_end.make_call(*user, number);
            }
        })
        .await;
    let executed = move |switch: &Switch| {
        let made = |number: &String| switch.log().iter().any(|made| made.argument == *number);
        numbers.iter().all(made)
    };
    let patience = scene.patience;
    let pbx = scene.pbx();
    pbx.wait_until("the PBX has made the calls", patience, executed)
        .await?;
    pbx.set_answer_delay(Duration::ZERO).await;
    Ok(())
}

/// Nobody waits for all answers here: some are not to come.
async fn calls_come_and_go(scene: &mut DiskScene, users: &[usize], duration: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    while started.elapsed() < duration {
        let calls = scene.put_incoming_calls_up(users).await?;
        scene.far_ends_hang_up(&calls).await?;
        tokio::time::sleep(BREATH).await;
    }
    Ok(())
}

async fn hang_everything_up(scene: &DiskScene) -> anyhow::Result<()> {
    scene
        .pbx()
        .ask(|switch| {
            let calls: Vec<_> = switch.calls().keys().cloned().collect();
            for call in calls {
                let by = switch.calls()[&call].called.number.clone();
                switch.hang_up(&call, &by);
            }
        })
        .await;
    Ok(())
}

const BREATH: Duration = Duration::from_millis(200);
const STEPPED_FOR: Duration = Duration::from_millis(1500);
/// A leader lets old results go every ten seconds.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(12);
const NEVER: Duration = Duration::from_secs(3600);
