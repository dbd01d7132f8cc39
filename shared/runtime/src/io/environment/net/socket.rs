//! A connection, whole or in halves: reading and writing are the same for all of them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::tcp;

use super::{TcpOptions, lookup_host, real};
#[cfg(feature = "simulation")]
use crate::io::environment::simulated;

/// One connection. Reading and writing may be cancelled without losing a byte.
pub type TcpStream = Socket<tokio::net::TcpStream>;

/// The side of a connection that is read.
pub type ReadHalf = Socket<tcp::OwnedReadHalf>;

/// The side of a connection that is written. When it is dropped, the other end learns that nothing more comes.
pub type WriteHalf = Socket<tcp::OwnedWriteHalf>;

/// A connection or one side of it: `Real` is what tokio calls it, in whose place a simulated one may stand.
#[derive(Debug)]
pub struct Socket<Real>(Kind<Real>);

#[derive(Debug)]
enum Kind<Real> {
    Real(Real),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Stream),
}

impl TcpStream {
    /// Connects to an address.
    ///
    /// # Errors
    /// When it is refused, or cannot be reached.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::connect_from(None, address).await
    }

    /// Connects from one of this machine's addresses, or from whichever fits.
    ///
    /// # Errors
    /// When it is refused, cannot be reached, or the source is not this machine's.
    pub async fn connect_from(source: Option<IpAddr>, address: SocketAddr) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(host) = simulated::Host::current() {
            let stream = host.connect(source, address).await?;
            return Ok(stream.into());
        }
        Ok(real::connect(source, address).await?.into())
    }

    /// Connects to a host and port, written as `host:port`: to the first of its addresses that takes the connection, which
    /// gets these options.
    ///
    /// # Errors
    /// When the name has no address, or none takes the connection: the error of the last. As [`Self::tune`], besides.
    pub async fn connect_to_name(name: &str, options: &TcpOptions) -> io::Result<Self> {
        let (host, port) = name.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in lookup_host(host, port).await? {
            match Self::connect(address).await {
                Ok(stream) => {
                    stream.tune(options)?;
                    return Ok(stream);
                }
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    /// Sets when the connection counts as broken, and that small messages go at once.
    ///
    /// # Errors
    /// When the operating system refuses an option, as it does when the connection has broken.
    pub fn tune(&self, options: &TcpOptions) -> io::Result<()> {
        match &self.0 {
            Kind::Real(stream) => real::tune(stream, options),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => {
                stream.tune(options);
                Ok(())
            }
        }
    }

    /// When it is dropped, the connection is reset: neither side keeps its remains.
    pub fn reset_when_dropped(&self) {
        match &self.0 {
            Kind::Real(stream) => real::reset_when_dropped(stream),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => stream.reset_when_dropped(),
        }
    }

    /// This end.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Real(stream) => stream.local_addr(),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => Ok(stream.local_addr()),
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// When the connection has broken.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Real(stream) => stream.peer_addr(),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => Ok(stream.peer_addr()),
        }
    }

    /// Two halves for two tasks. The connection ends when both are dropped.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self.0 {
            Kind::Real(stream) => {
                let (read, write) = stream.into_split();
                (Socket(Kind::Real(read)), Socket(Kind::Real(write)))
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => {
                let (read, write) = stream.into_split();
                (Socket(Kind::Simulated(read)), Socket(Kind::Simulated(write)))
            }
        }
    }
}

impl From<tokio::net::TcpStream> for TcpStream {
    fn from(stream: tokio::net::TcpStream) -> Self {
        Self(Kind::Real(stream))
    }
}

#[cfg(feature = "simulation")]
impl From<simulated::Stream> for TcpStream {
    fn from(stream: simulated::Stream) -> Self {
        Self(Kind::Simulated(stream))
    }
}

impl<Real: AsyncRead + Unpin> AsyncRead for Socket<Real> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Real(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => stream.poll_read(context, buffer),
        }
    }
}

impl<Real: AsyncWrite + Unpin> AsyncWrite for Socket<Real> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Real(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => stream.poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Real(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                stream.poll_write(context, first.map_or(&[], |piece| piece))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Kind::Real(stream) => stream.is_write_vectored(),
            #[cfg(feature = "simulation")]
            Kind::Simulated(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Real(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(feature = "simulation")]
            Kind::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Real(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(feature = "simulation")]
            Kind::Simulated(stream) => Poll::Ready(stream.shut_down()),
        }
    }
}
