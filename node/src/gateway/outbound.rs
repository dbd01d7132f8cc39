//! The connections that this node dials through a front end, and the attempts that failed a moment ago.
//!
//! What always holds: a target is dialled once at a time, and there are at most [`TARGETS_MAX`] of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::output::{OutboundTarget, Output};
use super::pairs::PairId;

#[derive(Debug, Default)]
pub(super) struct Outbound {
    targets: BTreeMap<OutboundTarget, State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Dialling,
    Open(PairId),
    Failed { retry_at: Instant },
}

/// What is to be done about a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open(PairId),
    /// It is being dialled, or that failed a moment ago, or too many others are dialled.
    Wait,
    /// Nobody has dialled it yet: the caller does.
    Dial,
}

impl Outbound {
    /// The connection that was dialled to the target. Where there is none, it is dialled.
    pub(super) fn path_to(&mut self, target: OutboundTarget, outputs: &mut Vec<Output>) -> Option<PairId> {
        match self.way_to(&target) {
            Way::Open(pair) => Some(pair),
            Way::Wait => None,
            Way::Dial => {
                outputs.push(Output::DialOutbound { target });
                None
            }
        }
    }

    /// Counts the target as dialled when the answer is [`Way::Dial`].
    fn way_to(&mut self, target: &OutboundTarget) -> Way {
        match self.targets.get(target) {
            Some(State::Open(pair)) => Way::Open(*pair),
            Some(State::Dialling | State::Failed { .. }) => Way::Wait,
            None if self.targets.len() >= TARGETS_MAX => Way::Wait,
            None => {
                self.targets.insert(target.clone(), State::Dialling);
                Way::Dial
            }
        }
    }

    pub(super) fn opened(&mut self, target: OutboundTarget, pair: PairId) {
        self.targets.insert(target, State::Open(pair));
    }

    pub(super) fn failed(&mut self, target: OutboundTarget, now: Instant) {
        let retry_at = now + REDIAL_AFTER;
        self.targets.insert(target, State::Failed { retry_at });
    }

    /// A connection that does not last is not dialled again at once.
    pub(super) fn lost(&mut self, pair: PairId, now: Instant) {
        let retry_at = now + REDIAL_AFTER;
        for state in self.targets.values_mut() {
            if *state == State::Open(pair) {
                *state = State::Failed { retry_at };
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.targets.values().filter_map(State::retry_at).min()
    }

    /// Forgets attempts that failed a while ago. Returns whether there were any.
    pub(super) fn forget_failed(&mut self, now: Instant) -> bool {
        let before = self.targets.len();
        self.targets
            .retain(|_, state| state.retry_at().is_none_or(|at| at > now));
        self.targets.len() < before
    }
}

impl State {
    fn retry_at(&self) -> Option<Instant> {
        match self {
            Self::Failed { retry_at } => Some(*retry_at),
            Self::Dialling | Self::Open(_) => None,
        }
    }
}

/// How long after a failed attempt, or a lost connection, a target is dialled again.
const REDIAL_AFTER: Duration = Duration::from_millis(500);
/// Targets that are dialled, open or failed at a time.
const TARGETS_MAX: usize = 1024;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    fn target(port: u16) -> OutboundTarget {
        OutboundTarget {
            host: "10.0.0.9".to_owned(),
            port,
            tls: false,
        }
    }

    #[test]
    fn a_target_is_dialled_once_and_again_a_while_after_it_failed() {
        let (mut outbound, now) = (Outbound::default(), Instant::now());
        assert_eq!(outbound.way_to(&target(1)), Way::Dial);
        assert_eq!(outbound.way_to(&target(1)), Way::Wait);
        outbound.opened(target(1), PairId(7));
        assert_eq!(outbound.way_to(&target(1)), Way::Open(PairId(7)));
        outbound.lost(PairId(7), now);
        assert_eq!(outbound.way_to(&target(1)), Way::Wait);
        assert_eq!(outbound.next_deadline(), Some(now + REDIAL_AFTER));
        assert!(!outbound.forget_failed(now));
        assert!(outbound.forget_failed(now + REDIAL_AFTER));
        assert_eq!(outbound.way_to(&target(1)), Way::Dial);
    }

    #[test]
    fn no_more_are_dialled_than_there_is_room_for() {
        let mut outbound = Outbound::default();
        let ports = 1..=u16::try_from(TARGETS_MAX).unwrap();
        assert!(
            ports
                .into_iter()
                .all(|port| outbound.way_to(&target(port)) == Way::Dial)
        );
        assert_eq!(outbound.way_to(&target(u16::MAX)), Way::Wait);
    }
}
