//! What clients asked of the assignments of a few users, and what they were told: material for a judge.
//!
//! Owns the record of each operation. Does not own the judgement. What always holds: an operation is recorded once it is
//! over, with what is known of it; times are of one monotonic clock, which began with the history.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{NotConnected, post_to};

/// Clones share the record.
#[derive(Debug, Clone)]
pub struct History {
    began: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

/// One question of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The user whose assignment it is about: a register of its own.
    pub key: String,
    pub kind: OperationKind,
    /// Nanoseconds since the history began.
    pub invoked: u64,
    /// The same; of an operation without an answer, when the client gave up waiting.
    pub responded: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// Reads the register; where there is nothing in it, puts the next server into it first.
    Assign,
    /// Moves the user on to another server and raises the epoch by one, unless the node that was asked knew an older
    /// epoch than the register has; then it changes nothing. Reads the register afterwards.
    Fail,
}

/// What the client knows of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out, and found or left this in the register.
    Known(Register),
    /// It was certainly not carried out, and never will be.
    Failed,
    /// It may have been carried out, at any time since it was invoked, or may yet be.
    Unknown,
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    pub server: String,
    pub epoch: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            operations: Arc::default(),
        }
    }
}

impl History {
    /// Carries out one operation at the node that listens there, and records it; true when it was acknowledged.
    pub async fn perform(
        &self,
        admin: SocketAddr,
        key: &str,
        kind: OperationKind,
        patience: Duration,
    ) -> bool {
        let path = match kind {
            OperationKind::Assign => "/cas/assign",
            OperationKind::Fail => "/cas/fail",
        };
        let body = json!({ "users": [key] });
        let invoked = self.now();
        let answer = tokio::time::timeout(patience, post_to(admin, path, &body)).await;
        let outcome = match answer {
            Ok(Ok(answer)) => register(&answer[key]),
            Ok(Err(error)) if error.downcast_ref::<NotConnected>().is_some() => Outcome::Failed,
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        let acknowledged = matches!(outcome, Outcome::Known(_));
        let operation = Operation {
            key: key.to_owned(),
            kind,
            invoked,
            responded: self.now(),
            outcome,
        };
        let mut operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.push(operation);
        acknowledged
    }

    /// Everything so far, in the order in which it was over.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        let operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.clone()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A user who is not assigned yet has no assignment that could fail.
fn register(assignment: &serde_json::Value) -> Outcome {
    match (assignment["cas"].as_str(), assignment["epoch"].as_u64()) {
        (Some(server), Some(epoch)) => Outcome::Known(Register {
            server: server.to_owned(),
            epoch,
        }),
        _ => Outcome::Failed,
    }
}
