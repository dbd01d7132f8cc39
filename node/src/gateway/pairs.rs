//! The connections over which clients are reached: pairs that a front end opened, and those dialled through one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;

use tandem_cluster::ConnectionId;
use tandem_sip::proxy_protocol::Transport;

/// A connection between a front end and this node, numbered by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId(pub u64);

/// What a connection is for (docs/spec/load-balancing.md §6.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairPurpose {
    /// One client connection of a front end: requests in, answers and events out.
    Pair,
    /// Requests that a lost node left unanswered. Carries answers only.
    Resent,
    /// Dialled by this node, through a front end, towards a client.
    Outbound,
}

/// What the PROXY header of a connection said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub purpose: PairPurpose,
    pub connection: ConnectionId,
    /// The client as the front end sees it.
    pub client: SocketAddr,
    /// The front end's listener (the VIP): what clients are shown in Contact and Via.
    pub local: SocketAddr,
    /// The listener's host name, which clients are shown instead of its address.
    pub host_name: Option<String>,
    /// A name in the certificate of a TLS client, which the front end has verified.
    pub subject: Option<String>,
    pub transport: Transport,
}

impl Pair {
    /// What clients are shown as our address: the front end's (RFC 3261 §8.1.1.8, §18.1.1).
    #[must_use]
    pub fn local_target(&self) -> String {
        let transport = self.transport_label();
        match &self.host_name {
            Some(name) => format!("sip:{name}:{};transport={transport}", self.local.port()),
            None => format!("sip:{};transport={transport}", self.local),
        }
    }

    /// As the transport parameter of a URI spells it.
    #[must_use]
    pub fn transport_label(&self) -> &'static str {
        match self.transport {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }
}

/// The pairs that stand.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    all: HashMap<PairId, Pair>,
    /// Requests that came over a pair and wait for their final answers. Pairs without any are left out.
    unanswered: HashMap<PairId, u32>,
    /// Pairs over which nothing more comes.
    half_closed: HashMap<PairId, HalfClosed>,
    /// Of those, until when they stand at most; without the ones that have been told to close.
    standing_until: BTreeSet<(Instant, PairId)>,
    /// Of those, the ones that wait for no answer any more.
    done: Vec<PairId>,
    by_connection: BTreeMap<ConnectionId, BTreeSet<PairId>>,
    by_address: BTreeMap<IpAddr, BTreeSet<PairId>>,
}

#[derive(Debug)]
struct HalfClosed {
    until: Instant,
    /// What is said last.
    farewell: Option<Bytes>,
}

impl Pairs {
    pub(super) fn opened(&mut self, id: PairId, pair: Pair) {
        if pair.purpose != PairPurpose::Resent {
            self.by_connection.entry(pair.connection).or_default().insert(id);
            self.by_address.entry(pair.client.ip()).or_default().insert(id);
        }
        self.all.insert(id, pair);
    }

    pub(super) fn closed(&mut self, id: PairId) -> Option<Pair> {
        let pair = self.all.remove(&id)?;
        self.unanswered.remove(&id);
        if let Some(half_closed) = self.half_closed.remove(&id) {
            self.standing_until.remove(&(half_closed.until, id));
        }
        self.forget_way(id, &pair);
        Some(pair)
    }

    /// Nothing more comes over the pair. It stands for the answers that are due, until `until` at most, and `farewell`
    /// is said behind them.
    pub(super) fn half_closed(
        &mut self,
        id: PairId,
        until: Instant,
        farewell: Option<Bytes>,
    ) -> Option<Pair> {
        let pair = self.all.get(&id).cloned()?;
        if self.half_closed.contains_key(&id) {
            return None;
        }
        self.half_closed.insert(id, HalfClosed { until, farewell });
        self.standing_until.insert((until, id));
        if !self.unanswered.contains_key(&id) {
            self.done.push(id);
        }
        self.forget_way(id, &pair);
        Some(pair)
    }

    /// No event goes that way any more.
    fn forget_way(&mut self, id: PairId, pair: &Pair) {
        remove_from(&mut self.by_connection, &pair.connection, id);
        remove_from(&mut self.by_address, &pair.client.ip(), id);
    }

    /// A request came over the pair that has to be answered.
    pub(super) fn asked(&mut self, id: PairId) {
        if self.all.contains_key(&id) {
            *self.unanswered.entry(id).or_default() += 1;
        }
    }

    /// A request that came over the pair has its final answer, or will never have one.
    pub(super) fn answered(&mut self, id: PairId) {
        if let Entry::Occupied(mut count) = self.unanswered.entry(id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
                if self.half_closed.contains_key(&id) {
                    self.done.push(id);
                }
            }
        }
    }

    /// A half-closed pair that has nothing to wait for any more, with what is said last. Each is told once.
    pub(super) fn next_done(&mut self, now: Instant) -> Option<(PairId, Option<Bytes>)> {
        let overdue = self.standing_until.first().filter(|(until, _)| *until <= now);
        self.done.extend(overdue.map(|&(_, id)| id));
        while let Some(id) = self.done.pop() {
            if let Some(half_closed) = self.half_closed.get_mut(&id)
                && self.standing_until.remove(&(half_closed.until, id))
            {
                return Some((id, half_closed.farewell.take()));
            }
        }
        None
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.standing_until.first().map(|&(until, _)| until)
    }

    pub(super) fn get(&self, id: PairId) -> Option<&Pair> {
        self.all.get(&id)
    }

    /// The pair by which the message came that is being handled.
    ///
    /// # Panics
    /// When it is gone: nothing is handled that came by such a one.
    pub(super) fn known(&self, id: PairId) -> &Pair {
        let pair = self.all.get(&id);
        pair.expect("a message is handled only while its pair stands")
    }

    /// The pair of this client connection; else the youngest of another connection of the same client.
    pub(super) fn towards(&self, connection: ConnectionId, address: IpAddr) -> Option<PairId> {
        let same = self.by_connection.get(&connection).and_then(BTreeSet::last);
        same.or_else(|| self.by_address.get(&address).and_then(BTreeSet::last))
            .copied()
    }

    /// Where the answer to a request that came over `id` goes: there, or over another pair of the same client
    /// connection when that one is gone. A front end that has half-closed a pair and opened another reads the other.
    pub(super) fn for_answer(&self, id: PairId, connection: ConnectionId) -> Option<PairId> {
        let stands = self.all.contains_key(&id);
        if stands && !self.half_closed.contains_key(&id) {
            return Some(id);
        }
        let other = self.by_connection.get(&connection).and_then(BTreeSet::last);
        other.copied().or_else(|| stands.then_some(id))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What must hold between the table and its two indexes.
    pub(super) fn is_consistent(&self) -> bool {
        let carries_events = |(id, pair): &(&PairId, &Pair)| {
            pair.purpose != PairPurpose::Resent && !self.half_closed.contains_key(id)
        };
        let indexed = |index: usize| index == self.all.iter().filter(carries_events).count();
        let stand = |id: &PairId| self.all.contains_key(id);
        self.unanswered.keys().all(stand)
            && self.half_closed.keys().all(stand)
            && indexed(self.by_connection.values().map(BTreeSet::len).sum())
            && indexed(self.by_address.values().map(BTreeSet::len).sum())
    }
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeSet<PairId>>, key: &K, id: PairId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(purpose: PairPurpose, connection: u8, client: &str) -> Pair {
        Pair {
            purpose,
            connection: ConnectionId([connection; 16]),
            client: client.parse().unwrap(),
            local: "192.0.2.1:5060".parse().unwrap(),
            host_name: None,
            subject: None,
            transport: Transport::Tcp,
        }
    }

    #[test]
    fn the_clients_own_connection_is_preferred_and_another_of_the_same_client_is_next() {
        let mut pairs = Pairs::default();
        pairs.opened(PairId(1), pair(PairPurpose::Pair, 1, "10.0.0.1:1000"));
        pairs.opened(PairId(2), pair(PairPurpose::Pair, 2, "10.0.0.1:1001"));
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(pairs.towards(ConnectionId([1; 16]), address), Some(PairId(1)));
        pairs.closed(PairId(1));
        assert_eq!(pairs.towards(ConnectionId([1; 16]), address), Some(PairId(2)));
        pairs.closed(PairId(2));
        assert_eq!(pairs.towards(ConnectionId([1; 16]), address), None);
        assert!(pairs.is_consistent());
    }

    #[test]
    fn a_connection_of_resent_requests_carries_no_events() {
        let mut pairs = Pairs::default();
        pairs.opened(PairId(1), pair(PairPurpose::Resent, 1, "10.0.0.1:1000"));
        assert_eq!(
            pairs.towards(ConnectionId([1; 16]), "10.0.0.1".parse().unwrap()),
            None
        );
        assert_eq!(
            pairs.for_answer(PairId(1), ConnectionId([1; 16])),
            Some(PairId(1))
        );
        assert!(pairs.is_consistent());
    }
}
