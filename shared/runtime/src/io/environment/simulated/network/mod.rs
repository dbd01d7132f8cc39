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
mod state;
mod system_calls;
#[cfg(test)]
mod tests;
mod timeouts;
mod ways;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use self::state::Net;

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

impl Network {
    /// A network without machines.
    #[must_use]
    pub fn new(seed: u64, latency: Latency) -> Self {
        Self(Arc::new(Mutex::new(Net::new(seed, latency))))
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

const LOOKED_AT_EVERY: Duration = Duration::from_millis(100);
