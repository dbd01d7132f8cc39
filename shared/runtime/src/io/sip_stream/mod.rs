//! A socket that speaks SIP: frames in, a bounded queue out.
//!
//! Owns the deadlines of half-received messages, the accounting of the send queue and the coalescing of writes.
//! Does not own what a frame means, nor when a connection is opened or given up. What always holds: reading a frame
//! may be cancelled without losing a byte, sending never waits, and a queue holds no more than its bound.

mod proxy_header;
mod reader;
mod sender;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use prometheus::IntCounter;
pub use proxy_header::{ProxyHeaderError, read_proxy_header, read_proxy_header_alone};
pub use reader::{MessageDeadlines, Received, SipReader};
pub use sender::{SendEnded, SendLimits, SendRefused, SipSender, SipWriter, send_queue};

use crate::io::environment::net::{Keepalive, TcpListener, TcpOptions, TcpStream};

/// What passes through a connection. Connections of one kind share counters.
#[derive(Debug, Clone)]
pub struct StreamCounters {
    pub bytes_received: IntCounter,
    pub messages_received: IntCounter,
    pub bytes_sent: IntCounter,
    pub messages_sent: IntCounter,
}

impl StreamCounters {
    /// Counters that no registry shows.
    ///
    /// # Panics
    /// Never: the names are valid.
    #[must_use]
    pub fn unregistered() -> Self {
        let counter = || IntCounter::new("unregistered_total", "Shown nowhere.").expect("the name is valid");
        Self {
            bytes_received: counter(),
            messages_received: counter(),
            bytes_sent: counter(),
            messages_sent: counter(),
        }
    }
}

/// Listens on `address` with a queue that holds a sign-in storm: the runtime's own holds 128 connections that nobody
/// has accepted yet, and what comes beyond them waits a second for TCP to try again.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::listen(address, ACCEPT_QUEUE, false)
}

/// As [`listen`], for an address that may not be this machine's yet, or at the moment: a virtual IP. Says whether it is.
///
/// # Errors
/// As [`listen`], but for that.
pub fn listen_on_virtual_ip(address: SocketAddr) -> io::Result<(TcpListener, bool)> {
    match listen(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Ok((TcpListener::listen(address, ACCEPT_QUEUE, true)?, false))
        }
        listened => Ok((listened?, true)),
    }
}

/// Sets what every SIP connection wants of TCP: no delay of small messages, and an end to a connection whose other
/// side has silently gone: unacknowledged data is given up after `silence_max`, an idle connection is probed.
///
/// # Errors
/// When the operating system refuses an option.
pub fn tune_socket(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    stream.tune(&TcpOptions {
        keepalive: Some(Keepalive {
            idle: KEEPALIVE_IDLE,
            interval: KEEPALIVE_INTERVAL,
            retries: None,
        }),
        unacknowledged_max: Some(silence_max),
    })
}

/// Linux takes the lesser of this and `net.core.somaxconn`, which is 4096 by default.
const ACCEPT_QUEUE: u32 = 4096;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    /// TEST-NET-1 and the documentation's prefix (RFC 5737, RFC 3849) are nobody's.
    #[tokio::test]
    async fn a_virtual_ip_that_is_not_here_yet_is_listened_on() {
        for (address, is_here) in [
            ("127.0.0.1:0", true),
            ("192.0.2.1:0", false),
            ("[2001:db8::1]:0", false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            let (listener, found) = listen_on_virtual_ip(address).unwrap();
            assert_eq!(
                (listener.local_addr().unwrap().ip(), found),
                (address.ip(), is_here)
            );
        }
    }
}
