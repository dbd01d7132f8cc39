//! TCP without encryption, and the TCP under TLS: to which address of a name, and when a connection counts as broken.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::sleep;

use super::Transport;
use crate::io::environment::net::{Keepalive, TcpListener, TcpOptions, TcpStream, lookup_host};
use tandem_cluster::{MemberAddress, NodeId};

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

    async fn connect(&self, _peer: NodeId, address: &MemberAddress) -> io::Result<TcpStream> {
        let stream = match address {
            MemberAddress::Address(address) => TcpStream::connect(*address).await?,
            MemberAddress::Name { host, port } => {
                let addresses = lookup_host(host, *port).await?;
                connect_to_any(addresses.into_iter()).await?
            }
        };
        prepare(&stream)?;
        Ok(stream)
    }

    fn check_from(&self, _stream: &TcpStream, _peer: NodeId) -> Result<(), String> {
        Ok(())
    }

    fn origin(&self, incoming: &TcpStream) -> String {
        origin(incoming)
    }
}

/// To the first that answers. One that is silent does not hold up the others (RFC 8305 §5).
async fn connect_to_any(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting: VecDeque<SocketAddr> = addresses.take(ADDRESSES_TRIED_MAX).collect();
    let mut attempts = FuturesUnordered::new();
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    loop {
        if let Some(address) = waiting.pop_front() {
            attempts.push(TcpStream::connect(address));
        }
        let next_is_due = async {
            match waiting.is_empty() {
                true => std::future::pending().await,
                false => sleep(NEXT_ADDRESS_AFTER).await,
            }
        };
        tokio::select! {
            biased;
            attempt = attempts.next() => match attempt {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => result = Err(error),
                None => return result,
            },
            () = next_is_due => {}
        }
    }
}

pub(super) fn origin(stream: &TcpStream) -> String {
    stream
        .peer_addr()
        .map_or_else(|error| error.to_string(), |address| address.ip().to_string())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.tune(&TcpOptions {
        keepalive: Some(Keepalive {
            idle: KEEPALIVE,
            interval: KEEPALIVE,
            retries: None,
        }),
        unacknowledged_max: Some(UNACKNOWLEDGED_MAX),
    })
}

const ADDRESSES_TRIED_MAX: usize = 8;
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(50);

/// Bytes that the peer does not acknowledge for this long break the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

/// A connection whose peer is silent is probed this often.
const KEEPALIVE: Duration = Duration::from_secs(5);
