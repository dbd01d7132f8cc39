//! A process that is measured: one member of the cluster, as node and front end run it, and the writers inside it.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_cluster::MemberRole;
use tandem_cluster::{Applied, Command, NodeId, StateLimits};
use tandem_raft::{Cluster, ClusterConfig, Member, RaftMetrics, RaftRole};
use tandem_runtime::config::{LogConfig, LogFormat, TlsFiles};
use tandem_runtime::io::environment::files::RealFiles;
use tandem_runtime::io::telemetry::init_logging;
use tandem_runtime::io::transport::TlsTransport;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::control::{MemberOptions, Order, Report, Standing};
use crate::load;
use crate::noted_files::NotedFiles;

/// The name of the measured cluster, which its certificates carry.
pub(crate) const CLUSTER: &str = "bench";

/// The member that votes and does not campaign.
pub(crate) const WITNESS: u64 = 3;

/// Runs until it is told to stop, or whoever started it is gone.
pub(crate) fn run() -> ExitCode {
    match try_run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&Report::Failed(format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn try_run() -> anyhow::Result<()> {
    let mut first = String::new();
    std::io::stdin().lock().read_line(&mut first)?;
    let options: MemberOptions = serde_json::from_str(&first).context("the member's options")?;
    init_logging(&LogConfig {
        format: LogFormat::Text,
        filter: "warn,openraft=error".to_owned(),
    })?;
    let result = runtime(options.id)?.block_on(serve(&options));
    result.with_context(|| format!("member {}", options.id))
}

/// A front end gives its witness a thread of its own, a node takes what the machine has.
fn runtime(id: u64) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if id == WITNESS {
        builder.worker_threads(1);
    }
    builder.enable_all().build()
}

async fn serve(options: &MemberOptions) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut orders = orders();
    let files = Arc::new(NotedFiles::new(RealFiles::open(data_directory(options))?));
    let config = config(options);
    let incarnation = config.incarnation.as_u64();
    let cluster = start(config, options, files.clone()).await?;
    join(&cluster, options.id, incarnation).await?;
    tell(&Report::Ready);
    loop {
        let order = tokio::select! {
            biased;
            _ = terminated.recv() => break,
            order = orders.recv() => order,
        };
        let Some(order) = order else {
            return Ok(());
        };
        tell(&carry_out(order, &cluster, options.id, &files).await?);
    }
    cluster.drain().await;
    cluster.shutdown().await;
    Ok(())
}

async fn carry_out(order: Order, cluster: &Cluster, id: u64, files: &NotedFiles) -> anyhow::Result<Report> {
    Ok(match order {
        Order::Status => Report::Status(standing(cluster)),
        Order::Commit => {
            commit(cluster).await?;
            Report::Committed
        }
        Order::CommitAsLeader => {
            while !commit(cluster).await? {}
            Report::Committed
        }
        Order::Load { writers, millis } => Report::Load {
            latencies: load::closed(cluster, id, writers, Duration::from_millis(millis)).await?,
        },
        Order::Fill { sessions } => {
            load::fill(cluster, sessions).await?;
            Report::Filled
        }
        Order::Pace { per_second, millis } => {
            let duration = Duration::from_millis(millis);
            Report::Pace(load::paced(cluster, files, per_second, duration).await?)
        }
    })
}

/// Commits something; whether this member led when it was proposed.
async fn commit(cluster: &Cluster) -> anyhow::Result<bool> {
    let leads = cluster.status().borrow().role == RaftRole::Leader;
    let nothing = Command::CallbacksReceived {
        callbacks: Vec::new(),
    };
    cluster.propose(nothing, PATIENCE).await?;
    Ok(leads)
}

fn standing(cluster: &Cluster) -> Standing {
    let status = cluster.status().borrow().clone();
    Standing {
        leads: status.role == RaftRole::Leader,
        leader: status.leader.map(|leader| leader.0),
        last_applied: status.last_applied,
    }
}

fn data_directory(options: &MemberOptions) -> std::path::PathBuf {
    options.directory.join(format!("member-{}", options.id))
}

fn config(options: &MemberOptions) -> ClusterConfig {
    let members = (1..).zip(options.addresses).map(|(id, address)| Member {
        id: NodeId(id),
        role: if id == WITNESS {
            MemberRole::Witness
        } else {
            MemberRole::Node
        },
        address: address.into(),
    });
    let mut config = ClusterConfig::new(
        CLUSTER,
        NodeId(options.id),
        members.collect(),
        data_directory(options),
        StateLimits::default(),
    );
    if let Some(entries) = options.snapshot_after_entries {
        config.snapshot_after_entries = entries;
    }
    config
}

async fn start(
    config: ClusterConfig,
    options: &MemberOptions,
    files: Arc<NotedFiles>,
) -> anyhow::Result<Cluster> {
    let file = |name: String| options.directory.join(name);
    let tls = TlsFiles {
        certificate: file(format!("n{}.pem", options.id)),
        key: file(format!("n{}.key", options.id)),
        authority: file("authority.pem".to_owned()),
        revocation_list: None,
    };
    let transport = TlsTransport::new(&tls, CLUSTER, NodeId(options.id))?;
    let metrics = RaftMetrics::register(&prometheus::Registry::new())?;
    Ok(Cluster::start(config, transport, files, metrics).await?)
}

/// A node registers, as it does in production; a witness hears a leader.
async fn join(cluster: &Cluster, id: u64, incarnation: u64) -> anyhow::Result<()> {
    if id == WITNESS {
        let mut status = cluster.status();
        let heard = status.wait_for(|status| status.leader.is_some());
        tokio::time::timeout(PATIENCE, heard).await??;
        return Ok(());
    }
    let registered = Command::NodeRegistered {
        id: NodeId(id),
        sip_address: cluster.listen_address(),
        incarnation,
    };
    let applied = cluster.propose(registered, PATIENCE).await?;
    ensure!(applied == Applied::Done, "registering was answered {applied:?}");
    Ok(())
}

/// The orders from standard input, read on a thread of their own. They end with it.
fn orders() -> mpsc::Receiver<Order> {
    let (orders, queue) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let order = serde_json::from_str(&line).expect("both ends are this program");
            if orders.blocking_send(order).is_err() {
                return;
            }
        }
    });
    queue
}

fn tell(report: &Report) {
    let line = serde_json::to_string(report).expect("a report has no maps and no foreign types");
    // Nobody reads any more: the process ends with its standard input.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// What takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
