//! Users come and go: by an administrator's word, and by the directory.

use std::collections::BTreeSet;

use serde_json::json;
use tandem_tests::cluster::{ExchangeOptions, Member, mailbox};
use tandem_tests::peers::exchange::mail_store::Status;
use tandem_tests::peers::ocs::user_id;
use tandem_tests::scenario::CalendarScene;

const USERS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disabled_or_leaves_the_directory_is_unsubscribed_at_once_by_streaming() {
    leave("streaming_only").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disabled_or_leaves_the_directory_is_unsubscribed_by_his_next_callback() {
    leave("push_only").await.unwrap();
}

async fn leave(delivery: &'static str) -> anyhow::Result<()> {
    let options = ExchangeOptions {
        delivery,
        ..ExchangeOptions::default()
    };
    let scene = CalendarScene::start(USERS, options).await?;
    scene.meet_now(0..USERS, Status::Busy).await?;
    scene.everyone_is_heard_evenly(4).await?;
    scene.everyone_is_right().await?;

    let body = json!({ "users": [user_id(3)], "enabled": false });
    scene
        .cluster
        .post(Member::Node(1), "/calendar/enable", &body)
        .await?;
    forgotten(&scene, 3).await?;
    call_back(&scene, delivery, 3).await?;
    let mut there: BTreeSet<_> = (0..USERS).filter(|user| *user != 3).collect();
    scene.are_heard(there.clone()).await?;

    scene.cluster.shrink_directory(USERS - 2)?;
    for node in scene.live_nodes() {
        scene.cluster.post(node, "/directory/reload", &json!({})).await?;
    }
    for user in [USERS - 2, USERS - 1] {
        there.remove(&user);
        call_back(&scene, delivery, user).await?;
    }
    scene.are_heard(there.clone()).await?;
    for node in scene.live_nodes() {
        scene.knows_nobody_of_that_name(node, USERS - 1).await?;
    }

    let body = json!({ "users": [user_id(3)], "enabled": true });
    scene
        .cluster
        .post(Member::Node(2), "/calendar/enable", &body)
        .await?;
    there.insert(3);
    scene.are_heard(there).await?;
    scene.is(3, "in_a_meeting").await?;
    scene.verdict().await
}

/// Nobody tells his calendar any more.
async fn forgotten(scene: &CalendarScene, user: usize) -> anyhow::Result<()> {
    for node in scene.live_nodes() {
        let no_calendar = |presence: &serde_json::Value| presence["calendar"].is_null();
        scene
            .presence_at(node, user, "it has no calendar", no_calendar)
            .await?;
    }
    Ok(())
}

/// Push ends when Exchange calls the next time.
async fn call_back(scene: &CalendarScene, delivery: &str, user: usize) -> anyhow::Result<()> {
    if delivery.starts_with("push") {
        scene.exchange().meet_now(&mailbox(user), Status::Busy).await?;
    }
    Ok(())
}
