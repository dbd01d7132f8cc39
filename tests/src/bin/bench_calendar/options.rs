//! The benchmark's command line.

use std::time::Duration;

use anyhow::ensure;
use lexopt::ValueExt;

/// How large, and how patient.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) users: usize,
    pub(crate) cas: usize,
    pub(crate) delivery: &'static str,
    pub(crate) parts: Parts,
    /// Of the machine alone, in simulated time.
    pub(crate) simulated_users: usize,
    /// Of each phase; what takes longer has failed.
    pub(crate) patience: Duration,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    Both,
    Processes,
    Simulated,
}

impl Options {
    /// `None` when help was asked for and given.
    pub(crate) fn from_arguments() -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            users: 10_000,
            cas: 8,
            delivery: "push_first",
            parts: Parts::Both,
            simulated_users: 100_000,
            patience: Duration::from_secs(180),
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("users") => options.users = arguments.value()?.parse()?,
                lexopt::Arg::Long("cas") => options.cas = arguments.value()?.parse()?,
                lexopt::Arg::Long("streaming") => options.delivery = "streaming_first",
                lexopt::Arg::Long("processes-only") => options.parts = Parts::Processes,
                lexopt::Arg::Long("simulated-only") => options.parts = Parts::Simulated,
                lexopt::Arg::Long("simulated-users") => {
                    options.simulated_users = arguments.value()?.parse()?
                }
                lexopt::Arg::Long("patience") => {
                    options.patience = Duration::from_secs(arguments.value()?.parse()?);
                }
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => {
                    println!("{HELP}");
                    return Ok(None);
                }
                other @ (lexopt::Arg::Short(_) | lexopt::Arg::Long(_) | lexopt::Arg::Value(_)) => {
                    return Err(other.unexpected().into());
                }
            }
        }
        ensure!(
            (10..=50_000).contains(&options.users),
            "--users wants 10 to 50000"
        );
        ensure!(
            (2..=1_000_000).contains(&options.simulated_users),
            "--simulated-users wants 2 to 1000000"
        );
        ensure!((2..=32).contains(&options.cas), "--cas wants 2 to 32");
        Ok(Some(options))
    }
}

const HELP: &str = "\
cargo bench-calendar [--users N] [--cas N] [--streaming] [--patience SECONDS] [--simulated-only]

Starts one lb, two nodes and a simulated Exchange on loopback, over TLS. Waits until every user is subscribed and
his presence is right; kills a Client Access Server, then a node, and measures what users notice of it. Then the
machine that keeps calendars is measured alone, in simulated time: half of its users switch in the same minute. The
last line holds the figures.

  --users N           with a calendar each; 10000 if left out
  --cas N             Client Access Servers; 8 if left out
  --streaming         streaming notifications first, and not push
  --patience SECONDS  for each phase; 180 if left out
  --simulated-users N in simulated time; 100000 if left out
  --simulated-only    no processes
  --processes-only    no simulated time";
