//! `ClusterState::apply`: the one function that turns the log into what everybody knows.

use serde::{Deserialize, Serialize};

use super::command::{Applied, Change, Command};

/// Bounds of the replicated tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateLimits {
    pub sessions_max: usize,
    pub calls_per_session_max: usize,
    pub intents_max: usize,
    pub opening_results_max: usize,
    pub users_assigned_max: usize,
    pub settings_max: usize,
}

/// Everything that is replicated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    limits: StateLimits,
}

impl ClusterState {
    #[must_use]
    pub fn new(limits: StateLimits) -> Self {
        Self { limits }
    }

    /// Applies one committed command. Deterministic: same state, same command, same result on every member.
    pub fn apply(&mut self, command: Command) -> (Applied, Vec<Change>) {
        drop(command);
        (Applied::Done, Vec::new())
    }
}
