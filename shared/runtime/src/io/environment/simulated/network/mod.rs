//! TCP between the machines of a simulated world: what arrives, when, and how connections end.
//!
//! Owns every connection's two ends, the segments between them, and which ways are cut. A segment takes its time, drawn
//! from the seed, and overtakes no other of its direction. What is sent over a way that is cut is held and arrives once the
//! way is whole again, as TCP sends again what was lost; a connection that was told how long it may go unacknowledged
//! breaks before that. Does not own time: [`Network::advance`] is told of it.
//!
//! What always holds: as with the kernel's TCP, a connection attempt to a port where nobody listens is refused, one to a
//! machine that is off goes unanswered; a process that ends closes its sockets, with a reset where something was left
//! unread; a process that is frozen has its connections taken and its bytes kept until its buffers are full; and nothing
//! that was in flight before a machine went off reaches a connection of its next process.

mod delivery;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::io::ReadBuf;

use crate::io::environment::net::TcpOptions;

/// One machine of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineId(u32);

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EndId(u64);

/// How long a segment is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub least: Duration,
    pub most: Duration,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkTally {
    pub connections: u64,
    pub refused: u64,
    pub resets: u64,
    /// Connections that broke because the other side did not acknowledge, or did not answer probes.
    pub timed_out: u64,
    pub segments: u64,
    /// Segments that met a cut and came later.
    pub held: u64,
}

/// All of it. Clones are the same network.
#[derive(Debug, Clone)]
pub struct Network(Arc<Mutex<Net>>);

#[derive(Debug)]
struct Net {
    now: Duration,
    chance: SmallRng,
    latency: Latency,
    machines: BTreeMap<MachineId, Machine>,
    by_address: BTreeMap<IpAddr, MachineId>,
    names: BTreeMap<String, IpAddr>,
    listeners: BTreeMap<SocketAddr, Backlog>,
    ends: BTreeMap<EndId, End>,
    /// By when they arrive, and in the order in which they were sent.
    in_flight: BTreeMap<(Duration, u64), Segment>,
    /// Ways, from and to, over which nothing arrives.
    cuts: BTreeSet<(MachineId, MachineId)>,
    held: BTreeMap<(MachineId, MachineId), VecDeque<Segment>>,
    slow: BTreeMap<MachineId, Duration>,
    next_end: u64,
    next_segment: u64,
    looked_at: Duration,
    tally: NetworkTally,
    woken: Vec<Waker>,
}

#[derive(Debug)]
struct Machine {
    addresses: Vec<IpAddr>,
    is_on: bool,
    next_port: u16,
}

#[derive(Debug)]
struct Backlog {
    waiting: VecDeque<EndId>,
    capacity: usize,
    acceptor: Option<Waker>,
}

#[derive(Debug)]
struct End {
    machine: MachineId,
    local: SocketAddr,
    peer_address: SocketAddr,
    peer_machine: MachineId,
    peer: Option<EndId>,
    state: EndState,
    received: BytesMut,
    /// The peer has said all.
    ended: bool,
    shut_down: bool,
    /// Bytes that the peer's process has not read.
    unread: usize,
    options: TcpOptions,
    reset_when_closed: bool,
    last_heard: Duration,
    /// When the last segment of this end arrives: the next one does not overtake it.
    last_arrival: Duration,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndState {
    Connecting,
    Open,
    Broken(io::ErrorKind),
}

#[derive(Debug)]
struct Segment {
    from: MachineId,
    to: MachineId,
    /// The end that sent it, for as long as that stands.
    sender: EndId,
    sent_at: Duration,
    what: What,
}

#[derive(Debug)]
enum What {
    Connect { source: SocketAddr, target: SocketAddr },
    Accepted { to: EndId },
    Refused { to: EndId },
    Bytes { to: EndId, bytes: Bytes },
    End { to: EndId },
    Reset { to: EndId },
}

impl Network {
    /// A network without machines.
    #[must_use]
    pub fn new(seed: u64, latency: Latency) -> Self {
        Self(Arc::new(Mutex::new(Net {
            now: Duration::ZERO,
            chance: SmallRng::seed_from_u64(seed),
            latency,
            machines: BTreeMap::new(),
            by_address: BTreeMap::new(),
            names: BTreeMap::new(),
            listeners: BTreeMap::new(),
            ends: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            cuts: BTreeSet::new(),
            held: BTreeMap::new(),
            slow: BTreeMap::new(),
            next_end: 1,
            next_segment: 0,
            looked_at: Duration::ZERO,
            tally: NetworkTally::default(),
            woken: Vec::new(),
        })))
    }

    /// Since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.lock().now
    }

    #[must_use]
    pub fn tally(&self) -> NetworkTally {
        self.lock().tally
    }

    /// Lets everything arrive that is due by `now`, and wakes whoever waits for it.
    pub fn advance(&self, now: Duration) {
        let woken = {
            let mut net = self.lock();
            net.now = now;
            while let Some(first) = net.in_flight.first_entry().filter(|first| first.key().0 <= now) {
                let segment = first.remove();
                net.arrive(segment);
            }
            if now >= net.looked_at + LOOKED_AT_EVERY {
                net.looked_at = now;
                net.break_silent_connections();
            }
            std::mem::take(&mut net.woken)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn add_machine(&self, addresses: &[IpAddr]) -> MachineId {
        let mut net = self.lock();
        let id = MachineId(u32::try_from(net.machines.len()).unwrap_or(u32::MAX));
        for address in addresses {
            net.by_address.insert(*address, id);
        }
        let machine = Machine {
            addresses: addresses.to_vec(),
            is_on: true,
            next_port: delivery::FIRST_EPHEMERAL_PORT,
        };
        net.machines.insert(id, machine);
        id
    }

    /// A host name that everybody resolves alike.
    pub fn name(&self, name: &str, address: IpAddr) {
        self.lock().names.insert(name.to_owned(), address);
    }

    pub(super) fn address_of(&self, name: &str) -> Option<IpAddr> {
        self.lock().names.get(name).copied()
    }

    /// Nothing arrives any more that `from` sends to `to`, until the way is whole again.
    pub fn cut(&self, from: MachineId, to: MachineId) {
        self.lock().cuts.insert((from, to));
    }

    /// The way is whole: what was sent meanwhile arrives, in order.
    pub fn heal(&self, from: MachineId, to: MachineId) {
        let mut net = self.lock();
        net.cuts.remove(&(from, to));
        if !net.machines.get(&to).is_some_and(|machine| machine.is_on) {
            return;
        }
        for segment in net.held.remove(&(from, to)).unwrap_or_default() {
            net.send_again(segment);
        }
    }

    /// Everything to and from a machine takes longer by so much; zero: no longer.
    pub fn slow_down(&self, machine: MachineId, by: Duration) {
        self.lock().slow.insert(machine, by);
    }

    /// The machine loses its power: it says nothing more to anybody. Its process is to be dropped afterwards.
    pub fn switch_off(&self, machine: MachineId) {
        let mut net = self.lock();
        if let Some(machine) = net.machines.get_mut(&machine) {
            machine.is_on = false;
        }
    }

    /// The machine has power again. It knows nothing of its connections: what still comes for them is answered with a
    /// reset.
    pub fn switch_on(&self, machine: MachineId) {
        let mut net = self.lock();
        if let Some(machine) = net.machines.get_mut(&machine) {
            machine.is_on = true;
        }
        let (held, cuts) = (&net.held, &net.cuts);
        let ways = held.keys().filter(|way| way.1 == machine && !cuts.contains(way));
        let ways: Vec<_> = ways.copied().collect();
        for way in ways {
            for segment in net.held.remove(&way).unwrap_or_default() {
                net.send_again(segment);
            }
        }
    }

    pub(super) fn listen(
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

    pub(super) fn stop_listening(&self, machine: MachineId, address: SocketAddr) {
        self.change(|net| {
            let Some(backlog) = net.listeners.remove(&address) else {
                return;
            };
            for end in backlog.waiting {
                net.drop_end(end, machine, true);
            }
        });
    }

    pub(super) fn poll_accept(&self, address: SocketAddr, context: &Context<'_>) -> Poll<EndId> {
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

    pub(super) fn dial(
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

    pub(super) fn poll_connected(&self, id: EndId, context: &Context<'_>) -> Poll<io::Result<()>> {
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

    pub(super) fn addresses_of(&self, id: EndId) -> (SocketAddr, SocketAddr) {
        let net = self.lock();
        let end = net
            .ends
            .get(&id)
            .expect("asked of an end that was opened just now");
        (end.local, end.peer_address)
    }

    pub(super) fn tune(&self, id: EndId, options: TcpOptions) {
        if let Some(end) = self.lock().ends.get_mut(&id) {
            end.options = options;
        }
    }

    pub(super) fn reset_when_closed(&self, id: EndId) {
        if let Some(end) = self.lock().ends.get_mut(&id) {
            end.reset_when_closed = true;
        }
    }

    pub(super) fn poll_read(
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

    pub(super) fn poll_write(
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

    pub(super) fn shut_down(&self, id: EndId) -> io::Result<()> {
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

    pub(super) fn close(&self, id: EndId) {
        self.change(|net| {
            if let Some(end) = net.ends.get(&id) {
                let resets = end.reset_when_closed || !end.received.is_empty();
                net.drop_end(id, end.machine, resets);
            }
        });
    }

    /// Wakes whoever the change concerns once the lock is released: a waker may lead back here.
    fn change<R>(&self, change: impl FnOnce(&mut Net) -> R) -> R {
        let (result, woken) = {
            let mut net = self.lock();
            (change(&mut net), std::mem::take(&mut net.woken))
        };
        woken.into_iter().for_each(Waker::wake);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a socket's buffers hold, those of both ends together.
const BUFFER_BYTES: usize = 256 << 10;
const LOOKED_AT_EVERY: Duration = Duration::from_millis(100);
