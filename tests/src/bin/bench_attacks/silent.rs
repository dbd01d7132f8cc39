//! Connections that say nothing and stay: what each takes of memory and descriptors, and whether anybody notices.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, ensure};
use futures::stream::{StreamExt, TryStreamExt};
use tandem_tests::figures::Figures;
use tokio::net::{TcpSocket, TcpStream};

use crate::bystander::Bystander;
use crate::front_end::client_connections;
use crate::scene::{LatencyNames, Scene};

pub(crate) async fn run(count: usize, descriptors: Option<u64>, figures: &mut Figures) -> anyhow::Result<()> {
    println!("\n{count} connections that say nothing");
    let needed = count + DESCRIPTORS_BESIDE;
    ensure!(
        descriptors.is_none_or(|limit| limit >= needed as u64),
        "{needed} descriptors are needed, and the system allows {descriptors:?}; --silent N takes fewer"
    );
    let mut scene = Scene::start().await?;
    let calm = scene.watch().await?;
    figures.millis("silent_calm_p50_ms", calm.latencies.median());
    figures.millis("silent_calm_p99_ms", calm.latencies.p99());
    scene
        .front_end
        .wait_until("the bystander has left", |metrics| {
            client_connections(metrics) == 0.0
        })
        .await?;
    let before = scene.front_end.taken()?;
    let (connections, opening) = open(&mut scene, count, figures).await?;
    let after = scene.front_end.taken()?;
    let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
    figures.count(
        "silent_bytes_per_connection",
        usize::try_from(grown)? / connections.len(),
    );
    figures.millis("silent_opening_cpu_ms", after.cpu.saturating_sub(before.cpu));
    calm.compare(&opening, &WHILE_OPENING, figures);
    let standing = scene.watch().await?;
    calm.compare(&standing.latencies, &WHILE_STANDING, figures);
    figures.ratio("silent_cpu_vs_calm", standing.cpu_share / calm.cpu_share);
    drop(connections);
    close(&mut scene, before.descriptors, figures).await?;
    scene.front_end.end().await
}

/// All of them, and what the bystander saw meanwhile.
async fn open(
    scene: &mut Scene,
    count: usize,
    figures: &mut Figures,
) -> anyhow::Result<(Vec<TcpStream>, tandem_tests::samples::Samples)> {
    let vip = scene.vip();
    let bystander = Bystander::start(vip).await?;
    let descriptors = scene.front_end.taken()?.descriptors;
    let begun = Instant::now();
    let sources = (0..count).map(|number| {
        let host = u8::try_from(number % SOURCES).unwrap_or_default();
        scene.addresses.at(FIRST_SOURCE + host, 0)
    });
    let opening = futures::stream::iter(sources.map(|source| connect(source, vip)));
    let connections: Vec<TcpStream> = opening.buffer_unordered(AT_ONCE).try_collect().await?;
    let all = count as f64 + 1.0;
    scene
        .front_end
        .wait_until("all are accepted", |metrics| client_connections(metrics) == all)
        .await?;
    figures.millis("silent_accepted_ms", begun.elapsed());
    let more = scene.front_end.taken()?.descriptors.saturating_sub(descriptors);
    figures.ratio("silent_descriptors_per_connection", more as f64 / count as f64);
    Ok((connections, bystander.finish().await?))
}

async fn connect(source: SocketAddr, vip: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(source)?;
    let connected = socket.connect(vip).await;
    connected.with_context(|| format!("connecting from {}", source.ip()))
}

async fn close(scene: &mut Scene, before: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let begun = Instant::now();
    scene
        .front_end
        .wait_until("all are given up", |metrics| client_connections(metrics) == 0.0)
        .await?;
    figures.millis("silent_closed_ms", begun.elapsed());
    let left = scene.front_end.taken()?.descriptors.saturating_sub(before);
    figures.count("silent_descriptors_left", left);
    Ok(())
}

/// Loopback addresses from which they come: one may have no more than the limit of one address.
const SOURCES: usize = 50;
const FIRST_SOURCE: u8 = 100;
/// Connections that are made side by side.
const AT_ONCE: usize = 64;
/// Everything else that this process and the front end have open.
const DESCRIPTORS_BESIDE: usize = 200;

const WHILE_OPENING: LatencyNames = LatencyNames {
    p50: "silent_opening_p50_ms",
    p50_vs_calm: "silent_opening_p50_vs_calm",
    p99: "silent_opening_p99_ms",
    p99_vs_calm: "silent_opening_p99_vs_calm",
    worst: "silent_opening_worst_ms",
};
const WHILE_STANDING: LatencyNames = LatencyNames {
    p50: "silent_p50_ms",
    p50_vs_calm: "silent_p50_vs_calm",
    p99: "silent_p99_ms",
    p99_vs_calm: "silent_p99_vs_calm",
    worst: "silent_worst_ms",
};
