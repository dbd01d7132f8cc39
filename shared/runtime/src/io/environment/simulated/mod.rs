//! What a simulated process meets in place of the operating system.
//!
//! Owns the network of a simulated world ([`Network`]) and what belongs to one host of it ([`Host`]): addresses, disks, the
//! clock on its wall, its chance and the wish that it end. Does not own time: whoever runs the world pauses tokio's clock,
//! lets it pass for each host, and tells the network.
//!
//! What always holds: nothing here looks at the real clock, the real network or real chance, so that a world with the
//! same seed and the same programs does the same things in the same order.

mod files;
mod network;
mod socket;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

pub use self::files::{Fault, Interruption, SimulatedFiles};
pub use self::network::{Latency, MachineId, Network, NetworkTally};
pub use self::socket::{Listener, Stream};

/// One machine of a simulated world, and what of it survives the process: its disks. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    network: Network,
    machine: MachineId,
    chance: Mutex<StdRng>,
    /// By how much the clock on the wall is wrong, in milliseconds.
    wall_error_ms: AtomicI64,
    disks: Mutex<BTreeMap<PathBuf, SimulatedFiles>>,
    disk_sync_max: Duration,
    termination: watch::Sender<bool>,
}

thread_local! {
    static CURRENT: RefCell<Option<Host>> = const { RefCell::new(None) };
}

impl Host {
    /// A machine with these addresses, the first of which it dials from. A sync of one of its files takes up to
    /// `disk_sync_max`.
    #[must_use]
    pub fn new(network: &Network, addresses: &[IpAddr], seed: u64, disk_sync_max: Duration) -> Self {
        let machine = network.add_machine(addresses);
        Self {
            shared: Arc::new(Shared {
                network: network.clone(),
                machine,
                chance: Mutex::new(StdRng::seed_from_u64(seed)),
                wall_error_ms: AtomicI64::new(0),
                disks: Mutex::default(),
                disk_sync_max,
                termination: watch::Sender::new(false),
            }),
        }
    }

    /// Runs `program`, which finds itself on this host.
    pub fn enter<R>(&self, program: impl FnOnce() -> R) -> R {
        let before = CURRENT.replace(Some(self.clone()));
        let _leave = Leave(before);
        program()
    }

    /// The host that the running code is on; `None` outside of any simulated world.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    #[must_use]
    pub fn machine(&self) -> MachineId {
        self.shared.machine
    }

    /// Sets the clock on the wall wrong by so much.
    pub fn set_wall_error_ms(&self, error: i64) {
        self.shared.wall_error_ms.store(error, Ordering::Relaxed);
    }

    /// Asks the process to end, as SIGTERM does.
    pub fn terminate(&self) {
        self.shared.termination.send_replace(true);
    }

    /// A new process: nobody has asked it to end.
    pub fn forget_termination(&self) {
        self.shared.termination.send_replace(false);
    }

    /// The disk that holds this directory.
    #[must_use]
    pub fn disk(&self, directory: &Path) -> SimulatedFiles {
        let mut disks = self.shared.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = disks
            .entry(directory.to_owned())
            .or_insert_with(|| SimulatedFiles::new(self.random(), self.shared.disk_sync_max));
        disk.clone()
    }

    /// All of its disks.
    #[must_use]
    pub fn disks(&self) -> Vec<SimulatedFiles> {
        let disks = self.shared.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.values().cloned().collect()
    }

    pub(super) fn unix_time(&self) -> Duration {
        let right = WORLD_BEGAN + self.shared.network.now();
        let error = self.shared.wall_error_ms.load(Ordering::Relaxed);
        let by = Duration::from_millis(error.unsigned_abs());
        if error < 0 {
            right.saturating_sub(by)
        } else {
            right + by
        }
    }

    pub(super) fn random<T>(&self) -> T
    where
        StandardUniform: Distribution<T>,
    {
        let mut chance = self.shared.chance.lock().unwrap_or_else(PoisonError::into_inner);
        chance.random()
    }

    pub(super) async fn terminated(&self) {
        let mut wishes = self.shared.termination.subscribe();
        // The sender lives in `self`, so it cannot have gone.
        let _ = wishes.wait_for(|wish| *wish).await;
    }

    pub(super) fn listen(&self, address: SocketAddr, queue: u32) -> io::Result<Listener> {
        Listener::open(&self.shared.network, self.shared.machine, address, queue)
    }

    pub(super) async fn connect(&self, source: Option<IpAddr>, target: SocketAddr) -> io::Result<Stream> {
        Stream::connect(&self.shared.network, self.shared.machine, source, target).await
    }

    pub(super) fn lookup(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let address = match name.parse() {
            Ok(address) => Some(address),
            Err(_) => self.shared.network.address_of(name),
        };
        address
            .map(|address| vec![SocketAddr::new(address, port)])
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no host of this name"))
    }
}

/// Puts the host back on which the thread was before.
struct Leave(Option<Host>);

impl Drop for Leave {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// 2026-01-05, a Monday, 08:00 UTC.
const WORLD_BEGAN: Duration = Duration::from_secs(1_767_600_000);
