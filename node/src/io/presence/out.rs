//! Batches calendar states into few entries of the log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_cluster::{Applied, CalendarPresence, NodeId};
use tandem_raft::{Cluster, ProposeError};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::metrics::PresenceMetrics;
use crate::presence::outgoing::{Batch, Outgoing};

/// Accepts calendar states without ever making the calendars wait. Clones share it.
#[derive(Clone)]
pub struct PresenceOut {
    outgoing: Arc<Mutex<Outgoing>>,
    arrived: Arc<Notify>,
    metrics: PresenceMetrics,
}

impl PresenceOut {
    #[must_use]
    pub fn new(metrics: PresenceMetrics) -> Self {
        Self {
            outgoing: Arc::default(),
            arrived: Arc::default(),
            metrics,
        }
    }

    /// Only the latest state of a user counts; beyond the limit of users that wait, a state is dropped, with a warning.
    pub fn publish(&self, user: String, presence: CalendarPresence) {
        if self.with_outgoing(|outgoing| outgoing.add(user, presence)) {
            self.arrived.notify_one();
        } else {
            self.count("dropped");
            warn!("presence queue is full; a change was dropped");
        }
    }

    /// Writes what is published into the log in the name of `node`, until the member stops.
    pub async fn run(self, node: NodeId, cluster: Cluster) {
        loop {
            self.arrived.notified().await;
            tokio::time::sleep(GATHERING).await;
            while let Some(batch) = self.with_outgoing(|outgoing| outgoing.take(node, &cluster.state())) {
                if self.write(node, &cluster, batch).await == Err(ProposeError::Stopped) {
                    return;
                }
            }
        }
    }

    /// Queues what was not committed again.
    async fn write(&self, node: NodeId, cluster: &Cluster, batch: Batch) -> Result<(), ProposeError> {
        match cluster.propose(batch.command(node), COMMIT_TIMEOUT).await {
            Ok(Applied::Refused(refusal)) => {
                self.count("refused");
                warn!(?refusal, "the cluster refused calendar states");
                Ok(())
            }
            Ok(_) => {
                self.count("committed");
                Ok(())
            }
            Err(error) => {
                self.count("retried");
                let users = batch.users();
                debug!(%error, users, "calendar states could not be committed; retrying");
                self.with_outgoing(|outgoing| outgoing.put_back(batch));
                tokio::time::sleep(PAUSE).await;
                Err(error)
            }
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics.batches.with_label_values(&[outcome]).inc();
    }

    fn with_outgoing<R>(&self, work: impl FnOnce(&mut Outgoing) -> R) -> R {
        // Nothing under the lock can panic.
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut outgoing);
        let waiting = i64::try_from(outgoing.len()).unwrap_or(i64::MAX);
        self.metrics.waiting.set(waiting);
        result
    }
}

/// Long enough to gather what changes together into one entry, too short to be noticed.
const GATHERING: Duration = Duration::from_millis(50);
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
