//! Whether what clients were told of assignments is what single registers could have told.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};

use crate::linearizability::{self, Answer, Request, Verdict};

use super::history::{Operation, OperationKind, Outcome};

/// Judges all operations; says how many there were.
///
/// A register holds 0 while there is no assignment, and afterwards its epoch plus one: with every move the epoch grows by
/// one, and to one epoch belongs one server.
pub fn ensure_linearizable(operations: &[Operation]) -> anyhow::Result<String> {
    ensure_one_server_for_an_epoch(operations)?;
    let latest = latest_values(operations);
    let history = operations
        .iter()
        .flat_map(|operation| as_register_operations(operation, latest[operation.key.as_str()]));
    match linearizability::check(history, &0_u64, CONFIGURATIONS_MAX) {
        Verdict::Linearizable => Ok(format!(
            "{} operations on {} registers are linearizable",
            operations.len(),
            latest.len()
        )),
        Verdict::Refused(refusal) => bail!("{refusal}"),
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

/// By key: the latest value that anybody was told.
fn latest_values(operations: &[Operation]) -> BTreeMap<&str, u64> {
    let mut latest = BTreeMap::new();
    for operation in operations {
        let value = latest.entry(operation.key.as_str()).or_insert(0);
        if let Outcome::Known(register) = &operation.outcome {
            *value = (*value).max(register.epoch + 1);
        }
    }
    latest
}

fn as_register_operations(
    operation: &Operation,
    latest: u64,
) -> Vec<linearizability::Operation<String, u64>> {
    let advance = |from: u64| Request::Replace {
        expected: from,
        new: Some(from + 1),
    };
    let (key, invoked) = (operation.key.clone(), operation.invoked);
    match (&operation.outcome, operation.kind) {
        (Outcome::Failed, _) => Vec::new(),
        (Outcome::Known(register), kind) => {
            let value = register.epoch + 1;
            let request = match kind {
                OperationKind::Assign => advance(0),
                OperationKind::Fail => advance(register.epoch),
            };
            let answer = Answer::Value(value);
            let answered =
                linearizability::Operation::answered(key, request, invoked, operation.responded, answer);
            vec![answered]
        }
        (Outcome::Unknown, OperationKind::Assign) => {
            vec![linearizability::Operation::unknown(key, advance(0), invoked)]
        }
        // Which epoch the node knew is not known: it may have been any.
        (Outcome::Unknown, OperationKind::Fail) => (1..=latest)
            .map(|from| linearizability::Operation::unknown(key.clone(), advance(from), invoked))
            .collect(),
    }
}

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
