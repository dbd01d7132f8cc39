//! The one account that all CAS share: a rejected password must not be tried by a thousand requests, or the directory locks
//! the account (docs/spec/ews.md §1.8).

use std::time::{Duration, Instant};

use super::lane::LaneId;

#[derive(Debug)]
pub(super) struct CredentialGate {
    state: State,
    /// Results of requests sent earlier concern another password, or another time.
    since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Never accepted yet: one request at a time, another one when the first is slow.
    Unproven {
        in_flight: u32,
        more_at: Option<Instant>,
    },
    Accepted,
    Refused {
        by: LaneId,
        probe_at: Instant,
        is_probing: bool,
        times: u32,
    },
}

/// What an acceptance changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acceptance {
    Nothing,
    /// Accepted again; `by` had refused it. If that is another CAS, it is the only one that refuses.
    Again {
        refused_by: LaneId,
    },
}

impl CredentialGate {
    pub(super) fn new() -> Self {
        Self {
            state: State::Unproven {
                in_flight: 0,
                more_at: None,
            },
            since: None,
        }
    }

    pub(super) fn changed(&mut self, now: Instant) {
        *self = Self {
            since: Some(now),
            ..Self::new()
        };
    }

    pub(super) fn is_accepted(&self) -> bool {
        matches!(self.state, State::Accepted)
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused { .. })
    }

    /// The CAS that refused waits a little longer for its probe than the others: their answers say more.
    pub(super) fn permits(&self, lane: LaneId, now: Instant) -> bool {
        match self.state {
            State::Accepted => true,
            State::Unproven { in_flight, more_at } => in_flight == 0 || more_at.is_some_and(|at| at <= now),
            State::Refused {
                by,
                probe_at,
                is_probing,
                ..
            } => {
                !is_probing
                    && now
                        >= probe_at
                            + if lane == by {
                                SAME_LANE_LATER
                            } else {
                                Duration::ZERO
                            }
            }
        }
    }

    /// When the result of `permits` may change through time alone.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Accepted => None,
            State::Unproven { in_flight, more_at } => more_at.filter(|_| in_flight > 0),
            State::Refused {
                probe_at, is_probing, ..
            } => (!is_probing).then_some(probe_at),
        }
    }

    /// The CAS that refused may not be the only one with requests waiting.
    pub(super) fn second_deadline(&self) -> Option<Instant> {
        match self.state {
            State::Refused {
                probe_at, is_probing, ..
            } => (!is_probing).then_some(probe_at + SAME_LANE_LATER),
            State::Accepted | State::Unproven { .. } => None,
        }
    }

    pub(super) fn sent(&mut self, now: Instant) {
        match &mut self.state {
            State::Accepted => {}
            State::Unproven { in_flight, more_at } => {
                *in_flight += 1;
                *more_at = Some(now + SLOW_AFTER);
            }
            State::Refused { is_probing, .. } => *is_probing = true,
        }
        if self.since.is_none() {
            self.since = Some(now);
        }
    }

    /// The account was accepted, whatever the outcome of the request.
    pub(super) fn accepted(&mut self, sent_at: Instant) -> Acceptance {
        if self.is_of_the_past(sent_at) {
            return Acceptance::Nothing;
        }
        match self.state {
            State::Accepted => Acceptance::Nothing,
            State::Unproven { .. } => {
                self.state = State::Accepted;
                Acceptance::Nothing
            }
            State::Refused { by, .. } => {
                self.state = State::Accepted;
                Acceptance::Again { refused_by: by }
            }
        }
    }

    /// `true`: this was not known before.
    pub(super) fn refused(&mut self, by: LaneId, sent_at: Instant, now: Instant) -> bool {
        if self.is_of_the_past(sent_at) {
            return false;
        }
        let times = match self.state {
            State::Accepted | State::Unproven { .. } => 0,
            State::Refused { times, .. } => times.saturating_add(1),
        };
        self.since = Some(now);
        self.state = State::Refused {
            by,
            probe_at: now + probe_wait(times),
            is_probing: false,
            times,
        };
        times == 0
    }

    /// The request never got as far as being accepted or refused.
    pub(super) fn undecided(&mut self, sent_at: Instant, now: Instant) {
        if self.is_of_the_past(sent_at) {
            return;
        }
        match &mut self.state {
            State::Accepted => {}
            State::Unproven { in_flight, .. } => *in_flight = in_flight.saturating_sub(1),
            State::Refused {
                is_probing, probe_at, ..
            } => {
                *is_probing = false;
                *probe_at = now + PROBE_AFTER;
            }
        }
    }

    fn is_of_the_past(&self, sent_at: Instant) -> bool {
        self.since.is_some_and(|since| sent_at < since)
    }
}

/// A minute, then half an hour at a time: directories lock an account after five to ten wrong passwords within half
/// an hour, and every node tries. A corrected password takes effect at once: its file is watched.
pub(super) fn probe_wait(times: u32) -> Duration {
    match times {
        0 => PROBE_AFTER,
        _ => PROBE_AFTER_FIRST,
    }
}

const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_AFTER_FIRST: Duration = Duration::from_secs(1800);

/// A CAS that is down must not keep the others from being asked.
const SLOW_AFTER: Duration = Duration::from_secs(3);

const SAME_LANE_LATER: Duration = Duration::from_secs(2);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    const HERE: LaneId = LaneId(0);
    const THERE: LaneId = LaneId(1);

    fn second(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_unproven_password_is_tried_by_one_request_and_by_another_when_that_is_slow() {
        let start = Instant::now();
        let mut gate = CredentialGate::new();
        assert!(gate.permits(HERE, start));
        gate.sent(start);
        assert!(!gate.permits(THERE, second(start, 2)));
        assert!(gate.permits(THERE, second(start, 3)));
        gate.undecided(start, second(start, 2));
        assert!(gate.permits(HERE, second(start, 2)));
        assert_eq!(gate.accepted(start), Acceptance::Nothing);
        assert!(gate.is_accepted());
    }

    #[test]
    fn a_refused_password_is_tried_once_a_minute_and_then_less() {
        let start = Instant::now();
        let mut gate = CredentialGate::new();
        gate.sent(start);
        assert!(gate.refused(HERE, start, start));
        assert!(
            !gate.refused(HERE, start - Duration::from_millis(1), start),
            "the same alarm"
        );
        assert!(!gate.permits(THERE, second(start, 59)));
        let mut at = start;
        let mut waits = Vec::new();
        for _ in 0..5 {
            let probe_at = gate.next_deadline().unwrap();
            waits.push((probe_at - at).as_secs());
            at = probe_at;
            gate.sent(at);
            assert!(!gate.permits(THERE, second(at, 1000)));
            assert!(!gate.refused(THERE, at, at));
        }
        assert_eq!(waits, [60, 1800, 1800, 1800, 1800]);
    }

    #[test]
    fn another_cas_gets_the_probe_and_what_was_sent_before_proves_nothing() {
        let start = Instant::now();
        let mut gate = CredentialGate::new();
        gate.sent(start);
        let _ = gate.accepted(start);
        assert!(gate.refused(HERE, second(start, 1), second(start, 2)));
        assert_eq!(gate.accepted(second(start, 1)), Acceptance::Nothing);
        assert!(gate.is_refused());
        let probe_at = second(start, 62);
        assert!(!gate.permits(HERE, probe_at));
        assert!(gate.permits(THERE, probe_at));
        gate.sent(probe_at);
        assert_eq!(gate.accepted(probe_at), Acceptance::Again { refused_by: HERE });
    }

    #[test]
    fn a_changed_password_is_tried_at_once_and_answers_about_the_old_one_do_not_count() {
        let start = Instant::now();
        let mut gate = CredentialGate::new();
        gate.sent(start);
        assert!(gate.refused(HERE, start, start));
        gate.changed(second(start, 5));
        assert!(gate.permits(HERE, second(start, 5)));
        assert!(!gate.refused(HERE, second(start, 4), second(start, 6)));
        assert!(!gate.is_refused());
    }
}
