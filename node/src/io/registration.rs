//! The node's own place in the set of nodes.

use std::net::SocketAddr;
use std::time::Duration;

use tandem_shared::cluster::{Applied, Command, NodeId};
use tandem_shared::io::raft::Cluster;
use tracing::{info, warn};

/// Tells the cluster that this node is there, until it has been heard and the local state says so: from then on the
/// sessions that the state gives to the node are its own, unless it has been declared lost again meanwhile.
pub async fn register(cluster: &Cluster, id: NodeId, sip_address: SocketAddr, incarnation: u64) {
    let command = Command::NodeRegistered {
        id,
        sip_address,
        incarnation,
    };
    loop {
        match cluster.propose(command.clone(), PROPOSE_TIMEOUT).await {
            Ok(Applied::Done) => break,
            Ok(other) => warn!(?other, "the cluster did not take this node in"),
            Err(error) => info!(%error, "the cluster has not taken this node in yet"),
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    while !is_known(cluster, id, incarnation) {
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
    info!(node = %id, %sip_address, "registered");
}

/// Gives the node's sessions to the others before a planned stop.
pub async fn leave(cluster: &Cluster, id: NodeId, incarnation: u64) {
    let command = Command::NodeDraining { id, incarnation };
    match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(_) => info!(node = %id, "sessions are handed over"),
        Err(error) => warn!(%error, "the cluster was not told that this node leaves: it will notice"),
    }
}

fn is_known(cluster: &Cluster, id: NodeId, incarnation: u64) -> bool {
    cluster.with_state(|state| {
        let node = state.nodes().get(&id);
        node.is_some_and(|node| node.incarnation == incarnation)
    })
}

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);
const RETRY_AFTER: Duration = Duration::from_millis(100);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(5);
