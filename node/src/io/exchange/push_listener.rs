//! The listener to which Exchange POSTs push notifications: HTTP, plain or over TLS, on several ports at once.
//!
//! A path without a valid token is answered 404 before its body is read. Other callbacks go to the calendars, whose
//! verdict is the answer; the server is never kept waiting for it, since a callback is charged to the mailbox while it
//! runs.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounterVec, IntGauge};
use rustls::ServerConfig;
use tandem_runtime::io::environment::net::{TcpListener, TcpStream};
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::push_callback::CallbackService;
use tandem_exchange::callback::CallbackKey;

pub use super::push_callback::CallbackArrived;

#[derive(Debug, Clone)]
pub struct PushListenerOptions {
    /// Over all ports; connections beyond are closed unanswered.
    pub connections_max: usize,
    pub body_bytes_max: usize,
    /// For the TLS handshake, and for a request's head, including the idle time before it.
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    /// The longest time that the server is kept waiting.
    pub verdict_timeout: Duration,
}

impl Default for PushListenerOptions {
    fn default() -> Self {
        Self {
            connections_max: 512,
            body_bytes_max: 1 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            verdict_timeout: Duration::from_secs(2),
        }
    }
}

#[derive(Debug, Clone)]
pub struct PushMetrics {
    callbacks: IntCounterVec,
    connections: IntGauge,
    refused: IntCounterVec,
}

impl PushMetrics {
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            callbacks: metrics.counters(
                "tandem_node_exchange_callbacks_total",
                "Push callbacks, by answer.",
                &["answer"],
            ),
            connections: metrics.gauge(
                "tandem_node_exchange_callback_connections",
                "Connections to the push listener.",
            ),
            refused: metrics.counters(
                "tandem_node_exchange_callback_connections_refused_total",
                "Connections to the push listener that were closed unanswered.",
                &["reason"],
            ),
        }
    }
}

/// The open callback ports. Dropping it closes them.
#[derive(Debug)]
pub struct PushListener {
    shared: Arc<Shared>,
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Shared {
    service: CallbackService,
    /// `None`: plain HTTP.
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    header_timeout: Duration,
    metrics: PushMetrics,
    slots: Arc<Semaphore>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Port {
    /// As requested; port 0 is possible.
    requested: SocketAddr,
    bound: SocketAddr,
    /// When to stop accepting; `None`: never.
    retirement: watch::Sender<Option<Instant>>,
}

impl PushListener {
    /// Does not listen yet. A certificate is renewed by storing a new configuration in `tls`.
    #[must_use]
    pub fn new(
        options: PushListenerOptions,
        key: CallbackKey,
        tls: Option<Arc<ArcSwap<ServerConfig>>>,
        arrived: mpsc::Sender<CallbackArrived>,
        metrics: PushMetrics,
        shutdown: Shutdown,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let service = CallbackService {
            key,
            arrived,
            body_bytes_max: options.body_bytes_max,
            body_timeout: options.body_timeout,
            verdict_timeout: options.verdict_timeout,
            counter: metrics.callbacks.clone(),
        };
        let shared = Arc::new(Shared {
            service,
            tls,
            header_timeout: options.header_timeout,
            metrics,
            slots,
            shutdown,
        });
        Self {
            shared,
            ports: Vec::new(),
        }
    }

    /// Listens on `address`, too, and returns the bound address. An address that is open already is no longer retired.
    /// Beyond [`PORTS_MAX`] the oldest port is closed.
    ///
    /// # Errors
    /// If the address cannot be bound; then nothing changes.
    pub async fn open(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        self.ports.retain(|port| !port.retirement.is_closed());
        let open = |port: &&Port| port.requested == address || port.bound == address;
        if let Some(port) = self.ports.iter().find(open) {
            port.retirement.send_replace(None);
            return Ok(port.bound);
        }
        let listener = TcpListener::bind(address).await?;
        let bound = listener.local_addr()?;
        if self.ports.len() >= PORTS_MAX {
            self.ports.remove(0);
        }
        self.ports.push(self.start(listener, address, bound));
        info!(%bound, "listening for push callbacks");
        Ok(bound)
    }

    /// Like [`Self::open`]; all other ports close after `keep_old_for`: earlier subscriptions use them until they are
    /// renewed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn replace(&mut self, address: SocketAddr, keep_old_for: Duration) -> io::Result<SocketAddr> {
        let bound = self.open(address).await?;
        let retire_at = Instant::now() + keep_old_for;
        for port in self.ports.iter().filter(|port| port.bound != bound) {
            port.retirement.send_if_modified(|at| {
                let first = at.is_none();
                at.get_or_insert(retire_at);
                first
            });
        }
        Ok(bound)
    }

    /// The open ports, oldest first.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let open = self.ports.iter().filter(|port| !port.retirement.is_closed());
        open.map(|port| port.bound).collect()
    }

    fn start(&self, listener: TcpListener, requested: SocketAddr, bound: SocketAddr) -> Port {
        let (retirement, retired) = watch::channel(None);
        let shared = self.shared.clone();
        self.shared
            .shutdown
            .spawn("push listener", accept(listener, retired, shared));
        Port {
            requested,
            bound,
            retirement,
        }
    }
}

async fn accept(listener: TcpListener, mut retired: watch::Receiver<Option<Instant>>, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.shutdown.reached(Stage::StopAccepting) => return,
            () = retirement(&mut retired) => return,
        };
        match accepted {
            Ok((stream, peer)) => shared.clone().start_connection(stream, peer),
            Err(error) => {
                warn!(%error, "cannot accept a push callback");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Returns at the time of retirement, which may change, or when the port is no longer needed.
async fn retirement(retired: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let at = *retired.borrow_and_update();
        let changed = match at {
            None => retired.changed().await,
            Some(at) => match timeout_at(at, retired.changed()).await {
                Ok(changed) => changed,
                Err(_) => return,
            },
        };
        if changed.is_err() {
            return;
        }
    }
}

/// A slot among the connections.
struct Slot {
    _permit: OwnedSemaphorePermit,
    connections: IntGauge,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

impl Shared {
    fn start_connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Some(slot) = self.take_slot() else {
            return self.count_refused("too_many");
        };
        let shutdown = self.shutdown.clone();
        shutdown.spawn("push callback", async move {
            self.serve(stream, peer).await;
            drop(slot);
        });
    }

    fn take_slot(&self) -> Option<Slot> {
        let permit = self.slots.clone().try_acquire_owned().ok()?;
        let connections = self.metrics.connections.clone();
        connections.inc();
        Some(Slot {
            _permit: permit,
            connections,
        })
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Some(tls) = &self.tls else {
            return self.serve_http(stream, peer).await;
        };
        let handshake = TlsAcceptor::from(tls.load_full()).accept(stream);
        match timeout(self.header_timeout, handshake).await {
            Ok(Ok(stream)) => self.serve_http(stream, peer).await,
            Ok(Err(error)) => {
                debug!(%peer, %error, "TLS handshake with a push client failed");
                self.count_refused("tls");
            }
            Err(_) => self.count_refused("tls"),
        }
    }

    /// After `StopAccepting` a request under way is still answered.
    async fn serve_http(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr) {
        let service = service_fn(|request| {
            let shared = self.clone();
            async move { Ok::<_, Infallible>(shared.service.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.shutdown.reached(Stage::StopAccepting) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    served = connection.as_mut() => served,
                    () = self.shutdown.reached(Stage::Close) => return,
                }
            }
        };
        if let Err(error) = served {
            debug!(%peer, %error, "a push connection ended early");
        }
    }

    fn count_refused(&self, reason: &str) {
        self.metrics.refused.with_label_values(&[reason]).inc();
    }
}

/// The port in use, and former ones that are still called.
pub const PORTS_MAX: usize = 8;
const HEADER_BYTES_MAX: usize = 16 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
