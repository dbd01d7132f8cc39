//! TCP as the product uses it: the operating system's, or that of a simulated network.
//!
//! Owns the options that Tandem sets on its sockets. What always holds: a build without the feature `simulation` has one
//! kind of stream and listener, and passes everything on to tokio's.

mod listener;
mod real;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

#[cfg(feature = "simulation")]
use super::simulated;

pub use self::listener::TcpListener;
pub use self::socket::{ReadHalf, Socket, TcpStream, WriteHalf};

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
