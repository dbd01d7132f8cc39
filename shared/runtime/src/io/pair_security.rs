//! Connections between front ends and nodes: plain, or mutual TLS between members of the cluster.
//!
//! Owns the handshakes and the check that the other end is who it has to be. Does not own the certificates: they are those
//! of the cluster's members, read again while running.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::tls::TlsError;
use super::transport::{TlsTransport, Transport as _};
use crate::config::{ClusterSection, PairTransport, PeerSecurity};
use crate::io::environment::net::TcpStream;
use tandem_cluster::{MemberRole, NodeId};

/// How this member's connections with front ends or nodes are secured. Clones share what was read last.
#[derive(Debug, Clone)]
pub enum PairSecurity {
    Plain,
    MutualTls(Arc<PairTls>),
}

/// What mutual TLS needs.
#[derive(Debug)]
pub struct PairTls {
    transport: TlsTransport,
    /// The members that are front ends.
    front_ends: Vec<NodeId>,
}

/// One connection, ready for the PROXY protocol header.
#[derive(Debug)]
pub enum PairStream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl PairSecurity {
    /// Reads this member's certificate where the pairs are to be secured. `member` is its cluster, and its number in it.
    ///
    /// # Errors
    /// When a file cannot be used, or other members would refuse the certificate.
    pub fn new(pairs: PairTransport, member: Option<(&ClusterSection, NodeId)>) -> Result<Self, TlsError> {
        let (PairTransport::Tls, Some((cluster, own))) = (pairs, member) else {
            return Ok(Self::Plain);
        };
        let PeerSecurity::MutualTls(files) = &cluster.security else {
            return Ok(Self::Plain);
        };
        let members = cluster.members.iter();
        let front_ends = members.filter(|member| member.kind == MemberRole::Witness);
        Ok(Self::MutualTls(Arc::new(PairTls {
            transport: TlsTransport::new(files, &cluster.name, own)?,
            front_ends: front_ends.map(|member| member.id).collect(),
        })))
    }

    /// Reads the files again whenever they change, for as long as it is polled.
    pub async fn keep_up_to_date(self) {
        match self {
            Self::Plain => {}
            Self::MutualTls(tls) => tls.transport.maintain(Arc::new(AtomicU64::new(0))).await,
        }
    }

    /// Secures a connection that we have made, and fails when whoever answers is not member `peer`.
    ///
    /// # Errors
    /// What is wrong with the other end, or with us in its eyes.
    pub async fn towards(&self, peer: NodeId, stream: TcpStream) -> io::Result<PairStream> {
        match self {
            Self::Plain => Ok(PairStream::Plain(stream)),
            Self::MutualTls(tls) => {
                let secured = in_time(tls.transport.secure_towards(peer, stream)).await?;
                Ok(PairStream::Secured(Box::new(secured)))
            }
        }
    }

    /// The front ends, one of which answers where a node dials; with plain connections nobody proves to be one.
    #[must_use]
    pub fn front_ends(&self) -> &[NodeId] {
        match self {
            Self::Plain => &[],
            Self::MutualTls(tls) => &tls.front_ends,
        }
    }

    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Secures a connection that a front end has made.
    ///
    /// # Errors
    /// As [`Self::from_one_of`].
    pub async fn from_front_end(&self, stream: TcpStream) -> io::Result<PairStream> {
        let (stream, _) = self.from_one_of(self.front_ends(), "front end", stream).await?;
        Ok(stream)
    }

    /// Secures a connection that one of `peers` has made, and tells which; plain connections do not tell.
    ///
    /// # Errors
    /// When the handshake fails, or the other end is another member of the cluster: `what` says what it should have been.
    pub async fn from_one_of(
        &self,
        peers: &[NodeId],
        what: &str,
        stream: TcpStream,
    ) -> io::Result<(PairStream, Option<NodeId>)> {
        let Self::MutualTls(tls) = self else {
            return Ok((PairStream::Plain(stream), None));
        };
        let stream = in_time(tls.transport.secure(stream)).await?;
        let mut refused = format!("there is no {what} in the cluster");
        for &peer in peers {
            match tls.transport.check_from(&stream, peer) {
                Ok(()) => return Ok((PairStream::Secured(Box::new(stream)), Some(peer))),
                Err(reason) => refused = format!("it is no {what} of the cluster: {reason}"),
            }
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, refused))
    }
}

impl AsyncRead for PairStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PairStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Whether a handshake failed because the other end went away: a probe does.
#[must_use]
pub fn has_left(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

async fn in_time<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no TLS handshake in time",
        )),
    }
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
