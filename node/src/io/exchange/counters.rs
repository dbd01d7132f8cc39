//! Metrics of the client.

use prometheus::{IntCounter, Registry};

/// Counters of one client; its clones share them.
#[derive(Debug, Clone)]
pub struct ClientCounters {
    pub connections_opened: IntCounter,
    /// Logins that were attempted, whatever the outcome.
    pub logins: IntCounter,
    pub logins_refused: IntCounter,
    /// Requests that were sent a second time, on a new connection.
    pub repeated: IntCounter,
    pub tokens_fetched: IntCounter,
}

impl ClientCounters {
    /// # Panics
    /// Never: the names are valid.
    #[must_use]
    pub(super) fn new() -> Self {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("the name is valid");
        Self {
            connections_opened: counter(
                "tandem_node_exchange_connections_opened_total",
                "Connections opened to Client Access Servers.",
            ),
            logins: counter(
                "tandem_node_exchange_logins_total",
                "Logins attempted at Client Access Servers.",
            ),
            logins_refused: counter(
                "tandem_node_exchange_logins_refused_total",
                "Logins refused; too many make the directory lock the account.",
            ),
            repeated: counter(
                "tandem_node_exchange_requests_repeated_total",
                "Requests sent again because their connection was lost.",
            ),
            tokens_fetched: counter(
                "tandem_node_exchange_tokens_fetched_total",
                "OAuth tokens issued to this node.",
            ),
        }
    }

    /// Registers them.
    ///
    /// # Errors
    /// If the registry has such names already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let Self {
            connections_opened,
            logins,
            logins_refused,
            repeated,
            tokens_fetched,
        } = self;
        for counter in [
            connections_opened,
            logins,
            logins_refused,
            repeated,
            tokens_fetched,
        ] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(())
    }
}
