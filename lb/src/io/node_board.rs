//! Where the node table hangs for all to read.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balancer::node_table::{NodeTable, SharedTable};

/// The table of the moment. Reading takes no lock; whoever wants to hear of changes subscribes.
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
    #[must_use]
    pub fn table(&self) -> SharedTable {
        self.table.load_full()
    }

    pub fn publish(&self, table: NodeTable) {
        self.table.store(Arc::new(table));
        self.version.send_modify(|version| *version += 1);
    }

    /// Says when there is a new table, without saying it for the one of now.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
