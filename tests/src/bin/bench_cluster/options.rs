//! The benchmark's command line.

use std::time::Duration;

use anyhow::ensure;
use lexopt::ValueExt;

/// What this process is for.
#[derive(Debug)]
pub(crate) enum Task {
    Measure(Options),
    /// One of the processes that are measured.
    Member,
    /// Help was asked for and given.
    Help,
}

/// How long, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Of load on each of the two, for each number of writers.
    pub(crate) load: Duration,
    /// Turns into which that time is divided.
    pub(crate) rounds: u32,
    pub(crate) kills: usize,
    pub(crate) freezes: usize,
    pub(crate) terminations: usize,
    /// In the state of which snapshots are written.
    pub(crate) sessions: usize,
    /// How long commits are watched while snapshots are written.
    pub(crate) snapshots: Duration,
    pub(crate) etcd: bool,
    /// `None`: all of them.
    pub(crate) only: Option<Parts>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    Throughput,
    Failover,
    Snapshots,
}

impl Options {
    pub(crate) fn measures(&self, part: Parts) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn thorough() -> Self {
        Self {
            load: Duration::from_secs(10),
            rounds: 5,
            kills: 50,
            freezes: 10,
            terminations: 20,
            sessions: 100_000,
            snapshots: Duration::from_secs(30),
            etcd: true,
            only: None,
        }
    }

    fn quick() -> Self {
        Self {
            load: Duration::from_secs(3),
            rounds: 3,
            kills: 5,
            freezes: 2,
            terminations: 5,
            sessions: 20_000,
            snapshots: Duration::from_secs(10),
            ..Self::thorough()
        }
    }
}

impl Task {
    pub(crate) fn from_arguments() -> anyhow::Result<Self> {
        let mut options = Options::thorough();
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("member") => return Ok(Self::Member),
                lexopt::Arg::Long("quick") => options = Options::quick(),
                lexopt::Arg::Long("seconds") => {
                    options.load = Duration::from_secs(arguments.value()?.parse()?);
                }
                lexopt::Arg::Long("kills") => options.kills = arguments.value()?.parse()?,
                lexopt::Arg::Long("sessions") => options.sessions = arguments.value()?.parse()?,
                lexopt::Arg::Long("without-etcd") => options.etcd = false,
                lexopt::Arg::Long("throughput-only") => options.only = Some(Parts::Throughput),
                lexopt::Arg::Long("failover-only") => options.only = Some(Parts::Failover),
                lexopt::Arg::Long("snapshots-only") => options.only = Some(Parts::Snapshots),
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => {
                    println!("{HELP}");
                    return Ok(Self::Help);
                }
                other @ (lexopt::Arg::Short(_) | lexopt::Arg::Long(_) | lexopt::Arg::Value(_)) => {
                    return Err(other.unexpected().into());
                }
            }
        }
        let seconds = options.load.as_secs();
        ensure!((1..=600).contains(&seconds), "--seconds wants 1 to 600");
        ensure!((1..=1000).contains(&options.kills), "--kills wants 1 to 1000");
        ensure!(
            (1..=100_000).contains(&options.sessions),
            "--sessions wants 1 to 100000"
        );
        Ok(Self::Measure(options))
    }
}

const HELP: &str = "\
cargo bench-cluster [--quick] [--seconds N] [--kills N] [--sessions N] [--without-etcd] [--…-only]

Starts two nodes' members and a witness on loopback, each in a process of its own, with the log, the mutual TLS and
the timings of production, and three processes of etcd beside them. 64 writers of 512 bytes, spread over the
processes, and then a single one at the leader, load the two in turns. Then leaders are killed, frozen and stopped in
order, and the time to the next commit at the surviving node is taken. Last, commits are watched while snapshots of a
large state are written. The last line holds the figures; those that stand for a time are in milliseconds.

  --quick            a minute or so instead of several
  --seconds N        of load on each, for each number of writers; 10 if left out
  --kills N          of the leader; 50 if left out
  --sessions N       in the state of which snapshots are written; 100000 if left out
  --without-etcd     Tandem alone
  --throughput-only, --failover-only, --snapshots-only
                     one of the three parts";
