//! The envelope in which a command stands in the log.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::command::Command;
use super::node::NodeId;

/// A command, and on whose behalf it was proposed. The log stores it with the number of its format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub actor: Actor,
    pub command: Command,
}

/// Who wanted a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actor {
    /// Unknown: the entry was written in the format of release 0.1.
    Unknown,
    /// A member by itself, in the course of its work.
    Member(NodeId),
    /// A person or a program at the admin listener, by the name under which they came in.
    Administrator(String),
}

impl Proposal {
    /// As an entry of release 0.1 is read.
    #[must_use]
    pub fn of_unknown(command: Command) -> Self {
        Self {
            actor: Actor::Unknown,
            command,
        }
    }
}

/// For traces of the log, where contents do not belong.
impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("proposal")
    }
}
