//! What this member answers to the question how it stands.

use std::time::Duration;

use openraft::{Instant as _, ServerState};

use tandem_cluster::membership::{Introduction, Start};
use tandem_cluster::witness::LogPosition;
use tandem_cluster::{NodeId, RaftId};

use super::member::{Member, Metrics};
use super::messages::{PeerStatus, Standing, StatusQuestion};
use super::type_config::position_of;

impl Member {
    pub(super) fn peer_status(&self, peer: &Introduction, question: StatusQuestion) -> PeerStatus {
        let metrics = self.raft_metrics();
        PeerStatus {
            incarnation: self.incarnation(),
            introduction: self.introduction(),
            reach: self.reach(),
            stranger: self.book.may_ask(peer).err(),
            standing: self.standing(&metrics, peer.id, question.applied),
            connected: self.connected(),
            writes_snapshot: self.machine.snapshots().is_writing(),
            clock_ms: (self.config.wall_clock_ms)(),
        }
    }

    fn standing(&self, metrics: &Metrics, asker: RaftId, applied: Option<LogPosition>) -> Standing {
        if metrics.state == ServerState::Leader {
            let heartbeats = metrics.heartbeat.as_ref();
            let acknowledged = heartbeats.and_then(|heartbeats| heartbeats.get(&asker).copied().flatten());
            Standing::Leads {
                quorum_age_ms: age_ms(self.quorum_age(metrics)),
                acknowledged_age_ms: age_ms(acknowledged.map(|at| at.elapsed())),
                committed: self.committed_at_most(metrics),
                agrees: applied.and_then(|theirs| {
                    let ours = self.log.id_at(theirs.index)?;
                    Some(position_of(ours) == theirs)
                }),
                cluster_ms: self.cluster_ms(),
            }
        } else if self.heard_within_lease() {
            Standing::Follows
        } else {
            Standing::HearsNone
        }
    }

    /// The processes that this member has a connection to.
    fn connected(&self) -> Vec<(NodeId, Start)> {
        let peers = self.peers.iter();
        peers
            .filter_map(|(id, links)| Some((*id, links.control.welcomed_by()?.start)))
            .collect()
    }
}

/// In whole milliseconds; what never happened is as old as can be.
fn age_ms(age: Option<Duration>) -> u32 {
    age.map_or(u32::MAX, |age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX))
}
