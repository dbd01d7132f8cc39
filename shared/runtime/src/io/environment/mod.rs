//! The world around a process: network, clocks, chance, threads, signals and the files of a member.
//!
//! Owns the one place through which the product touches any of them, so that whole processes can run in a simulated
//! world: with the feature `simulation`, whoever is run inside [`simulated::Host::enter`] meets a simulated network, disk
//! and clock; everybody else, and every build without the feature, meets the real ones. As with tokio's clock, which of
//! the two it is belongs to the thread that polls, and is not handed around. Does not own what is done with any of them.
//!
//! What always holds: a process that is simulated sees nothing of the machine that it runs on but through here.

pub mod files;
pub mod net;
#[cfg(feature = "simulation")]
pub mod simulated;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::process_collector::ProcessCollector;
use rand::distr::{Distribution, StandardUniform};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use files::{Files, RealFiles};

/// The monotonic clock, by which waits are counted. It stands still where tokio's is paused.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The clock on the wall: time since 1970, which may jump in either direction.
#[must_use]
pub fn unix_time() -> Duration {
    #[cfg(feature = "simulation")]
    if let Some(host) = simulated::Host::current() {
        return host.unix_time();
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// As [`unix_time`], in milliseconds.
#[must_use]
pub fn unix_ms() -> u64 {
    u64::try_from(unix_time().as_millis()).unwrap_or(u64::MAX)
}

/// As [`unix_time`], for checking certificates.
#[must_use]
pub fn tls_time() -> UnixTime {
    UnixTime::since_unix_epoch(unix_time())
}

/// The clock of TLS: [`tls_time`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsClock;

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(tls_time())
    }
}

/// Chance: from the operating system, or from the seed of the simulation. Not for keys.
#[must_use]
pub fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    #[cfg(feature = "simulation")]
    if let Some(host) = simulated::Host::current() {
        return host.random();
    }
    rand::random()
}

/// What the operating system knows of this process; of one that is simulated, nothing.
#[must_use]
pub fn process_collector() -> Option<ProcessCollector> {
    #[cfg(feature = "simulation")]
    if simulated::Host::current().is_some() {
        return None;
    }
    Some(ProcessCollector::for_self())
}

/// The data directory of a member, created unless it exists.
///
/// # Errors
/// When it cannot be created.
pub fn files(directory: &Path) -> io::Result<Arc<dyn Files>> {
    #[cfg(feature = "simulation")]
    if let Some(host) = simulated::Host::current() {
        return Ok(Arc::new(host.disk(directory)));
    }
    Ok(Arc::new(RealFiles::open(directory)?))
}

/// Does work that blocks where it holds up nobody else.
///
/// # Errors
/// When the work has panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(feature = "simulation")]
    if simulated::Host::current().is_some() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// A part of the process that runs apart from the others, so that neither waits for the other's work.
#[derive(Debug)]
pub struct Apart(ApartKind);

#[derive(Debug)]
enum ApartKind {
    Thread(std::thread::JoinHandle<()>),
    #[cfg(feature = "simulation")]
    Task(tokio::task::JoinHandle<()>),
}

impl Apart {
    /// Runs `part` on a runtime of its own, in threads of this name.
    ///
    /// # Errors
    /// When the runtime or its thread cannot be started.
    pub fn start(name: &str, part: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if simulated::Host::current().is_some() {
            return Ok(Self(ApartKind::Task(tokio::spawn(part))));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("{name}-worker"))
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(part))?;
        Ok(Self(ApartKind::Thread(thread)))
    }

    /// Returns once the part has ended, or has panicked.
    pub async fn ended(self) {
        match self.0 {
            ApartKind::Thread(thread) => {
                // A panic has been logged where it happened.
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
            #[cfg(feature = "simulation")]
            ApartKind::Task(task) => {
                let _ = task.await;
            }
        }
    }
}

/// Whether nobody but the two ends sees what a connection carries, so that it needs no TLS: in a simulated network alone.
#[must_use]
pub fn network_is_private() -> bool {
    #[cfg(feature = "simulation")]
    if simulated::Host::current().is_some() {
        return true;
    }
    false
}

/// Waits until somebody wants the process to end, and says how they said so.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub async fn termination() -> io::Result<&'static str> {
    #[cfg(feature = "simulation")]
    if let Some(host) = simulated::Host::current() {
        host.terminated().await;
        return Ok("SIGTERM");
    }
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
