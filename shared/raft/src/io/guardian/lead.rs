//! Who leads, and when this member campaigns or hands the lead over.

use std::time::Duration;

use openraft::ServerState;
use openraft::errors::Fatal;
use openraft::raft::TransferLeaderRequest;
use tokio::time::Instant;

use tandem_cluster::authority::{FrontEndAnswer, FrontEndStanding, Reliance};
use tandem_cluster::witness::{Decision, Lead, NodeView, View};
use tandem_cluster::{Authority, MemberRole, NodeId, RaftId};

use super::super::member::{Member, Metrics, is_initialized};
use super::super::messages::Standing;
use super::super::status::{ClusterStatus, RaftRole};
use super::super::type_config::TypeConfig;
use super::{Campaigner, Guardian};

impl Guardian {
    pub(super) fn lead(&self, metrics: &Metrics) -> Lead {
        let heard = self.member.heard().unwrap_or(self.member.started);
        let leader = metrics.current_leader;
        let died = leader
            .and_then(|leader| self.peers.get(&leader.member()))
            .and_then(|peer| peer.ended)
            .is_some_and(|(_, at)| at >= heard);
        if metrics.state == ServerState::Leader {
            Lead::Own
        } else if died {
            Lead::Dead {
                term: metrics.current_term,
            }
        } else if self.member.heard_within_lease() {
            Lead::Heard
        } else {
            Lead::SilentSince(heard.into_std())
        }
    }

    pub(super) fn campaign(&mut self, metrics: &Metrics, now: Instant) {
        let is_stranger = self.member.book.own_stranger().is_some();
        if !is_initialized(metrics)
            || is_stranger
            || self.better_leader().is_some()
            || self.member.is_draining()
        {
            return;
        }
        let lead = self.lead(metrics);
        if !self.member.config.fast_take_over && matches!(lead, Lead::Dead { .. }) {
            return;
        }
        let view = View {
            lead,
            log: self.member.log_position(),
            nodes: self.node_views(metrics),
        };
        let decision = match &mut self.campaigner {
            Campaigner::Node(successor) => successor.handle(&view, now.into_std()),
            Campaigner::Witness(witness) => witness.handle(&view, now.into_std()),
        };
        if let Some(decision) = decision {
            let silent_ms = lead.silent_for(now.into_std()).map(|time| time.as_millis());
            tracing::info!(?decision, silent_ms, "acting on a leadership decision");
            self.act(decision, metrics);
        }
    }

    fn node_views(&self, metrics: &Metrics) -> Vec<NodeView> {
        let heard = self.member.heard();
        let matched = |id: NodeId| {
            let replication = metrics.replication.as_ref()?;
            Some((*replication.get(&self.member.seat_of(id)?)?)?.index())
        };
        let nodes = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.role == MemberRole::Node);
        nodes
            .map(|(&id, peer)| NodeView {
                id,
                reachable: peer.connected && !self.is_stranger(id),
                log: peer.log_since(heard),
                matched: matched(id),
            })
            .collect()
    }

    fn act(&mut self, decision: Decision, metrics: &Metrics) {
        let member = self.member.clone();
        let vote = metrics.vote;
        if decision == Decision::TakeOver {
            self.member.metrics.take_overs.inc();
        }
        self.actions.spawn(async move {
            let result = match decision {
                Decision::TakeOver => {
                    let last = member.log.last_log_id();
                    let request = TransferLeaderRequest::new(vote, member.raft_id(), last);
                    match member.raft.handle_transfer_leader(request).await {
                        // Another survivor was quicker to campaign, and perhaps cannot win.
                        Ok(Err(_)) => member.raft.trigger().elect(true).await,
                        Ok(Ok(())) => Ok(()),
                        Err(fatal) => Err(fatal),
                    }
                }
                Decision::Campaign => member.raft.trigger().elect(true).await,
                Decision::HandOver(to) => hand_over(&member, to).await,
            };
            tell_if_stopped(result);
        });
    }

    /// For this member's disk's sake, to one whose disk is sound.
    pub(super) fn hand_over_to(&mut self, to: NodeId) {
        let member = self.member.clone();
        self.actions
            .spawn(async move { tell_if_stopped(hand_over(&member, to).await) });
    }

    pub(super) fn publish(&mut self, metrics: &Metrics, now: Instant) {
        let lead = self.lead(metrics);
        let own_quorum = self.member.leads_with_quorum(metrics);
        let leader = match lead {
            Lead::Own => own_quorum.then_some(self.member.config.id),
            Lead::Heard => metrics.current_leader.map(RaftId::member),
            Lead::Dead { .. } | Lead::SilentSince(_) => None,
        };
        let is_stranger = self.member.book.own_stranger().is_some();
        let last_applied = *self.member.machine.applied_index().borrow();
        self.as_of.reached(last_applied);
        let (found, contact) = (self.authority(now), self.contact.latest());
        let authority = self.returned.authority(found, contact, self.as_of.latest());
        let mut status = ClusterStatus {
            conditions: Vec::new(),
            is_outside: is_stranger || self.waits_to_be_taken_in().is_some(),
            role: role(metrics),
            leader,
            term: metrics.current_term,
            last_applied,
            obstacle: self.obstacle(metrics),
            authority: match is_stranger {
                true => Authority::Isolated,
                false => authority,
            },
        };
        self.member.state_as_of.send_if_modified(|current| {
            let latest = self.as_of.latest();
            std::mem::replace(current, latest) != latest
        });
        status.conditions = self.conditions(&status, metrics, now);
        self.tell_conditions(&status.conditions);
        self.member.metrics.observe(&status);
        self.member.metrics.observe_log(&self.member.log);
        self.member.metrics.observe_nodes(&self.member.machine.state());
        for (peer, known) in &self.peers {
            self.member.metrics.observe_contact(*peer, now - known.heard);
        }
        self.member.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    pub(super) fn note_lead(&mut self, metrics: &Metrics, now: Instant) {
        if metrics.state != ServerState::Leader {
            self.led_since = None;
            self.time_at_lead = None;
            return;
        }
        self.led_since.get_or_insert(now);
        let acknowledged = self
            .member
            .quorum_age(metrics)
            .and_then(|age| now.checked_sub(age));
        if let Some(acknowledged) = acknowledged {
            self.contact.note_own(acknowledged.into_std());
            self.as_of
                .note(self.member.committed_at_most(metrics), acknowledged.into_std());
        }
    }

    /// Without a majority, what the front ends say counts: all clients come through them.
    fn authority(&self, now: Instant) -> Authority {
        let reliance = self.reliance();
        let witnesses = self
            .peers
            .values()
            .filter(|peer| peer.role == MemberRole::Witness);
        let answers: Vec<FrontEndAnswer> = witnesses
            .filter_map(|peer| peer.status.as_ref())
            .map(|(asked, status)| FrontEndAnswer {
                asked: asked.into_std(),
                standing: front_end_standing(&status.standing, reliance.lease),
            })
            .collect();
        let last = self.member.log_position();
        self.contact.authority(&answers, last, reliance, now.into_std())
    }

    pub(super) fn reliance(&self) -> Reliance {
        self.member.config.timings.reliance()
    }
}

async fn hand_over(member: &Member, to: NodeId) -> Result<(), Fatal<TypeConfig>> {
    match member.seat_of(to) {
        Some(seat) => member.raft.trigger().transfer_leader(seat).await,
        None => Ok(()),
    }
}

pub(super) fn tell_if_stopped(result: Result<(), Fatal<TypeConfig>>) {
    if let Err(error) = result {
        tracing::warn!(%error, "openraft has stopped");
    }
}

fn front_end_standing(standing: &Standing, lease: Duration) -> FrontEndStanding {
    match *standing {
        Standing::Leads { quorum_age_ms, .. } if Duration::from_millis(quorum_age_ms.into()) >= lease => {
            FrontEndStanding::HearsNone
        }
        Standing::Leads { .. } | Standing::Follows => FrontEndStanding::HearsLeader,
        Standing::HearsNone => FrontEndStanding::HearsNone,
        Standing::Stopped { since_ms, last } => FrontEndStanding::Stopped {
            since: Duration::from_millis(since_ms),
            last,
        },
    }
}

fn role(metrics: &Metrics) -> RaftRole {
    if metrics.running_state.is_err() {
        return RaftRole::Stopped;
    }
    match metrics.state {
        ServerState::Learner => RaftRole::Learner,
        ServerState::Follower => RaftRole::Follower,
        ServerState::Candidate => RaftRole::Candidate,
        ServerState::Leader => RaftRole::Leader,
        ServerState::Shutdown => RaftRole::Stopped,
    }
}
