//! How segments travel, and what they do where they arrive.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;

use super::state::{End, EndState, Net, Segment, What};
use super::{EndId, Latency, MachineId};

impl Net {
    /// Closed by its own process, or with it.
    pub(super) fn drop_end(&mut self, id: EndId, machine: MachineId, resets: bool) {
        let is_on = self.machines.get(&machine).is_some_and(|machine| machine.is_on);
        let Some(end) = self.ends.get(&id) else { return };
        let (peer, is_open, shut_down) = (end.peer, end.state == EndState::Open, end.shut_down);
        if let (true, true, Some(to)) = (is_on, is_open, peer) {
            if resets {
                self.send(id, What::Reset { to });
            } else if !shut_down {
                self.send(id, What::End { to });
            }
        }
        self.ends.remove(&id);
    }

    pub(super) fn send(&mut self, sender: EndId, what: What) {
        let Some(end) = self.ends.get(&sender) else { return };
        let (from, to, not_before) = (end.machine, end.peer_machine, end.last_arrival);
        let arrival = (self.now + self.time_between(from, to)).max(not_before);
        if let Some(end) = self.ends.get_mut(&sender) {
            end.last_arrival = arrival;
        }
        self.send_segment(arrival, (from, to), sender, what);
    }

    fn time_between(&mut self, from: MachineId, to: MachineId) -> Duration {
        let Latency { least, most } = self.latency;
        let slow = |machine| self.slow.get(&machine).copied().unwrap_or_default();
        let extra = slow(from) + slow(to);
        if from == to {
            return ON_ONE_MACHINE;
        }
        least + (most - least).mul_f64(self.chance.random::<f64>()) + extra
    }

    fn send_segment(&mut self, arrival: Duration, way: (MachineId, MachineId), sender: EndId, what: What) {
        let segment = Segment {
            from: way.0,
            to: way.1,
            sender,
            sent_at: self.now,
            what,
        };
        self.put_in_flight(arrival, segment);
    }

    fn put_in_flight(&mut self, arrival: Duration, segment: Segment) {
        self.next_segment += 1;
        self.in_flight.insert((arrival, self.next_segment), segment);
    }

    /// TCP tries again at growing intervals; somewhere in one of them the way has become whole.
    pub(super) fn send_again(&mut self, segment: Segment) {
        let Some(sender) = self.ends.get(&segment.sender) else {
            let arrival = self.now + SENT_AGAIN_WITHIN;
            return self.put_in_flight(arrival, segment);
        };
        let not_before = sender.last_arrival;
        let within = SENT_AGAIN_WITHIN.mul_f64(self.chance.random::<f64>());
        let arrival = (self.now + within).max(not_before);
        if let Some(sender) = self.ends.get_mut(&segment.sender) {
            sender.last_arrival = arrival;
        }
        self.put_in_flight(arrival, segment);
    }

    pub(super) fn arrive(&mut self, segment: Segment) {
        let way = (segment.from, segment.to);
        let is_on = self
            .machines
            .get(&segment.to)
            .is_some_and(|machine| machine.is_on);
        if !is_on || self.cuts.contains(&way) {
            self.tally.held += 1;
            self.held.entry(way).or_default().push_back(segment);
            return;
        }
        self.tally.segments += 1;
        let sender = segment.sender;
        match segment.what {
            What::Connect { source, target } => self.connect_arrives(segment, source, target),
            What::Accepted { to } => self.accepted(to, sender),
            What::Refused { to } => {
                self.tally.refused += 1;
                self.break_end(to, io::ErrorKind::ConnectionRefused);
            }
            What::Bytes { to, bytes } => match self.hearing(to) {
                Some(end) => {
                    end.received.extend_from_slice(&bytes);
                    let reader = end.reader.take();
                    self.woken.extend(reader);
                }
                None => self.reset_back(sender),
            },
            What::End { to } => {
                if let Some(end) = self.hearing(to) {
                    end.ended = true;
                    let reader = end.reader.take();
                    self.woken.extend(reader);
                }
            }
            What::Reset { to } => {
                self.tally.resets += 1;
                self.break_end(to, io::ErrorKind::ConnectionReset);
            }
        }
    }

    fn connect_arrives(&mut self, segment: Segment, source: SocketAddr, target: SocketAddr) {
        let Segment { from, to, sender, .. } = segment;
        if !self.ends.contains_key(&sender) {
            return;
        }
        let everywhere = match target {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], target.port())),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], target.port())),
        };
        let listens = |net: &Self, at: &SocketAddr| {
            net.listeners
                .get(at)
                .map(|backlog| backlog.waiting.len() < backlog.capacity)
        };
        let at = [target, everywhere]
            .into_iter()
            .find(|at| listens(self, at).is_some());
        match at.map(|at| (at, listens(self, &at))) {
            Some((at, Some(true))) => {
                let end = self.add_end(to, target, from, source, EndState::Open);
                if let Some(end) = self.ends.get_mut(&end) {
                    end.peer = Some(sender);
                }
                self.send(end, What::Accepted { to: sender });
                if let Some(backlog) = self.listeners.get_mut(&at) {
                    backlog.waiting.push_back(end);
                    let acceptor = backlog.acceptor.take();
                    self.woken.extend(acceptor);
                }
            }
            // The queue is full: the kernel says nothing, and the dialler tries again.
            Some(_) => {
                let what = What::Connect { source, target };
                let again = Segment { what, ..segment };
                self.put_in_flight(self.now + CONNECT_AGAIN_AFTER, again);
            }
            None => {
                self.answer_from_kernel(sender, What::Refused { to: sender });
            }
        }
    }

    fn accepted(&mut self, dialler: EndId, by: EndId) {
        let now = self.now;
        match self.ends.get_mut(&dialler) {
            Some(end) if end.state == EndState::Connecting => {
                end.state = EndState::Open;
                end.peer = Some(by);
                end.last_heard = now;
                let writer = end.writer.take();
                self.woken.extend(writer);
                self.tally.connections += 1;
            }
            // It has lost patience.
            Some(_) | None => self.reset_back(by),
        }
    }

    /// An end that hears something now; `None` when it is gone, or broken.
    fn hearing(&mut self, id: EndId) -> Option<&mut End> {
        let now = self.now;
        let end = self.ends.get_mut(&id)?;
        end.last_heard = now;
        matches!(end.state, EndState::Open).then_some(end)
    }

    /// What nobody expects is answered with a reset.
    fn reset_back(&mut self, sender: EndId) {
        self.answer_from_kernel(sender, What::Reset { to: sender });
    }

    /// The other machine's kernel answers an end by itself: no end of its own says it, so nothing is overtaken.
    fn answer_from_kernel(&mut self, sender: EndId, what: What) {
        let Some(end) = self.ends.get(&sender) else { return };
        let (from, to) = (end.peer_machine, end.machine);
        let arrival = self.now + self.time_between(from, to);
        self.send_segment(arrival, (from, to), sender, what);
    }

    pub(super) fn break_end(&mut self, id: EndId, kind: io::ErrorKind) {
        let Some(end) = self.ends.get_mut(&id) else { return };
        if matches!(end.state, EndState::Broken(_)) {
            return;
        }
        end.state = EndState::Broken(kind);
        let wakers = [end.reader.take(), end.writer.take()];
        self.woken.extend(wakers.into_iter().flatten());
    }
}

const ON_ONE_MACHINE: Duration = Duration::from_micros(50);
const SENT_AGAIN_WITHIN: Duration = Duration::from_millis(200);
const CONNECT_AGAIN_AFTER: Duration = Duration::from_secs(1);
