//! User → Client Access Server: round robin at first, sticky ever after (CAL-2).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A Client Access Server, by its configured name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CasId(pub String);

impl fmt::Display for CasId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One presence gateway, in configured order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CasGateway {
    pub id: CasId,
    /// May be given users. A gateway that is not eligible keeps those it has until they fail.
    pub eligible: bool,
}

/// Why a user is where he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentReason {
    /// Enabled for the first time: the next eligible gateway took him.
    RoundRobin,
    /// His subscription failed at the gateway before this one.
    Failed,
    /// His gateway was removed.
    Removed,
}

/// One user's gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub cas: CasId,
    /// Grows by one with every move; a failure reported under an older epoch is about the past and ignored.
    pub epoch: u32,
    /// Unix time in milliseconds, the proposer's clock.
    pub since_ms: u64,
    pub reason: AssignmentReason,
}
