//! What the members hold is compared, and they hold the same.

use tandem_tests::cluster::{ClusterOptions, Finalise, Member};
use tandem_tests::scenario::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_hold_the_same_and_one_that_is_away_is_named() {
    let options = ClusterOptions {
        users: 20,
        cti_managers: 2,
        finalise: Finalise::AfterSecs(0),
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, 1).await.unwrap();
    scene.sign_in(0..20).await.unwrap();
    let calls = scene
        .put_incoming_calls_up(&(0..10).collect::<Vec<_>>())
        .await
        .unwrap();
    let nodes = [Member::Node(1), Member::Node(2)];
    for node in nodes {
        scene
            .cluster
            .wait_for_member_status(node, 0, |text| text.contains("written in format 2"))
            .await
            .unwrap();
        let told = scene.cluster.ask_about_members(node, &["check"]).await.unwrap();
        println!("{}", told.text);
        assert_eq!(told.status, 0, "{told:?}");
        assert!(told.text.contains("all members hold the same"), "{told:?}");
    }
    scene.everyone_gets_a_snapshot().await.unwrap();
    scene.cluster.kill(nodes[1]).await.unwrap();
    let told = scene
        .cluster
        .ask_about_members(nodes[0], &["check"])
        .await
        .unwrap();
    println!("{}", told.text);
    assert_eq!(told.status, 1, "{told:?}");
    assert!(told.text.contains("(!) not all members"), "{told:?}");
    scene.everyone_gets_a_snapshot().await.unwrap();
    // Not before: what a node has told its clients in its last milliseconds, its successor tells once more.
    scene.far_ends_hang_up(&calls).await.unwrap();
    scene.verdict_without_failures().await.unwrap();
}
