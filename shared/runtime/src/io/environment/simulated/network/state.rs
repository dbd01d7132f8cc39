//! What a simulated network holds: its machines, the ends of their connections, and the segments between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::{EndId, Latency, MachineId, NetworkTally};
use crate::io::environment::net::TcpOptions;

#[derive(Debug)]
pub(super) struct Net {
    pub(super) now: Duration,
    pub(super) chance: SmallRng,
    pub(super) latency: Latency,
    pub(super) machines: BTreeMap<MachineId, Machine>,
    pub(super) by_address: BTreeMap<IpAddr, MachineId>,
    pub(super) names: BTreeMap<String, IpAddr>,
    pub(super) listeners: BTreeMap<SocketAddr, Backlog>,
    pub(super) ends: BTreeMap<EndId, End>,
    /// By when they arrive, and in the order in which they were sent.
    pub(super) in_flight: BTreeMap<(Duration, u64), Segment>,
    /// Ways, from and to, over which nothing arrives.
    pub(super) cuts: BTreeSet<(MachineId, MachineId)>,
    pub(super) held: BTreeMap<(MachineId, MachineId), VecDeque<Segment>>,
    pub(super) slow: BTreeMap<MachineId, Duration>,
    pub(super) next_end: u64,
    pub(super) next_segment: u64,
    pub(super) looked_at: Duration,
    pub(super) tally: NetworkTally,
    pub(super) woken: Vec<Waker>,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) is_on: bool,
    pub(super) next_port: u16,
}

#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) waiting: VecDeque<EndId>,
    pub(super) capacity: usize,
    pub(super) acceptor: Option<Waker>,
}

#[derive(Debug)]
pub(super) struct End {
    pub(super) machine: MachineId,
    pub(super) local: SocketAddr,
    pub(super) peer_address: SocketAddr,
    pub(super) peer_machine: MachineId,
    pub(super) peer: Option<EndId>,
    pub(super) state: EndState,
    pub(super) received: BytesMut,
    /// The peer has said all.
    pub(super) ended: bool,
    pub(super) shut_down: bool,
    /// Bytes that the peer's process has not read.
    pub(super) unread: usize,
    pub(super) options: TcpOptions,
    pub(super) reset_when_closed: bool,
    pub(super) last_heard: Duration,
    /// When the last segment of this end arrives: the next one does not overtake it.
    pub(super) last_arrival: Duration,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndState {
    Connecting,
    Open,
    Broken(io::ErrorKind),
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) from: MachineId,
    pub(super) to: MachineId,
    /// The end that sent it, for as long as that stands.
    pub(super) sender: EndId,
    pub(super) sent_at: Duration,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Connect { source: SocketAddr, target: SocketAddr },
    Accepted { to: EndId },
    Refused { to: EndId },
    Bytes { to: EndId, bytes: Bytes },
    End { to: EndId },
    Reset { to: EndId },
}

impl Net {
    pub(super) fn new(seed: u64, latency: Latency) -> Self {
        Self {
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
        }
    }

    pub(super) fn free_port(&mut self, machine: MachineId) -> u16 {
        let Some(machine) = self.machines.get_mut(&machine) else {
            return 0;
        };
        let port = machine.next_port;
        machine.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
        port
    }

    pub(super) fn add_end(
        &mut self,
        machine: MachineId,
        local: SocketAddr,
        peer_machine: MachineId,
        peer_address: SocketAddr,
        state: EndState,
    ) -> EndId {
        let id = EndId(self.next_end);
        self.next_end += 1;
        let end = End {
            machine,
            local,
            peer_address,
            peer_machine,
            peer: None,
            state,
            received: BytesMut::new(),
            ended: false,
            shut_down: false,
            unread: 0,
            options: TcpOptions::default(),
            reset_when_closed: false,
            last_heard: self.now,
            last_arrival: Duration::ZERO,
            reader: None,
            writer: None,
        };
        self.ends.insert(id, end);
        id
    }
}

pub(super) const FIRST_EPHEMERAL_PORT: u16 = 32_768;
