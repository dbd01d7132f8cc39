//! The stream between two members: TCP, TCP under mutual TLS, or a simulated network's.
//!
//! Owns how members reach each other ([`Transport`]), in plaintext ([`TcpTransport`]) and under TLS ([`TlsTransport`]). Does
//! not own what they say, nor when they connect again. What always holds: under TLS each end has proved which member it is
//! before a byte is exchanged.

mod tcp;
mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use tandem_cluster::{MemberAddress, NodeId};

pub use self::tcp::TcpTransport;
pub use self::tls::TlsTransport;

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
        address: &MemberAddress,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Whether the other end of an accepted stream has proved to be `peer`; the error says what it has shown instead.
    fn check_from(&self, stream: &Self::Stream, peer: NodeId) -> Result<(), String>;

    /// Resolves when the other end of this stream, which was accepted, would be refused now, with the reason.
    fn refused_later(&self, _stream: &Self::Stream) -> BoxFuture<'static, String> {
        Box::pin(std::future::pending())
    }

    /// Where an accepted connection comes from, for people.
    fn origin(&self, _incoming: &Self::Incoming) -> String {
        "unknown".to_owned()
    }

    /// Keeps what connections are secured with up to date for as long as it is polled, and notes in `expires` when this
    /// member's certificate ends, in seconds of Unix time.
    fn maintain(&self, _expires: Arc<AtomicU64>) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}
