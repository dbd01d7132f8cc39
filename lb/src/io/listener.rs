//! The accept loop of one VIP and port, with its limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tandem_shared::io::shutdown::Stage;
use tandem_shared::io::sip_stream::tune_socket;
use tandem_shared::io::tls::peer_identity;
use tandem_shared::proxy_protocol::PeerIdentity;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::config::Mode;

use super::admission::{Admission, Admitted};
use super::client_connection::{ClientConnection, ClientIdentity, ListenerContext};
use super::connection_mode;

/// One listener, bound.
pub struct Listener {
    pub context: Arc<ListenerContext>,
    pub socket: TcpListener,
    pub mode: Mode,
    pub tls: Option<Arc<ServerConfig>>,
    pub admission: Arc<Admission>,
}

impl Listener {
    /// Accepts until the process stops accepting. Connections go on in tasks of their own.
    pub async fn run(self) {
        let shutdown = self.context.shutdown.clone();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shutdown.reached(Stage::StopAccepting) => return,
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) => {
                    // Out of file descriptors, most likely: trying again at once would only burn the processor.
                    warn!(listener = %self.context.name, %error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr) {
        match self.admission.admit(address.ip()) {
            Ok(admitted) => {
                let connection = Accepted {
                    context: Arc::clone(&self.context),
                    tls: self.tls.clone(),
                    mode: self.mode,
                    admitted,
                    address,
                };
                self.context
                    .shutdown
                    .spawn("client connection", connection.serve(stream));
            }
            Err(limit) => {
                self.context.metrics.limit_reached(limit);
                debug!(listener = %self.context.name, %address, limit, "a connection too many");
            }
        }
    }
}

/// One accepted connection on its way to its task.
struct Accepted {
    context: Arc<ListenerContext>,
    tls: Option<Arc<ServerConfig>>,
    mode: Mode,
    admitted: Admitted,
    address: SocketAddr,
}

impl Accepted {
    async fn serve(self, stream: TcpStream) {
        let metrics = &self.context.metrics;
        let name: &str = &self.context.name;
        metrics
            .client_connections_accepted
            .with_label_values(&[name])
            .inc();
        let gauge = metrics.client_connections.with_label_values(&[name]);
        gauge.inc();
        if let Err(error) = tune_socket(&stream, self.context.streams.silence_max) {
            debug!(client = %self.address, %error, "a connection was gone before it was served");
        } else {
            self.serve_tuned(stream).await;
        }
        gauge.dec();
    }

    async fn serve_tuned(self, stream: TcpStream) {
        let Some(tls) = self.tls.clone() else {
            return self.serve_stream(stream, None).await;
        };
        if let Some((stream, peer)) = self.shake_hands(tls, stream).await {
            self.serve_stream(stream, Some(peer)).await;
        }
    }

    async fn serve_stream<S>(self, stream: S, peer: Option<PeerIdentity>)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let identity = ClientIdentity {
            address: self.address,
            connection_id: rand::random(),
            peer,
        };
        match self.mode {
            Mode::Message => ClientConnection::run(self.context, identity, stream, self.admitted).await,
            Mode::Connection => connection_mode::relay(self.context, identity, stream, self.admitted).await,
        }
    }

    async fn shake_hands(
        &self,
        tls: Arc<ServerConfig>,
        stream: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, PeerIdentity)> {
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            // A probe connects and leaves.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Ok(Err(error)) => {
                info!(client = %self.address, %error, "TLS was refused");
                return None;
            }
            Err(_) => {
                info!(client = %self.address, "no TLS handshake in time");
                return None;
            }
        };
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        match peer_identity(certificate) {
            Ok(peer) => Some((stream, peer)),
            Err(error) => {
                info!(client = %self.address, %error, "a client's certificate says nothing");
                None
            }
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
