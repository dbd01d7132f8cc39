//! A single register: what an operation does to what it holds.

use super::history::{Answer, Request};

/// What the register holds, as far as the operations so far tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Held<V> {
    Value(V),
    /// A value that its keeper chose and that nobody has been told yet: any but these.
    AnyBut(Vec<V>),
}

impl<V: Ord + Clone> Held<V> {
    /// What the register holds after an answered operation; `None` when the answer cannot be.
    pub(super) fn answered(&self, request: &Request<V>, answer: &Answer<V>) -> Option<Self> {
        match (request, answer) {
            (Request::Read, Answer::Value(seen)) => self.may_be(seen).then(|| Self::Value(seen.clone())),
            (Request::Write(value), Answer::Done) => Some(Self::Value(value.clone())),
            (Request::CompareAndSet { expected, new }, Answer::Swapped(true)) => {
                self.may_be(expected).then(|| Self::Value(new.clone()))
            }
            (Request::CompareAndSet { expected, .. }, Answer::Swapped(false)) => self.other_than(expected),
            (Request::Replace { expected, new }, Answer::Value(now)) => {
                let is_chosen = new.as_ref().is_none_or(|new| new == now);
                let replaced = is_chosen && self.may_be(expected);
                let kept = now != expected && self.may_be(now);
                (replaced || kept).then(|| Self::Value(now.clone()))
            }
            (Request::Read, Answer::Done | Answer::Swapped(_))
            | (Request::Write(_), Answer::Value(_) | Answer::Swapped(_))
            | (Request::CompareAndSet { .. }, Answer::Done | Answer::Value(_))
            | (Request::Replace { .. }, Answer::Done | Answer::Swapped(_)) => None,
        }
    }

    /// What the register holds after an operation that nobody was answered; `None` when it changes nothing.
    pub(super) fn unanswered(&self, request: &Request<V>) -> Option<Self> {
        match request {
            Request::Read => None,
            Request::Write(value) => Some(Self::Value(value.clone())),
            Request::CompareAndSet { expected, new } => {
                self.may_be(expected).then(|| Self::Value(new.clone()))
            }
            Request::Replace { expected, new } => self.may_be(expected).then(|| match new {
                Some(new) => Self::Value(new.clone()),
                None => Self::AnyBut(Vec::new()),
            }),
        }
    }

    fn may_be(&self, value: &V) -> bool {
        match self {
            Self::Value(held) => held == value,
            Self::AnyBut(excluded) => excluded.binary_search(value).is_err(),
        }
    }

    /// The same, now that it is known not to be `value`.
    fn other_than(&self, value: &V) -> Option<Self> {
        match self {
            Self::Value(held) => (held != value).then(|| self.clone()),
            Self::AnyBut(excluded) => {
                let mut excluded = excluded.clone();
                if let Err(position) = excluded.binary_search(value) {
                    excluded.insert(position, value.clone());
                }
                Some(Self::AnyBut(excluded))
            }
        }
    }
}
