//! Tells systemd how the process is: ready, at work, stopping (`sd_notify(3)`). Without systemd nothing is told.
//!
//! The watchdog is fed only while every vital part comes round: a process of which one part hangs answers probes and serves
//! nobody, so it is ended and started again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use super::shutdown::{Shutdown, Stage};
use crate::io::environment;
use crate::progress::Progress;

/// Knows the vital parts of the process. Clones know the same ones.
#[derive(Debug, Clone, Default)]
pub struct Watchdog {
    parts: Arc<Mutex<Vec<(&'static str, Pulse)>>>,
}

/// One part's: it beats whenever the part comes round, at least once in [`ROUND_MAX`]. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Watchdog {
    /// From here on the process is as alive as this part.
    #[must_use]
    pub fn pulse(&self, part: &'static str) -> Pulse {
        let pulse = Pulse::default();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push((part, pulse.clone()));
        pulse
    }

    /// Says that the process serves, and feeds the watchdog, where systemd wants that, until the process begins to stop.
    pub async fn run(self, shutdown: Shutdown) {
        notify(NotifyState::Ready);
        let feed = async {
            match sd_notify::watchdog_enabled() {
                Some(period) => self.feed(period).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = feed => {}
            () = shutdown.reached(Stage::LookAway) => {}
        }
        // Draining has its own deadline; `TimeoutStopSec` watches over it.
        notify(NotifyState::Stopping);
    }

    async fn feed(&self, period: Duration) {
        info!(period_ms = period.as_millis(), "feeding systemd's watchdog");
        let mut ticks = interval(period / FEEDS_PER_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = Progress::new(ROUND_MAX.max(period / 2));
        let mut told = false;
        loop {
            ticks.tick().await;
            let hanging = progress.look(self.rounds(), environment::now());
            if hanging.is_empty() {
                notify(NotifyState::Watchdog);
                told = false;
            } else if !told {
                told = true;
                error!(parts = ?hanging, "a task of this process hangs; no longer feeding systemd's watchdog");
            }
        }
    }

    fn rounds(&self) -> Vec<(&'static str, u64)> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts
            .iter()
            .map(|(part, pulse)| (*part, pulse.0.load(Ordering::Relaxed)))
            .collect()
    }
}

fn notify(state: NotifyState<'_>) {
    // Without NOTIFY_SOCKET this does nothing.
    if let Err(error) = sd_notify::notify(&[state]) {
        error!(%error, "cannot notify systemd");
    }
}

const FEEDS_PER_PERIOD: u32 = 4;
/// A part that has nothing to do comes round as often as this.
pub const ROUND_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_for_itself() {
        let watchdog = Watchdog::default();
        let (driver, prober) = (watchdog.pulse("driver"), watchdog.clone().pulse("prober"));
        driver.beat();
        driver.clone().beat();
        assert_eq!(watchdog.rounds(), [("driver", 2), ("prober", 0)]);
        prober.beat();
        assert_eq!(watchdog.rounds(), [("driver", 2), ("prober", 1)]);
    }
}
