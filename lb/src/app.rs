//! The composition root: builds the parts in order, drains them in reverse.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus::Registry;
use tandem_cluster::NodeId;
use tandem_raft::RaftMetrics;
use tandem_runtime::io::admin::{self, AdminState, HostNames, Readiness};
use tandem_runtime::io::environment::Apart;
use tandem_runtime::io::environment::net::TcpListener;
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::pair_security::PairSecurity;
use tandem_runtime::io::process::{ExitStatus, raise_descriptor_limit};
use tandem_runtime::io::shutdown::{DrainTimings, Shutdown, Stage};
use tandem_runtime::io::sip_stream::{listen, listen_on_virtual_ip};
use tandem_runtime::io::sip_tls::SipTls;
use tandem_runtime::io::telemetry::register_process;
use tandem_runtime::io::watchdog::Watchdog;
use tandem_sip::proxy_protocol::Transport;
use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

use crate::balancer::Shared;
use crate::balancer::node_set::NodeSet;
use crate::balancer::ownership::Ownership;
use crate::balancer::selection::Turns;
use crate::balancer::settings::ByteBudget;
use crate::config::{Config, ListenerConfig, Mode};
use crate::io::admission::Admission;
use crate::io::certificate_routes::CertificateRoutes;
use crate::io::clock;
use crate::io::listener::{AccessControl, Listener};
use crate::io::listener_context::{ListenerContext, StreamSettings};
use crate::io::node_board::NodeBoard;
use crate::io::outbound_listener::{OutboundListener, SILENT_MAX};
use crate::io::prober::Prober;
use crate::io::resolved_hosts::ResolvedHosts;
use crate::io::witness::Witness;
use crate::membership::ClusterNews;
use crate::metrics::Metrics;

/// Runs the front end until it has drained.
pub async fn run(config: Config) -> anyhow::Result<ExitStatus> {
    let drain = config.drain.clone();
    FrontEnd::start(config).await?.drain_when_asked(&drain).await
}

/// A running front end.
pub struct FrontEnd {
    parts: Parts,
    addresses: Vec<SocketAddr>,
    outbound_address: Option<SocketAddr>,
    admin_address: SocketAddr,
    witness: Option<Apart>,
}

impl FrontEnd {
    /// Binds all listeners, then accepts clients. Ready once a node has passed its check.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        check_descriptors(&config);
        let registry = Registry::new();
        register_process(&registry);
        let (doubts, doubts_heard) = mpsc::channel(DOUBTS_WAITING_MAX);
        let (news, news_heard) = mpsc::channel(NEWS_WAITING_MAX);
        let pairs = pair_security(&config)?;
        tokio::spawn(pairs.clone().keep_up_to_date());
        let parts = Parts::new(&config, &registry, pairs, doubts);
        let raft_metrics = RaftMetrics::register(&registry).context("registering the Raft metrics")?;
        let certificates = open_certificates(&config.listeners)?;
        let admin_address = parts.serve_admin(&config, registry, &certificates)?;
        let hosts = parts.look_up_hosts(&config.listeners).await;
        let listeners = parts.bind_listeners(&config.listeners, &certificates, &hosts)?;
        let outbound = parts.bind_outbound(&config, &listeners)?;
        parts.check_nodes(&config, doubts_heard, news_heard);
        let witness = parts.join_cluster(&config, news, raft_metrics)?;
        let addresses = listeners.iter().map(|listener| listener.context.vip).collect();
        let outbound_address = outbound
            .as_ref()
            .map(|outbound| outbound.socket.local_addr())
            .transpose()?;
        parts.start_accepting(listeners, outbound);
        Ok(Self {
            parts,
            addresses,
            outbound_address,
            admin_address,
            witness,
        })
    }

    /// The addresses that clients connect to, in the order of the configured listeners.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of the outbound listener, which nodes connect to; `None` when it is not configured.
    #[must_use]
    pub fn outbound_address(&self) -> Option<SocketAddr> {
        self.outbound_address
    }

    /// The address of the admin listener.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The number of nodes eligible for new sessions.
    #[must_use]
    pub fn nodes_in_service(&self) -> usize {
        self.parts.board.table().serving_count()
    }

    /// Runs until a signal arrives or a vital task ends, then drains.
    pub async fn drain_when_asked(self, timings: &DrainTimings) -> anyhow::Result<ExitStatus> {
        let shutdown = &self.parts.shutdown;
        let reason = shutdown.requested().await.context("installing signal handlers")?;
        info!(?reason, "draining");
        let outcome = shutdown.drain(timings, async {}).await;
        if let Some(witness) = self.witness {
            let ended = tokio::time::timeout(WITNESS_STOP_TIMEOUT, witness.ended()).await;
            if ended.is_err() {
                warn!("cluster member did not stop in time");
            }
        }
        Ok(ExitStatus::of(&reason, &outcome))
    }
}

/// State shared by the parts of the front end.
struct Parts {
    shutdown: Shutdown,
    watchdog: Watchdog,
    readiness: Readiness,
    metrics: Metrics,
    board: Arc<NodeBoard>,
    ownership: Arc<Ownership>,
    kept_in_all: Arc<ByteBudget>,
    admission: Arc<Admission>,
    balancer: Arc<crate::balancer::settings::BalancerSettings>,
    streams: Arc<StreamSettings>,
    pairs: PairSecurity,
    doubts: mpsc::Sender<NodeId>,
}

impl Parts {
    fn new(config: &Config, registry: &Registry, pairs: PairSecurity, doubts: mpsc::Sender<NodeId>) -> Self {
        let readiness = Readiness::new();
        readiness.not_ready("listeners", "not all bound yet");
        readiness.not_ready("nodes", "none checked yet");
        let metrics = Metrics::new(registry);
        metrics.start_time.set(clock::unix_time_secs());
        Self {
            shutdown: Shutdown::new(),
            watchdog: Watchdog::default(),
            readiness,
            metrics,
            board: Arc::default(),
            ownership: Arc::default(),
            kept_in_all: Arc::new(ByteBudget::new(config.limits.kept_bytes_in_all_max)),
            admission: Arc::new(Admission::new(&config.limits)),
            balancer: Arc::new(config.balancer.clone()),
            streams: Arc::new(StreamSettings {
                framer: config.limits.framer,
                deadlines: config.deadlines.clone(),
                client_queue: config.limits.client_queue.clone(),
                node_queue: config.limits.node_queue.clone(),
                connect_timeout: config.keepalive.check.connect_timeout,
                silence_max: SILENCE_MAX,
                client_silence_max: config.limits.client_queue.stall_max + SILENCE_MAX,
                idle: config.idle,
            }),
            pairs,
            doubts,
        }
    }

    fn serve_admin(
        &self,
        config: &Config,
        registry: Registry,
        certificates: &BTreeMap<String, SipTls>,
    ) -> anyhow::Result<SocketAddr> {
        let admin = bind(config.admin.listen, "admin")?;
        let address = admin.local_addr()?;
        let state = AdminState {
            registry,
            readiness: self.readiness.clone(),
            names: HostNames::new(config.admin.names.clone()),
        };
        tokio::spawn(admin::serve(
            admin,
            state,
            CertificateRoutes::new(certificates.clone()).router(),
            self.shutdown.clone(),
        ));
        Ok(address)
    }

    /// Resolves the host names of the access lists before the first client is accepted, and keeps them up to date.
    async fn look_up_hosts(&self, configs: &[ListenerConfig]) -> ResolvedHosts {
        let names = configs.iter().flat_map(|config| config.access.hosts());
        let hosts = ResolvedHosts::new(names.map(ToOwned::to_owned));
        hosts.look_up().await;
        tokio::spawn(hosts.clone().keep_up_to_date(self.shutdown.clone()));
        hosts
    }

    fn bind_listeners(
        &self,
        configs: &[ListenerConfig],
        certificates: &BTreeMap<String, SipTls>,
        hosts: &ResolvedHosts,
    ) -> anyhow::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        for config in configs {
            let socket = bind_virtual_ip(config.address, &config.name)?;
            let tls = certificates.get(&config.name).cloned();
            if let Some(tls) = &tls {
                self.keep_up_to_date(&config.name, tls.clone());
            }
            // Of a listener without TLS, too, so that an alert knows the difference between none and unknown.
            self.metrics
                .certificate_expires
                .with_label_values(&[&config.name]);
            listeners.push(Listener {
                context: Arc::new(self.context(config, socket.local_addr()?)),
                socket,
                mode: config.mode,
                tls,
                admission: Arc::clone(&self.admission),
                access_control: AccessControl::new(
                    config.access.clone(),
                    config.proxies.clone(),
                    hosts.clone(),
                ),
            });
        }
        Ok(listeners)
    }

    fn keep_up_to_date(&self, listener: &str, tls: SipTls) {
        let gauge = self.metrics.certificate_expires.with_label_values(&[listener]);
        let show = move |tls: &SipTls| gauge.set(i64::try_from(tls.expires()).unwrap_or(i64::MAX));
        show(&tls);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tls.keep_up_to_date(shutdown.reached(Stage::StopAccepting), show)
                .await;
        });
    }

    fn context(&self, config: &ListenerConfig, vip: SocketAddr) -> ListenerContext {
        ListenerContext {
            name: config.name.as_str().into(),
            vip,
            host_name: config.host_name.clone(),
            transport: transport_of(config),
            balancer: Shared {
                settings: Arc::clone(&self.balancer),
                turns: Arc::new(Turns::default()),
                ownership: Arc::clone(&self.ownership),
                kept_in_all: Arc::clone(&self.kept_in_all),
            },
            streams: Arc::clone(&self.streams),
            pairs: self.pairs.clone(),
            board: Arc::clone(&self.board),
            doubts: self.doubts.clone(),
            log_limit: Arc::new(LogLimit::once_a_minute()),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
        }
    }

    /// Binds the outbound listener. A connection requested by a node shows the client the VIP of the first message-mode
    /// listener with its transport.
    fn bind_outbound(
        &self,
        config: &Config,
        listeners: &[Listener],
    ) -> anyhow::Result<Option<OutboundListener>> {
        let Some(outbound) = &config.outbound else {
            return Ok(None);
        };
        let socket = bind(outbound.listen, "outbound")?;
        let of = |transport| {
            let mut pairs = config.listeners.iter().zip(listeners);
            pairs.find(|(config, _)| config.mode == Mode::Message && transport_of(config) == transport)
        };
        let tls = of(Transport::Tls).and_then(|(_, listener)| {
            let tls = listener.tls.clone()?;
            Some((Arc::clone(&listener.context), tls))
        });
        Ok(Some(OutboundListener {
            config: outbound.clone(),
            socket,
            tcp: of(Transport::Tcp).map(|(_, listener)| Arc::clone(&listener.context)),
            tls,
            admission: Arc::clone(&self.admission),
            pairs: self.pairs.clone(),
            silent: Arc::new(Semaphore::new(SILENT_MAX)),
            refusals: LogLimit::once_a_minute(),
        }))
    }

    fn check_nodes(
        &self,
        config: &Config,
        doubts: mpsc::Receiver<NodeId>,
        news: mpsc::Receiver<ClusterNews>,
    ) {
        let health = config.keepalive.health.clone();
        let prober = Prober {
            nodes: NodeSet::new(
                health,
                config.limits.nodes_max,
                config.nodes.clone(),
                clock::now(),
            ),
            board: Arc::clone(&self.board),
            check: config.keepalive.check.clone(),
            pairs: self.pairs.clone(),
            checks: BTreeMap::new(),
            refusals: LogLimit::once_a_minute(),
            readiness: self.readiness.clone(),
            metrics: self.metrics.clone(),
            kept_in_all: Arc::clone(&self.kept_in_all),
            doubts,
            news,
            pulse: self.watchdog.pulse("keepalives"),
            shutdown: self.shutdown.clone(),
        };
        // Not one of the tasks that a drain waits for: it is needed until the end.
        tokio::spawn(prober.run());
    }

    fn join_cluster(
        &self,
        config: &Config,
        news: mpsc::Sender<ClusterNews>,
        raft_metrics: RaftMetrics,
    ) -> anyhow::Result<Option<Apart>> {
        let Some(cluster) = &config.cluster else {
            warn!(
                "no [cluster] section: requests of sessions that have moved to another node cannot be routed there"
            );
            return Ok(None);
        };
        let witness = Witness {
            config: cluster.clone(),
            ownership: Arc::clone(&self.ownership),
            news,
            metrics: self.metrics.clone(),
            raft_metrics,
            readiness: self.readiness.clone(),
            shutdown: self.shutdown.clone(),
        };
        witness
            .spawn()
            .context("starting the thread of the cluster member")
            .map(Some)
    }

    fn start_accepting(&self, listeners: Vec<Listener>, outbound: Option<OutboundListener>) {
        for listener in listeners {
            info!(listener = %listener.context.name, address = %listener.context.vip, "listening");
            self.shutdown.spawn_vital("listener", Arc::new(listener).run());
        }
        if let Some(outbound) = outbound {
            self.shutdown.spawn_vital("outbound listener", outbound.run());
        }
        self.readiness.resolved("listeners");
        tokio::spawn(self.watchdog.clone().run(self.shutdown.clone()));
    }
}

/// TLS for the connections with nodes. The front end authenticates as the cluster member that this process runs.
fn pair_security(config: &Config) -> anyhow::Result<PairSecurity> {
    let cluster = config.cluster.as_ref();
    let member = cluster.map(|cluster| (&cluster.section, cluster.member_id));
    PairSecurity::new(config.pairs, member).context("setting up TLS for the connections with nodes")
}

/// Loads the certificates of the TLS listeners, by listener name.
fn open_certificates(configs: &[ListenerConfig]) -> anyhow::Result<BTreeMap<String, SipTls>> {
    let mut opened = BTreeMap::new();
    for config in configs {
        let Some(settings) = config.tls.clone() else {
            continue;
        };
        let name = &config.name;
        let tls =
            SipTls::new(settings).with_context(|| format!("loading the certificates of listener {name}"))?;
        if tls.chain().is_empty() {
            warn!(
                listener = name,
                "no certificate installed: every TLS handshake is refused; see `tandem-lb certificate csr`"
            );
        }
        opened.insert(name.clone(), tls);
    }
    Ok(opened)
}

/// Raises the limit on file descriptors and warns when it is too low: each client needs its own connection to each node, and
/// a front end without descriptors refuses clients.
fn check_descriptors(config: &Config) {
    let wanted = descriptors_wanted(config.limits.connections_max, config.nodes.len());
    if let Some(limit) = raise_descriptor_limit().filter(|limit| *limit < wanted) {
        warn!(
            limit,
            wanted,
            "too few file descriptors for limits.connections_max: raise LimitNOFILE of the service or lower connections_max"
        );
    }
}

fn descriptors_wanted(connections_max: usize, nodes: usize) -> u64 {
    let wanted = connections_max
        .saturating_mul(1 + nodes)
        .saturating_add(DESCRIPTORS_OF_OUR_OWN);
    u64::try_from(wanted).unwrap_or(u64::MAX)
}

/// Binds a listener whose address may be missing on this machine, because the other front end holds it at present.
fn bind_virtual_ip(address: SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    let listened = listen_on_virtual_ip(address);
    let (listener, is_here) = listened.with_context(|| format!("binding listener {name} on {address}"))?;
    if !is_here {
        warn!(
            listener = name, %address,
            "listening on an address that this machine does not have yet; clients can connect once it has"
        );
    }
    Ok(listener)
}

fn bind(address: SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    listen(address).with_context(|| format!("binding listener {name} on {address}"))
}

fn transport_of(config: &ListenerConfig) -> Transport {
    match config.tls {
        Some(_) => Transport::Tls,
        None => Transport::Tcp,
    }
}

/// A connection whose peer acknowledges no sent byte for this long is broken.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Descriptors for listeners, log files, and connections with members and administrators.
const DESCRIPTORS_OF_OUR_OWN: usize = 512;
const WITNESS_STOP_TIMEOUT: Duration = Duration::from_secs(3);
const DOUBTS_WAITING_MAX: usize = 1_024;
const NEWS_WAITING_MAX: usize = 256;
