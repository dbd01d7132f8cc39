//! What a client asked of a register, when, and what it was told.

use std::fmt::{self, Debug};

/// One operation on one register, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<K, V> {
    pub key: K,
    pub request: Request<V>,
    /// Nanoseconds on a clock that all clients share and that never goes back.
    pub invoked_at: u64,
    pub outcome: Outcome<V>,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<V> {
    /// The answer is the value that the register holds.
    Read,
    /// From now on it holds this value; the answer says no more than that.
    Write(V),
    /// If the register holds `expected`, it holds `new` from now on. The answer says whether it did.
    CompareAndSet { expected: V, new: V },
    /// If the register holds `expected`, it holds another value from now on: `new`, or with `None` any that the register's
    /// keeper may choose. The answer is the value that it holds then, whoever put it there.
    Replace { expected: V, new: Option<V> },
}

/// What the client came to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<V> {
    Answered {
        at: u64,
        answer: Answer<V>,
    },
    /// The operation certainly had no effect.
    Failed,
    /// The operation may take effect at any time after its invocation, even after the history's end, or never.
    Unknown,
}

/// What was answered. One that does not belong to its request fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<V> {
    /// To [`Request::Write`].
    Done,
    /// To [`Request::Read`] and [`Request::Replace`].
    Value(V),
    /// To [`Request::CompareAndSet`].
    Swapped(bool),
}

impl<K, V> Operation<K, V> {
    /// An operation whose outcome its client knows.
    #[must_use]
    pub fn answered(key: K, request: Request<V>, invoked_at: u64, at: u64, answer: Answer<V>) -> Self {
        Self {
            key,
            request,
            invoked_at,
            outcome: Outcome::Answered { at, answer },
        }
    }

    /// An operation whose client gave up waiting, or lost its connection.
    #[must_use]
    pub fn unknown(key: K, request: Request<V>, invoked_at: u64) -> Self {
        Self {
            key,
            request,
            invoked_at,
            outcome: Outcome::Unknown,
        }
    }
}

impl<K, V: Debug> fmt::Display for Operation<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            request, invoked_at, ..
        } = self;
        match &self.outcome {
            Outcome::Answered { at, answer } => {
                write!(formatter, "{invoked_at}..{at}: {request:?} answered {answer:?}")
            }
            Outcome::Failed => write!(formatter, "{invoked_at}..: {request:?} failed"),
            Outcome::Unknown => write!(formatter, "{invoked_at}..: {request:?} with unknown outcome"),
        }
    }
}
