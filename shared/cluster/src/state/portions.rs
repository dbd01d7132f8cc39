//! Commands that concern many records, applied in portions.
//!
//! Owns what a command leaves to be done, and the order in which that is done. Does not own what happens to one session,
//! watcher or opening: the files of the tables do. What always holds: the portions of one command do together what it does
//! at once, whatever their number, and no other command comes in between.

use std::collections::VecDeque;
use std::ops::Bound;

use imbl::OrdSet;

use super::ClusterState;
use crate::command::{Applied, Change, Command};
use crate::node::NodeId;
use crate::session::SessionKey;

/// A command that is being applied. Until [`ClusterState::go_on`] says that it is finished, the state may contradict itself:
/// it must be neither shown to anybody nor written.
#[must_use = "what is left of the command must be applied"]
#[derive(Debug)]
pub struct UnderWay {
    applied: Applied,
    changes: Vec<Change>,
    rest: Rest,
}

impl UnderWay {
    /// The answer to the proposer, and what has changed, once nothing is left to be done.
    #[must_use]
    pub fn finish(self) -> (Applied, Vec<Change>) {
        debug_assert!(self.rest.steps.is_empty(), "a command was left half applied");
        (self.applied, self.changes)
    }
}

/// What a command leaves to be done, in order.
#[derive(Debug, Default)]
pub(super) struct Rest {
    steps: VecDeque<Step>,
}

#[derive(Debug)]
enum Step {
    /// These sessions, whose owner went, go to their successors. Those up to `after` have gone.
    Sessions {
        keys: OrdSet<SessionKey>,
        after: Option<SessionKey>,
    },
    /// Watchers that `of` owned, or a node that is not live, go to their successors. Those up to `after` were looked at.
    Watchers {
        of: Option<NodeId>,
        after: Option<SessionKey>,
    },
    /// What a node said of gateways counts no more.
    Breakers(NodeId),
    /// Opening results decided before this time are dropped.
    Openings { before_ms: u64 },
    /// Intents decided before this time are dropped.
    Intents { before_ms: u64 },
}

impl Rest {
    pub(super) fn hand_over_sessions(&mut self, keys: OrdSet<SessionKey>) {
        self.steps.push_back(Step::Sessions { keys, after: None });
    }

    pub(super) fn hand_over_watchers(&mut self, of: Option<NodeId>) {
        self.steps.push_back(Step::Watchers { of, after: None });
    }

    pub(super) fn forget_breakers_of(&mut self, node: NodeId) {
        self.steps.push_back(Step::Breakers(node));
    }

    pub(super) fn expire(&mut self, before_ms: u64) {
        let steps = [Step::Openings { before_ms }, Step::Intents { before_ms }];
        self.steps.extend(steps);
    }
}

impl ClusterState {
    /// Begins to apply one committed command. What concerns many records is left to [`Self::go_on`], so that whoever applies
    /// commands can do something else between two portions. A batch is applied at once.
    pub fn begin(&mut self, command: Command) -> UnderWay {
        let (mut changes, mut rest) = (Vec::new(), Rest::default());
        let applied = self.apply_one(command, &mut changes, &mut rest);
        UnderWay {
            applied,
            changes,
            rest,
        }
    }

    /// Applies the next portion, of a thousand records at most; true when the command is applied.
    #[must_use]
    pub fn go_on(&mut self, under_way: &mut UnderWay) -> bool {
        let UnderWay { changes, rest, .. } = under_way;
        let is_finished = self.do_portion(rest, changes, RECORDS_PER_PORTION);
        if is_finished && cfg!(debug_assertions) {
            self.assert_invariants(changes);
        }
        is_finished
    }

    pub(super) fn do_rest(&mut self, mut rest: Rest, changes: &mut Vec<Change>) {
        while !self.do_portion(&mut rest, changes, RECORDS_PER_PORTION) {}
    }

    /// Looks at `most` records at most; true when nothing is left.
    fn do_portion(&mut self, rest: &mut Rest, changes: &mut Vec<Change>, most: usize) -> bool {
        let mut left = most;
        while let Some(step) = rest.steps.front_mut() {
            if left == 0 {
                return false;
            }
            let looked_at = self.take_step(step, changes, left);
            // Fewer than there might have been: these were the last.
            if looked_at < left {
                rest.steps.pop_front();
            }
            left -= looked_at;
        }
        true
    }

    /// How many records were looked at.
    fn take_step(&mut self, step: &mut Step, changes: &mut Vec<Change>, most: usize) -> usize {
        match step {
            Step::Sessions { keys, after } => {
                let next = keys.range((behind(after.take()), Bound::Unbounded));
                let next: Vec<SessionKey> = next.take(most).cloned().collect();
                *after = next.last().cloned();
                let looked_at = next.len();
                self.give_to_successors(next, changes);
                looked_at
            }
            Step::Watchers { of, after } => {
                let next = self.watchers.range((behind(after.take()), Bound::Unbounded));
                let next = next.take(most).map(|(key, watcher)| (key.clone(), watcher.owner));
                let next: Vec<(SessionKey, NodeId)> = next.collect();
                *after = next.last().map(|(key, _)| key.clone());
                let looked_at = next.len();
                self.give_watchers_without_owner(next, *of, changes);
                looked_at
            }
            Step::Breakers(node) => {
                self.forget_breakers_of(*node, changes);
                0
            }
            Step::Openings { before_ms } => self.expire_openings(*before_ms, most),
            Step::Intents { before_ms } => self.expire_intents(*before_ms, most),
        }
    }
}

fn behind(after: Option<SessionKey>) -> Bound<SessionKey> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}

/// Records to a portion: a few milliseconds' worth where each is changed.
const RECORDS_PER_PORTION: usize = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::property_tests::history;
    use super::super::test_support::{
        apply_all, cluster_of, draining, lost, opened, registered, small_limits, watched,
    };
    use super::*;
    use crate::command::SessionChange;

    /// Applies a command in portions of so many records, and counts them.
    fn apply_in(state: &mut ClusterState, command: Command, most: usize) -> (Applied, Vec<Change>, usize) {
        let mut under_way = state.begin(command);
        let mut portions = 1;
        while !state.do_portion(&mut under_way.rest, &mut under_way.changes, most) {
            portions += 1;
        }
        let (applied, changes) = under_way.finish();
        (applied, changes, portions)
    }

    fn crowded() -> ClusterState {
        let mut state = cluster_of(3);
        apply_all(&mut state, (0..90).map(|number| opened(1 + number % 3, number)));
        apply_all(
            &mut state,
            (90..150).map(|number| watched(1 + number % 3, number)),
        );
        state
    }

    #[test]
    fn a_loss_in_portions_is_the_loss_at_once() {
        let commands = [
            lost(2, 1),
            draining(1, 1),
            registered(2, 2),
            registered(1, 2),
            Command::Expire { before_ms: 40 },
        ];
        for most in [1, 7, 30, 1000] {
            let (mut at_once, mut in_portions) = (crowded(), crowded());
            for command in commands.clone() {
                let (applied, changes, portions) = apply_in(&mut in_portions, command.clone(), most);
                assert_eq!(at_once.apply(command.clone()), (applied, changes));
                assert_eq!(in_portions, at_once, "{command:?} in portions of {most}");
                in_portions.check_invariants().unwrap();
                assert!(portions > 1 || most > 90, "{command:?} in portions of {most}");
            }
        }
    }

    #[test]
    fn a_portion_is_bounded() {
        let mut state = crowded();
        let mut under_way = state.begin(lost(2, 1));
        assert_eq!(under_way.changes, [Change::Node(NodeId(2))]);
        for portion in 1..=3 {
            assert!(!state.do_portion(&mut under_way.rest, &mut under_way.changes, 10));
            let moved = under_way
                .changes
                .iter()
                .filter(|change| matches!(change, Change::Session(SessionChange::Moved { .. })));
            assert_eq!(moved.count(), 10 * portion);
        }
        // All watchers are looked at, and those of the lost node are moved.
        for _ in 0..6 {
            assert!(!state.do_portion(&mut under_way.rest, &mut under_way.changes, 10));
        }
        assert!(state.do_portion(&mut under_way.rest, &mut under_way.changes, 10));
        assert_eq!(under_way.finish().1.len(), 1 + 30 + 20);
    }

    proptest! {
        #[test]
        fn portions_of_any_size_do_what_a_command_does_at_once(commands in history(), most in 1_usize..4) {
            let (mut at_once, mut in_portions) =
                (ClusterState::new(small_limits()), ClusterState::new(small_limits()));
            for command in commands {
                let (applied, changes, _) = apply_in(&mut in_portions, command.clone(), most);
                prop_assert_eq!(at_once.apply(command), (applied, changes));
                prop_assert_eq!(&in_portions, &at_once);
            }
        }
    }
}
