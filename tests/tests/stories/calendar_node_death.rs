//! Nodes die; who is read where does not change by that.

use std::time::Instant;

use tandem_tests::cluster::{ExchangeOptions, Member};
use tandem_tests::peers::exchange::mail_store::Status;
use tandem_tests::scenario::CalendarScene;

const USERS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_successor_goes_on_where_the_dead_node_read_and_presence_goes_on() {
    let mut scene = CalendarScene::start(USERS, ExchangeOptions::default())
        .await
        .unwrap();
    let before = scene.everyone_is_heard_evenly(4).await.unwrap();
    scene.everyone_is_right().await.unwrap();
    let assignments = scene.assignments(Member::Node(1)).await.unwrap();

    scene.cluster.kill(Member::Node(2)).await.unwrap();
    let killed_at = Instant::now();
    scene.meet_now(0..USERS / 2, Status::Busy).await.unwrap();
    scene.everyone_is_right().await.unwrap();
    println!("everybody is right again after {:?}", killed_at.elapsed());
    let after = scene.everyone_is_heard().await.unwrap();
    assert_eq!(after.cas, before.cas);
    assert_eq!(scene.assignments(Member::Node(1)).await.unwrap(), assignments);

    scene.cluster.restart(Member::Node(2)).await.unwrap();
    scene
        .meet_now(USERS / 2..USERS, Status::OutOfOffice)
        .await
        .unwrap();
    scene.everyone_is_right().await.unwrap();
    assert_eq!(scene.assignments(Member::Node(2)).await.unwrap(), assignments);
    assert_eq!(scene.everyone_is_heard().await.unwrap().cas, before.cas);
    scene.verdict().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_killed_as_a_whole_remembers_who_is_read_where() {
    let mut scene = CalendarScene::start(USERS, ExchangeOptions::default())
        .await
        .unwrap();
    let before = scene.everyone_is_heard_evenly(4).await.unwrap();
    let assignments = scene.assignments(Member::Node(1)).await.unwrap();
    let everything = [Member::Lb, Member::Node(1), Member::Node(2)];
    scene.cluster.kill_all(&everything).await.unwrap();
    scene.meet_now(0..USERS / 2, Status::Busy).await.unwrap();
    scene.cluster.restart_all(&everything).await.unwrap();
    scene.everyone_is_right().await.unwrap();
    for node in [Member::Node(1), Member::Node(2)] {
        assert_eq!(scene.assignments(node).await.unwrap(), assignments, "{node}");
    }
    assert_eq!(scene.everyone_is_heard().await.unwrap().cas, before.cas);
    scene.verdict().await.unwrap();
}
