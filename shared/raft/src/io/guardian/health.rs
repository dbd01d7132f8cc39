//! What is not as it should be with this member, as the rest of its process and its operators are told.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::MemberRecord;
use tandem_cluster::NodeId;
use tandem_cluster::health::{Bounds, Condition, Subject, View, conditions, state_differs};
use tandem_cluster::state_comparison::{Verdict, judge};
use tandem_cluster::witness::LogPosition;

use super::super::errors::StopReason;
use super::super::member::Metrics;
use super::super::status::ClusterStatus;
use super::Guardian;

/// What the guardian remembers of health: what was said, and since when the state has not caught up.
#[derive(Default)]
pub(super) struct HealthWatch {
    /// What the leader had committed when this member was last found behind, and since when it has not got there.
    target: Option<(u64, Instant)>,
    log_agrees: Option<bool>,
    said: BTreeMap<Subject, String>,
}

impl HealthWatch {
    /// The leader's answer: what it has committed, and whether it holds the entry at which this member's state ends.
    pub(super) fn note_leader(&mut self, committed: u64, applied: u64, agrees: Option<bool>, now: Instant) {
        self.log_agrees = agrees;
        match self.target {
            Some((target, _)) if applied < target => {}
            Some(_) | None => self.target = (applied < committed).then_some((committed, now)),
        }
    }

    fn behind(&self, applied: u64, now: Instant) -> Option<(u64, Duration)> {
        let (target, since) = self.target?;
        let entries = target.checked_sub(applied).filter(|entries| *entries > 0)?;
        Some((entries, now - since))
    }
}

impl Guardian {
    pub(super) fn conditions(
        &self,
        status: &ClusterStatus,
        metrics: &Metrics,
        now: Instant,
    ) -> Vec<Condition> {
        let leads = metrics.state.is_leader();
        let arriving = self.member.arriving_snapshot(now);
        self.member.metrics.observe_arriving(arriving);
        let view = View {
            obstacle: status.obstacle.clone(),
            authority: status.authority,
            hears_leader: status.leader.is_some(),
            log_agrees: self.health.log_agrees.filter(|_| !leads),
            behind: self.health.behind(status.last_applied, now).filter(|_| !leads),
            arriving,
            list_differences: self.list_differences(metrics),
            certificate_left: self.certificate_left(),
            writing_for: self.member.log.writing_for(),
            disk_nearly_full: self.member.disk_nearly_full(),
            clocks_ahead_ms: self.clocks_ahead_ms(),
            differing_states: self.differing_states(),
        };
        conditions(&view, &Bounds::default())
    }

    /// Each once when it comes, with its text, and once when it has gone.
    pub(super) fn tell_conditions(&mut self, conditions: &[Condition]) {
        let said = &mut self.health.said;
        for subject in Subject::ALL {
            let condition = conditions.iter().find(|condition| condition.subject == subject);
            let label = subject.label();
            self.member.metrics.observe_condition(label, condition.is_some());
            match condition {
                None => {
                    if said.remove(&subject).is_some() {
                        tracing::info!(subject = label, "member condition cleared");
                    }
                }
                Some(condition) => {
                    let is_new = said.insert(subject, condition.text.clone()).is_none();
                    let is_told_elsewhere = matches!(
                        subject,
                        Subject::Membership | Subject::Quorum | Subject::Leader | Subject::Log
                    );
                    if is_new && !is_told_elsewhere {
                        tracing::warn!(
                            subject = label,
                            reason = condition.text,
                            "member condition raised"
                        );
                    }
                }
            }
        }
    }

    /// Compares the states that were marked after the same entry. A member that is outvoted stops: what it goes on to do
    /// would follow from a state that is wrong.
    fn differing_states(&self) -> Option<(u64, Vec<NodeId>)> {
        let own = self.member.machine.mark()?;
        let others = self.peers.iter().filter(|(id, _)| !self.is_stranger(**id));
        let others = others.filter_map(|(id, peer)| Some((*id, peer.status.as_ref()?.1.reach.state_mark?)));
        match judge(own, others) {
            Verdict::Agrees => None,
            Verdict::Differs(others) => Some((own.index, others)),
            Verdict::Wrong(others) => {
                let text = state_differs(own.index, &others);
                tracing::error!(reason = text, "this member's state is corrupt; stopping");
                self.member.request_stop(StopReason::Failed(text));
                Some((own.index, others))
            }
        }
    }

    fn clocks_ahead_ms(&self) -> Vec<(NodeId, i64)> {
        let known = self.peers.iter();
        known
            .filter_map(|(id, peer)| Some((*id, peer.clock_ahead_ms?)))
            .collect()
    }

    fn certificate_left(&self) -> Option<Duration> {
        let expires = self.member.certificate_expires.load(Ordering::Relaxed);
        let now_secs = (self.member.config.wall_clock_ms)() / 1000;
        (expires > 0).then(|| Duration::from_secs(expires.saturating_sub(now_secs)))
    }

    /// Between this member's list and those of its peers, and between it and the membership in the log.
    fn list_differences(&self, metrics: &Metrics) -> Vec<String> {
        let mut differences: Vec<String> = self.member.list_differences().into_values().collect();
        let configured: BTreeMap<NodeId, _> = self
            .member
            .config
            .members
            .iter()
            .map(|member| (member.id, member))
            .collect();
        let mut seated: BTreeMap<NodeId, &MemberRecord> = BTreeMap::new();
        for (id, record) in metrics.membership_config.nodes() {
            seated.insert(id.member(), record);
        }
        if seated.is_empty() {
            return differences;
        }
        for (id, member) in &configured {
            match seated.get(id) {
                None => differences.push(format!(
                    "{id} is in this member's list and has no seat in the cluster: run `tandem-node cluster replace {id}`, \
                     or take it off the list"
                )),
                Some(MemberRecord::Described { address, .. }) if *address != member.address => {
                    differences.push(format!(
                        "{id} is at {} by this member's list, and at {address} by the cluster's",
                        member.address
                    ));
                }
                Some(_) => {}
            }
        }
        for id in seated.keys().filter(|id| !configured.contains_key(id)) {
            differences.push(format!(
                "{id} has a seat in the cluster and is not in this member's list"
            ));
        }
        differences
    }
}

/// Where a member's state ends, for the leader to compare.
pub(super) fn applied_position(metrics: &Metrics) -> Option<LogPosition> {
    metrics.last_applied.map(super::super::type_config::position_of)
}
