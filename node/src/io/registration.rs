//! The node's own place in the set of nodes.

use std::net::SocketAddr;
use std::time::Duration;

use tandem_shared::cluster::{Applied, Command, NodeId};
use tandem_shared::io::raft::Cluster;
use tracing::{info, warn};

/// Tells the cluster once that this node is there. `None`: the outcome is unknown.
///
/// Whether the cluster has taken the node in is for the state to say ([`crate::following`]).
pub async fn register(
    cluster: &Cluster,
    id: NodeId,
    sip_address: SocketAddr,
    incarnation: u64,
) -> Option<Applied> {
    let command = Command::NodeRegistered {
        id,
        sip_address,
        incarnation,
    };
    match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(Applied::Done) => Some(Applied::Done),
        Ok(other) => {
            warn!(?other, "the cluster did not take this node in");
            Some(other)
        }
        Err(error) => {
            info!(%error, "the cluster has not taken this node in yet");
            None
        }
    }
}

/// Gives the node's sessions to the others before a planned stop.
pub async fn leave(cluster: &Cluster, id: NodeId, incarnation: u64) {
    let command = Command::NodeDraining { id, incarnation };
    match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(_) => info!(node = %id, "sessions are handed over"),
        Err(error) => warn!(%error, "the cluster was not told that this node leaves: it will notice"),
    }
}

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);
