//! What the leader does to keep the membership whole: one change at a time, seen from the membership that stands.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ChangeMembers;
use tokio::time::{Instant, timeout};

use tandem_cluster::{Command, Format, MemberRecord, MemberRole, NodeId, RaftId};

use super::super::member::{Member, Metrics};
use super::Guardian;

impl Guardian {
    pub(super) fn keep_membership(&mut self, metrics: &Metrics, now: Instant) {
        if self
            .upkeep
            .changed
            .is_some_and(|changed| now < changed + CHANGED_EVERY)
        {
            return;
        }
        // A replacement is under way here.
        if self.member.membership_changes.available_permits() == 0 {
            return;
        }
        let Some(change) = self.wanted_change(metrics) else {
            if let Some(format) = self
                .member
                .format_to_finalise((self.member.config.wall_clock_ms)())
            {
                self.upkeep.changed = Some(now);
                tracing::info!(%format, "every member reads a newer format; writing it from now on");
                self.propose(Command::FormatFinalised { format });
            }
            return;
        };
        self.upkeep.changed = Some(now);
        let member = self.member.clone();
        self.actions.spawn(async move {
            let changed = timeout(CHANGE_DEADLINE, member.change_membership(change, true));
            match changed.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the membership was not changed"),
                Err(_) => tracing::warn!("membership change timed out; retrying"),
            }
        });
    }

    fn wanted_change(&self, metrics: &Metrics) -> Option<ChangeMembers<RaftId, MemberRecord>> {
        let membership = &metrics.membership_config;
        if membership.get_joint_config().len() > 1 {
            tracing::info!("finishing a change of the membership that another leader began");
            return Some(ChangeMembers::AddVoterIds(Default::default()));
        }
        let written = self.member.machine.state().format();
        self.undescribed(metrics, written)
            .or_else(|| self.new_learners(metrics))
    }

    /// Members whose directories stand nowhere yet: they are written down once all are known.
    fn undescribed(&self, metrics: &Metrics, written: Format) -> Option<ChangeMembers<RaftId, MemberRecord>> {
        if written < Format::RELEASE_0_2 {
            return None;
        }
        let mut records = BTreeMap::new();
        for (id, record) in metrics.membership_config.nodes() {
            if record.directory().is_none() {
                records.insert(*id, self.member.record_of(*id)?);
            }
        }
        (!records.is_empty()).then_some(ChangeMembers::SetNodes(records))
    }

    /// Front ends beyond those that vote follow without a vote.
    fn new_learners(&self, metrics: &Metrics) -> Option<ChangeMembers<RaftId, MemberRecord>> {
        let seated = |number: NodeId| {
            let mut nodes = metrics.membership_config.nodes();
            nodes.any(|(id, _)| id.member() == number)
        };
        let present = self.member.book.all_present();
        let new = present.iter().filter(|(number, present)| {
            present.introduction.role == MemberRole::Witness
                && !present.reach.initialized
                && present.stranger.is_none_or(|stranger| stranger.is_newcomer())
                && !seated(**number)
        });
        let nodes: BTreeMap<RaftId, MemberRecord> = new
            .filter_map(|(_, present)| {
                let id = present.introduction.id;
                Some((id, self.member.described(&present.introduction)?))
            })
            .collect();
        (!nodes.is_empty()).then_some(ChangeMembers::AddNodes(nodes))
    }
}

/// What every member can tell of the membership.
impl Member {
    /// The record of a member that has answered.
    fn record_of(&self, id: RaftId) -> Option<MemberRecord> {
        if id == self.raft_id() {
            return self.described(&self.introduction());
        }
        let present = self.book.present(id.member())?;
        let answers = present.introduction.id == id && present.stranger.is_none();
        answers.then(|| self.described(&present.introduction)).flatten()
    }

    /// The latest format that all members read, when it is time to write it.
    fn format_to_finalise(&self, now_ms: u64) -> Option<Format> {
        let since_ms = self.config.finalise_after.map(|after| after.as_millis())?;
        let oldest = self.oldest_format(&[]).ok()?;
        let written = self.machine.state().format();
        let waited = u128::from(now_ms.saturating_sub(oldest.since_ms)) >= since_ms;
        (oldest.format > written && waited).then_some(oldest.format)
    }
}

const CHANGED_EVERY: Duration = Duration::from_secs(1);

const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
