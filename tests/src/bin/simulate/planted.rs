//! `cargo simulate --planted`: which of the bugs that are planted on purpose the worlds find, and in which seed.

use std::collections::VecDeque;
use std::io::Read;
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tandem_planted::{Bug, CHOICE};

/// What came of one bug.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    bug: Option<Bug>,
    found: Option<Found>,
    took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    seed: u64,
    /// What was not as it must be.
    by: String,
}

/// Runs the worlds of these seeds with each bug until one fails, each world in a process of its own, and prints a table.
/// Without any bug all must pass, so that what fails with one is the bug's doing. `false` when one does not, or when a bug is
/// not found: the worlds, or the judges, have become worse.
pub(super) fn sweep(seeds: &Range<u64>, bugs: &[Bug], further: &[String]) -> bool {
    let waiting: VecDeque<_> = std::iter::once(None)
        .chain(bugs.iter().copied().map(Some))
        .collect();
    let (waiting, rows) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{HEADER}");
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(bug) = next(&waiting) {
                    let row = row(bug, seeds, further);
                    println!("{}", row.text(seeds));
                    rows.lock().unwrap().push(row);
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap();
    let found = rows.iter().filter(|row| row.bug.is_some() && row.found.is_some());
    println!("\n{} of {} found", found.count(), bugs.len());
    rows.iter().all(|row| row.bug.is_some() == row.found.is_some())
}

fn next(waiting: &Mutex<VecDeque<Option<Bug>>>) -> Option<Option<Bug>> {
    waiting.lock().unwrap().pop_front()
}

fn row(bug: Option<Bug>, seeds: &Range<u64>, further: &[String]) -> Row {
    let began = Instant::now();
    let found = seeds.clone().find_map(|seed| {
        let by = failure(seed, bug, further)?;
        Some(Found { seed, by })
    });
    let took = began.elapsed();
    Row { bug, found, took }
}

/// What fails in the world of that seed, under these further arguments.
fn failure(seed: u64, bug: Option<Bug>, further: &[String]) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--seed", &seed.to_string()])
        .args(further)
        .env_remove(CHOICE);
    if let Some(bug) = bug {
        command.env(CHOICE, bug.name());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        // What was said until then is what there is.
        let _ = output.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let ended = wait(&mut child);
    let said = reader.join().unwrap();
    match ended {
        None => Some("the world does not end".to_owned()),
        Some(true) => None,
        Some(false) => Some(reason(&said)),
    }
}

/// Whether it succeeded; `None` if it had to be killed.
fn wait(child: &mut Child) -> Option<bool> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.success());
        }
        std::thread::sleep(LOOKED_AT_EVERY);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// From the last line of what a world prints.
fn reason(said: &str) -> String {
    let line = said.lines().rev().find(|line| line.contains(super::FAILED));
    let reason = line.and_then(|line| line.split_once(super::FAILED_BECAUSE));
    let text = reason.map_or("the process died", |(_, reason)| reason);
    text.chars().take(REASON_CHARS_MAX).collect()
}

impl Row {
    fn text(&self, seeds: &Range<u64>) -> String {
        let bug = self.bug.map_or_else(|| "(none)".to_owned(), Bug::name);
        let (seed, by) = match &self.found {
            Some(found) => (found.seed.to_string(), found.by.as_str()),
            None => (format!("not in {}", seeds.end - seeds.start), ""),
        };
        format!("{bug:<28} {seed:>10} {:>6.0} s  {by}", self.took.as_secs_f64())
    }
}

const HEADER: &str = "bug                                seed     time  found by";
const REASON_CHARS_MAX: usize = 160;
/// Of the real clock: a hundred times what a world takes.
const PATIENCE: Duration = Duration::from_secs(900);
const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);
