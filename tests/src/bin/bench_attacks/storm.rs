//! Opening INVITEs over one connection, as fast as TCP takes them: everybody signs in at once.

use std::time::Instant;

use anyhow::ensure;
use tandem_tests::figures::Figures;

use crate::attacker::{Attacker, invites};
use crate::bystander::Bystander;
use crate::scene::{LatencyNames, Scene, mib_between, ratio};

pub(crate) async fn run(count: usize, figures: &mut Figures) -> anyhow::Result<()> {
    println!("{count} opening INVITEs over one connection");
    let scene = Scene::start().await?;
    let calm = scene.watch().await?;
    figures.millis("storm_calm_p50_ms", calm.latencies.median());
    figures.millis("storm_calm_p99_ms", calm.latencies.p99());
    let requests = invites(count).concat();
    let mut attacker = Attacker::connect(scene.vip()).await?;
    let bystander = Bystander::start(scene.vip()).await?;
    let (before, begun) = (scene.front_end.taken()?, Instant::now());
    attacker.ask(&requests).await?;
    let (after, elapsed) = (scene.front_end.taken()?, begun.elapsed());
    let latencies = bystander.finish().await?;
    let answered = attacker.answered_once("INVITE");
    figures.count("storm_answered_200", answered);
    figures.millis("storm_wall_ms", elapsed);
    figures.count(
        "storm_answers_per_s",
        (count as f64 / elapsed.as_secs_f64()) as usize,
    );
    let cpu = after.cpu.saturating_sub(before.cpu);
    figures.millis("storm_cpu_ms", cpu);
    // The bystander's requests are among them, and few.
    let per_request = cpu.div_f64((count + latencies.len()) as f64);
    figures.ratio("storm_cpu_us_per_request", per_request.as_secs_f64() * 1e6);
    figures.ratio(
        "storm_cpu_per_request_vs_calm",
        ratio(per_request, calm.cpu_per_request),
    );
    figures.count(
        "storm_memory_grown_mib",
        mib_between(before.resident_bytes, after.resident_bytes),
    );
    figures.count(
        "storm_memory_peak_grown_mib",
        mib_between(before.resident_bytes, after.peak_bytes),
    );
    figures.count("storm_bystander_requests", latencies.len());
    calm.compare(&latencies, &LATENCIES, figures);
    ensure!(
        answered == count && attacker.answers_to("INVITE") == count,
        "{answered} of {count} INVITEs were answered once"
    );
    scene.front_end.end().await
}

const LATENCIES: LatencyNames = LatencyNames {
    p50: "storm_p50_ms",
    p50_vs_calm: "storm_p50_vs_calm",
    p99: "storm_p99_ms",
    p99_vs_calm: "storm_p99_vs_calm",
    worst: "storm_worst_ms",
};
