//! Three members, two nodes and the witness, in a simulated world: one seed decides everything, members crash with
//! what their disks had not synced, paths break, and nothing that was acknowledged may be lost.
#![expect(
    clippy::disallowed_methods,
    reason = "real time bounds how many seeds are run"
)]
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tandem_cluster::health::Subject;
use tandem_cluster::{Applied, Authority, Command, Epoch, NodeId, Refusal, SessionKey};
use tandem_raft::RaftRole;
use tandem_runtime::io::environment::simulated::Fault;

use world::{DISK_FREE_BYTES_MIN, MEMBERS, WITNESS, World, session_opened};

/// As many seeds as there is time for, in order, so that the same ones come first in every run.
#[test]
fn nothing_acknowledged_is_lost_whatever_crashes() {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let reports: Mutex<BTreeMap<u64, BTreeMap<String, u64>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let seed = seed_of(number);
                    if number >= SEEDS_MIN && started.elapsed() > time_for_seeds() {
                        return;
                    }
                    let counts = counts_of_a_process(seed);
                    reports.lock().unwrap().insert(seed, counts);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    let totals = totals(&reports);
    println!("{} seeds in {:?}: {totals:?}", reports.len(), started.elapsed());
    let at_least = |what: &str, wanted: u64| {
        let total = totals.get(what).copied().unwrap_or(0);
        assert!(
            total >= wanted,
            "{what}: only {total} in {} seeds: {totals:?}",
            reports.len()
        );
    };
    let seeds = reports.len() as u64;
    at_least(ACKNOWLEDGED, 50 * seeds);
    // Of all seeds together: what one of them does not bring, another does.
    for what in [
        "crashes of leaders",
        "isolations",
        "power failures within an operation",
    ] {
        at_least(what, seeds / 2);
    }
    for what in ["crashes of others", "cuts", "full disks", "disks lost"] {
        at_least(what, seeds / 4);
    }
    at_least("disks put back", seeds / 20);
    at_least("states replaced", 1);
    at_least("nodes that learned of their loss", 1);
}

/// Those first that found something once.
fn seed_of(number: u64) -> u64 {
    let found_something = usize::try_from(number)
        .ok()
        .and_then(|number| FOUND_SOMETHING.get(number));
    found_something
        .copied()
        .unwrap_or_else(|| number - FOUND_SOMETHING.len() as u64)
}

/// A link to a process that was gone, on which nothing was said: snapshots went nowhere.
const FOUND_SOMETHING: [u64; 2] = [54, 30];

fn totals(reports: &BTreeMap<u64, BTreeMap<String, u64>>) -> BTreeMap<&str, u64> {
    let mut totals = BTreeMap::new();
    for (what, count) in reports.values().flatten() {
        *totals.entry(what.as_str()).or_default() += count;
    }
    totals
}

/// Does something only in the processes that the test above starts, a seed each.
#[test]
fn print_the_counts_of_a_seed() {
    if let Ok(seed) = std::env::var(COUNTED_SEED) {
        let report = run_with_faults(seed.parse().unwrap());
        for (what, count) in report.counts {
            println!("{COUNT_MARK}{count} {what}");
        }
        println!(
            "seed {seed}: longest time without an acknowledgement {:?}",
            report.longest_pause
        );
    }
}

/// Of one seed, by name.
fn counts_of_a_process(seed: u64) -> BTreeMap<String, u64> {
    let lines = lines_of_a_process("print_the_counts_of_a_seed", COUNTED_SEED, seed);
    let counts = lines
        .iter()
        .filter_map(|line| line.strip_prefix(COUNT_MARK)?.split_once(' '));
    counts
        .map(|(count, what)| (what.to_owned(), count.parse().unwrap()))
        .collect()
}

/// Each run in a process of its own: the random numbers of the libraries' `select!` go on from one run to the next.
#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, second) = (trace_of_a_process(7), trace_of_a_process(7));
    let differs = first.iter().zip(&second).position(|(left, right)| left != right);
    if let Some(at) = differs {
        panic!("event {at} differs: {} / {}", first[at], second[at]);
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 200, "only {} events", first.len());
    assert_ne!(first, trace_of_a_process(8));
}

/// Does something only in the processes that the test above starts.
#[test]
fn print_the_trace_of_a_seed() {
    if let Ok(seed) = std::env::var(TRACED_SEED) {
        let report = run_with_faults(seed.parse().unwrap());
        report
            .trace
            .iter()
            .for_each(|event| println!("{TRACE_MARK}{event}"));
    }
}

fn trace_of_a_process(seed: u64) -> Vec<String> {
    let lines = lines_of_a_process("print_the_trace_of_a_seed", TRACED_SEED, seed);
    let events = lines.iter().filter_map(|line| line.strip_prefix(TRACE_MARK));
    events.map(str::to_owned).collect()
}

/// What a test of this file prints about a seed, in a process of its own.
fn lines_of_a_process(test: &str, variable: &str, seed: u64) -> Vec<String> {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(variable, seed.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "seed {seed} ({variable}={seed} runs it again):\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.lines().map(str::to_owned).collect()
}

/// Node 2 is cut off, node 1 and the witness go on, node 1 dies, node 2 comes back: only the witness holds what was
/// acknowledged meanwhile, and it does not campaign by timeout.
#[test]
fn the_witness_brings_a_node_up_to_date_when_the_other_is_dead() {
    for (lagging, other) in [(2, 1), (1, 2)] {
        let mut world = World::new(40 + lagging);
        world.run_until("a leader", |world| world.leader().is_some());
        world.cut(lagging, other);
        world.cut(lagging, WITNESS);
        world.run_until("the others lead", |world| world.leader() == Some(other));
        world.writer(other);
        world.run_until("writes without the node", |world| world.acknowledged() > 30);
        world.crash(other);
        world.run_for(Duration::from_millis(500));
        world.heal();
        let healed = world.sim.elapsed();
        world.run_until("the node leads", |world| world.leader() == Some(lagging));
        println!(
            "node {lagging} leads {:?} after its return",
            world.sim.elapsed() - healed
        );
        world.check_acknowledged(&[lagging, WITNESS]);
    }
}

#[test]
fn a_leader_cut_off_from_everybody_starts_nothing() {
    let mut world = World::new(50);
    world.run_until("a leader", |world| world.leader().is_some());
    let leader = world.leader().unwrap();
    let other = 3 - leader;
    world.cut(leader, other);
    world.cut(leader, WITNESS);
    world.run_until("another leads", |world| world.leader() == Some(other));
    let authority = |world: &World, member| world.cluster(member).status().borrow().authority;
    world.run_for(Duration::from_secs(1));
    assert_eq!(authority(&world, leader), Authority::Isolated);
    assert_eq!(world.cluster(leader).status().borrow().leader, None);
    assert_eq!(authority(&world, other), Authority::Quorum);
    world.heal();
    world.run_until("all hear the leader", |world| {
        MEMBERS
            .iter()
            .all(|&member| authority(world, member) == Authority::Quorum)
    });
}

#[test]
fn a_member_stops_when_its_disk_fails_and_the_others_go_on() {
    let mut world = World::new(60);
    world.writer(1);
    world.writer(2);
    world.run_until("writes", |world| world.acknowledged() > 10);
    let leader = world.leader().unwrap();
    world.files(leader).set_fault(Some(Fault::SyncFails));
    world.run_until("the member stops", |world| {
        world.cluster(leader).status().borrow().role == RaftRole::Stopped
    });
    let before = world.acknowledged();
    world.run_until("writes go on", |world| world.acknowledged() > before + 30);
    world.check_acknowledged(&[3 - leader, WITNESS]);
}

/// With little room on its disk a leader leads no more; with little room on all of them nothing is added, everything else
/// goes on, and room makes it all good.
#[test]
fn a_nearly_full_disk_costs_the_lead_and_then_what_adds_to_the_state() {
    let mut world = World::new(80);
    world.run_until("the nodes are live", |world| {
        world.leader().is_some() && world.followers_agree()
    });
    let first = world.leader().unwrap();
    let second = 3 - first;
    world.files(first).set_free_bytes(DISK_FREE_BYTES_MIN - 1);
    world.run_until("another leads", |world| world.leader() == Some(second));
    let opened = |key: &str| session_opened(first, &format!("n{first}-{key}"));
    assert_eq!(world.proposed(first, opened("before")), Applied::Done);

    world.files(second).set_free_bytes(DISK_FREE_BYTES_MIN - 1);
    world.run_until("no room anywhere", |world| {
        let members = world.cluster(second).members().members;
        let full = members
            .iter()
            .filter(|member| member.disk_nearly_full == Some(true));
        full.count() == 2
    });
    let refused = Applied::Refused(Refusal::DiskNearlyFull);
    assert_eq!(world.proposed(first, opened("refused")), refused);
    let closed = Command::SessionClosed {
        key: SessionKey::new(format!("n{first}-before")),
        epoch: Epoch::FIRST,
    };
    assert_eq!(world.proposed(first, closed), Applied::Done);

    for node in [first, second] {
        world.files(node).set_free_bytes(10 * DISK_FREE_BYTES_MIN);
    }
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.proposed(first, opened("after")), Applied::Done);
}

/// A write that never ends: the lead goes to a node whose disk writes, what was acknowledged is there, and the member says
/// what is wrong for as long as it lasts.
#[test]
fn a_disk_that_stands_still_costs_the_lead_and_nothing_else() {
    let mut world = World::new(81);
    world.run_until("the nodes are live", |world| {
        world.leader().is_some() && world.followers_agree()
    });
    let first = world.leader().unwrap();
    let second = 3 - first;
    let has_trouble = move |world: &World| {
        let conditions = world.cluster(first).status().borrow().conditions.clone();
        conditions
            .iter()
            .any(|condition| condition.subject == Subject::Disk)
    };
    let opened = |key: &str| session_opened(second, &format!("n{second}-{key}"));
    world.files(first).set_fault(Some(Fault::StandsStill));
    assert_eq!(world.proposed(second, opened("at-once")), Applied::Done);
    world.run_until("another leads", |world| world.leader() == Some(second));
    assert!(has_trouble(&world));
    assert_eq!(world.proposed(second, opened("meanwhile")), Applied::Done);

    world.files(first).set_fault(None);
    world.run_until("the disk moves", |world| !has_trouble(world));
    world.run_until("equal replicas", World::replicas_are_equal);
    for key in ["at-once", "meanwhile"] {
        let key = SessionKey::new(format!("n{second}-{key}"));
        assert!(world.cluster(first).state().session(&key).is_some());
    }
}

/// Cut off for so short a time that nobody takes it for lost, or for longer: in either case the others' logs begin after
/// what the node has seen, and nothing more is written once it is back.
#[test]
fn a_node_that_a_snapshot_brings_up_to_date_knows_what_is_its_own() {
    for is_lost in [false, true] {
        let mut world = World::new(70 + u64::from(is_lost));
        world.run_until("the nodes are live", |world| {
            world.leader().is_some() && world.followers_agree()
        });
        let leader = world.leader().unwrap();
        let lagging = 3 - leader;
        let key = format!("n{leader}-moved");
        world.order(leader, [session_opened(leader, &key)]);
        world.run_until("a session", World::orders_are_carried_out);
        let replaced = |world: &World| world.books.lock().unwrap()[&lagging].replaced;
        let before = replaced(&world);

        world.isolate(lagging);
        let moved = Command::Adopt {
            key: SessionKey::new(key.clone()),
            from_epoch: Epoch::FIRST,
            to: NodeId(lagging),
        };
        world.order(leader, [moved]);
        world.order_many_entries(leader);
        world.run_until("entries without the node", World::orders_are_carried_out);
        if is_lost {
            world.run_until("the node is lost", |world| !world.holds_live(leader, lagging));
        }
        assert_eq!(world.holds_live(leader, lagging), !is_lost);
        world.heal();
        world.run_until("the node knows its place", |world| {
            world.replicas_are_equal() && world.followers_agree()
        });
        assert!(
            replaced(&world) > before,
            "the log still held what the node had missed"
        );
        let left = world.books.lock().unwrap()[&lagging].left;
        assert_eq!(left, usize::from(is_lost));
    }
}

struct Report {
    trace: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
    longest_pause: Duration,
}

/// Random faults for a while; then everything heals, and must.
fn run_with_faults(seed: u64) -> Report {
    let mut world = World::new(seed);
    let mut random = SmallRng::seed_from_u64(seed);
    world.writer(1);
    world.writer(2);
    world.run_until("a leader", |world| world.leader().is_some());
    let mut counts = BTreeMap::new();
    while world.sim.elapsed() < FAULTY_TIME {
        world.run_for(Duration::from_millis(random.random_range(100..1500)));
        let member = MEMBERS[random.random_range(0..3)];
        let other = MEMBERS[random.random_range(0..3)];
        let what = match random.random_range(0..10) {
            // One member may be down at a time, and the disks of two never lose anything together.
            0 | 1 if world.down.is_none() => {
                let leader = world.leader();
                let member = if random.random() {
                    leader.unwrap_or(member)
                } else {
                    member
                };
                world.crash(member);
                match leader == Some(member) {
                    true => "crashes of leaders",
                    false => "crashes of others",
                }
            }
            2 if member != other => {
                world.cut(member, other);
                "cuts"
            }
            3 if member != WITNESS && world.down.is_none() => {
                world.isolate(member);
                world.order_many_entries(3 - member);
                world.run_for(Duration::from_millis(random.random_range(500..4000)));
                world.heal();
                "isolations"
            }
            4 if world.down.is_none() => {
                world.fail_power_after(member, random.random_range(0..60));
                "power failures within an operation"
            }
            5 if world.down.is_none() => {
                world.fill_disk(member, random.random_range(0..150_000));
                "full disks"
            }
            // One at a time is without a seat, and whoever holds everything is within reach.
            6 if world.down.is_none() && world.everybody_has_a_seat() => {
                world.wipe(member);
                "disks lost"
            }
            7 if world.down.is_none() && world.everybody_has_a_seat() => {
                if world.has_old_copy(member) {
                    world.roll_back(member);
                    "disks put back"
                } else {
                    world.copy_disk(member);
                    "disks copied"
                }
            }
            _ => {
                world.heal();
                "recoveries"
            }
        };
        *counts.entry(what).or_default() += 1;
    }
    world.heal();
    world.run_until("a leader after the faults", |world| world.leader().is_some());
    let before = world.acknowledged();
    world.run_until("writes after the faults", |world| {
        world.acknowledged() > before + 20
    });
    world.run_until("seats for everybody", World::everybody_has_a_seat);
    world.check_acknowledged(&MEMBERS);
    world.run_until("equal replicas", World::replicas_are_equal);
    world.run_until("nodes that know their place", World::followers_agree);
    counts.extend(world.told());
    counts.insert(ACKNOWLEDGED, world.acknowledged() as u64);
    counts.insert("simulated seconds", world.sim.elapsed().as_secs());
    let events = world.events.lock().unwrap();
    Report {
        trace: events.trace.clone(),
        counts,
        longest_pause: events.longest_pause,
    }
}

/// In seconds, by `TANDEM_SIMULATION_SECONDS`; a run that nobody gave more time is a short one.
fn time_for_seeds() -> Duration {
    let secs = std::env::var("TANDEM_SIMULATION_SECONDS").ok();
    Duration::from_secs(secs.and_then(|secs| secs.parse().ok()).unwrap_or(20))
}

/// As many at least, however slow the machine is.
const SEEDS_MIN: u64 = 4;
const ACKNOWLEDGED: &str = "writes acknowledged";
const COUNTED_SEED: &str = "TANDEM_SIMULATION_COUNTED_SEED";
const COUNT_MARK: &str = "count: ";
const TRACED_SEED: &str = "TANDEM_SIMULATION_TRACED_SEED";
const TRACE_MARK: &str = "event: ";
const FAULTY_TIME: Duration = Duration::from_secs(15);
