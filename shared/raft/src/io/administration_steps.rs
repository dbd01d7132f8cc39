//! One step of an administrator's command, taken by the leader.
//!
//! Owns the carrying out; the steps are decided in `cluster::membership`. What always holds: one change of the membership at
//! a time, each guarded by the membership it was decided on.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::raft::Precondition;
use tokio::time::{Instant, sleep, timeout};

use tandem_cluster::membership::{Blocked, Newcomer, ReplacementView, Step, next_step};
use tandem_cluster::{Applied, Command, MemberRecord, MemberRole, NodeId, RaftId};

use super::administration::{
    AdministrationAnswer, AdministrationRequest, STEP_DEADLINE, STEP_PAUSE, listing, too_early,
};
use super::member::Member;
use super::peer_pages::ANSWER_FRESH;

/// Carried out by the leader: one step.
impl Member {
    pub(super) async fn advance(&self, request: &AdministrationRequest) -> AdministrationAnswer {
        if !self.leads_with_quorum(&self.raft_metrics()) {
            return AdministrationAnswer::NotLeader;
        }
        match request {
            AdministrationRequest::Finalise { without } => self.finalise_now(without).await,
            AdministrationRequest::Replace { number } => {
                let Some(view) = self.replacement_view(*number) else {
                    return AdministrationAnswer::NotLeader;
                };
                let step = next_step(*number, &view);
                timeout(STEP_DEADLINE, self.take_step(*number, step))
                    .await
                    .unwrap_or_else(|_| {
                        AdministrationAnswer::Waiting("a change that is not committed yet".to_owned())
                    })
            }
        }
    }

    async fn take_step(&self, number: NodeId, step: Step) -> AdministrationAnswer {
        let waiting = |text: String| AdministrationAnswer::Waiting(text);
        let change = match step {
            Step::Done { id } => {
                return AdministrationAnswer::Done(format!("{number} has its seat, as {id}"));
            }
            Step::Blocked(Blocked::NotReachable) if self.answers_soon(number).await => {
                return waiting(format!("{number} has just answered"));
            }
            Step::Blocked(blocked) => return AdministrationAnswer::Blocked(format!("{number}: {blocked}")),
            Step::CatchUp { lag: None } => return waiting(format!("{number} has received nothing yet")),
            Step::CatchUp { lag: Some(lag) } => return waiting(format!("{number} lacks {lag} entries")),
            Step::HandOver => return self.hand_over(number).await,
            Step::Remove { ids } => return self.remove(&ids).await,
            Step::FinishJoint => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Step::AddLearner { id, drop } => {
                let present = self.book.present(number);
                let introduction = present
                    .map(|present| present.introduction)
                    .filter(|it| it.id == id);
                let Some(record) = introduction.and_then(|it| self.described(&it)) else {
                    return waiting(format!("{number} has not answered"));
                };
                let add = ChangeMembers::AddNodes(BTreeMap::from([(id, record)]));
                match drop.is_empty() {
                    true => add,
                    false => ChangeMembers::Batch(vec![ChangeMembers::RemoveNodes(drop), add]),
                }
            }
            Step::ChangeVoters { voters } => ChangeMembers::ReplaceAllVoters(voters),
            Step::DropLearners { ids } => ChangeMembers::RemoveNodes(ids),
        };
        let what = format!("a change of the membership: {change}");
        tracing::info!(member = %number, %change, "replacing a member");
        // Voters that lose their seat do not stay on as learners.
        match self.change_membership(change, false).await {
            Ok(()) => waiting(what),
            Err(error) => waiting(format!("{what} ({error})")),
        }
    }

    /// A member that was just started, or a leader that was just elected, has not been heard of yet.
    async fn answers_soon(&self, number: NodeId) -> bool {
        let end = Instant::now() + ANSWER_FRESH;
        loop {
            let present = self.book.present(number);
            if present.is_some_and(|present| present.answers_within(ANSWER_FRESH)) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(STEP_PAUSE).await;
        }
    }

    async fn hand_over(&self, number: NodeId) -> AdministrationAnswer {
        let nodes = self
            .config
            .members
            .iter()
            .filter(|member| member.role == MemberRole::Node);
        let others = nodes.filter(|node| node.id != self.id() && node.id != number);
        let successor = others
            .filter_map(|node| self.seat_of(node.id))
            .find(|id| self.book.takes_part(*id));
        let Some(successor) = successor else {
            return AdministrationAnswer::Blocked(format!(
                "{number} leads, and no other node can take the lead: start one first"
            ));
        };
        if let Err(error) = self.raft.trigger().transfer_leader(successor).await {
            tracing::warn!(%error, "openraft has stopped");
        }
        AdministrationAnswer::Waiting(format!("handing leadership over to {successor}"))
    }

    async fn remove(&self, ids: &BTreeSet<RaftId>) -> AdministrationAnswer {
        for id in ids {
            let command = Command::MemberRemoved { id: *id };
            match self.propose_own(command, STEP_DEADLINE).await {
                Ok(Applied::Refused(refusal)) => {
                    return AdministrationAnswer::Blocked(format!("{id} cannot be removed: {refusal:?}"));
                }
                Ok(_) => {}
                Err(error) => return AdministrationAnswer::Waiting(format!("removing {id}: {error}")),
            }
        }
        AdministrationAnswer::Waiting(format!("{} removed", listing(ids.iter())))
    }

    async fn finalise_now(&self, without: &[NodeId]) -> AdministrationAnswer {
        let written = self.machine.state().format();
        let oldest = match self.oldest_format(without) {
            Ok(oldest) => oldest,
            Err(unheard) => {
                let ids: Vec<String> = unheard.iter().map(|id| id.member().0.to_string()).collect();
                return AdministrationAnswer::Blocked(format!(
                    "{} never answered in this release: start them, or, if they are gone for good, add --without {}",
                    listing(unheard.iter()),
                    ids.join(",")
                ));
            }
        };
        if oldest.format <= written {
            return match self.late_members(self.config.newest_format) {
                late if late.is_empty() => {
                    AdministrationAnswer::Done(format!("the cluster writes {written}"))
                }
                late => AdministrationAnswer::Blocked(too_early(written, &late)),
            };
        }
        let command = Command::FormatFinalised {
            format: oldest.format,
        };
        match self.propose_own(command, STEP_DEADLINE).await {
            Ok(_) => AdministrationAnswer::Done(format!("the cluster writes {} from now on", oldest.format)),
            Err(error) => AdministrationAnswer::Waiting(error.to_string()),
        }
    }

    /// Changes the membership that stands now, unless another change comes first.
    pub(super) async fn change_membership(
        &self,
        change: ChangeMembers<RaftId, MemberRecord>,
        retain: bool,
    ) -> Result<(), String> {
        let _one_at_a_time = self
            .membership_changes
            .try_acquire()
            .map_err(|_| "another change is under way".to_owned())?;
        let last_membership_log_id = *self.raft_metrics().membership_config.log_id();
        let precondition = Precondition::LastMembershipLogId {
            last_membership_log_id,
        };
        let changed = self
            .raft
            .change_membership_if(change, retain, [precondition])
            .await;
        changed.map(drop).map_err(|error| error.to_string())
    }

    fn replacement_view(&self, number: NodeId) -> Option<ReplacementView> {
        let metrics = self.raft_metrics();
        let membership = &metrics.membership_config;
        // Whoever is connected now: a process that has just died is not the one that is meant.
        let connected = self
            .peers
            .get(&number)
            .and_then(|links| links.control.welcomed_by());
        let present = self.book.present(number).filter(|present| {
            connected.is_some_and(|connected| connected.start == present.introduction.start)
        });
        let replication = metrics.replication.as_ref()?;
        // Nobody has a connection to itself.
        let is_own = number == self.id();
        let introduction = match is_own {
            true => Some(self.introduction()),
            false => present.map(|present| present.introduction),
        };
        let lag = present.and_then(|present| {
            let matched = (*replication.get(&present.introduction.id)?)?;
            Some(
                metrics
                    .last_log_index
                    .unwrap_or(0)
                    .saturating_sub(matched.index()),
            )
        });
        let state = self.machine.state();
        let (removed, written) = (state.removed_members().clone(), state.format());
        Some(ReplacementView {
            leader: self.raft_id(),
            configurations: membership.get_joint_config().clone(),
            members: membership
                .nodes()
                .map(|(id, record)| (*id, record.clone()))
                .collect(),
            removed,
            written,
            newcomer: introduction.map(|introduction| Newcomer {
                id: introduction.id,
                directory: introduction.directory,
                role: introduction.role,
                newest_format: introduction.newest_format,
                initialized: is_own || present.is_some_and(|present| present.reach.initialized),
                stranger: present.and_then(|present| present.stranger),
            }),
            lag: if is_own { Some(0) } else { lag },
        })
    }
}
