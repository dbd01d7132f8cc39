//! What an administrator does to the membership: forming a cluster, replacing a member, finalising a format.
//!
//! Owns the carrying out; the steps are decided in `cluster::membership`. What always holds: one change at a time, each
//! guarded by the membership it was decided on, and repeating a command goes on where it stopped.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use tandem_cluster::membership::Formation;
use tandem_cluster::state_comparison::StateMark;
use tandem_cluster::{Command, Format, NodeId, RaftId};

use super::errors::ProposeError;
use super::frame::{Kind, decode, encode};
use super::member::Member;
use super::peer_pages::ANSWER_FRESH;

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

pub(super) fn too_early(written: Format, late: &[RaftId]) -> String {
    let late = listing(late.iter());
    format!("the cluster writes {written}; these read no later one: {late}")
}

pub(super) fn listing<'a, T: std::fmt::Display + 'a>(ids: impl Iterator<Item = &'a T>) -> String {
    ids.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

const MARK_PAUSE: Duration = Duration::from_millis(20);
pub(super) const STEP_PAUSE: Duration = Duration::from_millis(100);
pub(super) const STEP_DEADLINE: Duration = Duration::from_secs(5);
