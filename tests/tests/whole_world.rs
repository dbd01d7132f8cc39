//! The whole of Tandem in simulated worlds, a seed each: whatever goes wrong, nobody at the office loses anything.
#![expect(
    clippy::disallowed_methods,
    reason = "real time bounds how many seeds are run"
)]
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tandem_tests::world::{Deed, FaultKind, Property};

/// What a world came to, as `simulate --json` says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Came {
    simulated_ms: u64,
    trace: u32,
    requests: u64,
    calls: u64,
    commands: u64,
    faults: BTreeMap<String, u64>,
    /// What administrators did.
    deeds: BTreeMap<String, u64>,
    /// How many things each property was judged of.
    judged: BTreeMap<String, u64>,
}

/// As many seeds as there is time for, in order, so that the same ones come first in every run.
#[test]
fn nobody_loses_anything_whatever_goes_wrong() {
    let started = Instant::now();
    let next = AtomicU64::new(1);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let reports: Mutex<BTreeMap<u64, Came>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds_min() && started.elapsed() > time_for_seeds() {
                        return;
                    }
                    let came = world(seed, &[]);
                    reports.lock().unwrap().insert(seed, came);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    let faults = summed(&reports, |came| &came.faults);
    let deeds = summed(&reports, |came| &came.deeds);
    let judged = summed(&reports, |came| &came.judged);
    let hours = |ms: u64| Duration::from_millis(ms).as_secs_f64() / 3600.0;
    let sum = |of: fn(&Came) -> u64| reports.values().map(of).sum::<u64>();
    println!(
        "{} seeds in {:?}: {:.2} simulated hours, {} requests, {} calls, {} commands\nfaults: {faults:?}\nadministrators: \
         {deeds:?}\nproperties, and of how many things each was judged: {judged:?}",
        reports.len(),
        started.elapsed(),
        hours(sum(|came| came.simulated_ms)),
        sum(|came| came.requests),
        sum(|came| came.calls),
        sum(|came| came.commands),
    );
    for (seed, came) in &reports {
        assert!(came.requests >= 200, "seed {seed} is idle: {came:?}");
        let troubles: u64 = came.faults.values().sum();
        assert!(
            troubles >= 5 && came.faults.len() >= 3,
            "seed {seed} is quiet: {came:?}"
        );
    }
    all_were_met("faults", &FaultKind::ALL, &faults);
    all_were_met("administrators' deeds", &Deed::ALL, &deeds);
    all_were_met("properties", &Property::ALL, &judged);
}

/// How often each came about in all worlds together.
fn summed(
    reports: &BTreeMap<u64, Came>,
    of: impl Fn(&Came) -> &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in reports.values().flat_map(of) {
        *sums.entry(name.clone()).or_default() += count;
    }
    sums
}

/// What never came about proves nothing.
fn all_were_met(what: &str, kinds: &[impl std::fmt::Debug], met: &BTreeMap<String, u64>) {
    let names = kinds.iter().map(|kind| format!("{kind:?}"));
    let missing: Vec<_> = names
        .filter(|name| met.get(name).is_none_or(|count| *count == 0))
        .collect();
    assert!(missing.is_empty(), "{what} that never came about: {missing:?}");
}

#[test]
fn the_same_seed_has_the_same_history() {
    let short = ["--hours", "0.002"];
    let (first, second) = (world(7, &short), world(7, &short));
    assert_eq!(first, second);
    assert_ne!(first.trace, world(8, &short).trace);
}

/// One world, in a process of its own.
fn world(seed: u64, further: &[&str]) -> Came {
    let output = Command::new(env!("CARGO_BIN_EXE_simulate"))
        .args(["--json", "--seed", &seed.to_string()])
        .args(further)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "seed {seed} (`cargo simulate --seed {seed}` runs it again):\n{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line = said.lines().find(|line| line.starts_with('{')).unwrap();
    serde_json::from_str(line).unwrap()
}

fn time_for_seeds() -> Duration {
    let seconds = std::env::var("TANDEM_WORLD_SECONDS").map_or(20, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

fn seeds_min() -> u64 {
    std::env::var("TANDEM_WORLD_SEEDS").map_or(SEEDS_MIN, |seeds| seeds.parse().unwrap())
}

/// Enough that every kind of trouble comes about.
const SEEDS_MIN: u64 = 4;
