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
        let stream = Stream::new(Arc::new(End::new(&self.network, end)));
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

/// One end of a connection, or one side of it. The connection closes when both sides are dropped, with a reset if something
/// is left unread.
#[derive(Debug)]
pub struct Stream {
    end: Arc<End>,
    /// The other end learns that nothing more comes.
    shuts_down_when_dropped: bool,
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
}

impl Drop for End {
    fn drop(&mut self) {
        self.network.close(self.id);
    }
}

impl Stream {
    fn new(end: Arc<End>) -> Self {
        Self {
            end,
            shuts_down_when_dropped: false,
        }
    }

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
        Ok(Self::new(end))
    }

    pub(in crate::io::environment) fn local_addr(&self) -> SocketAddr {
        self.end.local
    }

    pub(in crate::io::environment) fn peer_addr(&self) -> SocketAddr {
        self.end.peer
    }

    pub(in crate::io::environment) fn tune(&self, options: &TcpOptions) {
        self.end.network.tune(self.end.id, *options);
    }

    pub(in crate::io::environment) fn reset_when_dropped(&self) {
        self.end.network.reset_when_closed(self.end.id);
    }

    pub(in crate::io::environment) fn poll_read(
        &self,
        context: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.end.network.poll_read(self.end.id, context, buffer)
    }

    pub(in crate::io::environment) fn poll_write(
        &self,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.end.network.poll_write(self.end.id, context, bytes)
    }

    pub(in crate::io::environment) fn shut_down(&self) -> io::Result<()> {
        self.end.network.shut_down(self.end.id)
    }

    /// The side that is read, and the one that is written.
    pub(in crate::io::environment) fn into_split(self) -> (Self, Self) {
        let written = Self {
            end: Arc::clone(&self.end),
            shuts_down_when_dropped: true,
        };
        (self, written)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.shuts_down_when_dropped {
            // A connection that has broken is closed already.
            let _ = self.shut_down();
        }
    }
}
