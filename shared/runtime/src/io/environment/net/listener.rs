//! Listening, and accepting connections.

use std::io;
use std::net::SocketAddr;

use tokio::net::ToSocketAddrs;

use super::real;
use super::socket::TcpStream;
#[cfg(feature = "simulation")]
use crate::io::environment::simulated;

/// A socket that takes connections.
#[derive(Debug)]
pub struct TcpListener(Kind);

#[derive(Debug)]
enum Kind {
    Real(tokio::net::TcpListener),
    #[cfg(feature = "simulation")]
    Simulated(simulated::Listener),
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
                .map(|listener| Self(Kind::Simulated(listener)));
        }
        let listener = tokio::net::TcpListener::bind(address).await?;
        Ok(Self(Kind::Real(listener)))
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
            return Ok(Self(Kind::Simulated(listener)));
        }
        real::listen(address, queue, anywhere).map(|listener| Self(Kind::Real(listener)))
    }

    /// The next connection, and where it comes from. Cancelling loses none.
    ///
    /// # Errors
    /// When the process is out of descriptors, for instance.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.0 {
            Kind::Real(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((stream.into(), from))
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((stream.into(), from))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Real(listener) => listener.local_addr(),
            #[cfg(feature = "simulation")]
            Kind::Simulated(listener) => Ok(listener.local_addr()),
        }
    }
}

impl From<tokio::net::TcpListener> for TcpListener {
    fn from(listener: tokio::net::TcpListener) -> Self {
        Self(Kind::Real(listener))
    }
}

/// As tokio's own.
#[cfg(feature = "simulation")]
const DEFAULT_QUEUE: u32 = 1_024;
