//! Sockets of the simulated network, with the manners of the kernel's.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::network::{EndId, MachineId, Network};
use crate::io::environment::net::TcpOptions;

/// Takes connections. Dropping it resets those that nobody has accepted.
#[derive(Debug)]
pub struct Listener {
    network: Network,
    machine: MachineId,
    address: SocketAddr,
}

impl Listener {
    pub(super) fn open(
        network: &Network,
        machine: MachineId,
        address: SocketAddr,
        queue: u32,
    ) -> io::Result<Self> {
        let address = network.listen(machine, address, queue)?;
        Ok(Self {
            network: network.clone(),
            machine,
            address,
        })
    }

    pub(in crate::io::environment) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let end = poll_fn(|context| self.network.poll_accept(self.address, context)).await;
        let stream = Stream(Arc::new(End::new(&self.network, end)));
        let from = stream.peer_addr();
        Ok((stream, from))
    }

    pub(in crate::io::environment) fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.network.stop_listening(self.machine, self.address);
    }
}

/// One end of a connection. Dropping it closes the connection, with a reset if something is left unread.
#[derive(Debug)]
pub struct Stream(Arc<End>);

/// The half of a stream that is read, or the half that is written.
#[derive(Debug)]
pub struct StreamHalf {
    end: Arc<End>,
    writes: bool,
}

#[derive(Debug)]
struct End {
    network: Network,
    id: EndId,
    local: SocketAddr,
    peer: SocketAddr,
}

impl End {
    fn new(network: &Network, id: EndId) -> Self {
        let (local, peer) = network.addresses_of(id);
        Self {
            network: network.clone(),
            id,
            local,
            peer,
        }
    }

    fn poll_read(&self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.network.poll_read(self.id, context, buffer)
    }

    fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.network.poll_write(self.id, context, bytes)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.network.close(self.id);
    }
}

impl Stream {
    pub(super) async fn connect(
        network: &Network,
        machine: MachineId,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> io::Result<Self> {
        let id = network.dial(machine, source, target)?;
        // From here on it is closed should the caller lose patience.
        let end = Arc::new(End::new(network, id));
        poll_fn(|context| network.poll_connected(id, context)).await?;
        Ok(Self(end))
    }

    pub(in crate::io::environment) fn local_addr(&self) -> SocketAddr {
        self.0.local
    }

    pub(in crate::io::environment) fn peer_addr(&self) -> SocketAddr {
        self.0.peer
    }

    pub(in crate::io::environment) fn tune(&self, options: &TcpOptions) {
        self.0.network.tune(self.0.id, *options);
    }

    pub(in crate::io::environment) fn reset_when_dropped(&self) {
        self.0.network.reset_when_closed(self.0.id);
    }

    pub(in crate::io::environment) fn poll_read(
        &self,
        context: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(context, buffer)
    }

    pub(in crate::io::environment) fn poll_write(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(context, bytes)
    }

    pub(in crate::io::environment) fn shut_down(&self) -> io::Result<()> {
        self.0.network.shut_down(self.0.id)
    }

    pub(in crate::io::environment) fn into_split(self) -> (StreamHalf, StreamHalf) {
        let half = |writes| StreamHalf {
            end: Arc::clone(&self.0),
            writes,
        };
        (half(false), half(true))
    }
}

impl StreamHalf {
    pub(in crate::io::environment) fn poll_read(
        &self,
        context: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.end.poll_read(context, buffer)
    }

    pub(in crate::io::environment) fn poll_write(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.end.poll_write(context, bytes)
    }

    pub(in crate::io::environment) fn shut_down(&self) -> io::Result<()> {
        self.end.network.shut_down(self.end.id)
    }
}

impl Drop for StreamHalf {
    fn drop(&mut self) {
        if self.writes {
            // A connection that has broken is closed already.
            let _ = self.shut_down();
        }
    }
}
