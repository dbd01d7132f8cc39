//! The operating system's sockets, with the options that Tandem sets on them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::TcpOptions;

pub(super) fn listen(address: SocketAddr, queue: u32, anywhere: bool) -> io::Result<TcpListener> {
    let socket = socket_towards(address)?;
    socket.set_reuseaddr(true)?;
    if anywhere {
        match address {
            SocketAddr::V4(_) => SockRef::from(&socket).set_freebind_v4(true)?,
            SocketAddr::V6(_) => SockRef::from(&socket).set_freebind_v6(true)?,
        }
    }
    socket.bind(address)?;
    socket.listen(queue)
}

pub(super) async fn connect(source: Option<IpAddr>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket_towards(address)?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

pub(super) fn tune(stream: &TcpStream, options: &TcpOptions) -> io::Result<()> {
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

pub(super) fn reset_when_dropped(stream: &TcpStream) {
    // A close with FIN does as well.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn socket_towards(address: SocketAddr) -> io::Result<TcpSocket> {
    match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}
