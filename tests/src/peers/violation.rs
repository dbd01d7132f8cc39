//! What a client finds wrong, and which of the promises made to it that breaks.

use std::fmt;

/// What was promised to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A request gets one final answer (RFC 3261 §17.2).
    OneAnswer,
    /// The session lasts until the client ends it (CL-2).
    SessionKept,
    /// Each event of a call comes once and in order (RCC-6).
    EventsInOrder,
    /// A client hears of its own line and monitor, and of nobody else's.
    OwnEvents,
    /// Each message is as the standards and the client want it (docs/spec/uacsta.md).
    Form,
}

/// A promise that was broken, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub promise: Promise,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}
