//! Proposals: a command on its way to whichever member leads, until it is applied here.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use tandem_cluster::{Actor, Applied, Command, NodeId, Proposal, RaftId};

use super::errors::ProposeError;
use super::frame::{BODY_BYTES_MAX, Kind, decode, encode};
use super::member::Member;
use super::messages::{ForwardedProposal, ProposalAnswer, Verdict};

impl Member {
    /// As [`Self::propose`], in this member's own name.
    pub(super) async fn propose_own(
        &self,
        command: Command,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        let actor = Actor::Member(self.id());
        self.propose(Proposal { actor, command }, deadline).await
    }

    /// Until the command is applied here, or the deadline is over.
    pub(super) async fn propose(
        &self,
        proposal: Proposal,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        let started = Instant::now();
        let end = started + deadline;
        let result = match (self.proposals.try_acquire(), check_size(&proposal)) {
            (_, Err(too_large)) => Err(too_large),
            (Err(_), Ok(())) => Err(ProposeError::Overloaded),
            (Ok(_permit), Ok(())) => timeout_at(end, self.propose_until_applied(&proposal, end))
                .await
                .unwrap_or(Err(ProposeError::Timeout)),
        };
        let outcome = match result {
            Ok(_) => "applied",
            Err(ProposeError::Overloaded) => "overloaded",
            Err(ProposeError::TooLarge { .. }) => "too_large",
            Err(ProposeError::Timeout) => "timeout",
            Err(ProposeError::Stopped) => "stopped",
            Err(ProposeError::NotFinalised) => "not_finalised",
        };
        self.metrics.proposals.with_label_values(&[outcome]).inc();
        if result.is_ok() {
            self.metrics
                .commit_seconds
                .observe(started.elapsed().as_secs_f64());
        }
        result
    }

    async fn propose_until_applied(
        &self,
        proposal: &Proposal,
        end: Instant,
    ) -> Result<Applied, ProposeError> {
        let mut told = None;
        loop {
            if self.stop.borrow().is_some() {
                return Err(ProposeError::Stopped);
            }
            let leader = told
                .take()
                .or_else(|| self.raft_metrics().current_leader.map(RaftId::member));
            let patience = ATTEMPT_MAX.min(end.saturating_duration_since(Instant::now()));
            // A member that was told to be a stranger proposes nothing.
            let leader = leader.filter(|_| self.book.own_stranger().is_none());
            let answer = match leader {
                Some(leader) if leader == self.id() => self.propose_here(proposal.clone(), patience).await,
                Some(leader) => self.propose_at(leader, proposal, patience).await,
                None => ProposalAnswer::NotLeader { leader: None },
            };
            match answer.verdict(self.id()) {
                Verdict::Committed { index, applied } => {
                    self.wait_until_applied(index).await;
                    return Ok(applied);
                }
                Verdict::Refused(error) => return Err(error),
                Verdict::Ask(leader) => told = Some(leader),
                Verdict::TryAgain => {}
            }
            self.wait_for_news().await;
        }
    }

    /// Proposes to the local openraft alone.
    async fn propose_here(&self, proposal: Proposal, patience: Duration) -> ProposalAnswer {
        let written = self.machine.state().format();
        let finalises = matches!(proposal.command, Command::FormatFinalised { .. });
        if proposal.command.format() > written && !finalises {
            return ProposalAnswer::NotFinalised;
        }
        if self.log.is_overloaded() {
            return ProposalAnswer::Overloaded;
        }
        if !self.disk_nearly_full() {
            return self.write(proposal, patience).await;
        }
        let Proposal { actor, command } = proposal;
        let mut allowed = self.machine.state().without_growth(command);
        let Some(command) = allowed.rest.take() else {
            let index = *self.machine.applied_index().borrow();
            let applied = allowed.answer(None);
            return ProposalAnswer::Applied { index, applied };
        };
        match self.write(Proposal { actor, command }, patience).await {
            ProposalAnswer::Applied { index, applied } => ProposalAnswer::Applied {
                index,
                applied: allowed.answer(Some(applied)),
            },
            other @ (ProposalAnswer::NotLeader { .. }
            | ProposalAnswer::NotFinalised
            | ProposalAnswer::Unknown
            | ProposalAnswer::Overloaded) => other,
        }
    }

    async fn write(&self, proposal: Proposal, patience: Duration) -> ProposalAnswer {
        match timeout(patience, self.raft.client_write(proposal)).await {
            Ok(Ok(response)) => ProposalAnswer::Applied {
                index: response.log_id.index(),
                applied: response.data,
            },
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                ProposalAnswer::NotLeader {
                    leader: forward.leader_id.map(RaftId::member),
                }
            }
            Ok(Err(_)) | Err(_) => ProposalAnswer::Unknown,
        }
    }

    async fn propose_at(&self, leader: NodeId, proposal: &Proposal, patience: Duration) -> ProposalAnswer {
        let Some(peer) = self.peers.get(&leader) else {
            return ProposalAnswer::Unknown;
        };
        let forwarded = ForwardedProposal {
            deadline_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
            proposal: proposal.clone(),
        };
        let Ok(body) = encode(&forwarded) else {
            return ProposalAnswer::Unknown;
        };
        match timeout(patience, peer.proposals.ask(Kind::Propose, body)).await {
            Ok(Ok(body)) => decode(&body).unwrap_or(ProposalAnswer::Unknown),
            Ok(Err(_)) | Err(_) => ProposalAnswer::Unknown,
        }
    }

    /// A peer's proposal: here or nowhere, the peer tries again by itself.
    pub(super) async fn propose_forwarded(&self, body: &[u8]) -> io::Result<Bytes> {
        let forwarded: ForwardedProposal = decode(body)?;
        let patience = Duration::from_millis(u64::from(forwarded.deadline_ms)).min(ATTEMPT_MAX);
        encode(&self.propose_here(forwarded.proposal, patience).await)
    }

    /// Whoever proposed finds the result in the local state, unless this member lags far behind.
    async fn wait_until_applied(&self, index: u64) {
        let mut applied = self.machine.applied_index();
        let reached = applied.wait_for(|applied| *applied >= index);
        // Lagging is no failure: the command is committed.
        let _ = timeout(LOCAL_LAG_MAX, reached).await;
    }

    async fn wait_for_news(&self) {
        let mut status = self.status.subscribe();
        tokio::select! {
            biased;
            _ = status.changed() => {}
            () = sleep(RETRY_PAUSE) => {}
        }
    }
}

/// An entry that no frame can carry would stop the replication of everything behind it.
fn check_size(proposal: &Proposal) -> Result<(), ProposeError> {
    let bytes = postcard::experimental::serialized_size(proposal).unwrap_or(usize::MAX);
    match bytes <= COMMAND_BYTES_MAX {
        true => Ok(()),
        false => Err(ProposeError::TooLarge {
            bytes,
            max: COMMAND_BYTES_MAX,
        }),
    }
}

/// What surrounds a command in a frame takes less than a kilobyte.
const COMMAND_BYTES_MAX: usize = BODY_BYTES_MAX - (64 << 10);

/// One attempt at a proposal: a leader that does not answer for so long may not be one any more.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);

const RETRY_PAUSE: Duration = Duration::from_millis(10);

const LOCAL_LAG_MAX: Duration = Duration::from_millis(100);
