//! Circuit breaker of a CAS: opens after five network failures in a row, or when more than half of ten seconds' results fail
//! (docs/spec/ews.md §7).

use std::time::{Duration, Instant};

use super::explain::BreakerState;

#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: State,
    /// Network failures in a row.
    consecutive: u32,
    window: Window,
    /// Openings in close succession: each makes probes rarer.
    openings: u32,
    closed_at: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Closed,
    Open {
        since: Instant,
        probe_at: Instant,
        probes: u32,
    },
    HalfOpen {
        since: Instant,
        probes: u32,
    },
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    Opened,
    Closed,
}

impl Breaker {
    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    pub(super) fn open_since(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Open { since, .. } | State::HalfOpen { since, .. } => Some(since),
        }
    }

    /// Failed recently and not known to be down: worth finding out quickly.
    pub(super) fn is_suspicious(&self) -> bool {
        self.is_closed() && self.consecutive > 0
    }

    pub(super) fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe_at, .. } => Some(probe_at),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }

    pub(super) fn probe_sent(&mut self) {
        if let State::Open { since, probes, .. } = self.state {
            let probes = probes.saturating_add(1);
            self.state = State::HalfOpen { since, probes };
        }
    }

    /// The configuration of the CAS changed: it is tried at once.
    pub(super) fn probe_soon(&mut self, now: Instant) {
        if let State::Open { since, probes, .. } = self.state {
            self.state = State::Open {
                since,
                probe_at: now,
                probes,
            };
        }
    }

    /// Any answer from the CAS itself to a request sent at that time, including an error about the user.
    pub(super) fn answered(&mut self, sent_at: Instant, now: Instant) -> Turn {
        self.window.count(true, now);
        match self.state {
            State::Closed => {
                self.consecutive = 0;
                let stable = self.closed_at.is_some_and(|at| at + STABLE_AFTER <= now);
                if stable {
                    self.openings = 0;
                }
                Turn::None
            }
            State::HalfOpen { since, .. } if sent_at >= since => {
                self.state = State::Closed;
                self.consecutive = 0;
                self.window = Window::default();
                self.closed_at = Some(now);
                Turn::Closed
            }
            // Sent before it opened: says nothing about now.
            State::Open { .. } | State::HalfOpen { .. } => Turn::None,
        }
    }

    pub(super) fn failed(&mut self, sent_at: Instant, now: Instant) -> Turn {
        match self.state {
            State::Closed if self.closed_at.is_some_and(|at| sent_at < at) => Turn::None,
            State::Closed => self.failed_while_closed(now),
            State::HalfOpen { since, probes } if sent_at >= since => {
                self.state = State::Open {
                    since,
                    probe_at: now + self.back_off(probes),
                    probes,
                };
                Turn::None
            }
            State::Open { .. } | State::HalfOpen { .. } => Turn::None,
        }
    }

    fn failed_while_closed(&mut self, now: Instant) -> Turn {
        self.consecutive = self.consecutive.saturating_add(1);
        self.window.count(false, now);
        if self.consecutive < CONSECUTIVE_MAX && !self.window.is_bad() {
            return Turn::None;
        }
        self.openings = self.openings.saturating_add(1);
        self.state = State::Open {
            since: now,
            probe_at: now + self.back_off(self.openings - 1),
            probes: 0,
        };
        self.window = Window::default();
        Turn::Opened
    }

    fn back_off(&self, times: u32) -> Duration {
        PROBE_AFTER.saturating_mul(1 << times.min(5)).min(PROBE_AFTER_MAX)
    }
}

/// Results of the last five to ten seconds.
#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    /// Answered and failed, in this half and in the one before.
    halves: [(u32, u32); 2],
}

impl Window {
    fn count(&mut self, answered: bool, now: Instant) {
        let age = self.since.map_or(HALF * 2, |since| now.duration_since(since));
        if age >= HALF {
            let former = if age < HALF * 2 { self.halves[0] } else { (0, 0) };
            self.halves = [(0, 0), former];
            self.since = Some(now);
        }
        let (ok, failed) = &mut self.halves[0];
        match answered {
            true => *ok = ok.saturating_add(1),
            false => *failed = failed.saturating_add(1),
        }
    }

    fn is_bad(&self) -> bool {
        let [(ok, failed), (former_ok, former_failed)] = self.halves;
        let (ok, failed) = (ok.saturating_add(former_ok), failed.saturating_add(former_failed));
        ok.saturating_add(failed) >= SAMPLE_MIN && failed > ok
    }
}

const CONSECUTIVE_MAX: u32 = 5;

/// Half of the ten seconds.
const HALF: Duration = Duration::from_secs(5);

/// With fewer results than this, a share means nothing.
const SAMPLE_MIN: u32 = 10;

const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_AFTER_MAX: Duration = Duration::from_secs(60);

/// After being closed for this long, the next opening counts as the first.
const STABLE_AFTER: Duration = Duration::from_secs(120);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    fn second(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_fifth_failure_in_a_row_opens_it_and_one_answered_probe_closes_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert_eq!(breaker.failed(start, start), Turn::None);
        }
        assert!(breaker.is_suspicious());
        assert_eq!(breaker.failed(start, start), Turn::Opened);
        assert_eq!(
            breaker.answered(start, second(start, 1)),
            Turn::None,
            "sent before"
        );
        assert_eq!(breaker.probe_at(), Some(second(start, 5)));
        breaker.probe_sent();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(breaker.answered(second(start, 5), second(start, 6)), Turn::Closed);
        assert_eq!(
            breaker.failed(start, second(start, 7)),
            Turn::None,
            "timeouts of what was sent before it closed are about the past"
        );
        assert!(!breaker.is_suspicious());
    }

    #[test]
    fn an_answer_between_failures_starts_the_count_again() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for round in 0..4 {
            let at = second(start, round * 20);
            for _ in 0..4 {
                assert_eq!(breaker.failed(at, at), Turn::None);
            }
            assert_eq!(breaker.answered(at, at), Turn::None);
        }
    }

    #[test]
    fn more_failures_than_answers_in_ten_seconds_open_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        let mut turns = Vec::new();
        for at in 0..6 {
            turns.push(breaker.answered(second(start, at), second(start, at)));
            turns.push(breaker.failed(second(start, at), second(start, at)));
            turns.push(breaker.failed(second(start, at), second(start, at)));
        }
        assert!(turns.contains(&Turn::Opened));
    }

    #[test]
    fn probes_become_rarer_while_it_stays_down() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            let _ = breaker.failed(start, start);
        }
        let mut waits = Vec::new();
        for _ in 0..6 {
            let at = breaker.probe_at().unwrap();
            breaker.probe_sent();
            let _ = breaker.failed(at, at);
            waits.push((breaker.probe_at().unwrap() - at).as_secs());
        }
        assert_eq!(waits, [10, 20, 40, 60, 60, 60]);
    }
}
