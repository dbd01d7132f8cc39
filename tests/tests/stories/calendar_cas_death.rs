//! A Client Access Server dies, and comes back.

use std::time::Instant;

use tandem_tests::cluster::{ExchangeOptions, Member, mailbox};
use tandem_tests::peers::exchange::mail_store::Status;
use tandem_tests::peers::ocs::user_id;
use tandem_tests::scenario::{CalendarScene, ensure_even};

const USERS: usize = 60;
/// Enabled only after the server has come back.
const NEWCOMERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_users_go_evenly_to_the_others_and_nobody_else_notices_by_push() {
    die_and_return("push_first").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_users_go_evenly_to_the_others_and_nobody_else_notices_by_streaming() {
    die_and_return("streaming_first").await.unwrap();
}

async fn die_and_return(delivery: &'static str) -> anyhow::Result<()> {
    let options = ExchangeOptions {
        delivery,
        ..ExchangeOptions::default()
    };
    let mut scene = CalendarScene::start(USERS + NEWCOMERS, options).await?;
    scene.everyone_is_heard().await?;
    enable(&scene, false).await?;
    // Who is pushed to is unsubscribed with the next callback.
    scene.meet_now(USERS..USERS + NEWCOMERS, Status::Busy).await?;
    let before = scene.are_heard((0..USERS).collect()).await?;
    let victims = before.at(1);
    let epochs = scene.assignments_of(Member::Node(1), 0..USERS).await?;

    let killed_at = Instant::now();
    scene.exchange_mut().kill(1).await;
    // Something happens to everybody meanwhile, and nothing of it may be lost.
    scene.meet_now((0..USERS).step_by(3), Status::Busy).await?;
    let after = scene.are_heard((0..USERS).collect()).await?;
    println!(
        "{delivery}: everybody is subscribed again after {:?}",
        killed_at.elapsed()
    );
    scene.right_about(0..USERS).await?;
    println!(
        "{delivery}: everybody is right again after {:?}",
        killed_at.elapsed()
    );
    after.ensure_nobody_moved_but(&before, &victims)?;
    ensure_even("users that were moved, by server", &after.counts_of(&victims), 3)?;
    nobody_else_subscribed(&scene, &before, &victims).await?;
    let epochs_after = scene.assignments_of(Member::Node(1), 0..USERS).await?;
    for (user, (cas, epoch)) in &epochs {
        let (cas_after, epoch_after) = &epochs_after[user];
        let moved = *cas == "cas2";
        anyhow::ensure!(
            (cas != cas_after) == moved && epoch + u64::from(moved) == *epoch_after,
            "{user}: from {cas} epoch {epoch} to {cas_after} epoch {epoch_after}"
        );
    }

    scene.exchange_mut().restart(1).await?;
    taken_again(&scene).await?;
    enable(&scene, true).await?;
    let with_newcomers = scene.everyone_is_heard().await?;
    with_newcomers.ensure_nobody_moved_but(&after, &(USERS..USERS + NEWCOMERS).map(mailbox).collect())?;
    anyhow::ensure!(
        !with_newcomers.at(1).is_empty(),
        "the server that returned is left out"
    );
    scene.everyone_is_right().await?;
    scene.verdict().await
}

/// `null` would be what the directory says, which is yes.
async fn enable(scene: &CalendarScene, enabled: bool) -> anyhow::Result<()> {
    let newcomers: Vec<_> = (USERS..USERS + NEWCOMERS).map(user_id).collect();
    let body = serde_json::json!({ "users": newcomers, "enabled": enabled });
    scene
        .cluster
        .post(Member::Node(1), "/calendar/enable", &body)
        .await
        .map(drop)
}

/// Who was not at the server that died has not been subscribed anew.
async fn nobody_else_subscribed(
    scene: &CalendarScene,
    before: &tandem_tests::scenario::Places,
    victims: &std::collections::BTreeSet<String>,
) -> anyhow::Result<()> {
    let (granted, victims) = (before.granted, victims.clone());
    let strangers = scene
        .exchange()
        .ask(move |servers| {
            let since = servers.granted().iter().skip(granted);
            since
                .filter(|granted| !victims.contains(&granted.mailbox))
                .map(|granted| granted.mailbox.clone())
                .collect::<Vec<_>>()
        })
        .await;
    anyhow::ensure!(
        strangers.is_empty(),
        "subscribed anew without need: {strangers:?}"
    );
    Ok(())
}

/// Waits until both nodes would give the server users again.
async fn taken_again(scene: &CalendarScene) -> anyhow::Result<()> {
    for node in scene.live_nodes() {
        scene
            .wait_for(node, "/exchange/gateways", "cas2 takes users", |list| {
                let gateways = list.as_array().into_iter().flatten();
                gateways
                    .into_iter()
                    .any(|gateway| gateway["name"] == "cas2" && gateway["takes_users"] == true)
            })
            .await?;
    }
    Ok(())
}
