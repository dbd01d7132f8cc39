//! Settings that an administrator can change at run time.

use std::time::Duration;

/// How Exchange reports changes, in the order of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Falls back to streaming, per user, when no callback comes.
    PushFirst,
    StreamingFirst,
    PushOnly,
    StreamingOnly,
    /// GetEvents every `pull_interval`: for servers that can do neither.
    Pull,
}

/// What an administrator may set (CAL-3, CAL-4, CAL-10), and what is Tandem's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarSettings {
    pub delivery: Delivery,
    /// EWS Status Frequency, minutes, 1–1440 (60).
    pub status_frequency: u16,
    /// Calendar Spread, seconds, 0–59 (50): a change is published at its minute plus an offset of its user's own.
    pub spread_secs: u32,
    /// Exchange Timeout.
    pub request_timeout: Duration,
    /// Exchange Queue: requests waiting for one CAS.
    pub queue_max: usize,
    /// Exchange Threads: concurrent requests to one CAS at first (8); adapts between 1 and `concurrency_max` (20).
    pub concurrency: usize,
    pub concurrency_max: usize,
    /// Users that this node moves off a failed CAS per second.
    pub moves_per_second: u32,
    /// How far calendars are read ahead.
    pub window: Duration,
    /// Every user's calendar is read again after this time, with or without an event.
    pub refresh_interval: Duration,
    /// Interval of the GetUserAvailability sweeps that find stale subscriptions.
    pub sweep_interval: Duration,
    pub pull_interval: Duration,
    /// Subscriptions on one streaming connection, at most 200.
    pub stream_group_max: usize,
}

impl CalendarSettings {
    /// Limits the values to what Exchange accepts and what makes sense.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self {
            status_frequency: self.status_frequency.clamp(1, 1440),
            spread_secs: self.spread_secs.min(59),
            request_timeout: self
                .request_timeout
                .clamp(Duration::from_secs(1), Duration::from_secs(600)),
            queue_max: self.queue_max.max(1),
            concurrency: self.concurrency.max(1),
            concurrency_max: self.concurrency_max.max(1),
            moves_per_second: self.moves_per_second.max(1),
            window: self.window.clamp(HOUR * 2, HOUR * 24 * 42),
            refresh_interval: self.refresh_interval.clamp(HOUR / 60, HOUR * 24),
            sweep_interval: self.sweep_interval.clamp(Duration::from_secs(5), HOUR * 24),
            pull_interval: self.pull_interval.clamp(Duration::from_secs(5), HOUR),
            stream_group_max: self.stream_group_max.clamp(1, 200),
            ..self
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

impl Default for CalendarSettings {
    fn default() -> Self {
        Self {
            delivery: Delivery::PushFirst,
            status_frequency: 60,
            spread_secs: 50,
            request_timeout: Duration::from_secs(30),
            queue_max: 20_000,
            concurrency: 8,
            concurrency_max: 20,
            moves_per_second: 100,
            window: Duration::from_secs(36 * 3600),
            refresh_interval: Duration::from_secs(12 * 3600),
            sweep_interval: Duration::from_secs(15 * 60),
            pull_interval: Duration::from_secs(60),
            stream_group_max: 100,
        }
    }
}
