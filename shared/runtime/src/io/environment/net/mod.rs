//! TCP as the product uses it: the operating system's, or that of a simulated network.
//!
//! Owns the options that Tandem sets on its sockets. What always holds: a build without the feature `simulation` has one
//! kind of stream and listener, and passes everything on to tokio's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, ToSocketAddrs, tcp};

#[cfg(feature = "simulation")]
use super::simulated;

/// A socket that takes connections.
#[derive(Debug)]
pub struct TcpListener(ListenerKind);

#[derive(Debug)]
enum ListenerKind {
    Real(tokio::net::TcpListener),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Listener),
}

/// One connection. Reading and writing may be cancelled without losing a byte.
#[derive(Debug)]
pub struct TcpStream(StreamKind);

#[derive(Debug)]
enum StreamKind {
    Real(tokio::net::TcpStream),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Stream),
}

/// The side of a connection that is read.
#[derive(Debug)]
pub struct ReadHalf(ReadKind);

#[derive(Debug)]
enum ReadKind {
    Real(tcp::OwnedReadHalf),
    #[cfg(feature = "simulation")]
    Simulated(simulated::StreamHalf),
}

/// The side of a connection that is written. When it is dropped, the other end learns that nothing more comes.
#[derive(Debug)]
pub struct WriteHalf(WriteKind);

#[derive(Debug)]
enum WriteKind {
    Real(tcp::OwnedWriteHalf),
    #[cfg(feature = "simulation")]
    Simulated(simulated::StreamHalf),
}

/// When a connection counts as broken. Small messages are never delayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// An idle connection is probed.
    pub keepalive: Option<Keepalive>,
    /// Bytes that the peer does not acknowledge for so long break the connection (RFC 5482); `None`: as long as the
    /// operating system likes.
    pub unacknowledged_max: Option<Duration>,
}

/// How an idle connection is probed (RFC 9293 §3.8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// The silence before the first probe.
    pub idle: Duration,
    pub interval: Duration,
    /// Probes without an answer; `None`: as many as the operating system likes.
    pub retries: Option<u32>,
}

impl TcpListener {
    /// Listens on an address. Port 0 is any free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(host) = simulated::Host::current() {
            let address = tokio::net::lookup_host(address).await?.next();
            let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
            return host
                .listen(address, DEFAULT_QUEUE)
                .map(|listener| Self(ListenerKind::Simulated(listener)));
        }
        let listener = tokio::net::TcpListener::bind(address).await?;
        Ok(Self(ListenerKind::Real(listener)))
    }

    /// Listens with a queue for `queue` connections that nobody has accepted yet. With `anywhere`, the address need not be
    /// this machine's.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn listen(address: SocketAddr, queue: u32, anywhere: bool) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if let Some(host) = simulated::Host::current() {
            let listener = host.listen(address, queue)?;
            return Ok(Self(ListenerKind::Simulated(listener)));
        }
        let socket = socket_towards(address)?;
        socket.set_reuseaddr(true)?;
        if anywhere {
            match address {
                SocketAddr::V4(_) => SockRef::from(&socket).set_freebind_v4(true)?,
                SocketAddr::V6(_) => SockRef::from(&socket).set_freebind_v6(true)?,
            }
        }
        socket.bind(address)?;
        Ok(Self(ListenerKind::Real(socket.listen(queue)?)))
    }

    /// The next connection, and where it comes from. Cancelling loses none.
    ///
    /// # Errors
    /// When the process is out of descriptors, for instance.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.0 {
            ListenerKind::Real(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((TcpStream(StreamKind::Real(stream)), from))
            }
            #[cfg(feature = "simulation")]
            ListenerKind::Simulated(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((TcpStream(StreamKind::Simulated(stream)), from))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            ListenerKind::Real(listener) => listener.local_addr(),
            #[cfg(feature = "simulation")]
            ListenerKind::Simulated(listener) => Ok(listener.local_addr()),
        }
    }
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
            return Ok(Self(StreamKind::Simulated(stream)));
        }
        let socket = socket_towards(address)?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        Ok(Self(StreamKind::Real(socket.connect(address).await?)))
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
            StreamKind::Real(stream) => tune(stream, options),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => {
                stream.tune(options);
                Ok(())
            }
        }
    }

    /// When it is dropped, the connection is reset: neither side keeps its remains.
    pub fn reset_when_dropped(&self) {
        match &self.0 {
            StreamKind::Real(stream) => {
                // A close with FIN does as well.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => stream.reset_when_dropped(),
        }
    }

    /// This end.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            StreamKind::Real(stream) => stream.local_addr(),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => Ok(stream.local_addr()),
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// When the connection has broken.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            StreamKind::Real(stream) => stream.peer_addr(),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => Ok(stream.peer_addr()),
        }
    }

    /// Two halves for two tasks. The connection ends when both are dropped.
    #[must_use]
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self.0 {
            StreamKind::Real(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf(ReadKind::Real(read)), WriteHalf(WriteKind::Real(write)))
            }
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => {
                let (read, write) = stream.into_split();
                (
                    ReadHalf(ReadKind::Simulated(read)),
                    WriteHalf(WriteKind::Simulated(write)),
                )
            }
        }
    }
}

/// The addresses of a host.
///
/// # Errors
/// When the resolver fails.
pub async fn lookup_host(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    #[cfg(feature = "simulation")]
    if let Some(simulated) = simulated::Host::current() {
        return simulated.lookup(host, port);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

fn socket_towards(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

fn tune(stream: &tokio::net::TcpStream, options: &TcpOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    if let Some(keepalive) = options.keepalive {
        let mut probes = TcpKeepalive::new()
            .with_time(keepalive.idle)
            .with_interval(keepalive.interval);
        if let Some(retries) = keepalive.retries {
            probes = probes.with_retries(retries);
        }
        socket.set_tcp_keepalive(&probes)?;
    }
    if options.unacknowledged_max.is_some() {
        socket.set_tcp_user_timeout(options.unacknowledged_max)?;
    }
    Ok(())
}

impl From<tokio::net::TcpListener> for TcpListener {
    fn from(listener: tokio::net::TcpListener) -> Self {
        Self(ListenerKind::Real(listener))
    }
}

impl From<tokio::net::TcpStream> for TcpStream {
    fn from(stream: tokio::net::TcpStream) -> Self {
        Self(StreamKind::Real(stream))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            StreamKind::Real(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => stream.poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            StreamKind::Real(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => stream.poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            StreamKind::Real(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                stream.poll_write(context, first.map_or(&[], |piece| piece))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            StreamKind::Real(stream) => stream.is_write_vectored(),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            StreamKind::Real(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            StreamKind::Real(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(feature = "simulation")]
            StreamKind::Simulated(stream) => Poll::Ready(stream.shut_down()),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            ReadKind::Real(half) => Pin::new(half).poll_read(context, buffer),
            #[cfg(feature = "simulation")]
            ReadKind::Simulated(half) => half.poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            WriteKind::Real(half) => Pin::new(half).poll_write(context, bytes),
            #[cfg(feature = "simulation")]
            WriteKind::Simulated(half) => half.poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            WriteKind::Real(half) => Pin::new(half).poll_write_vectored(context, pieces),
            #[cfg(feature = "simulation")]
            WriteKind::Simulated(half) => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                half.poll_write(context, first.map_or(&[], |piece| piece))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            WriteKind::Real(half) => half.is_write_vectored(),
            #[cfg(feature = "simulation")]
            WriteKind::Simulated(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            WriteKind::Real(half) => Pin::new(half).poll_flush(context),
            #[cfg(feature = "simulation")]
            WriteKind::Simulated(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            WriteKind::Real(half) => Pin::new(half).poll_shutdown(context),
            #[cfg(feature = "simulation")]
            WriteKind::Simulated(half) => Poll::Ready(half.shut_down()),
        }
    }
}

/// As tokio's own.
#[cfg(feature = "simulation")]
const DEFAULT_QUEUE: u32 = 1_024;
