//! What the sockets of a process ask of the network, as they would of the kernel.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;

use super::state::{Backlog, EndState, What};
use super::{EndId, MachineId, Network};
use crate::io::environment::net::TcpOptions;

impl Network {
    pub(in crate::io::environment::simulated) fn listen(
        &self,
        machine: MachineId,
        address: SocketAddr,
        queue: u32,
    ) -> io::Result<SocketAddr> {
        let mut net = self.lock();
        let own = net
            .machines
            .get(&machine)
            .map(|machine| machine.addresses.clone());
        let is_own = address.ip().is_unspecified() || own.unwrap_or_default().contains(&address.ip());
        if !is_own {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let mut address = address;
        if address.port() == 0 {
            address.set_port(net.free_port(machine));
        }
        if net.listeners.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let backlog = Backlog {
            waiting: VecDeque::new(),
            capacity: usize::try_from(queue).unwrap_or(usize::MAX),
            acceptor: None,
        };
        net.listeners.insert(address, backlog);
        Ok(address)
    }

    pub(in crate::io::environment::simulated) fn stop_listening(
        &self,
        machine: MachineId,
        address: SocketAddr,
    ) {
        self.change(|net| {
            let Some(backlog) = net.listeners.remove(&address) else {
                return;
            };
            for end in backlog.waiting {
                net.drop_end(end, machine, true);
            }
        });
    }

    pub(in crate::io::environment::simulated) fn poll_accept(
        &self,
        address: SocketAddr,
        context: &Context<'_>,
    ) -> Poll<EndId> {
        let mut net = self.lock();
        let Some(backlog) = net.listeners.get_mut(&address) else {
            return Poll::Pending;
        };
        match backlog.waiting.pop_front() {
            Some(end) => Poll::Ready(end),
            None => {
                backlog.acceptor = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(in crate::io::environment::simulated) fn dial(
        &self,
        machine: MachineId,
        source: Option<IpAddr>,
        target: SocketAddr,
    ) -> io::Result<EndId> {
        let mut net = self.lock();
        let own = net.machines.get(&machine).ok_or(io::ErrorKind::NotFound)?;
        let first = own
            .addresses
            .first()
            .copied()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let source = source.filter(|source| !source.is_unspecified()).unwrap_or(first);
        if !own.addresses.contains(&source) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let to = net
            .by_address
            .get(&target.ip())
            .copied()
            .ok_or(io::ErrorKind::NetworkUnreachable)?;
        let source = SocketAddr::new(source, net.free_port(machine));
        let id = net.add_end(machine, source, to, target, EndState::Connecting);
        net.send(id, What::Connect { source, target });
        Ok(id)
    }

    pub(in crate::io::environment::simulated) fn poll_connected(
        &self,
        id: EndId,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut net = self.lock();
        let Some(end) = net.ends.get_mut(&id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        match end.state {
            EndState::Connecting => {
                end.writer = Some(context.waker().clone());
                Poll::Pending
            }
            EndState::Open => Poll::Ready(Ok(())),
            EndState::Broken(kind) => Poll::Ready(Err(kind.into())),
        }
    }

    pub(in crate::io::environment::simulated) fn addresses_of(&self, id: EndId) -> (SocketAddr, SocketAddr) {
        let net = self.lock();
        let end = net
            .ends
            .get(&id)
            .expect("asked of an end that was opened just now");
        (end.local, end.peer_address)
    }

    pub(in crate::io::environment::simulated) fn tune(&self, id: EndId, options: TcpOptions) {
        if let Some(end) = self.lock().ends.get_mut(&id) {
            end.options = options;
        }
    }

    pub(in crate::io::environment::simulated) fn reset_when_closed(&self, id: EndId) {
        if let Some(end) = self.lock().ends.get_mut(&id) {
            end.reset_when_closed = true;
        }
    }

    pub(in crate::io::environment::simulated) fn poll_read(
        &self,
        id: EndId,
        context: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.change(|net| {
            let Some(end) = net.ends.get_mut(&id) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            if end.received.is_empty() {
                return match end.state {
                    _ if end.ended => Poll::Ready(Ok(())),
                    EndState::Broken(kind) => Poll::Ready(Err(kind.into())),
                    EndState::Connecting | EndState::Open => {
                        end.reader = Some(context.waker().clone());
                        Poll::Pending
                    }
                };
            }
            let count = end.received.len().min(buffer.remaining());
            buffer.put_slice(&end.received[..count]);
            end.received.advance(count);
            if let Some(peer) = end.peer.and_then(|peer| net.ends.get_mut(&peer)) {
                peer.unread = peer.unread.saturating_sub(count);
                net.woken.extend(peer.writer.take());
            }
            Poll::Ready(Ok(()))
        })
    }

    pub(in crate::io::environment::simulated) fn poll_write(
        &self,
        id: EndId,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.change(|net| {
            let Some(end) = net.ends.get_mut(&id) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            if let EndState::Broken(kind) = end.state {
                return Poll::Ready(Err(kind.into()));
            }
            if end.shut_down {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let room = BUFFER_BYTES.saturating_sub(end.unread);
            let (Some(peer), false) = (end.peer, room == 0 && !bytes.is_empty()) else {
                end.writer = Some(context.waker().clone());
                return Poll::Pending;
            };
            let count = room.min(bytes.len());
            end.unread += count;
            let bytes = Bytes::copy_from_slice(&bytes[..count]);
            net.send(id, What::Bytes { to: peer, bytes });
            Poll::Ready(Ok(count))
        })
    }

    pub(in crate::io::environment::simulated) fn shut_down(&self, id: EndId) -> io::Result<()> {
        let mut net = self.lock();
        let end = net.ends.get_mut(&id).ok_or(io::ErrorKind::NotConnected)?;
        if let EndState::Broken(kind) = end.state {
            return Err(kind.into());
        }
        if let (false, Some(peer)) = (std::mem::replace(&mut end.shut_down, true), end.peer) {
            net.send(id, What::End { to: peer });
        }
        Ok(())
    }

    pub(in crate::io::environment::simulated) fn close(&self, id: EndId) {
        self.change(|net| {
            if let Some(end) = net.ends.get(&id) {
                let resets = end.reset_when_closed || !end.received.is_empty();
                net.drop_end(id, end.machine, resets);
            }
        });
    }
}

/// What a socket's buffers hold, those of both ends together.
const BUFFER_BYTES: usize = 256 << 10;
