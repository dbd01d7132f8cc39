//! The stream between two members: TCP, TCP under mutual TLS, or a simulated network's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::cluster::NodeId;
use crate::config::TlsFiles;
use crate::io::tls::{TlsError, check_peer, peer_client_config, peer_server_config, peer_server_name};

/// How members reach each other. Cheap to clone.
pub trait Transport: Clone + Send + Sync + 'static {
    type Listener: Send + 'static;
    /// An accepted connection before its handshake, which must not hold up the next accept.
    type Incoming: Send + 'static;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn listen(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    fn accept<'a>(
        &'a self,
        listener: &'a mut Self::Listener,
    ) -> impl Future<Output = io::Result<Self::Incoming>> + Send + 'a;

    fn secure(&self, incoming: Self::Incoming) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Connects to `peer`, and fails when whoever answers cannot prove to be it.
    fn connect(
        &self,
        peer: NodeId,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Whether the other end of an accepted stream has proved to be `peer`.
    fn is_from(&self, stream: &Self::Stream, peer: NodeId) -> bool;
}

/// TCP without encryption: for loopback, by explicit configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpTransport;

impl Transport for TcpTransport {
    type Listener = TcpListener;
    type Incoming = TcpStream;
    type Stream = TcpStream;

    async fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<TcpStream> {
        let (stream, _) = listener.accept().await?;
        prepare(&stream)?;
        Ok(stream)
    }

    async fn secure(&self, incoming: TcpStream) -> io::Result<TcpStream> {
        Ok(incoming)
    }

    async fn connect(&self, _peer: NodeId, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        prepare(&stream)?;
        Ok(stream)
    }

    fn is_from(&self, _stream: &TcpStream, _peer: NodeId) -> bool {
        true
    }
}

/// TCP under TLS 1.3, both sides with certificates of the cluster's authority that name the member.
#[derive(Debug, Clone)]
pub struct TlsTransport {
    cluster: Arc<str>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl TlsTransport {
    /// Reads and checks the files.
    pub fn new(files: &TlsFiles, cluster: &str) -> Result<Self, TlsError> {
        Ok(Self {
            cluster: cluster.into(),
            server: peer_server_config(files)?,
            client: peer_client_config(files)?,
        })
    }
}

impl Transport for TlsTransport {
    type Listener = TcpListener;
    type Incoming = TcpStream;
    type Stream = TlsStream<TcpStream>;

    async fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        TcpTransport.listen(address).await
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<TcpStream> {
        TcpTransport.accept(listener).await
    }

    async fn secure(&self, incoming: TcpStream) -> io::Result<Self::Stream> {
        let stream = TlsAcceptor::from(self.server.clone()).accept(incoming).await?;
        Ok(stream.into())
    }

    async fn connect(&self, peer: NodeId, address: SocketAddr) -> io::Result<Self::Stream> {
        let name = peer_server_name(peer, &self.cluster).map_err(io::Error::other)?;
        let stream = TcpTransport.connect(peer, address).await?;
        let stream = TlsConnector::from(self.client.clone())
            .connect(name, stream)
            .await?;
        Ok(stream.into())
    }

    fn is_from(&self, stream: &Self::Stream, peer: NodeId) -> bool {
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        certificate.is_some_and(|certificate| check_peer(certificate, peer, &self.cluster).is_ok())
    }
}

/// Bytes that the peer does not acknowledge for this long break the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

/// A connection whose peer is silent is probed this often.
const KEEPALIVE: Duration = Duration::from_secs(5);

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
}
