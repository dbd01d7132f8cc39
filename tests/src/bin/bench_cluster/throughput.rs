//! Commits per second under many writers, and how long one takes under a single one; Tandem and etcd in turns.

use std::time::Duration;

use anyhow::bail;
use tandem_tests::figures::Figures;
use tandem_tests::samples::Samples;

use crate::control::{Order, Report};
use crate::etcd::Etcd;
use crate::members::Members;
use crate::options::Options;

pub(crate) async fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let mut members = Members::start(None).await?;
    let etcd = match options.etcd {
        true => Some(Etcd::start().await?),
        false => None,
    };
    let etcd = etcd.as_ref();
    let leader = members.settled().await?;

    println!("\n{WRITERS} writers of 512 bytes, spread over three processes");
    let many = spread(WRITERS);
    let measured = in_turns(&mut members, etcd, many, many, options).await?;
    let (tandem, beside) = (&measured.tandem, &measured.etcd);
    figures.count("commits_per_s", per_second(tandem, options.load));
    figures.millis("commit_p50_ms", tandem.median());
    figures.millis("commit_p99_ms", tandem.p99());
    if etcd.is_some() {
        figures.count("etcd_commits_per_s", per_second(beside, options.load));
        figures.millis("etcd_commit_p99_ms", beside.p99());
        figures.ratio("commits_vs_etcd", tandem.len() as f64 / beside.len() as f64);
        figures.ratio("commits_vs_etcd_least", measured.least_ratio);
    }

    println!("\nOne writer of 512 bytes, at the leader");
    let at_etcds_leader = match etcd {
        Some(etcd) => one_at(etcd.leader().await?),
        None => [0; 3],
    };
    let measured = in_turns(&mut members, etcd, one_at(leader), at_etcds_leader, options).await?;
    let (tandem, beside) = (&measured.tandem, &measured.etcd);
    figures.millis("writer_p50_ms", tandem.median());
    figures.millis("writer_p99_ms", tandem.p99());
    if etcd.is_some() {
        figures.millis("etcd_writer_p50_ms", beside.median());
        figures.millis("etcd_writer_p99_ms", beside.p99());
        let ratio = tandem.median().as_secs_f64() / beside.median().as_secs_f64();
        figures.ratio("writer_p50_vs_etcd", ratio);
    }
    let elsewhere = turn(&mut members, one_at(1 - leader), options.load / options.rounds).await?;
    figures.millis("writer_elsewhere_p50_ms", Samples::new(elsewhere).median());
    if let Some(etcd) = etcd {
        let elsewhere = one_at((etcd.leader().await? + 1) % 3);
        let elsewhere = etcd.load(elsewhere, options.load / options.rounds).await?;
        figures.millis("etcd_writer_elsewhere_p50_ms", Samples::new(elsewhere).median());
    }
    members.end().await
}

struct Measured {
    tandem: Samples,
    etcd: Samples,
    /// The smallest ratio of commits among the turns.
    least_ratio: f64,
}

/// One after the other in short turns, so that whatever else the machine does meets both. The first turn warms up.
async fn in_turns(
    members: &mut Members,
    etcd: Option<&Etcd>,
    writers: [usize; 3],
    writers_of_etcd: [usize; 3],
    options: &Options,
) -> anyhow::Result<Measured> {
    let duration = options.load / options.rounds;
    let (mut tandem, mut beside) = (Vec::new(), Vec::new());
    let mut least_ratio = f64::INFINITY;
    for round in 0..=options.rounds {
        let ours = turn(members, writers, duration).await?;
        let theirs = match etcd {
            Some(etcd) => etcd.load(writers_of_etcd, duration).await?,
            None => Vec::new(),
        };
        if round > 0 {
            println!("  {} commits, {} of etcd", ours.len(), theirs.len());
            least_ratio = least_ratio.min(ours.len() as f64 / theirs.len() as f64);
            tandem.extend(ours);
            beside.extend(theirs);
        }
    }
    Ok(Measured {
        tandem: Samples::new(tandem),
        etcd: Samples::new(beside),
        least_ratio,
    })
}

async fn turn(
    members: &mut Members,
    writers: [usize; 3],
    duration: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let millis = u64::try_from(duration.as_millis())?;
    let orders = writers.map(|writers| (writers > 0).then_some(Order::Load { writers, millis }));
    let mut all = Vec::new();
    for report in members.order_all(orders).await? {
        let Report::Load { latencies } = report else {
            bail!("told to write, a member said {report:?}");
        };
        all.extend(
            latencies
                .into_iter()
                .map(|micros| Duration::from_micros(micros.into())),
        );
    }
    Ok(all)
}

fn per_second(samples: &Samples, duration: Duration) -> usize {
    (samples.len() as f64 / duration.as_secs_f64()) as usize
}

fn spread(writers: usize) -> [usize; 3] {
    [0, 1, 2].map(|member| (writers + 2 - member) / 3)
}

fn one_at(place: usize) -> [usize; 3] {
    [0, 1, 2].map(|member| usize::from(member == place))
}

const WRITERS: usize = 64;
