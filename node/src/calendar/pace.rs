//! The concurrency limit of one CAS: it grows while the CAS answers, and is halved when it says that it is busy (CAL-10).

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Pace {
    concurrency: usize,
    concurrency_max: usize,
    /// Successes since the last step up.
    successes: usize,
    halved_at: Option<Instant>,
    back_off_until: Option<Instant>,
}

impl Pace {
    pub(super) fn new(concurrency: usize, concurrency_max: usize) -> Self {
        let concurrency_max = concurrency_max.max(1);
        Self {
            concurrency: concurrency.clamp(1, concurrency_max),
            concurrency_max,
            successes: 0,
            halved_at: None,
            back_off_until: None,
        }
    }

    /// What was learned about the CAS is kept, within the new bounds.
    pub(super) fn change_bounds(&mut self, concurrency: usize, concurrency_max: usize) {
        self.concurrency_max = concurrency_max.max(1);
        if self.halved_at.is_none() {
            self.concurrency = self.concurrency.max(concurrency);
        }
        self.concurrency = self.concurrency.clamp(1, self.concurrency_max);
    }

    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(super) fn back_off_until(&self, now: Instant) -> Option<Instant> {
        self.back_off_until.filter(|until| *until > now)
    }

    /// A step up when as many requests as may be in flight have succeeded.
    pub(super) fn succeeded(&mut self) {
        self.successes += 1;
        if self.successes >= self.concurrency && self.concurrency < self.concurrency_max {
            self.concurrency += 1;
            self.successes = 0;
        }
    }

    /// Halves at most once for the requests that were in flight together.
    pub(super) fn throttled(&mut self, sent_at: Instant, wait: Duration, now: Instant) {
        if self.halved_at.is_none_or(|halved_at| sent_at >= halved_at) {
            self.concurrency = (self.concurrency / 2).max(1);
            self.successes = 0;
            self.halved_at = Some(now);
        }
        let until = now + wait.min(BACK_OFF_MAX);
        self.back_off_until = Some(self.back_off_until.map_or(until, |known| known.max(until)));
    }
}

/// Whatever pause a server asks for, it is tried again after this.
const BACK_OFF_MAX: Duration = Duration::from_secs(30 * 60);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    #[test]
    fn concurrency_grows_by_one_per_round_of_successes_up_to_its_bound() {
        let mut pace = Pace::new(2, 4);
        for _ in 0..2 {
            pace.succeeded();
        }
        assert_eq!(pace.concurrency(), 3);
        for _ in 0..100 {
            pace.succeeded();
        }
        assert_eq!(pace.concurrency(), 4);
    }

    #[test]
    fn requests_in_flight_together_halve_it_once() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut pace = Pace::new(16, 20);
        for _ in 0..10 {
            pace.throttled(start, Duration::from_secs(5), later);
        }
        assert_eq!(pace.concurrency(), 8);
        assert_eq!(pace.back_off_until(later), Some(later + Duration::from_secs(5)));
        assert_eq!(pace.back_off_until(later + Duration::from_secs(5)), None);
        let mut again = later;
        for _ in 0..10 {
            again += Duration::from_secs(10);
            pace.throttled(again, Duration::ZERO, again);
        }
        assert_eq!(pace.concurrency(), 1, "never nothing");
    }

    #[test]
    fn no_server_can_silence_us_for_ever() {
        let start = Instant::now();
        let mut pace = Pace::new(8, 20);
        pace.throttled(start, Duration::MAX, start);
        assert_eq!(pace.back_off_until(start), Some(start + BACK_OFF_MAX));
    }

    #[test]
    fn new_bounds_hold_at_once_and_what_was_learned_stays() {
        let start = Instant::now();
        let mut pace = Pace::new(8, 20);
        pace.change_bounds(12, 20);
        assert_eq!(pace.concurrency(), 12);
        pace.change_bounds(2, 4);
        assert_eq!(pace.concurrency(), 4);
        pace.throttled(start, Duration::ZERO, start);
        pace.change_bounds(8, 20);
        assert_eq!(pace.concurrency(), 2);
    }
}
