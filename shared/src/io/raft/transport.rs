//! The stream between two members: TCP, TCP under mutual TLS, or a simulated network's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::NodeId;

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

/// Bytes that the peer does not acknowledge for this long break the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
}
