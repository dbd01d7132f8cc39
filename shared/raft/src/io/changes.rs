//! Every change of the replicated state, in order, to whoever follows.

use std::sync::Arc;

use tokio::sync::broadcast;

use tandem_cluster::Change;

/// Entries that a follower may lag behind before it is told to read the state anew.
const ENTRIES_BEHIND_MAX: usize = 8192;

#[derive(Debug, Clone)]
pub(super) struct ChangeSender(broadcast::Sender<Arc<Vec<Change>>>);

impl ChangeSender {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(ENTRIES_BEHIND_MAX))
    }

    pub(super) fn send(&self, changes: Vec<Change>) {
        if !changes.is_empty() {
            // Nobody following is no fault.
            let _ = self.0.send(Arc::new(changes));
        }
    }

    pub(super) fn subscribe(&self) -> ChangeReceiver {
        ChangeReceiver(self.0.subscribe())
    }
}

/// Changes from the moment of [`super::Cluster::changes`] on.
#[derive(Debug)]
pub struct ChangeReceiver(broadcast::Receiver<Arc<Vec<Change>>>);

impl ChangeReceiver {
    /// The next changes. One who falls too far behind gets a single `Change::Replaced` and reads the state anew.
    /// `None` when the member is gone. Cancelling loses nothing.
    pub async fn recv(&mut self) -> Option<Vec<Change>> {
        match self.0.recv().await {
            Ok(changes) => Some(changes.to_vec()),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(vec![Change::Replaced]),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
