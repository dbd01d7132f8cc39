//! `cargo bench-attacks`: what attacks on the front end cost it and its other clients, beside calm of the same run.
//!
//! The front end is the program that is shipped, in a process of its own; the nodes behind it are stand-ins in this
//! process, which answer everything. The last line holds every figure as `name=value`.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures")]

mod attacker;
mod bystander;
mod equal_keys;
mod front_end;
mod options;
mod scene;
mod silent;
mod slow_readers;
mod stand_in_nodes;
mod storm;

use std::process::ExitCode;

use tandem_runtime::io::process::raise_descriptor_limit;
use tandem_tests::figures::{Figures, until_interrupted};

use options::{Options, Part};

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::from_arguments() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}; --help lists the options");
            return ExitCode::from(64);
        }
    };
    let mut figures = Figures::default();
    let measured = until_interrupted(run(&options, &mut figures)).await;
    figures.conclude(&measured, &LAST_LINE)
}

async fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let descriptors = raise_descriptor_limit();
    if options.measures(Part::Storm) {
        storm::run(options.storm, figures).await?;
    }
    if options.measures(Part::EqualKeys) {
        equal_keys::run(options.equal, figures).await?;
    }
    if options.measures(Part::Silent) {
        silent::run(options.silent, descriptors, figures).await?;
    }
    if options.measures(Part::SlowReaders) {
        slow_readers::run(options.slow, figures).await?;
    }
    Ok(())
}

/// What the last line begins with, whatever was measured first.
const LAST_LINE: [&str; 9] = [
    "storm_answers_per_s",
    "storm_p99_vs_calm",
    "equal_invites_cpu_vs_distinct",
    "equal_cancels_cpu_vs_distinct",
    "silent_bytes_per_connection",
    "silent_p99_vs_calm",
    "slow_p99_vs_calm",
    "slow_closed_after_s",
    "slow_nodes_in_service_least",
];
