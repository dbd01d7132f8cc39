//! One user's day: what ARCHITECTURE.md walks through, and the habits of real clients.

use std::collections::BTreeSet;

use tandem_tests::cluster::{ClusterOptions, DEADLINE, Member};
use tandem_tests::peers::books::Stage;
use tandem_tests::peers::communicator::Presence;
use tandem_tests::scenario::Scene;

fn few_users() -> ClusterOptions {
    ClusterOptions {
        users: 8,
        ..ClusterOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_signs_in_makes_answers_and_clears_calls_and_signs_off() {
    let mut scene = Scene::start(few_users(), 1).await.unwrap();
    scene.sign_in(0..8).await.unwrap();
    let everyone: Vec<_> = (0..8).collect();
    let incoming = scene.put_incoming_calls_up(&everyone).await.unwrap();
    let outgoing = scene.put_outgoing_calls_up(&everyone).await.unwrap();
    scene.everyone_gets_a_snapshot().await.unwrap();
    for placed in &incoming {
        scene.clear_by_client(placed).await.unwrap();
    }
    scene.wait_for_stage(&incoming, Stage::Cleared).await.unwrap();
    scene.far_ends_hang_up(&outgoing).await.unwrap();
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene
        .ocs
        .ask(|front_end| (0..8).for_each(|user| front_end.sign_off(user)))
        .await;
    scene.wait_until_answered().await.unwrap();
    scene
        .pbx()
        .wait_until("no phone is monitored", DEADLINE, |switch| {
            switch.monitors_by_connection().is_empty()
        })
        .await
        .unwrap();
    scene.verdict_without_failures().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dialog_goes_on_when_the_client_refreshes_it_and_its_cseq_starts_anew() {
    let mut scene = Scene::start(few_users(), 1).await.unwrap();
    scene.sign_in(0..8).await.unwrap();
    let before = monitors(&scene).await;
    for _ in 0..3 {
        scene.everyone_gets_a_snapshot().await.unwrap();
        scene
            .ocs
            .ask(|front_end| (0..8).for_each(|user| front_end.refresh(user)))
            .await;
        scene.wait_until_answered().await.unwrap();
        scene.every_phone_rings_and_stops().await.unwrap();
    }
    assert_eq!(monitors(&scene).await, before);
    let (violations, failures) = scene
        .ocs
        .ask(|front_end| (front_end.violations(), front_end.failures()))
        .await;
    assert_eq!((violations, failures), (Vec::new(), Vec::new()));
    scene.cluster.dismiss();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_signed_off_can_sign_in_again() {
    let mut scene = Scene::start(few_users(), 2).await.unwrap();
    for _ in 0..2 {
        scene.sign_in(0..8).await.unwrap();
        scene.every_phone_rings_and_stops().await.unwrap();
        scene
            .ocs
            .ask(|front_end| (0..8).for_each(|user| front_end.sign_off(user)))
            .await;
        let signed_off = |front_end: &tandem_tests::peers::front_end::FrontEnd| {
            front_end
                .users()
                .iter()
                .all(|user| user.presence() == Presence::SignedOut && user.dialog().is_none())
        };
        scene
            .ocs
            .wait_until("everyone is signed off", DEADLINE, signed_off)
            .await
            .unwrap();
    }
    let violations = scene.ocs.ask(|front_end| front_end.violations()).await;
    assert_eq!(violations, Vec::<String>::new());
    scene.cluster.dismiss();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_stop_of_a_node_hands_its_sessions_over() {
    let mut scene = Scene::start(few_users(), 1).await.unwrap();
    scene.sign_in(0..8).await.unwrap();
    assert_eq!(scene.cluster.stop(Member::Node(1)).await.unwrap(), 0);
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.every_phone_rings_and_stops().await.unwrap();
    scene.cluster.restart(Member::Node(1)).await.unwrap();
    assert_eq!(scene.cluster.stop(Member::Node(2)).await.unwrap(), 0);
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.every_phone_rings_and_stops().await.unwrap();
    scene.verdict_without_failures().await.unwrap();
}

async fn monitors(scene: &Scene) -> BTreeSet<String> {
    scene
        .ocs
        .ask(|front_end| {
            let users = front_end.users().iter();
            users
                .filter_map(|user| user.monitor().map(str::to_owned))
                .collect()
        })
        .await
}
