//! The connections over which Exchange POSTs push notifications: HTTP, plain or over TLS, in bounded number.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounterVec, IntGauge};
use rustls::ServerConfig;
use tandem_runtime::io::environment::net::TcpStream;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::telemetry::Metrics;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::push_callback::CallbackService;

#[derive(Debug, Clone)]
pub struct PushMetrics {
    pub(super) callbacks: IntCounterVec,
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

/// What all of them share.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) service: CallbackService,
    /// `None`: plain HTTP.
    pub(super) tls: Option<Arc<ArcSwap<ServerConfig>>>,
    pub(super) header_timeout: Duration,
    pub(super) metrics: PushMetrics,
    pub(super) slots: Arc<Semaphore>,
    pub(super) shutdown: Shutdown,
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

impl Connections {
    pub(super) fn start(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
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

const HEADER_BYTES_MAX: usize = 16 << 10;
