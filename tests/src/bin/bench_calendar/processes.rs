//! Real processes on loopback: cold start, death of a Client Access Server, death of a node.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tandem_tests::cluster::{ClusterOptions, ExchangeOptions, Member, mailbox};
use tandem_tests::figures::Figures;
use tandem_tests::peers::exchange::mail_store::{Appointment, Status};
use tandem_tests::peers::exchange::server::Servers;
use tandem_tests::peers::exchange::subscriptions::Timing;
use tandem_tests::peers::exchange::{now_ms, now_secs};
use tandem_tests::peers::ocs::user_id;
use tandem_tests::scenario::{CalendarScene, Places};

use crate::options::Options;

pub(crate) async fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    figures.count("users", options.users);
    figures.count("cas", options.cas);
    let mut scene = cold_start(options, figures).await?;
    cas_dies(&mut scene, figures).await?;
    node_dies(&mut scene, figures).await?;
    let requests = scene.exchange().ask(|servers| requests(servers)).await;
    figures.count("exchange_requests", requests);
    scene.verdict().await
}

async fn cold_start(options: &Options, figures: &mut Figures) -> anyhow::Result<CalendarScene> {
    let users = options.users;
    let exchange = ExchangeOptions {
        cas: options.cas,
        delivery: options.delivery,
        timing: Timing::default(),
        request_timeout: Duration::from_secs(30),
        sweep_secs: 900,
        ..ExchangeOptions::default()
    };
    let cluster = ClusterOptions {
        users,
        cti_managers: 1,
        exchange: Some(exchange),
        log_filter: "warn,openraft=error".to_owned(),
        ..ClusterOptions::default()
    };
    println!(
        "Building, and starting one lb, two nodes and {} servers …",
        options.cas
    );
    let mut scene = CalendarScene::with_cluster(cluster, move |servers| fill(servers, users)).await?;
    scene.patience = options.patience;
    // Both are measured from the moment at which the nodes are ready.
    let started = Instant::now();
    let (places, right) = tokio::join!(scene.everyone_is_heard(), scene.everyone_is_right());
    right?;
    let places = places?;
    figures.seconds("cold_start_seconds", started.elapsed());
    figures.percent("cold_start_uneven_percent", uneven(&places));
    figures.count("cold_start_subscribes", places.granted);
    Ok(scene)
}

async fn cas_dies(scene: &mut CalendarScene, figures: &mut Figures) -> anyhow::Result<()> {
    let before = scene.everyone_is_heard().await?;
    let victims = before.at(0);
    let killed_at = Instant::now();
    scene.exchange_mut().kill(0).await;
    // Each of its users is called to a meeting that nobody can tell of yet.
    for victim in &victims {
        scene.exchange().meet_now(victim, Status::OutOfOffice).await?;
    }
    let (after, right) = tokio::join!(scene.everyone_is_heard(), scene.everyone_is_right());
    right?;
    let after = after?;
    figures.seconds("cas_kill_seconds", killed_at.elapsed());
    figures.count("cas_kill_users_moved", victims.len());
    figures.percent("cas_kill_uneven_percent", uneven(&after));
    let touched = touched(scene, &before, &victims).await;
    figures.count("cas_kill_others_touched", touched);
    scene.exchange_mut().restart(0).await?;
    Ok(())
}

async fn node_dies(scene: &mut CalendarScene, figures: &mut Figures) -> anyhow::Result<()> {
    let before = scene.everyone_is_heard().await?;
    // Meetings that begin while one node is dead and the other has not noticed yet, and until it has all in hand.
    let first = now_secs() + EDGES_AFTER;
    let edges: BTreeMap<String, i64> = (0..scene.users)
        .step_by(EDGE_EVERY)
        .enumerate()
        .map(|(number, user)| {
            (
                mailbox(user),
                first + i64::try_from(number).unwrap_or(0) % EDGES_WITHIN,
            )
        })
        .collect();
    for (owner, start) in &edges {
        let meeting = Appointment::new(*start, *start + 7200, Status::OutOfOffice);
        let busy = Appointment::new(now_secs() - 7200, *start, Status::Tentative);
        scene.exchange().create(owner, busy).await?;
        scene.exchange().create(owner, meeting).await?;
    }
    let orphans = users_kept_by(scene, Member::Node(2)).await?;
    while now_secs() < first - 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    scene.cluster.kill(Member::Node(2)).await?;
    let killed_at = Instant::now();
    let worst = worst_edge(scene, &edges).await?;
    figures.seconds("node_kill_worst_edge_seconds", worst);
    scene.everyone_is_right().await?;
    figures.seconds("node_kill_seconds_until_right", killed_at.elapsed());
    let again = subscribed_anew(scene, before.granted, orphans).await?;
    figures.seconds("node_kill_seconds_until_subscribed", killed_at.elapsed());
    figures.count("node_kill_users_inherited", orphans);
    let after = scene.everyone_is_heard().await?;
    let heard = after.cas.iter().chain(&again);
    let moved = heard.filter(|(mailbox, cas)| before.cas.get(*mailbox) != Some(*cas));
    figures.count("node_kill_assignments_changed", moved.count());
    Ok(())
}

/// How many users' calendars that node keeps.
async fn users_kept_by(scene: &CalendarScene, node: Member) -> anyhow::Result<usize> {
    let status = scene.cluster.get(node, "/exchange/status").await?;
    let gateways = status["gateways"].as_array().into_iter().flatten();
    let kept: u64 = gateways
        .filter_map(|gateway| gateway["here"]["users"].as_u64())
        .sum();
    usize::try_from(kept).context("more users than fit")
}

/// Waits until so many users were subscribed anew; where each of them is.
async fn subscribed_anew(
    scene: &CalendarScene,
    granted: usize,
    users: usize,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let anew = move |servers: &Servers| -> BTreeMap<String, usize> {
        let since = servers.granted().iter().skip(granted);
        since
            .map(|granted| (granted.mailbox.clone(), granted.cas))
            .collect()
    };
    let what = format!("the successor has subscribed {users} users");
    let all = move |servers: &Servers| anew(servers).len() >= users;
    scene.exchange().wait_until(&what, scene.patience, all).await?;
    Ok(scene.exchange().ask(move |servers| anew(servers)).await)
}

/// By how much the last of these meetings showed too late.
async fn worst_edge(scene: &CalendarScene, edges: &BTreeMap<String, i64>) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut open: HashSet<(String, i64)> = (0..scene.users)
        .filter_map(|user| Some((user_id(user), *edges.get(&mailbox(user))?)))
        .collect();
    let mut worst = 0;
    while !open.is_empty() {
        ensure!(
            started.elapsed() < scene.patience,
            "{} edges were missed",
            open.len()
        );
        let told = scene.calendars_at(Member::Node(1)).await?;
        let now = now_ms();
        open.retain(|(user, start)| {
            let shows = told.get(user).is_some_and(|state| state == "out_of_office");
            if shows {
                worst = worst.max(now - start * 1000);
            }
            !shows
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(Duration::from_millis(u64::try_from(worst).unwrap_or(0)))
}

/// A calendar for everybody: a third of them is in a meeting.
fn fill(servers: &mut Servers, users: usize) {
    let now = now_secs();
    for user in 0..users {
        let offset = i64::try_from(user % 3).unwrap_or(0) * 7200 - 600;
        for day in 0..3 {
            let start = now + offset + day * 86_400;
            let meeting = Appointment::new(start, start + 5400, Status::Busy);
            servers.create(&mailbox(user), meeting, Instant::now(), now * 1000);
        }
    }
}

/// The largest distance of a server's share from the mean.
fn uneven(places: &Places) -> f64 {
    let counts = places.counts();
    let mean = counts.iter().sum::<usize>() as f64 / counts.len().max(1) as f64;
    let distances = counts.iter().map(|count| (*count as f64 - mean).abs());
    distances.fold(0.0, f64::max) / mean.max(1.0) * 100.0
}

/// Users of other servers who were moved, or subscribed anew.
async fn touched(scene: &CalendarScene, before: &Places, victims: &BTreeSet<String>) -> usize {
    let after = scene.places().await;
    let granted = before.granted;
    let anew: BTreeSet<String> = scene
        .exchange()
        .ask(move |servers| {
            let since = servers.granted().iter().skip(granted);
            since.map(|granted| granted.mailbox.clone()).collect()
        })
        .await;
    let others = before
        .cas
        .iter()
        .filter(|(mailbox, _)| !victims.contains(*mailbox));
    others
        .filter(|(mailbox, cas)| anew.contains(*mailbox) || after.cas.get(*mailbox) != Some(*cas))
        .count()
}

fn requests(servers: &Servers) -> usize {
    let records = servers.all().iter().map(|cas| cas.record());
    records.flat_map(|record| record.requests.values()).sum()
}

/// Seconds from now on: all these meetings have to be read before.
const EDGES_AFTER: i64 = 15;
/// Seconds over which they begin.
const EDGES_WITHIN: i64 = 10;
/// One user in so many.
const EDGE_EVERY: usize = 10;
