//! The listener to which Exchange POSTs push notifications: HTTP, plain or over TLS, on several ports at once.
//!
//! A path without a valid token is answered 404 before its body is read. Other callbacks go to the calendars, whose
//! verdict is the answer; the server is never kept waiting for it, since a callback is charged to the mailbox while it
//! runs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tandem_runtime::io::environment::net::TcpListener;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::push_callback::CallbackService;
use super::push_connections::Connections;
use tandem_exchange::callback::CallbackKey;

pub use super::push_callback::CallbackArrived;
pub use super::push_connections::PushMetrics;

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

/// The open callback ports. Dropping it closes them.
#[derive(Debug)]
pub struct PushListener {
    shared: Arc<Connections>,
    ports: Vec<Port>,
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
        let shared = Arc::new(Connections {
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

async fn accept(
    listener: TcpListener,
    mut retired: watch::Receiver<Option<Instant>>,
    shared: Arc<Connections>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.shutdown.reached(Stage::StopAccepting) => return,
            () = retirement(&mut retired) => return,
        };
        match accepted {
            Ok((stream, peer)) => shared.clone().start(stream, peer),
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

/// The port in use, and former ones that are still called.
pub const PORTS_MAX: usize = 8;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
