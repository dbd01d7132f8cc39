//! Publishes the node table to all connections.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balancer::node_table::{NodeTable, SharedTable};

/// The current node table. Reading it takes no lock; subscribers are notified of changes.
#[derive(Debug)]
pub struct NodeBoard {
    table: ArcSwap<NodeTable>,
    version: watch::Sender<u64>,
}

impl Default for NodeBoard {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            version: watch::Sender::new(0),
        }
    }
}

impl NodeBoard {
    /// The current table.
    #[must_use]
    pub fn table(&self) -> SharedTable {
        self.table.load_full()
    }

    /// Replaces the table and notifies subscribers.
    pub fn publish(&self, table: NodeTable) {
        self.table.store(Arc::new(table));
        self.version.send_modify(|version| *version += 1);
    }

    /// A receiver that is notified of each table published from now on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
