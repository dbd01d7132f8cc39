//! The composition root: builds the parts in order, and takes them apart in reverse.
//!
//! Owns the order, and nothing else: the parts of calendars are put together in a file of their own. What always holds:
//! a node without `[exchange]` runs without any of them.

mod calendars;

use std::sync::Arc;

use anyhow::Context;
use prometheus::Registry;
use tandem_cluster::health::Subject;
use tandem_cluster::{Incarnation, StateLimits};
use tandem_raft::{Cluster, ClusterConfig, RaftMetrics};
use tandem_runtime::config::PeerSecurity;
use tandem_runtime::io::admin::{self, AdminState, HostNames, Readiness};
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::TcpListener;
use tandem_runtime::io::pair_security::PairSecurity;
use tandem_runtime::io::process::ExitStatus;
use tandem_runtime::io::shutdown::{DrainTimings, Shutdown};
use tandem_runtime::io::sip_stream::{SendLimits, listen};
use tandem_runtime::io::telemetry::{init_logging, register_process};
use tandem_runtime::io::transport::{TcpTransport, TlsTransport};
use tokio::sync::{broadcast, mpsc, watch};
use tracing::info;

use crate::config::Config;
use crate::cti::CtiTimings;
use crate::directory::Directory;
use crate::following::Following;
use tandem_runtime::io::watchdog::{Pulse, Watchdog};

use crate::gateway::{Gateway, Input};
use crate::io::admin_routes::Routes;
use crate::io::clock;
use crate::io::cti_link::CtiLinks;
use crate::io::directory_watch::DirectoryFile;
use crate::io::driver::{Driver, DriverEvent};
use crate::io::outbound::OutboundRoute;
use crate::io::pair_senders::PairSenders;
use crate::io::presence::{PresenceMetrics, PresenceOut, PresenceRoutes, PresenceView};
use crate::io::rebalancing::Rebalancing;
use crate::io::registration::{self, Identity, Place, REGISTRATION};
use crate::io::reports::Reporter;
use crate::io::sip_connection::ConnectionContext;
use crate::io::sip_listener::{self, PairIds};
use crate::metrics::NodeMetrics;
use crate::presence::PresenceChanged;
use crate::rebalancing::Share;
use crate::settings::GatewaySettings;

use calendars::Calendars;

/// Runs the node until it is asked to stop.
///
/// # Errors
/// When a part cannot be built.
pub fn run(config: Config) -> anyhow::Result<ExitStatus> {
    init_logging(&config.log).context("starting the log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(config))
}

/// Serves until the process is asked to stop, or a vital part of it has ended, and drains then. Runs on the runtime of
/// the caller, in the environment that this thread is in.
///
/// # Errors
/// When a part cannot be built.
pub async fn serve(config: Config) -> anyhow::Result<ExitStatus> {
    let directory = DirectoryFile::open(&config.directory_file).context("reading the directory")?;
    let shutdown = Shutdown::new();
    let registry = Registry::new();
    register_process(&registry);
    let readiness = Readiness::new();
    readiness.not_ready(Subject::Leader.label(), "no leader is known");
    readiness.not_ready(Subject::Quorum.label(), "no majority has been heard of yet");
    readiness.not_ready(REGISTRATION, "the cluster has not taken the node in");
    let metrics = NodeMetrics::register(&registry, clock::instant());
    let sip_listener = bind(config.sip.listen, "SIP")?;
    let admin_listener = bind(config.admin.listen, "admin")?;
    let incarnation = Incarnation::first(environment::random());
    let watchdog = Watchdog::default();
    let cluster = start_cluster(&config, incarnation, &registry, watchdog.pulse("cluster")).await?;

    let presence_metrics = PresenceMetrics::register(&registry);
    let presence_view = PresenceView::new(cluster.clone(), presence_metrics.clone());
    let presence_out = PresenceOut::new(presence_metrics);
    tokio::spawn(presence_view.clone().run(shutdown.clone()));
    tokio::spawn(presence_out.clone().run(config.id, cluster.clone()));
    tokio::spawn(directory.clone().follow(shutdown.clone()));

    let incarnations = watch::Sender::new(incarnation.as_u64());
    let calendars = match &config.exchange {
        Some(exchange) => {
            let parts = calendars::Parts {
                id: config.id,
                incarnation: incarnations.subscribe(),
                cluster: cluster.clone(),
                directory: directory.subscribe(),
                presence: presence_out,
                registry: &registry,
                shutdown: shutdown.clone(),
            };
            Some(calendars::start(exchange, parts).await?)
        }
        None => None,
    };

    let rebalancing = Rebalancing::new(Share::SessionsOfNodes, config.id);
    let routes = Routes {
        id: config.id,
        cluster: cluster.clone(),
        rebalancing: rebalancing.clone(),
        presence: PresenceRoutes::new(cluster.clone(), directory.clone(), presence_view.clone()),
        exchange: calendars.as_ref().map(|calendars| calendars.routes.clone()),
    };
    let state = AdminState {
        registry,
        readiness: readiness.clone(),
        names: HostNames::new(config.admin.names.clone()),
    };
    tokio::spawn(admin::serve(
        admin_listener,
        state,
        routes.router(),
        shutdown.clone(),
    ));

    let (events_sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let (cti_sender, cti_inputs) = mpsc::channel(CTI_INPUTS_WAITING_MAX);
    let context = ConnectionContext {
        events: events_sender.clone(),
        metrics,
        shutdown: shutdown.clone(),
        send_limits: SendLimits {
            queued_bytes_max: config.sip.send_queue_bytes_max,
            ..SendLimits::default()
        },
    };
    let identity = Identity {
        id: config.id,
        sip_address: config.sip.advertise,
        incarnation: incarnations,
    };
    let pair_ids = PairIds::default();
    let pairs = PairSecurity::new(config.sip.pairs, Some((&config.cluster, config.id)))
        .context("preparing TLS of the connections with front ends")?;
    tokio::spawn(pairs.clone().keep_up_to_date());
    let (joined_sender, joined) = watch::channel(false);
    // Before the gateway gets the first: none that follows is missed.
    let directories = directory.subscribe();
    let presence_changes = presence_view.subscribe();
    let driver = Driver {
        gateway: Gateway::new(
            config.gateway.clone(),
            config.cti.clone(),
            directory.current(),
            environment::random(),
        ),
        links: CtiLinks::new(config.cti_connect_timeout, cti_sender),
        cluster: cluster.clone(),
        place: Place {
            identity: identity.clone(),
            readiness,
            joined: joined_sender,
        },
        reporter: Reporter {
            metrics: context.metrics.clone(),
            cti_names: config
                .cti
                .connections
                .iter()
                .map(|connection| connection.name.clone())
                .collect(),
        },
        events,
        cti_inputs,
        context: context.clone(),
        outbound: OutboundRoute {
            front_ends: config.sip.outbound_front_ends.clone(),
            source: config.sip.advertise.ip(),
            security: pairs.clone(),
        },
        pair_ids: pair_ids.clone(),
        rebalancing,
        pulse: watchdog.pulse("gateway"),
        pairs: PairSenders::default(),
        following: Following::new(config.id, incarnation, clock::instant()),
        configured: GatewaySettings {
            session_timer_secs: config.gateway.session_timer_secs,
            cti: CtiTimings::of(&config.cti),
        },
        presence: presence_view,
    };
    shutdown.spawn_vital("gateway", driver.run());
    tokio::spawn(tell_of_directories(directories, events_sender.clone()));
    tokio::spawn(tell_of_presence(presence_changes, events_sender.clone()));
    tokio::spawn(accept_once_joined(
        joined,
        sip_listener,
        config.clone(),
        pair_ids,
        pairs,
        context,
    ));

    tokio::spawn(watchdog.run(shutdown.clone()));
    let mut requested = std::pin::pin!(shutdown.requested());
    let reason = tokio::select! {
        reason = &mut requested => reason.context("installing signal handlers")?,
        stopped = cluster.stopped() => anyhow::bail!("the cluster member has stopped: {stopped:?}"),
    };
    info!(?reason, "draining");
    let timings = DrainTimings {
        deadline: config.drain_deadline,
        ..DrainTimings::default()
    };
    let outcome = shutdown
        .drain(
            &timings,
            hand_over(&cluster, &identity, &events_sender, calendars.as_ref()),
        )
        .await;
    cluster.shutdown().await;
    Ok(ExitStatus::of(&reason, &outcome))
}

async fn tell_of_presence(
    mut changes: broadcast::Receiver<PresenceChanged>,
    events: mpsc::Sender<DriverEvent>,
) {
    loop {
        let input = match changes.recv().await {
            Ok(changed) => Input::PresenceChanged {
                user: changed.user.to_string(),
            },
            Err(broadcast::error::RecvError::Lagged(_)) => Input::AllPresenceChanged,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if events.send(DriverEvent::Gateway(input)).await.is_err() {
            return;
        }
    }
}

async fn tell_of_directories(
    mut directories: watch::Receiver<Arc<Directory>>,
    events: mpsc::Sender<DriverEvent>,
) {
    while directories.changed().await.is_ok() {
        let directory = directories.borrow_and_update().clone();
        let told = events.send(DriverEvent::Gateway(Input::DirectoryChanged(directory)));
        if told.await.is_err() {
            return;
        }
    }
}

/// Front ends are served once the cluster has taken the node in: before, no session is its own.
async fn accept_once_joined(
    mut joined: watch::Receiver<bool>,
    listener: TcpListener,
    config: Config,
    pair_ids: PairIds,
    pairs: PairSecurity,
    context: ConnectionContext,
) {
    if joined.wait_for(|joined| *joined).await.is_err() {
        return;
    }
    let shutdown = context.shutdown.clone();
    let accepting = sip_listener::run(listener, Arc::new(config.sip), pair_ids, pairs, context);
    shutdown.spawn_vital("SIP listener", accepting);
}

/// No client hears of a planned stop: the others go on with the sessions.
async fn hand_over(
    cluster: &Cluster,
    identity: &Identity,
    events: &mpsc::Sender<DriverEvent>,
    calendars: Option<&Calendars>,
) {
    // Whoever is gone already needs no telling.
    let _ = events.send(DriverEvent::DrainStarted).await;
    let incarnation = *identity.incarnation.borrow();
    registration::leave(cluster, identity.id, incarnation).await;
    if let Some(calendars) = calendars {
        calendars.stop().await;
    }
    tokio::time::sleep(LAST_ANSWERS).await;
    cluster.drain().await;
    let _ = events.send(DriverEvent::Stop).await;
}

async fn start_cluster(
    config: &Config,
    incarnation: Incarnation,
    registry: &Registry,
    pulse: Pulse,
) -> anyhow::Result<Cluster> {
    let section = &config.cluster;
    let files = environment::files(&config.data_directory)
        .with_context(|| format!("opening the data directory {}", config.data_directory.display()))?;
    let mut member =
        ClusterConfig::of_section(section, config.id, &config.data_directory, StateLimits::default());
    member.incarnation = incarnation;
    member.pulse = pulse;
    member.fast_take_over = config.fast_take_over;
    let metrics = RaftMetrics::register(registry).context("registering the metrics of Raft")?;
    match &section.security {
        PeerSecurity::PlaintextOnLoopback => Cluster::start(member, TcpTransport, files, metrics).await,
        PeerSecurity::MutualTls(tls) => {
            let transport =
                TlsTransport::new(tls, &section.name, config.id).context("preparing TLS between members")?;
            Cluster::start(member, transport, files, metrics).await
        }
    }
    .context("starting the cluster member")
}

fn bind(address: std::net::SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| format!("binding the {what} listener on {address}"))
}

const EVENTS_WAITING_MAX: usize = 8192;
const CTI_INPUTS_WAITING_MAX: usize = 4096;
/// What was answered last shall still reach its client.
const LAST_ANSWERS: std::time::Duration = std::time::Duration::from_millis(100);
