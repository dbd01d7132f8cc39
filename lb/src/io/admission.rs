//! Limits on connections, in total and per address, and on the message and byte rate per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tandem_runtime::io::environment;
use tandem_runtime::source::source_of;

use crate::config::Limits;

/// Counts client connections. Locked once per connection, so the lock costs little.
#[derive(Debug)]
pub struct Admission {
    connections_max: usize,
    per_address_max: usize,
    messages_per_second: u64,
    bytes_per_second: u64,
    started: Instant,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    connections: usize,
    sources: HashMap<IpAddr, (usize, Arc<Source>)>,
}

/// When the next message and byte of a source are due at its rate, in nanoseconds since the start.
#[derive(Debug, Default)]
struct Source {
    message_due: AtomicU64,
    byte_due: AtomicU64,
}

/// An admitted connection; dropping it frees its place.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    address: IpAddr,
    source: Arc<Source>,
}

impl Admission {
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            connections_max: limits.connections_max,
            per_address_max: limits.connections_per_address_max,
            messages_per_second: limits.messages_per_second_per_address,
            bytes_per_second: limits.bytes_per_second_per_address,
            started: environment::now(),
            table: Mutex::default(),
        }
    }

    /// Limits with the same rate for messages and bytes.
    #[cfg(test)]
    pub(super) fn of(connections_max: usize, per_address_max: usize, rate: u64) -> Arc<Self> {
        Arc::new(Self {
            connections_max,
            per_address_max,
            messages_per_second: rate,
            bytes_per_second: rate,
            started: environment::now(),
            table: Mutex::default(),
        })
    }

    /// Admits a connection, or returns the label of the limit that forbids it.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admitted, &'static str> {
        let address = source_of(address);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.connections >= self.connections_max {
            return Err("connections");
        }
        let (count, source) = table.sources.entry(address).or_default();
        if *count >= self.per_address_max {
            return Err("connections_per_address");
        }
        *count += 1;
        let source = Arc::clone(source);
        table.connections += 1;
        Ok(Admitted {
            admission: Arc::clone(self),
            address,
            source,
        })
    }

    fn release(&self, address: IpAddr) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.connections -= 1;
        if let Some((count, _)) = table.sources.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                table.sources.remove(&address);
            }
        }
    }
}

impl Admitted {
    /// Counts a message against the source's rate. Returns when its next one may be read if the source is over the rate:
    /// slowing a source down harms no other client and loses no message.
    #[must_use]
    pub fn message_arrived(&self, now: Instant) -> Option<Instant> {
        self.arrived(
            &self.source.message_due,
            1,
            self.admission.messages_per_second,
            now,
        )
    }

    /// Counts bytes against the source's rate, as [`Self::message_arrived`] counts messages; used in connection mode.
    #[must_use]
    pub fn bytes_arrived(&self, count: usize, now: Instant) -> Option<Instant> {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.arrived(&self.source.byte_due, count, self.admission.bytes_per_second, now)
    }

    fn arrived(&self, due: &AtomicU64, count: u64, rate: u64, now: Instant) -> Option<Instant> {
        if rate == 0 {
            return None;
        }
        let elapsed = now.saturating_duration_since(self.admission.started);
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let step = NANOS_PER_SECOND.saturating_mul(count) / rate;
        let next = |due: u64| Some(due.max(elapsed).saturating_add(step));
        let due = due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or(elapsed);
        // A burst of one second's worth is permitted.
        let ahead = due.saturating_sub(elapsed).checked_sub(NANOS_PER_SECOND)?;
        Some(now + Duration::from_nanos(ahead))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.release(self.address);
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn connections_are_bounded_per_address_and_in_all() {
        let admission = Admission::of(2, 1, 0);
        let first = admission.admit(A).unwrap();
        assert_eq!(admission.admit(A).unwrap_err(), "connections_per_address");
        let _second = admission.admit(B).unwrap();
        assert_eq!(admission.admit(B).unwrap_err(), "connections");
        drop(first);
        assert!(admission.admit(A).is_ok());
    }

    #[test]
    fn a_source_may_burst_for_a_second_and_is_then_slowed_to_its_rate() {
        let admission = Admission::of(1, 1, 100);
        let admitted = admission.admit(A).unwrap();
        let now = admission.started;
        assert!((0..100).all(|_| admitted.message_arrived(now).is_none()));
        let paused: Vec<Instant> = (0..20).filter_map(|_| admitted.message_arrived(now)).collect();
        let paused = *paused.last().unwrap();
        assert!(paused > now + Duration::from_millis(150) && paused < now + Duration::from_millis(250));
        assert!(admitted.message_arrived(now + Duration::from_secs(2)).is_none());
    }

    /// One host may change its address within its network at will.
    #[test]
    fn an_ipv6_network_is_one_source() {
        let admission = Admission::of(3, 1, 0);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = admission.admit(address("2001:db8::1")).unwrap();
        assert_eq!(
            admission.admit(address("2001:db8::2")).unwrap_err(),
            "connections_per_address"
        );
        let _elsewhere = admission.admit(address("2001:db8:0:1::1")).unwrap();
        drop(first);
        assert!(admission.admit(address("2001:db8::2")).is_ok());
    }

    #[test]
    fn bytes_have_a_rate_of_their_own() {
        let admission = Admission::of(1, 1, 1000);
        let admitted = admission.admit(A).unwrap();
        let now = admission.started;
        assert!(admitted.bytes_arrived(1000, now).is_none());
        assert!(admitted.bytes_arrived(500, now).is_some_and(|until| until == now));
        let paused = admitted.bytes_arrived(1, now).unwrap();
        assert_eq!(paused, now + Duration::from_millis(500));
        assert!(admitted.message_arrived(now).is_none());
    }
}
