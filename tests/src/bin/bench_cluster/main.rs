//! `cargo bench-cluster`: commits per second, and how long none comes when a leader dies, beside etcd.
//!
//! Three processes of this same program are the members, with the log, the TLS and the timings of production; three of
//! etcd stand beside them. The last line holds every figure as `name=value`.
#![expect(clippy::disallowed_methods, reason = "a benchmark measures")]

mod control;
mod etcd;
mod failover;
mod grpc;
mod load;
mod member;
mod members;
mod noted_files;
mod options;
mod snapshots;
mod throughput;

use std::process::ExitCode;

use tandem_tests::figures::{Figures, until_interrupted};

use members::Members;
use options::{Options, Parts, Task};

fn main() -> ExitCode {
    match Task::from_arguments() {
        Ok(Task::Help) => ExitCode::SUCCESS,
        Ok(Task::Member) => member::run(),
        Ok(Task::Measure(options)) => measure(&options),
        Err(error) => {
            eprintln!("{error:#}; --help lists the options");
            ExitCode::from(64)
        }
    }
}

fn measure(options: &Options) -> ExitCode {
    let mut figures = Figures::default();
    let measured = tokio::runtime::Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(until_interrupted(run(options, &mut figures))));
    figures.conclude(&measured, &LAST_LINE)
}

async fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    if options.measures(Parts::Throughput) {
        throughput::run(options, figures).await?;
    }
    if options.measures(Parts::Failover) {
        let mut members = Members::start(None).await?;
        failover::run(&mut members, options, figures).await?;
        members.end().await?;
    }
    if options.measures(Parts::Snapshots) {
        snapshots::run(options, figures).await?;
    }
    Ok(())
}

/// What the last line begins with, whatever was measured first.
const LAST_LINE: [&str; 7] = [
    "commits_per_s",
    "commits_vs_etcd",
    "writer_p50_vs_etcd",
    "kill_leader_median_ms",
    "kill_leader_worst_ms",
    "frozen_leader_worst_ms",
    "sigterm_median_ms",
];
