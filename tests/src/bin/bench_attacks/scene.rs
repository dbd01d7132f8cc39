//! One front end, two stand-in nodes and a bystander, and what the bystander sees while nobody attacks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tandem_tests::cluster::Addresses;
use tandem_tests::figures::Figures;
use tandem_tests::samples::Samples;

use crate::bystander::Bystander;
use crate::front_end::FrontEnd;
use crate::stand_in_nodes::StandInNodes;

/// What one attack is made on.
pub(crate) struct Scene {
    pub(crate) addresses: Addresses,
    pub(crate) nodes: StandInNodes,
    pub(crate) front_end: FrontEnd,
}

/// Some seconds of the bystander alone.
pub(crate) struct Calm {
    pub(crate) latencies: Samples,
    /// Of the front end in each second, in seconds.
    pub(crate) cpu_share: f64,
    /// Of the front end for each request of the bystander.
    pub(crate) cpu_per_request: Duration,
}

/// Under which names the bystander's latencies are told.
pub(crate) struct LatencyNames {
    pub(crate) p50: &'static str,
    pub(crate) p50_vs_calm: &'static str,
    pub(crate) p99: &'static str,
    pub(crate) p99_vs_calm: &'static str,
    pub(crate) worst: &'static str,
}

impl Scene {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let addresses = Addresses::unused()?;
        let nodes = StandInNodes::start(addresses)?;
        let front_end = FrontEnd::start(addresses).await?;
        Ok(Self {
            addresses,
            nodes,
            front_end,
        })
    }

    pub(crate) fn vip(&self) -> SocketAddr {
        self.addresses.vip()
    }

    /// The bystander alone, or with what stands already, for a fixed time.
    pub(crate) async fn watch(&self) -> anyhow::Result<Calm> {
        let bystander = Bystander::start(self.vip()).await?;
        let (before, begun) = (self.front_end.taken()?, Instant::now());
        tokio::time::sleep(WATCHED).await;
        let (after, elapsed) = (self.front_end.taken()?, begun.elapsed());
        let latencies = bystander.finish().await?;
        let cpu = after.cpu.saturating_sub(before.cpu);
        Ok(Calm {
            cpu_share: cpu.as_secs_f64() / elapsed.as_secs_f64(),
            cpu_per_request: cpu.div_f64(latencies.len().max(1) as f64),
            latencies,
        })
    }
}

impl Calm {
    /// The bystander's latencies beside these.
    pub(crate) fn compare(&self, attacked: &Samples, names: &LatencyNames, figures: &mut Figures) {
        let calm = &self.latencies;
        figures.millis(names.p50, attacked.median());
        figures.ratio(names.p50_vs_calm, ratio(attacked.median(), calm.median()));
        figures.millis(names.p99, attacked.p99());
        figures.ratio(names.p99_vs_calm, ratio(attacked.p99(), calm.p99()));
        figures.millis(names.worst, attacked.worst());
    }
}

pub(crate) fn ratio(part: Duration, whole: Duration) -> f64 {
    part.as_secs_f64() / whole.as_secs_f64().max(f64::EPSILON)
}

/// Whole MiB between two counts of bytes.
pub(crate) fn mib_between(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before) >> 20).unwrap_or(usize::MAX)
}

const WATCHED: Duration = Duration::from_secs(4);
