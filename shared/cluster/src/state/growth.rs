//! What adds to the state, and what is left of a command when nothing may be added.

use std::collections::BTreeSet;

use super::ClusterState;
use crate::assignment::CasId;
use crate::command::{Applied, Command, Refusal};

impl ClusterState {
    /// Whether the command would add to a table now. One that [`Command::grows_state`] names does not if it only changes
    /// what is there: a session that was opened already, a watcher that subscribes again.
    #[must_use]
    pub fn grows_by(&self, command: &Command) -> bool {
        command.grows_state() && !self.holds_already(command)
    }

    fn holds_already(&self, command: &Command) -> bool {
        match command {
            Command::SessionOpened { opening, record, .. } => {
                self.openings.contains_key(opening) || self.sessions.contains_key(&record.key)
            }
            Command::WatcherSet { record } => self.watchers.contains_key(&record.key),
            Command::CasAssign { users, .. } => users
                .iter()
                .all(|user| self.assignments.contains_key(user.as_str())),
            Command::CasGatewaysSet { gateways, .. } => self.knows_gateways(gateways.iter()),
            Command::CasGatewaysConfigured { gateways, .. } => {
                self.knows_gateways(gateways.iter().map(|(id, _)| id))
            }
            Command::CalendarEnabled { users, .. } => users
                .iter()
                .all(|user| self.calendar_enabled.contains_key(user.as_str())),
            Command::ManualPresenceSet { user, .. } => self.presence.contains_key(user.as_str()),
            Command::Batch(commands) => !commands.iter().any(|command| self.grows_by(command)),
            Command::SecretSet { .. }
            | Command::NodeRegistered { .. }
            | Command::NodeLost { .. }
            | Command::NodeDraining { .. }
            | Command::SessionUpdated { .. }
            | Command::SessionClosed { .. }
            | Command::Adopt { .. }
            | Command::Intent { .. }
            | Command::IntentResult { .. }
            | Command::Expire { .. }
            | Command::SettingChanged { .. }
            | Command::CasEligible { .. }
            | Command::CasFailed { .. }
            | Command::CasUnassign { .. }
            | Command::Rebalance { .. }
            | Command::CasBreaker { .. }
            | Command::CasMoved { .. }
            | Command::CallbacksReceived { .. }
            | Command::CalendarPresenceChanged { .. }
            | Command::WatcherRemoved { .. }
            | Command::WatcherAdopted { .. }
            | Command::FormatFinalised { .. }
            | Command::MemberRemoved { .. }
            | Command::ClusterIdentified { .. }
            | Command::StateMarked => false,
        }
    }

    fn knows_gateways<'a>(&self, mut ids: impl Iterator<Item = &'a CasId>) -> bool {
        let known: BTreeSet<&CasId> = self.gateways.iter().map(|gateway| &gateway.id).collect();
        ids.all(|id| known.contains(id))
    }

    /// Takes out of a command what would add to the state; the rest of a batch goes through.
    #[must_use]
    pub fn without_growth(&self, command: Command) -> WithoutGrowth {
        if let Command::Batch(commands) = command {
            let parts = commands.into_iter().map(|command| self.without_growth(command));
            let (rest, kept): (Vec<_>, Vec<_>) = parts.map(|part| (part.rest, part.kept)).unzip();
            let rest: Vec<Command> = rest.into_iter().flatten().collect();
            // An empty batch adds nothing and is answered as what it is.
            let is_empty = rest.is_empty() && !kept.is_empty();
            return WithoutGrowth {
                rest: (!is_empty).then_some(Command::Batch(rest)),
                kept: Kept::Parts(kept),
            };
        }
        let grows = self.grows_by(&command);
        WithoutGrowth {
            rest: (!grows).then_some(command),
            kept: if grows { Kept::Nothing } else { Kept::Whole },
        }
    }
}

/// A command of which what would add to the state was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutGrowth {
    /// What may be proposed, if anything.
    pub rest: Option<Command>,
    kept: Kept,
}

/// How much of a command is in the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kept {
    Whole,
    Nothing,
    /// Of a batch.
    Parts(Vec<Self>),
}

impl WithoutGrowth {
    /// The answer to the whole command, from what came of its rest (`None` if there was none).
    #[must_use]
    pub fn answer(self, of_rest: Option<Applied>) -> Applied {
        self.kept.answer(of_rest)
    }
}

impl Kept {
    fn is_in_the_rest(&self) -> bool {
        match self {
            Self::Whole => true,
            Self::Nothing => false,
            Self::Parts(parts) => parts.is_empty() || parts.iter().any(Self::is_in_the_rest),
        }
    }

    fn answer(self, of_rest: Option<Applied>) -> Applied {
        match (self, of_rest) {
            (Self::Whole, Some(applied)) => applied,
            (Self::Parts(parts), Some(Applied::Batch(of_rest))) => {
                let mut of_rest = of_rest.into_iter();
                let answers = parts.into_iter().map(|part| {
                    let own = part.is_in_the_rest().then(|| of_rest.next()).flatten();
                    part.answer(own)
                });
                Applied::Batch(answers.collect())
            }
            (Self::Parts(parts), None) => {
                Applied::Batch(parts.into_iter().map(|part| part.answer(None)).collect())
            }
            // A rest that was refused as a whole answers for everything.
            (Self::Parts(_), Some(applied)) => applied,
            (Self::Nothing | Self::Whole, _) => Applied::Refused(Refusal::DiskNearlyFull),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::property_tests::history;
    use super::super::test_support::{
        apply_all, assign, cluster_of, gateways, lost, opened, small_limits, watched,
    };
    use super::*;
    use crate::golden_samples_tests::all_commands;

    const REFUSED: Applied = Applied::Refused(Refusal::DiskNearlyFull);

    #[test]
    fn the_commands_that_add_to_the_state_are_these() {
        let commands = all_commands().into_iter().map(|(_, command)| command);
        let mut growing: Vec<String> = commands
            .filter(Command::grows_state)
            .map(|command| name_of(&command))
            .collect();
        growing.dedup();
        let expected = [
            "SessionOpened",
            "CasGatewaysSet",
            "CasAssign",
            "CasGatewaysConfigured",
            "CalendarEnabled",
            "ManualPresenceSet",
            "WatcherSet",
            "SecretSet",
        ];
        assert_eq!(growing, expected);
    }

    /// `NodeLost { … }` → `NodeLost`.
    fn name_of(command: &Command) -> String {
        let described = format!("{command:?}");
        described.split([' ', '(']).next().unwrap().to_owned()
    }

    #[test]
    fn what_is_there_already_does_not_add_to_the_state() {
        let mut state = cluster_of(2);
        let growing = [gateways(&["a", "b"]), opened(1, 1), watched(1, 4), assign([1, 2])];
        for command in &growing {
            assert!(state.grows_by(command), "{command:?}");
            state.apply(command.clone());
            assert!(!state.grows_by(command), "{command:?}");
        }
        assert!(state.grows_by(&assign([2, 3])));
        assert!(!state.grows_by(&gateways(&["b"])));
        assert!(!state.grows_by(&lost(1, 1)));
    }

    #[test]
    fn the_rest_of_a_batch_goes_through_and_the_answer_keeps_its_places() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1)]);
        let again = || opened(1, 1);
        let command = Command::Batch(vec![
            opened(1, 2),
            lost(2, 1),
            Command::Batch(vec![opened(1, 3)]),
            Command::Batch(vec![opened(1, 4), again()]),
        ]);
        let thinned = state.without_growth(command);
        let rest = Command::Batch(vec![lost(2, 1), Command::Batch(vec![again()])]);
        assert_eq!(thinned.rest, Some(rest.clone()));
        let (applied, _) = state.apply(rest);
        let Applied::Batch(answers) = thinned.answer(Some(applied)) else {
            panic!("no answer to a batch");
        };
        assert_eq!(
            answers[..3],
            [REFUSED, Applied::Done, Applied::Batch(vec![REFUSED])]
        );
        let Applied::Batch(last) = &answers[3] else {
            panic!("no answer to the batch within")
        };
        assert!(
            matches!(&last[..], [REFUSED, Applied::AlreadyOpened { .. }]),
            "{last:?}"
        );
    }

    #[test]
    fn a_command_that_only_adds_leaves_no_rest() {
        let state = cluster_of(1);
        let alone = state.without_growth(opened(1, 1));
        assert_eq!((alone.rest.clone(), alone.answer(None)), (None, REFUSED));
        let batch = state.without_growth(Command::Batch(vec![opened(1, 1), opened(1, 2)]));
        assert_eq!(batch.rest, None);
        assert_eq!(batch.answer(None), Applied::Batch(vec![REFUSED, REFUSED]));
    }

    proptest! {
        #[test]
        fn without_growth_no_table_of_new_things_grows(past in history(), then in history()) {
            let mut state = ClusterState::new(small_limits());
            for command in past {
                state.apply(command);
            }
            let sizes = |state: &ClusterState| [
                state.sessions.len(),
                state.openings.len(),
                state.watchers.len(),
                state.assignments.len(),
                state.gateways.len(),
                state.calendar_enabled.len(),
                state.settings.len(),
            ];
            for command in then {
                if matches!(command, Command::SettingChanged { .. }) {
                    continue;
                }
                let before = sizes(&state);
                let thinned = state.without_growth(command.clone());
                if let Some(rest) = thinned.rest.clone() {
                    state.apply(rest);
                }
                let after = sizes(&state);
                assert!(before.iter().zip(after).all(|(before, after)| after <= *before), "{command:?}");
            }
        }

        #[test]
        fn a_command_without_growth_is_left_as_it_is(past in history(), command in history()) {
            let mut state = ClusterState::new(small_limits());
            for command in past {
                state.apply(command);
            }
            for command in command {
                if !state.grows_by(&command) {
                    let thinned = state.without_growth(command.clone());
                    assert_eq!(thinned.rest.as_ref(), Some(&command));
                    let (applied, _) = state.apply(command);
                    assert_eq!(thinned.answer(Some(applied.clone())), applied);
                }
            }
        }
    }
}
