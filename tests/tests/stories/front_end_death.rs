//! lb dies, and the witness in it; both return.

use tandem_tests::cluster::{ClusterOptions, Member};
use tandem_tests::scenario::Scene;

const USERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_is_lost_with_lb_and_a_phone_that_rings_reaches_a_user_who_has_sent_nothing() {
    let options = ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 2).await.unwrap();
    scene.sign_in(0..USERS).await.unwrap();
    let calls = scene
        .put_incoming_calls_up(&(0..20).collect::<Vec<_>>())
        .await
        .unwrap();
    scene.kill_front_end().await.unwrap();
    scene.cluster.restart(Member::Lb).await.unwrap();
    scene.wait_until_ocs_is_back().await.unwrap();

    // Nobody has sent a byte through the new lb.
    let ringing = scene.ring(&(20..60).collect::<Vec<_>>()).await.unwrap();
    let over_outbound = scene.ocs.ask(|front_end| front_end.messages_on_accepted()).await;
    println!("{over_outbound} messages came over connections that lb opened");
    assert!(over_outbound > 0);

    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.far_ends_hang_up(&ringing).await.unwrap();
    scene.far_ends_hang_up(&calls).await.unwrap();
    scene.every_phone_rings_and_stops().await.unwrap();
    scene.verdict_without_failures().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_go_on_without_the_witness_and_one_may_die_when_it_is_back() {
    let options = ClusterOptions {
        users: 40,
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..40).await.unwrap();
    for victim in [Member::Node(1), Member::Node(2)] {
        scene.kill_front_end().await.unwrap();
        scene.cluster.restart(Member::Lb).await.unwrap();
        scene.wait_until_ocs_is_back().await.unwrap();
        scene.everyone_gets_a_snapshot().await.unwrap();
        scene.cluster.kill(victim).await.unwrap();
        scene.everyone_gets_a_snapshot().await.unwrap();
        scene.every_phone_rings_and_stops().await.unwrap();
        scene.cluster.restart(victim).await.unwrap();
    }
    scene.verdict_without_failures().await.unwrap();
}
