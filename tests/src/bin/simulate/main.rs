//! `cargo simulate`: a whole Tandem in a simulated world, and what happened in it.
#![expect(
    clippy::disallowed_methods,
    reason = "how long a world takes is told by the real clock"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a broken harness should stop at once and say where"
)]

mod planted;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use lexopt::ValueExt as _;
use tandem_planted::Bug;
use tandem_tests::world::{Day, DayReport, World, WorldOptions};

mod chance {
    //! What the operating system is asked for as chance, hash maps' seeds above all, comes from the seed here: the order
    //! of a hash map is part of what must happen again.

    use std::sync::atomic::{AtomicU64, Ordering};

    static STATE: AtomicU64 = AtomicU64::new(0);

    /// From here on chance is the seed's.
    pub(super) fn set(seed: u64) {
        STATE.store(seed, Ordering::Relaxed);
    }

    /// Takes the place of the C library's (getrandom(2)). SplitMix64 is enough where nothing is secret.
    #[expect(
        unsafe_code,
        reason = "the only way to choose the seeds of the standard library's hash maps"
    )]
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
        for offset in 0..length {
            let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            // SAFETY: the caller owns `length` bytes from `buffer` on (getrandom(2)).
            unsafe { buffer.add(offset).write(mixed.to_le_bytes()[7]) };
        }
        length.cast_signed()
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error:#}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(bugs) = &arguments.planted {
        let seeds = arguments.seed..arguments.seed + arguments.count;
        return ExitCode::from(u8::from(!planted::sweep(
            &seeds,
            bugs,
            &arguments.of_each_world(),
        )));
    }
    if arguments.count == 1 {
        return ExitCode::from(u8::from(!simulate(&arguments)));
    }
    let mut failed = false;
    for seed in arguments.seed..arguments.seed + arguments.count {
        failed |= !simulate_apart(seed);
    }
    ExitCode::from(u8::from(failed))
}

/// Each seed has a process of its own: what one world has drawn of chance is nothing to the next.
fn simulate_apart(seed: u64) -> bool {
    let mut own = std::env::args_os().skip(1).collect::<Vec<_>>();
    own.extend(["--seed", &seed.to_string(), "--count", "1"].map(Into::into));
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(own)
        .status();
    child.unwrap().success()
}

#[derive(Debug)]
struct Arguments {
    seed: u64,
    count: u64,
    troubled: Option<Duration>,
    nodes: Option<u64>,
    /// Bugs to be found.
    planted: Option<Vec<Bug>>,
    history: bool,
    json: bool,
}

impl Arguments {
    /// What makes a world another one than its seed alone.
    fn of_each_world(&self) -> Vec<String> {
        let hours = self.troubled.map(|troubled| troubled.as_secs_f64() / 3600.0);
        let hours = hours.map(|hours| ["--hours".to_owned(), hours.to_string()]);
        let members = self
            .nodes
            .map(|nodes| ["--members".to_owned(), nodes.to_string()]);
        hours.into_iter().chain(members).flatten().collect()
    }

    fn read() -> anyhow::Result<Option<Self>> {
        let mut arguments = Self {
            seed: 1,
            count: 1,
            troubled: None,
            nodes: None,
            planted: None,
            history: false,
            json: false,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("seed") => {
                    arguments.seed = parser.value()?.parse()?;
                    chance::set(arguments.seed);
                }
                lexopt::Arg::Long("count") => arguments.count = parser.value()?.parse()?,
                lexopt::Arg::Long("hours") => {
                    let hours: f64 = parser.value()?.parse()?;
                    let troubled = Duration::try_from_secs_f64(hours * 3600.0);
                    arguments.troubled = Some(troubled.context("--hours takes a positive number")?);
                }
                lexopt::Arg::Long("members") => arguments.nodes = Some(parser.value()?.parse()?),
                lexopt::Arg::Long("planted") => {
                    let named = parser
                        .optional_value()
                        .map(|name| Bug::named(&name.to_string_lossy()));
                    let all = Some(Bug::ALL.to_vec());
                    let bugs = named.map_or(all, |bug| Some(vec![bug?]));
                    arguments.planted = Some(bugs.context("--planted= takes the name of a bug")?);
                }
                lexopt::Arg::Long("history") => arguments.history = true,
                lexopt::Arg::Long("json") => arguments.json = true,
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(None),
                argument @ (lexopt::Arg::Short(_) | lexopt::Arg::Long(_) | lexopt::Arg::Value(_)) => {
                    return Err(argument.unexpected().into());
                }
            }
        }
        Ok(Some(arguments))
    }
}

/// One world. `false` when something was not as it must be.
fn simulate(arguments: &Arguments) -> bool {
    let seed = arguments.seed;
    let mut options = WorldOptions::of_seed(seed);
    options.troubled = arguments.troubled.unwrap_or(options.troubled);
    options.nodes = arguments.nodes.unwrap_or(options.nodes);
    let began = Instant::now();
    let mut world = World::new(&options).unwrap();
    let limit = options.troubled * 10 + Duration::from_secs(600);
    let outcome: anyhow::Result<DayReport> = world.run_office(limit, {
        let (options, exchange) = (options.clone(), world.exchange().clone());
        |operator, addresses| Day::run(options, operator, addresses, exchange)
    });
    let failed = outcome.is_err();
    if failed || arguments.history {
        let lines = world.trace().lines();
        let start = match arguments.history {
            true => 0,
            false => lines.len().saturating_sub(LINES_SHOWN),
        };
        for line in &lines[start..] {
            println!("{line}");
        }
    }
    let (nodes, simulated, took) = (
        options.nodes,
        world.now().as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    let digest = world.trace().digest();
    let figures = format!("{nodes} nodes, {simulated:.1} s simulated in {took:.1} s, trace {digest:08x}");
    if arguments.json
        && let Ok(report) = &outcome
    {
        let came_to = report.to_json(world.now(), digest);
        println!("{came_to}");
    }
    match outcome {
        Ok(report) => println!("seed {seed}: {figures}; {report}; {:?}", world.network().tally()),
        Err(error) => println!("seed {seed} {FAILED}: {figures}{FAILED_BECAUSE}{error:#}"),
    }
    !failed
}

const FAILED: &str = "FAILED";
/// Stands between the figures of a world that failed and what was wrong.
const FAILED_BECAUSE: &str = "; because: ";
const LINES_SHOWN: usize = 200;
const USAGE: &str = "\
cargo simulate [--seed N] [--count N] [--hours H] [--members N] [--planted[=BUG]] [--history] [--json]

  --seed N     the first seed; 1 if left out
  --count N    so many seeds, one after the other
  --hours H    how long things go wrong, in simulated hours
  --members N  nodes; drawn from the seed if left out
  --planted    which of the bugs that are planted on purpose are found, in so many seeds each, and by what;
               fails when one is missed
  --history    all that happened, not only the end of what failed
  --json       what it came to, for programs, on a line of its own";
