//! Prepares an admitted client connection for its task: socket options, TLS handshake and client identity.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem_runtime::certificate_holder::peer_identity;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::TcpStream;
use tandem_runtime::io::revocation::RevocationWatch;
use tandem_runtime::io::sip_stream::tune_socket;
use tandem_runtime::io::sip_tls::SipTls;
use tandem_sip::proxy_protocol::PeerIdentity;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::config::Mode;

use super::admission::Admitted;
use super::client_connection::ClientConnection;
use super::connection_mode;
use super::listener::Listener;
use super::listener_context::ClientIdentity;

/// An admitted connection that is not served yet.
pub struct Accepted {
    pub listener: Arc<Listener>,
    pub admitted: Admitted,
    pub address: SocketAddr,
}

impl Accepted {
    /// Serves the connection until it ends.
    pub async fn serve(self, stream: TcpStream) {
        let context = Arc::clone(&self.listener.context);
        let metrics = &context.metrics;
        let name: &str = &context.name;
        metrics
            .client_connections_accepted
            .with_label_values(&[name])
            .inc();
        let gauge = metrics.client_connections.with_label_values(&[name]);
        gauge.inc();
        if let Err(error) = tune_socket(&stream, context.streams.client_silence_max) {
            debug!(client = %self.address, %error, "connection closed before it could be served");
        } else {
            self.serve_tuned(stream).await;
        }
        gauge.dec();
    }

    async fn serve_tuned(self, stream: TcpStream) {
        let Some(tls) = &self.listener.tls else {
            let identity = self.identity(None, None);
            return self.serve_stream(stream, identity).await;
        };
        if let Some((stream, peer)) = self.handshake(tls, stream).await {
            let shown = stream.get_ref().1.peer_certificates();
            let identity = self.identity(Some(peer), shown.map(|shown| tls.watch_over(shown)));
            self.serve_stream(stream, identity).await;
        }
    }

    fn identity(&self, peer: Option<PeerIdentity>, revocation: Option<RevocationWatch>) -> ClientIdentity {
        ClientIdentity {
            address: self.address,
            connection_id: environment::random(),
            peer,
            revocation,
        }
    }

    async fn serve_stream<S>(self, stream: S, identity: ClientIdentity)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let context = Arc::clone(&self.listener.context);
        match self.listener.mode {
            Mode::Message => ClientConnection::run(context, identity, stream, self.admitted).await,
            Mode::Connection => connection_mode::relay(context, identity, stream, self.admitted).await,
        }
    }

    async fn handshake(
        &self,
        tls: &SipTls,
        stream: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, PeerIdentity)> {
        let handshake = tls.accept(stream);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => stream,
            // A probe connects and closes without sending anything.
            Ok(Err(failed)) if failed.error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            Ok(Err(failed)) => {
                let (status, detail) = failed.explain();
                self.refuse(status, &detail);
                return None;
            }
            Err(_) => {
                let detail = format!("TLS handshake timed out after {HANDSHAKE_TIMEOUT:?}");
                self.refuse("network_error", &detail);
                return None;
            }
        };
        let certificate = stream.get_ref().1.peer_certificates()?.first()?;
        match peer_identity(certificate) {
            Ok(peer) => Some((stream, peer)),
            Err(error) => {
                self.refuse("bad_certificates", &error.to_string());
                None
            }
        }
    }

    fn refuse(&self, reason: &'static str, detail: &str) {
        let Listener {
            context,
            access_control,
            ..
        } = &*self.listener;
        access_control.refuse(context, self.address, reason, detail);
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
