//! Whether a history of operations on registers is linearizable: whether every operation can be thought of as done at one
//! moment between its invocation and its response, so that each answer is what a single register would have given.
//!
//! Owns the search, which is that of Wing and Gong with Lowe's memory of configurations; keys are checked one by one, since
//! a history is linearizable exactly when it is so for each key. Does not own how a history is recorded, and reads no
//! clock. What always holds: a search is bounded, and a bound that is reached is told as [`Verdict::Undecided`], never as
//! one of the other two.

#[cfg(test)]
mod definition_tests;
mod history;
mod register;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::hash::Hash;

pub use history::{Answer, Operation, Outcome, Request};

/// What came of checking a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<K, V> {
    /// A single register for each key could have given all these answers.
    Linearizable,
    /// For this key no order of the operations explains the answers.
    Refused(Box<Refusal<K, V>>),
    /// The bound was reached before an answer was found for this key; nothing is wrong with the keys that are not named.
    Undecided { keys: Vec<K> },
}

/// Why the operations on one key are not linearizable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<K, V> {
    pub key: K,
    /// The longest order that explains every response before that of `misfit`. What is no part of it had no response by
    /// then, and need not have taken effect.
    pub prefix: Vec<Operation<K, V>>,
    /// The operation whose response fits into no continuation of any such order.
    pub misfit: Operation<K, V>,
}

/// Checks a history of any number of keys, each of which holds `initial` at first. For each key at most
/// `configurations_max` configurations (what has taken effect, and what the register then holds) are looked at.
#[must_use]
pub fn check<K, V>(
    history: impl IntoIterator<Item = Operation<K, V>>,
    initial: &V,
    configurations_max: usize,
) -> Verdict<K, V>
where
    K: Ord + Clone,
    V: Ord + Hash + Clone,
{
    let mut keys: BTreeMap<K, Vec<Operation<K, V>>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key.clone()).or_default().push(operation);
    }
    let mut undecided = Vec::new();
    for (key, operations) in keys {
        match search::search(&operations, initial, configurations_max) {
            search::Found::Order => {}
            search::Found::Bound => undecided.push(key),
            search::Found::Nothing { order, misfit } => {
                let prefix = order.into_iter().map(|index| operations[index].clone());
                return Verdict::Refused(Box::new(Refusal {
                    key,
                    prefix: prefix.collect(),
                    misfit: operations[misfit].clone(),
                }));
            }
        }
    }
    match undecided.is_empty() {
        true => Verdict::Linearizable,
        false => Verdict::Undecided { keys: undecided },
    }
}

impl<K: Debug, V: Debug> fmt::Display for Refusal<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left_out = self.prefix.len().saturating_sub(OPERATIONS_SHOWN);
        writeln!(formatter, "the operations on {:?} are not linearizable", self.key)?;
        if left_out > 0 {
            writeln!(formatter, "  {left_out} operations, and then")?;
        }
        for operation in &self.prefix[left_out..] {
            writeln!(formatter, "  {operation}")?;
        }
        write!(formatter, "  {} does not fit", self.misfit)
    }
}

/// Of the prefix, so many operations at its end are shown.
const OPERATIONS_SHOWN: usize = 12;
