//! `cargo bench-state`: what the replicated state costs as a value that readers hold while commands are applied.
//!
//! One process without a log: commands are applied as the state machine does it, each to a state that is then published in
//! place of the one before. The last line holds every figure as `name=value`.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures")]

#[path = "../bench_calendar/allocation.rs"]
mod allocation;
mod commands;

use std::env;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use arc_swap::ArcSwap;
use nix::time::{ClockId, clock_gettime};
use tandem_cluster::{Applied, ClusterState, Command, StateLimits};
use tandem_raft::write_snapshot;
use tandem_runtime::io::environment::files::{Files, RealFiles};
use tandem_tests::figures::Figures;

use commands::{change_of, lost, opened, registered};

fn main() -> ExitCode {
    if env::var_os(ALLOCATOR.0).is_none() {
        return run_as_deployed();
    }
    let mut figures = Figures::default();
    let measured = measure(&mut figures);
    figures.conclude(&measured, &LAST_LINE)
}

/// Runs this program again with the allocator as the unit files set it, which is read when a process starts.
fn run_as_deployed() -> ExitCode {
    let run = || {
        let mut command = std::process::Command::new(env::current_exe()?);
        command.env(ALLOCATOR.0, ALLOCATOR.1).status()
    };
    match run() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot run the benchmark: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    println!("A state of {SESSIONS} sessions");
    let before = allocation::bytes_held();
    let state = filled(SESSIONS)?;
    figures.count(
        "bytes_per_session",
        (allocation::bytes_held() - before) / SESSIONS,
    );
    figures.millis("clone_worst_ms", worst_clone(&state));
    throughput(&state, figures)?;
    drop(state);

    println!("\nA node is lost that owns {SESSIONS_OF_ONE_NODE} sessions");
    node_lost(figures)?;

    println!("\nA snapshot of {SESSIONS_IN_SNAPSHOT} sessions is encoded and written");
    snapshot(figures)
}

/// So many sessions, of which two nodes own one half each.
fn filled(sessions: usize) -> anyhow::Result<ClusterState> {
    let mut state = ClusterState::new(StateLimits {
        sessions_max: sessions,
        opening_results_max: sessions,
        ..StateLimits::default()
    });
    for node in [1, 2] {
        apply(&mut state, registered(node))?;
    }
    for number in 0..sessions {
        apply(&mut state, opened(1 + number as u64 % 2, number as u64))?;
    }
    Ok(state)
}

fn apply(state: &mut ClusterState, command: Command) -> anyhow::Result<()> {
    let (applied, changes) = state.apply(command);
    ensure!(applied == Applied::Done, "a command was answered {applied:?}");
    black_box(changes);
    Ok(())
}

fn worst_clone(state: &ClusterState) -> Duration {
    let clones = (0..CLONES).map(|_| {
        let begun = Instant::now();
        let clone = black_box(state.clone());
        let taken = begun.elapsed();
        drop(clone);
        taken
    });
    clones.max().unwrap_or_default()
}

fn throughput(state: &ClusterState, figures: &mut Figures) -> anyhow::Result<()> {
    let commands: Vec<Command> = (0..COMMANDS)
        .map(|turn| change_of(turn, SESSIONS as u64))
        .collect();

    // Nobody else has this one: what is touched is changed in place.
    let mut alone = filled(SESSIONS)?;
    let taken = timed(&commands, |command| apply(&mut alone, command))?;
    figures.count("applied_per_s_in_place", per_second(taken));
    drop(alone);

    let published = ArcSwap::from_pointee(state.clone());
    let taken = timed(&commands, |command| publish(&published, command).map(drop))?;
    figures.count("applied_per_s_published", per_second(taken));

    let published = ArcSwap::from_pointee(state.clone());
    let mut held = published.load_full();
    let taken = timed(&commands, |command| {
        held = publish(&published, command)?;
        Ok(())
    })?;
    figures.count("applied_per_s_previous_held", per_second(taken));
    Ok(())
}

fn timed(
    commands: &[Command],
    mut apply: impl FnMut(Command) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let commands = commands.to_vec();
    let begun = Instant::now();
    for command in commands {
        apply(command)?;
    }
    Ok(begun.elapsed())
}

/// Applies one command as the state machine does, and returns the state before it.
fn publish(published: &ArcSwap<ClusterState>, command: Command) -> anyhow::Result<Arc<ClusterState>> {
    let mut next = published.load_full();
    apply(Arc::make_mut(&mut next), command)?;
    Ok(published.swap(next))
}

fn per_second(taken: Duration) -> usize {
    (COMMANDS as f64 / taken.as_secs_f64()) as usize
}

/// In portions, as the state machine does it: others run between two of them.
fn node_lost(figures: &mut Figures) -> anyhow::Result<()> {
    let published = ArcSwap::from_pointee(filled(2 * SESSIONS_OF_ONE_NODE)?);
    let mut next = published.load_full();
    let (mut longest, mut portions) = (Stretch::default(), 0);
    let begun = Stopwatch::start();
    let portion = Stopwatch::start();
    let state = Arc::make_mut(&mut next);
    let mut under_way = state.begin(lost(1));
    longest.note(portion.read());
    loop {
        let portion = Stopwatch::start();
        portions += 1;
        let is_finished = state.go_on(&mut under_way);
        longest.note(portion.read());
        if is_finished {
            break;
        }
    }
    let (applied, changes) = under_way.finish();
    ensure!(applied == Applied::Done, "the loss was answered {applied:?}");
    ensure!(
        changes.len() == 1 + SESSIONS_OF_ONE_NODE,
        "{} changes",
        changes.len()
    );
    let taken = begun.read();
    figures.millis("node_lost_ms", taken.wall);
    figures.millis("node_lost_cpu_ms", taken.processor);
    figures.count("node_lost_portions", portions);
    figures.millis("node_lost_longest_portion_ms", longest.wall);
    figures.millis("node_lost_longest_portion_cpu_ms", longest.processor);
    let former = published.swap(next);
    let begun = Stopwatch::start();
    drop((former, changes));
    figures.millis("freeing_former_state_ms", begun.read().wall);
    Ok(())
}

/// Commands go on one after the other while a snapshot is encoded and written on a thread apart.
fn snapshot(figures: &mut Figures) -> anyhow::Result<()> {
    let published = ArcSwap::from_pointee(filled(SESSIONS_IN_SNAPSHOT)?);
    let mut turns = 0..;
    let mut longest_while = |is_over: &dyn Fn() -> bool| -> anyhow::Result<Stretch> {
        let mut longest = Stretch::default();
        while !is_over() {
            let command = change_of(turns.next().unwrap_or_default(), SESSIONS_IN_SNAPSHOT as u64);
            let begun = Stopwatch::start();
            drop(publish(&published, command)?);
            longest.note(begun.read());
        }
        Ok(longest)
    };
    let begun = Instant::now();
    let longest = longest_while(&|| begun.elapsed() > WITHOUT_SNAPSHOT)?;
    figures.millis("longest_apply_without_snapshot_ms", longest.wall);
    figures.millis("longest_apply_without_snapshot_cpu_ms", longest.processor);

    let begun = Instant::now();
    let pointer = published.load_full();
    figures.millis("taking_the_state_ms", begun.elapsed());
    let directory = tempfile::tempdir()?;
    let files: Arc<dyn Files> = Arc::new(RealFiles::open(directory.path())?);
    let writing = thread::spawn(move || {
        let begun = Stopwatch::start();
        let written = futures::executor::block_on(write_snapshot(files, pointer));
        (written, begun.read().wall)
    });
    let longest = longest_while(&|| writing.is_finished())?;
    figures.millis("longest_apply_with_snapshot_ms", longest.wall);
    figures.millis("longest_apply_with_snapshot_cpu_ms", longest.processor);
    let Ok((bytes, taken)) = writing.join() else {
        anyhow::bail!("writing failed");
    };
    figures.count("snapshot_bytes", usize::try_from(bytes?)?);
    figures.millis("snapshot_ms", taken);
    Ok(())
}

/// How long something took, and how long this thread ran meanwhile: what the machine did with others does not count in the
/// second.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    wall: Duration,
    processor: Duration,
}

impl Stretch {
    fn note(&mut self, other: Self) {
        self.wall = self.wall.max(other.wall);
        self.processor = self.processor.max(other.processor);
    }
}

struct Stopwatch {
    begun: Instant,
    processor: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            processor: processor_time(),
            begun: Instant::now(),
        }
    }

    fn read(&self) -> Stretch {
        Stretch {
            wall: self.begun.elapsed(),
            processor: processor_time().saturating_sub(self.processor),
        }
    }
}

fn processor_time() -> Duration {
    let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

/// As in `deploy/systemd`.
const ALLOCATOR: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.mxfast=0");
const SESSIONS: usize = 100_000;
const SESSIONS_OF_ONE_NODE: usize = 50_000;
const SESSIONS_IN_SNAPSHOT: usize = 1_000_000;
const CLONES: usize = 1000;
const COMMANDS: u64 = 300_000;
const WITHOUT_SNAPSHOT: Duration = Duration::from_secs(2);

/// What the last line begins with.
const LAST_LINE: [&str; 4] = [
    "applied_per_s_previous_held",
    "bytes_per_session",
    "node_lost_longest_portion_ms",
    "longest_apply_with_snapshot_ms",
];
