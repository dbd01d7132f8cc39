//! User → Client Access Server: round robin at first, sticky ever after (CAL-2).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::node::NodeId;

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
    /// May be given users, by an administrator's decision. A gateway that is not eligible keeps those it has until they fail.
    pub eligible: bool,
    /// The live nodes whose breaker is open for this gateway: it takes no users meanwhile.
    pub broken_for: BTreeSet<NodeId>,
    /// Where it is and how it is spoken to.
    pub endpoint: CasEndpoint,
}

impl CasGateway {
    /// Whether the rotation stops here.
    #[must_use]
    pub fn takes_users(&self) -> bool {
        self.eligible && self.broken_for.is_empty()
    }
}

/// CAL-1: a presence gateway as it was configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CasEndpoint {
    /// FQDN, IPv4 or IPv6 address, without brackets.
    pub host: String,
    pub port: u16,
    pub description: String,
    /// Send the channel binding of TLS with NTLM. Off for a server behind a balancer that ends TLS.
    pub channel_binding: bool,
    /// RSA-1024 and SHA-1 in its certificates are accepted, over TLS 1.2 only.
    pub legacy_algorithms: bool,
}

impl CasEndpoint {
    /// A gateway of which only the name is known: the name is the host.
    #[must_use]
    pub fn of(id: &CasId) -> Self {
        Self {
            host: id.0.clone(),
            port: 443,
            description: String::new(),
            channel_binding: true,
            legacy_algorithms: false,
        }
    }
}

/// Why a user has this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentReason {
    /// Enabled for the first time: the next eligible gateway took the user.
    RoundRobin,
    /// His subscription failed at the gateway before this one.
    Failed,
    /// His gateway was removed.
    Removed,
    /// An administrator asked for even shares.
    Rebalanced,
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
