//! Who belongs to the cluster: judging, joining and forming.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::membership::Formation;
use tandem_cluster::{Command, Format, MemberRole, NodeId};

use super::super::administration::listing;
use super::super::member::{Metrics, is_initialized};
use super::super::peer_pages::{Standing, Unsaved};
use super::super::type_config::LogId;
use super::Guardian;
use super::strangers::Subject;

/// What the guardian remembers of its upkeep: only how often to do and to say things.
pub(super) struct Upkeep {
    /// By what the peers are judged now.
    judged_by: Option<JudgedBy>,
    saved: Instant,
    /// Who was last warned of, for what kind of reason, and when; `None` stands for this member itself.
    pub(super) warned: BTreeMap<Option<NodeId>, (Subject, Instant)>,
    pub(super) changed: Option<Instant>,
}

/// Stands for a [`Standing`], and is cheap to compare.
#[derive(PartialEq, Eq)]
struct JudgedBy {
    membership: Option<LogId>,
    removed: usize,
    written: Format,
    is_in_a_cluster: bool,
}

impl Upkeep {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            judged_by: None,
            saved: now,
            warned: BTreeMap::new(),
            changed: None,
        }
    }
}

impl Guardian {
    pub(super) fn keep_up(&mut self, metrics: &Metrics, now: Instant) {
        self.stand(metrics);
        self.allow_elections();
        self.note_acknowledged(metrics);
        self.save_book(now);
        self.show_members();
        self.warn_of_strangers(now);
        self.join(metrics);
        if !is_initialized(metrics) {
            self.form_cluster();
        }
        if self.member.leads_with_quorum(metrics) {
            self.keep_membership(metrics, now);
        }
    }

    /// Whoever is judged, is judged by what is known now.
    fn stand(&mut self, metrics: &Metrics) {
        let own = self.member.introduction();
        let own_cluster = own.cluster;
        let state = self.member.machine.state();
        let (removed, written) = (state.removed_members().len(), state.format());
        let judged_by = JudgedBy {
            membership: *metrics.membership_config.log_id(),
            removed,
            written,
            is_in_a_cluster: own_cluster.is_some(),
        };
        if self.upkeep.judged_by.as_ref() == Some(&judged_by) {
            return;
        }
        self.upkeep.judged_by = Some(judged_by);
        let members = metrics.membership_config.nodes();
        self.member.book.stand(Standing {
            own_cluster,
            own_is_new: own_cluster.is_none() && own.id.generation() != 0,
            members: members.map(|(id, record)| (*id, record.directory())).collect(),
            removed: self.member.machine.state().removed_members().clone(),
            written,
        });
    }

    /// A member that was told to be a stranger never campaigns, and one with a disk that is not sound only when nobody else can lead;
    /// openraft looks at this whenever a timeout is over.
    fn allow_elections(&self) {
        let may_lead = self.member.config.role == MemberRole::Node
            && self.member.book.own_stranger().is_none()
            && !self.member.is_draining()
            && self.better_leader().is_none();
        self.member.raft.runtime_config().elect(may_lead);
    }

    fn show_members(&self) {
        let present = self.member.book.all_present();
        let strangers = present
            .values()
            .filter(|present| present.stranger.is_some())
            .count();
        let written = self.member.machine.state().format();
        self.member.metrics.observe_members(strangers, written);
        let expires = self.member.certificate_expires.load(Ordering::Relaxed);
        self.member
            .metrics
            .certificate_expires
            .set(i64::try_from(expires).unwrap_or(i64::MAX));
    }

    /// What a member acknowledged to this leader, and is committed, its log must hold for ever.
    fn note_acknowledged(&self, metrics: &Metrics) {
        let (Some(replication), Some(committed)) = (&metrics.replication, &metrics.cluster_committed) else {
            return;
        };
        let own = self.member.raft_id();
        for (id, matched) in replication.iter().filter(|(id, _)| **id != own) {
            if let Some(matched) = matched {
                let index = matched.index().min(committed.index());
                self.member.book.note_holds(*id, index);
            }
        }
    }

    fn save_book(&mut self, now: Instant) {
        let due = match self.member.book.unsaved() {
            Unsaved::Nothing => false,
            Unsaved::Reach => now > self.upkeep.saved + REACH_SAVED_EVERY,
            Unsaved::Start => now > self.upkeep.saved + START_SAVED_EVERY,
        };
        if !due {
            return;
        }
        self.upkeep.saved = now;
        let member = self.member.clone();
        self.actions.spawn(async move {
            let saved = member.book.save().await;
            let failed_before = member.book_unsaved.swap(saved.is_err(), Ordering::Relaxed);
            match saved {
                // Tried again every second, and said once.
                Err(error) if !failed_before => {
                    tracing::warn!(%error, "cannot store what is known about the other members");
                }
                Err(error) => {
                    tracing::debug!(%error, "still cannot store what is known about the other members")
                }
                Ok(()) if failed_before => {
                    tracing::info!("what is known about the other members is stored again")
                }
                Ok(()) => {}
            }
        });
    }

    /// Who says that this member is new, while it belongs to no cluster.
    pub(super) fn waits_to_be_taken_in(&self) -> Option<NodeId> {
        let metrics = self.member.raft_metrics();
        let belongs = metrics.membership_config.nodes().next().is_some();
        (!belongs).then(|| self.member.book.says_newcomer()).flatten()
    }

    /// A directory becomes part of the cluster whose log it holds. The identity is in the log, so that two leaders, of which
    /// one died right after it drew one, cannot part the members; formats before release 0.2 have no place for it.
    fn join(&mut self, metrics: &Metrics) {
        if self.member.introduction().cluster.is_some() || !self.actions.is_empty() {
            return;
        }
        let state = self.member.machine.state();
        let (identity, written) = (state.identity(), state.format());
        let drawn = self.member.directory.drawn_cluster();
        match identity {
            Some(identity) => {
                let member = self.member.clone();
                self.actions.spawn(async move {
                    if let Err(error) = member.directory.join(identity).await {
                        tracing::warn!(%error, "the data directory cannot be stamped");
                    }
                });
            }
            None if written >= Format::RELEASE_0_2 && self.member.leads_with_quorum(metrics) => {
                self.propose(Command::ClusterIdentified { identity: drawn });
            }
            None => {}
        }
    }

    /// The lowest node forms the cluster, when all configured members have answered and are empty.
    fn form_cluster(&mut self) {
        let config = &self.member.config;
        let nodes = config
            .members
            .iter()
            .filter(|member| member.role == MemberRole::Node);
        if nodes.map(|node| node.id).min() != Some(config.id) || !self.actions.is_empty() {
            return;
        }
        if let Formation::Form { voters } = self.member.formation(&[]) {
            let member = self.member.clone();
            self.actions.spawn(async move {
                if let Err(error) = member.form(voters).await {
                    tracing::warn!(%error, "cannot form the cluster");
                }
            });
        }
    }
}

impl Guardian {
    /// Why this member takes no part in a cluster, for whoever asks whether it is ready.
    pub(super) fn obstacle(&self, metrics: &Metrics) -> Option<String> {
        let own = self.member.id();
        if let Some((by, stranger)) = self.member.book.own_stranger() {
            return Some(format!(
                "{by} says that this member is a stranger: {stranger}; {}",
                stranger.way_back(own)
            ));
        }
        if let Some(by) = self.waits_to_be_taken_in() {
            return Some(format!(
                "the data directory is new to {by}: this member waits for `tandem-node cluster replace {own}`"
            ));
        }
        if is_initialized(metrics) {
            return None;
        }
        match self.member.formation(&[]) {
            Formation::Wait { missing } if !missing.is_empty() => Some(format!(
                "no cluster was formed yet: {} did not answer; to do without them, run `tandem-node cluster form`",
                listing(missing.iter())
            )),
            Formation::Wait { .. } | Formation::Form { .. } | Formation::Exists { .. } => None,
        }
    }
}

/// Reaches change with every entry; what is lost of them with a crash is heard again.
const REACH_SAVED_EVERY: Duration = Duration::from_secs(1);
const START_SAVED_EVERY: Duration = Duration::from_millis(20);
