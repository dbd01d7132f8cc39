//! What an administrator does to the membership: forming a cluster, replacing a member, finalising a format.
//!
//! Owns the carrying out; the steps are decided in `cluster::membership`. What always holds: one change at a time, each
//! guarded by the membership it was decided on, and repeating a command goes on where it stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use bytes::Bytes;
use openraft::ChangeMembers;
use openraft::raft::Precondition;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use tandem_cluster::membership::{
    Answer, Blocked, Candidate, Formation, Introduction, Newcomer, ReplacementView, Step, formation,
    next_step,
};
use tandem_cluster::state_comparison::StateMark;
use tandem_cluster::{Applied, Command, Format, MemberRecord, MemberRole, NodeId, RaftId};

use super::frame::{Kind, decode, encode};
use super::handle::ProposeError;
use super::member::{Member, is_initialized};
use super::peer_book::ANSWER_FRESH;

/// How a command on the membership ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdministrationError {
    /// Nothing was done, and nothing will be until somebody acts.
    #[error("{0}")]
    Blocked(String),
    /// It took too long. The same command goes on from there.
    #[error("not finished in time; it stopped at: {0}; the same command goes on from there")]
    Unfinished(String),
}

/// Asks the leader for one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AdministrationRequest {
    Replace {
        number: NodeId,
    },
    Finalise {
        /// Members that nobody has heard of and that are done without.
        without: Vec<NodeId>,
    },
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AdministrationAnswer {
    NotLeader,
    Waiting(String),
    Blocked(String),
    Done(String),
}

/// The latest format that every member reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OldestFormat {
    pub(super) format: Format,
    /// Since when (Unix milliseconds) all of them have.
    pub(super) since_ms: u64,
}

/// Carried out by whoever was asked.
impl Member {
    /// Forms a cluster of those who have answered, without those whom the administrator names.
    pub(super) async fn form_without(&self, without: &[NodeId]) -> Result<String, AdministrationError> {
        let blocked = |text: String| Err(AdministrationError::Blocked(text));
        match self.formation(without) {
            Formation::Form { voters } => {
                let text = format!("formed, with the votes of {}", listing(voters.iter()));
                match self.form(voters).await {
                    Ok(()) => Ok(text),
                    Err(error) => blocked(error.to_string()),
                }
            }
            Formation::Exists { members } => blocked(format!(
                "{} belong(s) to a cluster already: a second one would know nothing of what it holds",
                listing(members.iter())
            )),
            Formation::Wait { missing } => {
                let ids: Vec<String> = missing.iter().map(|id| id.0.to_string()).collect();
                blocked(format!(
                    "{} did not answer and may hold everything: start them, or, if they are gone for good, add --without \
                     {}",
                    listing(missing.iter()),
                    ids.join(",")
                ))
            }
        }
    }

    /// Puts whoever answers under this number now into the seat of the member that had it.
    pub(super) async fn replace(
        &self,
        number: NodeId,
        deadline: Duration,
    ) -> Result<String, AdministrationError> {
        if !self.config.members.iter().any(|member| member.id == number) {
            let text = format!("there is no member {number} in the configuration");
            return Err(AdministrationError::Blocked(text));
        }
        self.administer(AdministrationRequest::Replace { number }, deadline)
            .await
    }

    pub(super) async fn finalise(
        &self,
        without: Vec<NodeId>,
        deadline: Duration,
    ) -> Result<String, AdministrationError> {
        // A leader of an earlier release knows of no later format.
        let written = self.machine.state().format();
        let late = self.late_members(Format(written.0 + 1));
        if written < self.config.newest_format && !late.is_empty() {
            return Err(AdministrationError::Blocked(too_early(written, &late)));
        }
        self.administer(AdministrationRequest::Finalise { without }, deadline)
            .await
    }

    pub(super) async fn mark_states(&self, deadline: Duration) -> Result<u64, ProposeError> {
        let end = Instant::now() + deadline;
        let index_of = |mark: Option<StateMark>| mark.map(|mark| mark.index);
        let before = index_of(self.machine.mark());
        self.propose_own(Command::StateMarked, deadline).await?;
        loop {
            let own = index_of(self.machine.mark()).filter(|own| Some(*own) > before);
            let is_late = Instant::now() >= end;
            match own {
                Some(own) if is_late || self.all_have_marked(own) => return Ok(own),
                None if is_late => return Err(ProposeError::Timeout),
                Some(_) | None => sleep(MARK_PAUSE).await,
            }
        }
    }

    fn all_have_marked(&self, index: u64) -> bool {
        let mut present = self.book.all_present().into_values();
        present.all(|present| {
            let is_asked = present.stranger.is_none() && present.answers_within(ANSWER_FRESH);
            !is_asked || present.reach.state_mark.is_some_and(|mark| mark.index >= index)
        })
    }

    async fn administer(
        &self,
        request: AdministrationRequest,
        deadline: Duration,
    ) -> Result<String, AdministrationError> {
        let end = Instant::now() + deadline;
        let mut at = "looking for the leader".to_owned();
        while Instant::now() < end {
            match self.ask_leader(&request).await {
                AdministrationAnswer::Done(text) => return Ok(text),
                AdministrationAnswer::Blocked(text) => return Err(AdministrationError::Blocked(text)),
                AdministrationAnswer::Waiting(text) => at = text,
                AdministrationAnswer::NotLeader => {}
            }
            sleep(STEP_PAUSE).await;
        }
        Err(AdministrationError::Unfinished(at))
    }

    async fn ask_leader(&self, request: &AdministrationRequest) -> AdministrationAnswer {
        let leader = self.status.borrow().leader;
        let Some(leader) = leader else {
            return AdministrationAnswer::NotLeader;
        };
        if leader == self.id() {
            return self.advance(request).await;
        }
        let (Some(links), Ok(body)) = (self.peers.get(&leader), encode(request)) else {
            return AdministrationAnswer::NotLeader;
        };
        let answer = timeout(STEP_DEADLINE, links.proposals.ask(Kind::Administer, body)).await;
        match answer {
            Ok(Ok(body)) => decode(&body).unwrap_or(AdministrationAnswer::NotLeader),
            Ok(Err(_)) | Err(_) => AdministrationAnswer::NotLeader,
        }
    }

    pub(super) async fn administer_forwarded(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: AdministrationRequest = decode(body)?;
        encode(&self.advance(&request).await)
    }
}

/// Carried out by the leader: one step.
impl Member {
    async fn advance(&self, request: &AdministrationRequest) -> AdministrationAnswer {
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
        let heir = others
            .filter_map(|node| self.seat_of(node.id))
            .find(|id| self.book.takes_part(*id));
        let Some(heir) = heir else {
            return AdministrationAnswer::Blocked(format!(
                "{number} leads, and no other node can take the lead: start one first"
            ));
        };
        if let Err(error) = self.raft.trigger().transfer_leader(heir).await {
            tracing::warn!(%error, "openraft has stopped");
        }
        AdministrationAnswer::Waiting(format!("handing the lead over to {heir}"))
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

/// What any member can tell.
impl Member {
    /// What is to be done about a cluster that is not there yet.
    pub(super) fn formation(&self, without: &[NodeId]) -> Formation {
        let members = self.config.members.iter();
        let candidates: BTreeMap<NodeId, Candidate> = members
            .map(|member| {
                let answer = match member.id == self.id() {
                    true => Some(Answer {
                        id: self.raft_id(),
                        initialized: is_initialized(&self.raft_metrics()),
                    }),
                    false => self.answer_of(member.id),
                };
                let role = member.role;
                (member.id, Candidate { role, answer })
            })
            .collect();
        formation(&candidates, without)
    }

    fn answer_of(&self, number: NodeId) -> Option<Answer> {
        let present = self.book.present(number)?;
        present.answers_within(ANSWER_FRESH).then_some(Answer {
            id: present.introduction.id,
            initialized: present.reach.initialized || present.introduction.cluster.is_some(),
        })
    }

    /// Writes the first entry of a cluster of these voters.
    pub(super) async fn form(&self, voters: Vec<RaftId>) -> Result<(), String> {
        let record = |id: &RaftId| {
            let introduction = match *id == self.raft_id() {
                true => Some(self.introduction()),
                false => self.book.present(id.member()).map(|present| present.introduction),
            };
            introduction.and_then(|introduction| self.described(&introduction))
        };
        let members: BTreeMap<RaftId, MemberRecord> =
            voters.iter().filter_map(|id| Some((*id, record(id)?))).collect();
        self.raft
            .initialize(members)
            .await
            .map_err(|error| error.to_string())?;
        tracing::info!(voters = listing(voters.iter()), "formed the cluster");
        let present = self.book.all_present();
        let formats = present.values().map(|present| present.introduction.newest_format);
        let format = formats.fold(self.config.newest_format, Format::min);
        if format > Format::RELEASE_0_1 {
            // Nobody has ever written anything older here.
            let command = Command::FormatFinalised { format };
            let proposed = self.propose_own(command, FORMED_DEADLINE).await;
            proposed.map(drop).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What the membership is to say of a member that introduced itself.
    pub(super) fn described(&self, introduction: &Introduction) -> Option<MemberRecord> {
        let number = introduction.id.member();
        let configured = self.config.members.iter().find(|member| member.id == number)?;
        Some(MemberRecord::Described {
            address: configured.address.clone(),
            role: introduction.role,
            directory: introduction.directory,
        })
    }

    /// The latest format that every member reads, but those that are done without.
    ///
    /// # Errors
    /// The members that have not been heard of.
    pub(super) fn oldest_format(&self, without: &[NodeId]) -> Result<OldestFormat, Vec<RaftId>> {
        let own = OldestFormat {
            format: self.config.newest_format,
            since_ms: self.directory.format_since_ms(),
        };
        let membership = self.raft_metrics().membership_config;
        let mut oldest = own;
        let mut unheard = Vec::new();
        let others = membership
            .nodes()
            .map(|(id, _)| *id)
            .filter(|id| *id != self.raft_id());
        for id in others {
            match self.book.remembered(id) {
                Some(remembered) => {
                    oldest = OldestFormat {
                        format: oldest.format.min(remembered.newest_format),
                        since_ms: oldest.since_ms.max(remembered.format_since_ms),
                    };
                }
                None if without.contains(&id.member()) => {}
                None => unheard.push(id),
            }
        }
        if unheard.is_empty() {
            Ok(oldest)
        } else {
            Err(unheard)
        }
    }

    /// Members that do not read `format`, as far as they have been heard of.
    pub(super) fn late_members(&self, format: Format) -> Vec<RaftId> {
        let membership = self.raft_metrics().membership_config;
        let late = membership.nodes().filter(|(id, _)| {
            let remembered = self.book.remembered(**id);
            remembered.is_some_and(|remembered| remembered.newest_format < format)
        });
        late.map(|(id, _)| *id).collect()
    }
}

fn too_early(written: Format, late: &[RaftId]) -> String {
    let late = listing(late.iter());
    format!("the cluster writes {written}; these read no later one: {late}")
}

pub(super) fn listing<'a, T: std::fmt::Display + 'a>(ids: impl Iterator<Item = &'a T>) -> String {
    ids.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

const MARK_PAUSE: Duration = Duration::from_millis(20);
const STEP_PAUSE: Duration = Duration::from_millis(100);
const STEP_DEADLINE: Duration = Duration::from_secs(5);
const FORMED_DEADLINE: Duration = Duration::from_secs(30);
