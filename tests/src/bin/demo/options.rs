//! The demo's command line.

use std::time::Duration;

use anyhow::ensure;
use lexopt::ValueExt;

/// How long and how large.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) users: usize,
    /// Between one act and the next.
    pub(crate) pace: Duration,
    /// Leave everything running at the end.
    pub(crate) keep: bool,
    /// Nodes adopt no sessions: the demo must fail.
    pub(crate) plant_fault: bool,
}

impl Options {
    /// `None` when help was asked for and given.
    pub(crate) fn from_arguments() -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            users: 1000,
            pace: Duration::from_secs(5),
            keep: false,
            plant_fault: false,
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("users") => options.users = arguments.value()?.parse()?,
                lexopt::Arg::Long("pace") => {
                    options.pace = Duration::from_secs(arguments.value()?.parse()?);
                }
                lexopt::Arg::Long("keep") => options.keep = true,
                lexopt::Arg::Long("plant-fault") => options.plant_fault = true,
                lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => {
                    println!("{HELP}");
                    return Ok(None);
                }
                other @ (lexopt::Arg::Short(_) | lexopt::Arg::Long(_) | lexopt::Arg::Value(_)) => {
                    return Err(other.unexpected().into());
                }
            }
        }
        ensure!((200..=5000).contains(&options.users), "--users wants 200 to 5000");
        Ok(Some(options))
    }
}

const HELP: &str = "\
cargo demo [--users N] [--pace SECONDS] [--keep] [--plant-fault]

Starts one lb, two nodes, four CTI managers before one simulated PBX, a simulated OCS and a simulated Exchange of four
servers on loopback. Users sign in, phones ring, calendars show in presence; an Exchange server is killed; the node that
leads Raft is killed, returns, and the other one is killed. Ends with what the clients saw, and exits 1 if one of them
lost anything.

  --users N        how many users sign in, 200 to 5000; 1000 if left out
  --pace SECONDS   of everyday traffic between one act and the next; 5 if left out
  --keep           leaves everything running for you to look at, and its files behind
  --plant-fault    switches adoption off, to show that the clients notice: ends with 1";
