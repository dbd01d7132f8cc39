//! Whether what clients were told of assignments is what single registers could have told.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{bail, ensure};

use crate::linearizability::{self, Answer, Request, Verdict};

use super::history::{Operation, OperationKind, Outcome};

/// Judges all operations; says how many there were.
///
/// A register holds 0 while there is no assignment, and afterwards its epoch plus one: with every move the epoch grows by
/// one, and to one epoch belongs one server.
pub fn ensure_linearizable(operations: &[Operation]) -> anyhow::Result<String> {
    ensure_one_server_for_an_epoch(operations)?;
    let mut registers: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        registers.entry(&operation.key).or_default().push(operation);
    }
    let history = registers
        .values()
        .flat_map(|of_register| as_register_operations(of_register));
    match linearizability::check(history, &0_u64, CONFIGURATIONS_MAX) {
        Verdict::Linearizable => Ok(format!(
            "{} operations on {} registers are linearizable",
            operations.len(),
            registers.len()
        )),
        Verdict::Refused(refusal) => {
            let meanwhile = at_the_time_of(&refusal.misfit, &registers[refusal.key.as_str()]);
            bail!("{refusal}\nWhat was asked at that time:\n{meanwhile}")
        }
        Verdict::Undecided { keys } => bail!("too many operations of unknown outcome on {keys:?}"),
    }
}

fn ensure_one_server_for_an_epoch(operations: &[Operation]) -> anyhow::Result<()> {
    let mut servers = BTreeMap::new();
    for operation in operations {
        if let Outcome::Known(register) = &operation.outcome {
            let epoch = (operation.key.as_str(), register.epoch);
            let server = servers.entry(epoch).or_insert(register.server.as_str());
            ensure!(
                *server == register.server,
                "{epoch:?} is told to be at {server} and at {}",
                register.server
            );
        }
    }
    Ok(())
}

/// The operations of one register.
fn as_register_operations(operations: &[&Operation]) -> Vec<linearizability::Operation<String, u64>> {
    let latest = latest_value(operations.iter().copied());
    let mut answered = Vec::new();
    // Values only grow, so each step is taken once, whoever takes it: the one who asked first stands for all.
    let mut steps: BTreeMap<u64, &Operation> = BTreeMap::new();
    for operation in operations {
        let ended_before = operations
            .iter()
            .copied()
            .filter(|other| other.responded < operation.invoked);
        let earliest = latest_value(ended_before);
        for from in unseen_steps(operation, earliest, latest) {
            let first = steps.entry(from).or_insert(operation);
            if operation.invoked < first.invoked {
                *first = operation;
            }
        }
        answered.extend(as_answered(operation));
    }
    let steps = steps.into_iter().map(|(from, first)| {
        linearizability::Operation::unknown(first.key.clone(), step(from), first.invoked)
    });
    steps.chain(answered).collect()
}

/// The latest value that anybody was told.
fn latest_value<'a>(operations: impl Iterator<Item = &'a Operation>) -> u64 {
    let told = operations.filter_map(|operation| match &operation.outcome {
        Outcome::Known(register) => Some(register.epoch + 1),
        Outcome::Failed | Outcome::Unknown => None,
    });
    told.max().unwrap_or(0)
}

fn step(from: u64) -> Request<u64> {
    Request::Replace {
        expected: from,
        new: Some(from + 1),
    }
}

/// From which values an operation may have raised the register by one without having told so. `earliest` is the latest
/// value that anybody was told before it was invoked, and `latest` of all.
fn unseen_steps(operation: &Operation, earliest: u64, latest: u64) -> Range<u64> {
    match (&operation.outcome, operation.kind) {
        (Outcome::Failed, _) | (Outcome::Known(_), OperationKind::Assign) => 0..0,
        (Outcome::Unknown, OperationKind::Assign) => 0..1,
        // Which epoch the node knew is not known. An earlier one than the register has changes nothing.
        (Outcome::Unknown, OperationKind::Fail) => earliest.max(1)..latest + 1,
        // The node asks again when the leader falls silent. The first attempt may have moved the user on, and the second
        // one told what others made of it meanwhile. (That only one of the two moves them on is not checked.)
        (Outcome::Known(register), OperationKind::Fail) => earliest.max(1)..register.epoch,
    }
}

fn as_answered(operation: &Operation) -> Option<linearizability::Operation<String, u64>> {
    let Outcome::Known(register) = &operation.outcome else {
        return None;
    };
    let from = match operation.kind {
        OperationKind::Assign => 0,
        OperationKind::Fail => register.epoch,
    };
    Some(linearizability::Operation::answered(
        operation.key.clone(),
        step(from),
        operation.invoked,
        operation.responded,
        Answer::Value(register.epoch + 1),
    ))
}

/// A line for each operation that was under way shortly before or after this one was.
fn at_the_time_of(misfit: &linearizability::Operation<String, u64>, operations: &[&Operation]) -> String {
    let from = misfit.invoked_at.saturating_sub(SHOWN_AROUND_NS);
    let to = misfit.invoked_at + SHOWN_AROUND_NS;
    let lines = operations
        .iter()
        .filter(|operation| operation.responded >= from && operation.invoked <= to);
    lines.map(|operation| format!("  {operation:?}\n")).collect()
}

const SHOWN_AROUND_NS: u64 = 5_000_000_000;
const CONFIGURATIONS_MAX: usize = 2_000_000;

#[cfg(test)]
mod tests {
    use super::super::history::Register;
    use super::*;

    fn told(kind: OperationKind, invoked: u64, responded: u64, epoch: u64) -> Operation {
        Operation {
            key: "user".to_owned(),
            kind,
            invoked,
            responded,
            outcome: Outcome::Known(Register {
                server: format!("cas-{}", epoch % 2),
                epoch,
            }),
        }
    }

    fn unknown(kind: OperationKind, invoked: u64) -> Operation {
        Operation {
            outcome: Outcome::Unknown,
            ..told(kind, invoked, invoked + 1, 0)
        }
    }

    #[test]
    fn moves_one_after_the_other_and_an_unknown_one_are_linearizable() {
        let history = [
            told(OperationKind::Assign, 0, 1, 0),
            told(OperationKind::Fail, 2, 3, 1),
            unknown(OperationKind::Fail, 4),
            told(OperationKind::Assign, 6, 7, 1),
            told(OperationKind::Assign, 8, 9, 2),
            told(OperationKind::Fail, 10, 13, 3),
            told(OperationKind::Fail, 11, 12, 3),
        ];
        ensure_linearizable(&history).unwrap();
    }

    #[test]
    fn a_move_that_is_asked_for_twice_may_tell_of_the_next_one() {
        let history = |second: Operation| {
            [
                told(OperationKind::Assign, 0, 1, 0),
                told(OperationKind::Fail, 2, 20, 2),
                second,
                told(OperationKind::Fail, 21, 22, 3),
            ]
        };
        ensure_linearizable(&history(told(OperationKind::Fail, 10, 11, 2))).unwrap();
        let nobody_moved_it = history(told(OperationKind::Assign, 10, 11, 3));
        assert!(ensure_linearizable(&nobody_moved_it).is_err());
    }

    #[test]
    fn a_history_with_many_unknown_outcomes_is_decided() {
        let mut history = vec![told(OperationKind::Assign, 0, 1, 0)];
        for epoch in 1..50 {
            let at = epoch * 10;
            history.extend([
                unknown(OperationKind::Fail, at),
                unknown(OperationKind::Fail, at + 1),
            ]);
            history.push(told(OperationKind::Fail, at + 2, at + 9, epoch));
            history.push(told(OperationKind::Assign, at + 3, at + 8, epoch));
        }
        ensure_linearizable(&history).unwrap();
        let stale = told(OperationKind::Assign, 2000, 2001, 48);
        history.push(stale);
        ensure_linearizable(&history).unwrap_err();
    }

    #[test]
    fn a_stale_answer_a_lost_move_and_two_servers_are_refused() {
        let begin = [
            told(OperationKind::Assign, 0, 1, 0),
            told(OperationKind::Fail, 2, 3, 1),
        ];
        let stale = told(OperationKind::Assign, 4, 5, 0);
        let lost = [
            told(OperationKind::Fail, 4, 5, 2),
            told(OperationKind::Assign, 6, 7, 1),
        ];
        let mut elsewhere = told(OperationKind::Assign, 4, 5, 1);
        if let Outcome::Known(register) = &mut elsewhere.outcome {
            register.server = "cas-9".to_owned();
        }
        for wrong in [vec![stale], lost.to_vec(), vec![elsewhere]] {
            let history: Vec<_> = begin.iter().cloned().chain(wrong).collect();
            assert!(ensure_linearizable(&history).is_err(), "{history:?}");
        }
    }
}
