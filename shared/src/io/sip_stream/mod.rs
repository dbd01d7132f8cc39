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
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub use proxy_header::{ProxyHeaderError, read_proxy_header, read_proxy_header_alone};
pub use reader::{MessageDeadlines, Received, SipReader};
pub use sender::{SendEnded, SendLimits, SendRefused, SipSender, SipWriter, send_queue};

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
    let socket = socket_for(address)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE)
}

/// As [`listen`], for an address that may not be this machine's yet, or at the moment: a virtual IP. Says whether it is.
///
/// # Errors
/// As [`listen`], but for that.
pub fn listen_on_virtual_ip(address: SocketAddr) -> io::Result<(TcpListener, bool)> {
    match listen(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let socket = socket_for(address)?;
            match address {
                SocketAddr::V4(_) => SockRef::from(&socket).set_freebind_v4(true)?,
                SocketAddr::V6(_) => SockRef::from(&socket).set_freebind_v6(true)?,
            }
            socket.bind(address)?;
            Ok((socket.listen(ACCEPT_QUEUE)?, false))
        }
        listened => Ok((listened?, true)),
    }
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

/// Sets what every SIP connection wants of TCP: no delay of small messages, and an end to a connection whose other
/// side has silently gone: unacknowledged data is given up after `silence_max`, an idle connection is probed.
///
/// # Errors
/// When the operating system refuses an option.
pub fn tune_socket(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(silence_max))
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
