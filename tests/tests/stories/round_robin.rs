//! A thousand users are spread evenly, however many connections they come over.

use std::collections::BTreeMap;

use tandem_tests::cluster::ClusterOptions;
use tandem_tests::scenario::{Scene, ensure_even};

const USERS: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_users_over_one_connection_are_spread_evenly() {
    spread_evenly(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_users_over_a_thousand_connections_are_spread_evenly() {
    spread_evenly(USERS).await.unwrap();
}

/// 500 / 500 over the nodes by the clients' To-tags, 125 on each CTI connection by the PBX's monitors.
async fn spread_evenly(connections: usize) -> anyhow::Result<()> {
    let options = ClusterOptions {
        users: USERS,
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(options, connections).await?;
    scene.sign_in(0..USERS).await?;
    let by_node: BTreeMap<_, _> = scene.ocs.ask(|front_end| front_end.dialogs_by_node()).await;
    println!("sessions by node: {by_node:?}");
    ensure_even(
        "sessions by node",
        &by_node.values().copied().collect::<Vec<_>>(),
        2,
    )?;
    let by_connection = scene.pbx().ask(|switch| switch.monitors_by_connection()).await;
    println!("monitors by CTI connection of each node: {by_connection:?}");
    let counts: Vec<_> = by_connection.iter().map(|(_, count)| *count).collect();
    ensure_even("monitors by CTI connection", &counts, 8)?;
    scene.everyone_gets_a_snapshot().await?;
    scene.every_phone_rings_and_stops().await?;
    scene.verdict_without_failures().await
}
