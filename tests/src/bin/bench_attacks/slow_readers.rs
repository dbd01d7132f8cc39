//! Connections that ask a great deal and read nothing: they have to be held back, and then given up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_tests::figures::Figures;
use tandem_tests::peers::stranger::Letter;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::attacker::options;
use crate::bystander::Bystander;
use crate::front_end::{client_connections, nodes_in_service};
use crate::scene::{LatencyNames, Scene, mib_between};

pub(crate) async fn run(count: usize, figures: &mut Figures) -> anyhow::Result<()> {
    println!("\n{count} connections that send {REQUESTS} requests each and read nothing");
    let mut scene = Scene::start().await?;
    let calm = scene.watch().await?;
    figures.millis("slow_calm_p50_ms", calm.latencies.median());
    figures.millis("slow_calm_p99_ms", calm.latencies.p99());
    // The same for all: a transaction is one of its connection.
    let requests = Arc::new(large_requests());
    let bystander = Bystander::start(scene.vip()).await?;
    let (before, begun) = (scene.front_end.taken()?, Instant::now());
    let mut attackers = JoinSet::new();
    for _ in 0..count {
        attackers.spawn(ask_and_never_read(scene.vip(), Arc::clone(&requests)));
    }
    let watched = until_given_up(&mut scene, count).await?;
    let (after, elapsed) = (scene.front_end.taken()?, begun.elapsed());
    let latencies = bystander.finish().await?;
    attackers.shutdown().await;
    figures.count("slow_not_closed", watched.left);
    figures.seconds("slow_closed_after_s", elapsed);
    figures.count("slow_nodes_in_service_least", watched.nodes_least);
    figures.count("slow_given_up_as_stalled", watched.stalled);
    figures.millis("slow_cpu_ms", after.cpu.saturating_sub(before.cpu));
    figures.count(
        "slow_memory_peak_grown_mib",
        mib_between(before.resident_bytes, after.peak_bytes),
    );
    figures.count(
        "slow_memory_kept_mib",
        mib_between(before.resident_bytes, after.resident_bytes),
    );
    calm.compare(&latencies, &LATENCIES, figures);
    scene.front_end.end().await
}

/// What was seen of the front end until the last attacker was given up.
struct Watched {
    /// The fewest at any moment.
    nodes_least: usize,
    /// Attackers that were given up because they took nothing, by the front end's own count.
    stalled: usize,
    /// Attackers that it still had at the end.
    left: usize,
}

async fn until_given_up(scene: &mut Scene, count: usize) -> anyhow::Result<Watched> {
    let begun = Instant::now();
    let mut watched = Watched {
        nodes_least: usize::MAX,
        stalled: 0,
        left: count,
    };
    // Those, and the bystander of either time.
    let came = count as f64 + 2.0;
    while begun.elapsed() < PATIENCE {
        scene.front_end.ensure_alive()?;
        let metrics = scene.front_end.metrics().await?;
        watched.nodes_least = watched.nodes_least.min(nodes_in_service(&metrics) as usize);
        let stalled = [("limit", "client_stalled")];
        watched.stalled = metrics.sum("tandem_lb_limits_reached_total", &stalled) as usize;
        // One is the bystander's.
        watched.left = (client_connections(&metrics) as usize).saturating_sub(1);
        let all_came = metrics.sum("tandem_lb_client_connections_accepted_total", &[]) >= came;
        if all_came && watched.left == 0 {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(watched)
}

/// Holds the connection for as long as it is let.
async fn ask_and_never_read(vip: SocketAddr, requests: Arc<Vec<u8>>) -> anyhow::Result<()> {
    let mut stream = connect(vip).await?;
    // An error is what is waited for: the front end has closed.
    let _ = stream.write_all(&requests).await;
    std::future::pending().await
}

async fn connect(vip: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // The system's own buffers would hold a good deal of the answers.
    socket.set_recv_buffer_size(4 << 10)?;
    Ok(socket.connect(vip).await?)
}

/// Their answers are as large, since From stands in them as well.
fn large_requests() -> Vec<u8> {
    let letters = (0..REQUESTS).map(|_| Letter {
        user: "x".repeat(FROM_BYTES),
        ..options()
    });
    letters.flat_map(|letter| letter.write()).collect()
}

/// Of each connection.
const REQUESTS: usize = 2_000;
const FROM_BYTES: usize = 2_000;
/// The front end gives a client up after ten seconds without progress.
const PATIENCE: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(50);

const LATENCIES: LatencyNames = LatencyNames {
    p50: "slow_p50_ms",
    p50_vs_calm: "slow_p50_vs_calm",
    p99: "slow_p99_ms",
    p99_vs_calm: "slow_p99_vs_calm",
    worst: "slow_worst_ms",
};
