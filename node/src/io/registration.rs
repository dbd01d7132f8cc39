//! The node's own place in the set of nodes.

use std::net::SocketAddr;
use std::time::Duration;

use tandem_cluster::health::{Severity, Subject};
use tandem_cluster::{Applied, Command, NodeId};
use tandem_raft::{Cluster, ClusterStatus};
use tandem_runtime::io::admin::Readiness;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::following::Standing;

use super::driver::DriverEvent;

/// Who this node is to the cluster.
#[derive(Debug, Clone)]
pub struct Identity {
    pub id: NodeId,
    pub sip_address: SocketAddr,
    pub incarnation: watch::Sender<u64>,
}

impl Identity {
    /// Registers once, and tells the loop what came of it.
    pub(super) async fn register(
        self,
        cluster: Cluster,
        incarnation: u64,
        events: mpsc::Sender<DriverEvent>,
    ) {
        let applied = register(&cluster, self.id, self.sip_address, incarnation).await;
        // The loop may be gone already.
        let _ = events.send(DriverEvent::RegistrationAnswered(applied)).await;
    }
}

/// Where the node stands in the cluster, for `/readyz` and for those who wait for it.
pub struct Place {
    pub identity: Identity,
    pub readiness: Readiness,
    /// Whether the cluster has taken the node in, once at least.
    pub joined: watch::Sender<bool>,
}

impl Place {
    pub(super) fn identity(&self) -> Identity {
        self.identity.clone()
    }

    pub(super) fn joined(&self) {
        info!(node = %self.identity.id, sip_address = %self.identity.sip_address, "registered");
        self.readiness.resolved(REGISTRATION);
        self.joined.send_replace(true);
    }

    pub(super) fn left(&self, standing: Standing, incarnation: u64) {
        let reason = standing.explanation();
        warn!(
            reason,
            "giving up all sessions and registering again under a new incarnation"
        );
        let detail = format!("{reason}; it has not registered again yet");
        self.readiness.not_ready(REGISTRATION, detail);
        self.identity.incarnation.send_replace(incarnation);
    }

    /// What stands against being ready, as the cluster's member sees it.
    pub(super) fn show(&self, status: &ClusterStatus) {
        for subject in Subject::ALL {
            let mut conditions = status.conditions.iter();
            let condition = conditions
                .find(|condition| condition.subject == subject && condition.severity == Severity::NotReady);
            match condition {
                Some(condition) => self.readiness.not_ready(subject.label(), condition.text.clone()),
                None => self.readiness.resolved(subject.label()),
            }
        }
    }
}

/// Tells the cluster once that this node is there. `None`: the outcome is unknown.
///
/// Whether the cluster has taken the node in is for the state to say ([`crate::following`]).
async fn register(
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
            warn!(?other, "the cluster refused to register this node");
            Some(other)
        }
        Err(error) => {
            info!(%error, "not registered in the cluster yet; retrying");
            None
        }
    }
}

/// Gives the node's sessions to the others before a planned stop.
pub async fn leave(cluster: &Cluster, id: NodeId, incarnation: u64) {
    let command = Command::NodeDraining { id, incarnation };
    match cluster.propose(command, PROPOSE_TIMEOUT).await {
        Ok(_) => info!(node = %id, "sessions are handed over"),
        Err(error) => {
            warn!(%error, "cannot announce to the cluster that this node is leaving; the cluster will detect it")
        }
    }
}

const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Why the node is not ready.
pub const REGISTRATION: &str = "registration";
