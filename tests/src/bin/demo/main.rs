//! `cargo demo`: a thousand users sign in, phones ring, nodes are killed, and the clients say what they lost.
#![expect(clippy::disallowed_methods, reason = "the demo measures what clients waited")]

mod calendars;
mod options;
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tandem_tests::cluster::{ClusterOptions, ExchangeOptions, Member};
use tandem_tests::scenario::{Death, DeathReport, Scene, ensure_even};

use calendars::Calendars;
use options::Options;
use table::Table;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::from_arguments() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}; --help lists the options");
            return ExitCode::from(64);
        }
    };
    match play(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the summary needs from each act.
#[derive(Debug, Default)]
struct Acts {
    split: Vec<(String, usize)>,
    monitors: Vec<(String, usize)>,
    deaths: Vec<(Member, DeathReport)>,
    calendars: Calendars,
}

async fn play(options: &Options) -> anyhow::Result<()> {
    println!(
        "Building, and starting one lb, two nodes, four CTI managers, one PBX, one OCS and four Exchange servers …"
    );
    let cluster_options = ClusterOptions {
        users: options.users + 2 * NEWCOMERS,
        adoption_disabled: options.plant_fault,
        exchange: Some(ExchangeOptions::default()),
        ..ClusterOptions::default()
    };
    let mut scene = Scene::start(cluster_options, 1).await?;
    if options.keep {
        scene.cluster.keep_directory();
    }
    if options.plant_fault {
        scene.patience = PATIENCE_WITH_FAULT;
    }
    let table = Table::start(&scene);
    let mut acts = Acts::default();
    let played = play_acts(options, &mut scene, &table, &mut acts).await;
    table.act("done");
    if let Err(error) = &played {
        eprintln!("\nfailed: {error:#}");
        // A failure that was asked for leaves nothing behind.
        if !options.plant_fault {
            eprintln!("logs lie in {}", scene.cluster.directory().display());
            scene.cluster.keep_directory();
        }
    }
    summary(options, &scene, &acts).await;
    if options.keep {
        println!("\nEverything goes on running. Ctrl-C ends it.");
        tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")?;
    }
    table.stop();
    played
}

async fn play_acts(
    options: &Options,
    scene: &mut Scene,
    table: &Table,
    acts: &mut Acts,
) -> anyhow::Result<()> {
    table.act("everyone signs in over one connection");
    scene.sign_in(0..options.users).await?;
    let split = scene.ocs.ask(|front_end| front_end.dialogs_by_node()).await;
    acts.split = split.into_iter().collect();
    acts.monitors = scene.pbx().ask(|switch| switch.monitors_by_connection()).await;
    let counts = |pairs: &[(String, usize)]| pairs.iter().map(|(_, count)| *count).collect::<Vec<_>>();
    ensure_even("sessions by node", &counts(&acts.split), 2)?;
    ensure_even("sessions by CTI connection", &counts(&acts.monitors), 8)?;

    acts.calendars.fill(scene).await?;
    table.act("every calendar is subscribed at one of four Exchange servers");
    acts.calendars.everyone_is_read(scene).await?;

    table.act("phones ring, calls are answered, far ends hang up");
    scene.everyday_life(options.pace).await?;
    if !options.plant_fault {
        table.act("an Exchange server is killed: its users go to the others");
        acts.calendars.a_server_dies(scene).await?;
        scene.everyday_life(options.pace).await?;
        table.act("the Exchange server returns, and takes new users only");
        scene.cluster.exchange_mut().restart(calendars::VICTIM).await?;
    }
    let leader = node_that_leads(scene).await?;
    table.act(&format!(
        "{leader} leads Raft: kill -9, with calls up and requests inside"
    ));
    let owned = scene.users_opened_by(leader).await?;
    let first = (options.users..options.users + NEWCOMERS).collect();
    acts.deaths
        .push((leader, kill(scene, leader, owned, first).await?));

    table.act(&format!("life goes on without {leader}"));
    scene.everyday_life(options.pace).await?;
    table.act(&format!("{leader} returns"));
    scene.cluster.restart(leader).await?;
    scene.everyday_life(options.pace).await?;

    let other = if leader == Member::Node(1) {
        Member::Node(2)
    } else {
        Member::Node(1)
    };
    table.act(&format!("{other} owns every old session: kill -9"));
    let everyone = (0..options.users).collect();
    let second = (options.users + NEWCOMERS..options.users + 2 * NEWCOMERS).collect();
    acts.deaths
        .push((other, kill(scene, other, everyone, second).await?));
    table.act(&format!("{other} returns"));
    scene.cluster.restart(other).await?;
    scene.everyday_life(options.pace).await?;
    scene.everyone_gets_a_snapshot().await?;
    table.act("presence agrees with every calendar");
    acts.calendars.everyone_is_right(scene).await?;
    scene.verdict().await
}

async fn kill(
    scene: &mut Scene,
    victim: Member,
    owned: Vec<usize>,
    newcomers: Vec<usize>,
) -> anyhow::Result<DeathReport> {
    let death = Death {
        victim,
        owned,
        newcomers,
    };
    scene.kill_and_judge(death).await
}

/// lb leads only for a moment, to bring a node up to date.
async fn node_that_leads(scene: &Scene) -> anyhow::Result<Member> {
    let started = Instant::now();
    loop {
        let leader = scene.cluster.leader().await?;
        if leader != Member::Lb {
            return Ok(leader);
        }
        ensure!(
            started.elapsed() < Duration::from_secs(30),
            "lb keeps the lead of Raft"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the clients and the PBX saw; not what Tandem says of itself.
async fn summary(options: &Options, scene: &Scene, acts: &Acts) {
    let (signed_in, requests, failures, events, violations) = scene
        .ocs
        .ask(|front_end| {
            let requests = front_end.all_requests().count();
            let events: usize = front_end.users().iter().map(|user| user.events().len()).sum();
            let violations = front_end.violations();
            (
                front_end.signed_in(),
                requests,
                front_end.failures(),
                events,
                violations,
            )
        })
        .await;
    let executed = scene.commands_executed().await;
    let repeated = scene.pbx().ask(|switch| switch.repeated_commands()).await;
    println!("\n── What the clients saw");
    println!(
        "sessions              {} signed in at first, {signed_in} now",
        options.users
    );
    println!(
        "requests              {requests} sent, {} without a good 200",
        failures.len()
    );
    println!(
        "events                {events} received; missing, doubled or out of order: {}",
        violations.len()
    );
    let executed: Vec<_> = executed
        .iter()
        .map(|(kind, count)| format!("{count} {kind:?}"))
        .collect();
    println!(
        "PBX commands          {}; twice: {}",
        executed.join(", "),
        repeated.len()
    );
    println!("split over nodes      {}", parts(&acts.split));
    println!("split over CTI links  {}", parts(&acts.monitors));
    for (victim, report) in &acts.deaths {
        println!(
            "{victim} killed          {} calls up, {} INVITEs and {} INFOs unanswered in lb; longest pause {:?}",
            report.calls_up, report.unanswered_invites, report.unanswered_infos, report.longest_pause
        );
    }
    acts.calendars.summary(scene).await;
    for line in failures.iter().chain(&violations).chain(&repeated).take(10) {
        println!("  {line}");
    }
    println!("── Metrics");
    for member in [Member::Lb, Member::Node(1), Member::Node(2)] {
        if let Some(address) = scene.cluster.addresses().admin(member) {
            println!("{member:<6} http://{address}/metrics");
        }
    }
}

fn parts(split: &[(String, usize)]) -> String {
    let parts: Vec<_> = split
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    parts.join(", ")
}

/// What is lost will not come by waiting.
const PATIENCE_WITH_FAULT: Duration = Duration::from_secs(8);
/// Sign in while a node is frozen, at each of the two deaths.
const NEWCOMERS: usize = 20;
