//! Three members, two nodes and the witness, in a simulated world: one seed decides everything, members crash with
//! what their disks had not synced, paths break, and nothing that was acknowledged may be lost.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

mod world;

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tandem_shared::io::raft::{Authority, RaftRole};

use world::{MEMBERS, WITNESS, World};

#[test]
fn nothing_acknowledged_is_lost_whatever_crashes() {
    for seed in seeds() {
        let report = run_with_faults(seed);
        println!(
            "seed {seed}: {} acknowledged, {} faults, longest time without an acknowledgement {:?}",
            report.acknowledged, report.faults, report.longest_pause
        );
        assert!(
            report.acknowledged > 50,
            "seed {seed}: hardly anything was written"
        );
        assert!(report.faults > 3, "seed {seed}: hardly anything went wrong");
    }
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
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "print_the_trace_of_a_seed", "--nocapture"])
        .env(TRACED_SEED, seed.to_string())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text.lines().filter_map(|line| line.strip_prefix(TRACE_MARK));
    events.map(str::to_owned).collect()
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
    world
        .files(leader)
        .set_fault(Some(tandem_shared::io::raft::Fault::SyncFails));
    world.run_until("the member stops", |world| {
        world.cluster(leader).status().borrow().role == RaftRole::Stopped
    });
    let before = world.acknowledged();
    world.run_until("writes go on", |world| world.acknowledged() > before + 30);
    world.check_acknowledged(&[3 - leader, WITNESS]);
}

struct Report {
    trace: Vec<String>,
    acknowledged: usize,
    faults: usize,
    longest_pause: Duration,
}

/// Random faults for a while; then everything heals, and must.
fn run_with_faults(seed: u64) -> Report {
    let mut world = World::new(seed);
    let mut random = SmallRng::seed_from_u64(seed);
    world.writer(1);
    world.writer(2);
    world.run_until("a leader", |world| world.leader().is_some());
    let mut faults = 0;
    while world.sim.elapsed() < FAULTY_TIME {
        world.run_for(Duration::from_millis(random.random_range(100..1500)));
        let member = MEMBERS[random.random_range(0..3)];
        let other = MEMBERS[random.random_range(0..3)];
        match random.random_range(0..4) {
            // One member may be down at a time, and the disks of two never lose anything together.
            0 | 1 if world.down.is_none() => {
                faults += 1;
                let member = if random.random() {
                    world.leader().unwrap_or(member)
                } else {
                    member
                };
                world.crash(member);
            }
            2 if member != other => {
                faults += 1;
                world.cut(member, other);
            }
            _ => world.heal(),
        }
    }
    world.heal();
    world.run_until("a leader after the faults", |world| world.leader().is_some());
    let before = world.acknowledged();
    world.run_until("writes after the faults", |world| {
        world.acknowledged() > before + 20
    });
    world.check_acknowledged(&MEMBERS);
    world.run_until("equal replicas", World::replicas_are_equal);
    let events = world.events.lock().unwrap();
    Report {
        trace: events.trace.clone(),
        acknowledged: events.acknowledged.len(),
        faults,
        longest_pause: events.longest_pause,
    }
}

/// A few in every run, more by `TANDEM_SIMULATION_SEEDS` (a number of seeds).
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("TANDEM_SIMULATION_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok());
    0..count.unwrap_or(3)
}

const TRACED_SEED: &str = "TANDEM_SIMULATION_TRACED_SEED";
const TRACE_MARK: &str = "event: ";
const FAULTY_TIME: Duration = Duration::from_secs(10);
