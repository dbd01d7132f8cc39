//! Batches of the gateway on their way into the log.

use std::time::Duration;

use tandem_cluster::Command;
use tandem_raft::Cluster;
use tokio::sync::mpsc;
use tracing::debug;

use crate::gateway::Input;

use super::driver::DriverEvent;

/// Proposes a batch, and tells the loop what came of it in any case.
pub(super) async fn propose(
    cluster: Cluster,
    batch: u64,
    command: Command,
    events: mpsc::Sender<DriverEvent>,
) {
    let applied = match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(applied) => Some(applied),
        Err(error) => {
            debug!(%error, "a batch was not committed in time");
            // One that failed at once is not tried again at once.
            tokio::time::sleep(PROPOSE_PAUSE).await;
            None
        }
    };
    // The loop may be gone already.
    let _ = events
        .send(DriverEvent::Gateway(Input::Committed { batch, applied }))
        .await;
}

/// One attempt to commit a batch; what has more time goes again with the next one.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(1);
const PROPOSE_PAUSE: Duration = Duration::from_millis(20);
