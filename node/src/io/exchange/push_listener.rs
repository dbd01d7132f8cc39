//! Where Exchange POSTs its push notifications to: HTTP, over TLS or plain, on any number of ports at once.
//!
//! A path without a genuine token is answered 404 before its body is read. What a genuine one tells goes to whoever
//! decides about subscriptions, and his verdict is the answer; the server is never kept waiting for it, since its
//! callback is charged to the mailbox while it runs.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounterVec, IntGauge};
use rustls::ServerConfig;
use tandem_shared::io::shutdown::{Shutdown, Stage};
use tandem_shared::io::telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::exchange::callback::CallbackKey;
use crate::exchange::ews::{
    self, Failure, Notification, SubscriptionStatus, parse_callback, write_callback_answer,
};

/// A callback whose token is genuine.
#[derive(Debug)]
pub struct CallbackArrived {
    pub user: String,
    /// Of the callback URL: which attempt to subscribe this belongs to.
    pub attempt: u64,
    /// In the order sent. A failure says that the subscription is gone.
    pub notifications: Vec<Result<Notification, Failure>>,
    /// Dropped, or not used in time, it means [`SubscriptionStatus::Ok`].
    pub verdict: oneshot::Sender<SubscriptionStatus>,
}

#[derive(Debug, Clone)]
pub struct PushListenerOptions {
    /// Over all ports; one more is closed unanswered.
    pub connections_max: usize,
    pub body_bytes_max: usize,
    /// For the TLS handshake, and for a request's head, idle time before it included.
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    /// What the server is kept waiting for at most.
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
                "tandem_exchange_callbacks_total",
                "Push callbacks, by what they were answered.",
                &["answer"],
            ),
            connections: metrics.gauge(
                "tandem_exchange_callback_connections",
                "Connections to the push listener.",
            ),
            refused: metrics.counters(
                "tandem_exchange_callback_connections_refused_total",
                "Connections to the push listener that were closed unanswered.",
                &["reason"],
            ),
        }
    }
}

/// The ports on which callbacks are taken. Dropped, it closes them.
#[derive(Debug)]
pub struct PushListener {
    shared: Arc<Shared>,
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Shared {
    options: PushListenerOptions,
    key: CallbackKey,
    /// `None`: plain HTTP.
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    arrived: mpsc::Sender<CallbackArrived>,
    metrics: PushMetrics,
    slots: Arc<Semaphore>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Port {
    /// As asked for, port 0 included.
    requested: SocketAddr,
    bound: SocketAddr,
    /// When to stop accepting; `None`: never.
    retirement: watch::Sender<Option<Instant>>,
}

impl PushListener {
    /// Listens nowhere yet. A certificate is renewed by storing a new configuration in `tls`.
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
        let shared = Arc::new(Shared {
            options,
            key,
            tls,
            arrived,
            metrics,
            slots,
            shutdown,
        });
        Self {
            shared,
            ports: Vec::new(),
        }
    }

    /// Listens at `address` too, and says which one it has become. An address that is open already stays open for
    /// good. Beyond [`PORTS_MAX`] the oldest port is closed.
    ///
    /// # Errors
    /// When the address cannot be bound; everything stays as it was.
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

    /// As [`Self::open`]; all other ports close after `keep_old_for`: subscriptions made before still call them, until
    /// they are renewed.
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

    /// Where callbacks are taken now, oldest first.
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

/// Returns at the time of retirement, which may change, or when nobody wants the port any more.
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

/// A place among the connections.
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
        match timeout(self.options.header_timeout, handshake).await {
            Ok(Ok(stream)) => self.serve_http(stream, peer).await,
            Ok(Err(error)) => {
                debug!(%peer, %error, "a push callback failed in the TLS handshake");
                self.count_refused("tls");
            }
            Err(_) => self.count_refused("tls"),
        }
    }

    /// After `StopAccepting` the request that has begun is still answered.
    async fn serve_http(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin, peer: SocketAddr) {
        let service = service_fn(|request| {
            let shared = self.clone();
            async move { Ok::<_, Infallible>(shared.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.header_timeout)
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
            debug!(%peer, %error, "a push callback ended early");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (label, response) = match self.take(request).await {
            Ok((label, status)) => (label, answered(status)),
            Err(refusal) => (refusal.label(), refused(refusal)),
        };
        self.metrics.callbacks.with_label_values(&[label]).inc();
        response
    }

    async fn take(&self, request: Request<Incoming>) -> Result<(&'static str, SubscriptionStatus), Refusal> {
        let named = self.key.verify(request.uri().path());
        let (user, attempt) = named.ok_or(Refusal::NotGenuine)?;
        if request.method() != Method::POST {
            return Err(Refusal::NotPost);
        }
        let body = self.read_body(request.into_body()).await?;
        let callback = parse_callback(&body).map_err(|failure| {
            warn!(user, %failure, "a genuine push callback cannot be understood");
            Refusal::Malformed
        })?;
        let (verdict, answer) = oneshot::channel();
        let arrived = CallbackArrived {
            user,
            attempt,
            notifications: callback.notifications,
            verdict,
        };
        self.hand_over(arrived, answer).await
    }

    async fn read_body(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let bytes_max = self.options.body_bytes_max;
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(Refusal::TooLarge);
        }
        match timeout(self.options.body_timeout, Limited::new(body, bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
            Ok(Err(_)) => Err(Refusal::Malformed),
            Err(_) => Err(Refusal::BodyLate),
        }
    }

    /// What could not be handed over is refused, so that the server comes again; what could be is accepted.
    async fn hand_over(
        &self,
        arrived: CallbackArrived,
        answer: oneshot::Receiver<SubscriptionStatus>,
    ) -> Result<(&'static str, SubscriptionStatus), Refusal> {
        let deadline = Instant::now() + self.options.verdict_timeout;
        match timeout_at(deadline, self.arrived.send(arrived)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Refusal::Overloaded),
        }
        Ok(match timeout_at(deadline, answer).await {
            Ok(Ok(SubscriptionStatus::Ok)) => ("ok", SubscriptionStatus::Ok),
            Ok(Ok(SubscriptionStatus::Unsubscribe)) => ("unsubscribe", SubscriptionStatus::Unsubscribe),
            Ok(Err(_)) | Err(_) => ("ok_without_verdict", SubscriptionStatus::Ok),
        })
    }

    fn count_refused(&self, reason: &str) {
        self.metrics.refused.with_label_values(&[reason]).inc();
    }
}

/// Why a callback is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NotGenuine,
    NotPost,
    TooLarge,
    BodyLate,
    Malformed,
    /// Nobody took it in time.
    Overloaded,
}

impl Refusal {
    fn label(self) -> &'static str {
        match self {
            Self::NotGenuine => "not_genuine",
            Self::NotPost => "not_post",
            Self::TooLarge => "too_large",
            Self::BodyLate => "body_late",
            Self::Malformed => "malformed",
            Self::Overloaded => "overloaded",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NotGenuine => StatusCode::NOT_FOUND,
            Self::NotPost => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate => StatusCode::REQUEST_TIMEOUT,
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

fn answered(status: SubscriptionStatus) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(write_callback_answer(status)));
    let content_type = HeaderValue::from_static(ews::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Says nothing of why, and does not keep the connection.
fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = refusal.status();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

/// A port in use and those that are still called after changes.
pub const PORTS_MAX: usize = 8;
const HEADER_BYTES_MAX: usize = 16 << 10;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
