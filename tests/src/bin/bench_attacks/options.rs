//! The benchmark's command line.

use anyhow::{bail, ensure};
use lexopt::ValueExt;

/// How large the attacks are.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// INVITEs of the storm.
    pub(crate) storm: usize,
    /// Requests with equal keys, and as many with distinct ones.
    pub(crate) equal: usize,
    /// Connections that say nothing.
    pub(crate) silent: usize,
    /// Connections that ask and never read.
    pub(crate) slow: usize,
    /// `None`: all of them.
    only: Option<Part>,
}

/// One kind of attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Storm,
    EqualKeys,
    Silent,
    SlowReaders,
}

impl Options {
    pub(crate) fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    /// `None` when help was asked for and given.
    pub(crate) fn from_arguments() -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            storm: 50_000,
            equal: 12_000,
            silent: 10_000,
            slow: 50,
            only: None,
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("storm") => options.storm = arguments.value()?.parse()?,
                lexopt::Arg::Long("equal") => options.equal = arguments.value()?.parse()?,
                lexopt::Arg::Long("silent") => options.silent = arguments.value()?.parse()?,
                lexopt::Arg::Long("slow") => options.slow = arguments.value()?.parse()?,
                lexopt::Arg::Long("only") => options.only = Some(part(&arguments.value()?.string()?)?),
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => {
                    println!("{HELP}");
                    return Ok(None);
                }
                other @ (lexopt::Arg::Short(_) | lexopt::Arg::Long(_) | lexopt::Arg::Value(_)) => {
                    return Err(other.unexpected().into());
                }
            }
        }
        options.check()?;
        Ok(Some(options))
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1_000..=500_000).contains(&self.storm),
            "--storm wants 1000 to 500000"
        );
        // Those with distinct keys are unanswered together, and beyond the front end's default it would not read on.
        ensure!(
            (1_000..=16_000).contains(&self.equal),
            "--equal wants 1000 to 16000"
        );
        ensure!(
            (100..=50_000).contains(&self.silent),
            "--silent wants 100 to 50000"
        );
        ensure!((1..=500).contains(&self.slow), "--slow wants 1 to 500");
        Ok(())
    }
}

fn part(name: &str) -> anyhow::Result<Part> {
    Ok(match name {
        "storm" => Part::Storm,
        "equal" => Part::EqualKeys,
        "silent" => Part::Silent,
        "slow" => Part::SlowReaders,
        _ => bail!("--only wants storm, equal, silent or slow"),
    })
}

const HELP: &str = "\
cargo bench-attacks [--storm N] [--equal N] [--silent N] [--slow N] [--only PART]

Starts the front end on loopback before two stand-in nodes that answer everything, and attacks it four times, each time
a fresh process: with a storm of opening INVITEs over one connection; with INVITEs and CANCELs of one transaction; with
connections that say nothing; with connections that ask and never read the answers. What that costs in processor time
and memory, and how long another client waits for its answers meanwhile, stands beside the same without an attack. The
rate limit of a source is switched off: with it, a storm is slowed down to 20,000 messages a second. The last line
holds the figures.

  --storm N     opening INVITEs over one connection; 50000 if left out
  --equal N     requests of one transaction, and as many of distinct ones; 12000 if left out
  --silent N    connections that say nothing; 10000 if left out
  --slow N      connections that send 2000 requests each and read nothing; 50 if left out
  --only PART   storm, equal, silent or slow alone";
