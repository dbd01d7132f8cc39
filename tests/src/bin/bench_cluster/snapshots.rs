//! What commits take at a steady pace while snapshots of a large state are written, and while none is.

use std::time::Duration;

use anyhow::{bail, ensure};
use tandem_tests::figures::Figures;
use tandem_tests::samples::Samples;

use crate::control::{Order, Paced, Report};
use crate::members::Members;
use crate::options::Options;

pub(crate) async fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    println!(
        "\nSnapshots of {} sessions under {PER_SECOND} commits per second",
        options.sessions
    );
    let mut members = Members::start(Some(SNAPSHOT_AFTER_ENTRIES)).await?;
    let sessions = options.sessions;
    members.order(0, &Order::Fill { sessions }).await?;
    members.settled().await?;
    let paced = pace(&mut members, options.snapshots).await?;
    members.end().await?;

    let snapshots: Vec<(u64, u64)> = paced.iter().flat_map(|paced| paced.snapshots.clone()).collect();
    ensure!(!snapshots.is_empty(), "no snapshot was written");
    let taken = |&(begun, ended): &(u64, u64)| Duration::from_micros(ended.saturating_sub(begun));
    figures.count("snapshots", snapshots.len());
    figures.millis(
        "snapshot_median_ms",
        Samples::new(snapshots.iter().map(taken)).median(),
    );

    let commits = paced.iter().flat_map(|paced| &paced.commits);
    let (during, between): (Vec<_>, Vec<_>) = commits.partition(|commit| overlaps(commit, &snapshots));
    let during = Samples::new(during.into_iter().map(taken));
    let between = Samples::new(between.into_iter().map(taken));
    ensure!(!between.is_empty(), "snapshots were written all the time");
    figures.millis("p99_without_snapshot_ms", between.p99());
    figures.millis("p99_with_snapshot_ms", during.p99());
    figures.millis("worst_without_snapshot_ms", between.worst());
    figures.millis("worst_with_snapshot_ms", during.worst());
    let ratio = during.p99().as_secs_f64() / between.p99().as_secs_f64();
    figures.ratio("p99_with_snapshot_vs_without", ratio);
    Ok(())
}

async fn pace(members: &mut Members, duration: Duration) -> anyhow::Result<Vec<Paced>> {
    let millis = u64::try_from(duration.as_millis())?;
    let order = Order::Pace {
        per_second: PER_SECOND / 3,
        millis,
    };
    let reports = members.order_all([0, 1, 2].map(|_| Some(order.clone()))).await?;
    let paced = reports.into_iter().map(|report| {
        let Report::Pace(paced) = report else {
            bail!("told to write, a member said {report:?}");
        };
        Ok(paced)
    });
    paced.collect()
}

/// Whether a commit was under way while a snapshot was taken, at whichever member.
fn overlaps(commit: &(u64, u64), snapshots: &[(u64, u64)]) -> bool {
    let overlaps =
        |snapshot: &(u64, u64)| commit.1 + TAKING_THE_STATE_US >= snapshot.0 && commit.0 <= snapshot.1;
    snapshots.iter().any(overlaps)
}

/// Before a snapshot is written the state is read; nothing tells when that begins.
const TAKING_THE_STATE_US: u64 = 300_000;
/// What some eighty calls a second come to.
const PER_SECOND: u32 = 480;
/// Every six seconds, so that there is time between one snapshot and the next.
const SNAPSHOT_AFTER_ENTRIES: u64 = 3000;
