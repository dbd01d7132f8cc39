//! Requests of the other members' openraft, handed to the local one.
//!
//! What always holds: whatever contradicts what is committed here stops the member before anything is written.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};

use super::conflict::{Conflict, first_conflict};
use super::errors::StopReason;
use super::frame::{decode, encode};
use super::member::Member;
use super::type_config::{LogId, TypeConfig, VoteRecord};

/// Requests of the other members' openraft.
impl Member {
    pub(super) async fn append(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: AppendEntriesRequest<TypeConfig> = decode(body)?;
        self.check_committed(&request)?;
        let response = self
            .raft
            .append_entries(request)
            .await
            .map_err(io::Error::other)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.heard_us.store(micros.max(1), Ordering::Relaxed);
        }
        encode(&response)
    }

    pub(super) async fn vote(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: VoteRequest<TypeConfig> = decode(body)?;
        encode(&self.raft.vote(request).await.map_err(io::Error::other)?)
    }

    pub(super) async fn pre_vote(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: VoteRequest<TypeConfig> = decode(body)?;
        encode(&self.raft.pre_vote(request).await.map_err(io::Error::other)?)
    }

    pub(super) async fn transfer_leader(&self, body: &[u8]) -> io::Result<Bytes> {
        let request: TransferLeaderRequest<TypeConfig> = decode(body)?;
        let response = self.raft.handle_transfer_leader(request).await;
        encode(&response.map_err(io::Error::other)?)
    }
}

/// What must never differ between two members.
impl Member {
    /// A leader's entries agree with what is committed here, or one of the two has lost something: this member stops before
    /// anything is written. openraft only asserts it in debug builds.
    fn check_committed(&self, request: &AppendEntriesRequest<TypeConfig>) -> io::Result<()> {
        let entries = request.entries.iter().map(|entry| entry.log_id);
        self.check_committed_ids(&request.vote, request.prev_log_id.into_iter().chain(entries))
    }

    pub(super) fn check_committed_ids(
        &self,
        vote: &VoteRecord,
        theirs: impl IntoIterator<Item = LogId>,
    ) -> io::Result<()> {
        // A leader that was deposed may still send what was overwritten since; openraft refuses it.
        let is_current = *vote >= self.raft_metrics().vote;
        let Some(committed) = self
            .log
            .committed()
            .max(self.machine.last_applied())
            .filter(|_| is_current)
        else {
            return Ok(());
        };
        if let Some(Conflict { theirs, ours }) =
            first_conflict(committed, theirs, |index| self.log.id_at(index))
        {
            let text = format!(
                "the leader's log has {theirs} where {ours} is committed here: one of the two members has lost \
                 acknowledged entries; compare their states before either is replaced"
            );
            tracing::error!(%theirs, %ours, "two members hold different entries at a committed index");
            self.request_stop(StopReason::Failed(text.clone()));
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}
