//! openraft's requests to other members, over the links.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use tandem_cluster::membership::{Introduction, Start};
use tandem_cluster::{MemberRecord, NodeId, RaftId};

use super::frame::{Kind, decode, encode};
use super::link::Link;
use super::peer_book::PeerBook;
use super::snapshot_store::SnapshotData;
use super::type_config::{LeaderId, TypeConfig, VoteRecord};

/// The links to one peer. Separate, so that a vote or a heartbeat waits for nothing.
#[derive(Debug, Clone)]
pub(super) struct PeerLinks {
    /// Votes, heartbeats, status.
    pub(super) control: Link,
    /// Entries.
    pub(super) append: Link,
    pub(super) snapshot: Link,
    /// Commands for the leader.
    pub(super) proposals: Link,
}

/// Which of openraft's links a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Control,
    Append,
    Snapshot,
}

impl PeerLinks {
    /// Each is connected at once, if it is not.
    pub(super) fn wake(&self) {
        for link in [&self.control, &self.append, &self.snapshot, &self.proposals] {
            link.wake();
        }
    }

    /// The peer's process is the one of this start.
    pub(super) fn renew(&self, start: Start) {
        for link in [&self.append, &self.snapshot, &self.proposals] {
            link.renew(start);
        }
    }

    fn link(&self, channel: Channel) -> &Link {
        match channel {
            Channel::Control => &self.control,
            Channel::Append => &self.append,
            Channel::Snapshot => &self.snapshot,
        }
    }
}

/// Makes openraft's clients.
pub(super) struct Network {
    pub(super) peers: BTreeMap<NodeId, PeerLinks>,
    pub(super) book: Arc<PeerBook>,
}

/// One of openraft's clients of one peer.
pub(super) struct PeerClient {
    pub(super) target: RaftId,
    book: Arc<PeerBook>,
    /// `None` for a member that the configuration does not know.
    links: Option<PeerLinks>,
    /// This client's entries are heartbeats.
    heartbeats: bool,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    async fn new_client(&mut self, target: RaftId, _node: &MemberRecord) -> PeerClient {
        PeerClient {
            target,
            book: self.book.clone(),
            links: self.peers.get(&target.member()).cloned(),
            heartbeats: false,
        }
    }

    async fn new_heartbeat_client(&mut self, target: RaftId, node: &MemberRecord) -> PeerClient {
        let client = self.new_client(target, node).await;
        PeerClient {
            heartbeats: true,
            ..client
        }
    }
}

impl PeerClient {
    /// Nobody but the very member that is meant: another one under its number, or a stranger, is not asked.
    pub(super) fn link(&self, channel: Channel) -> io::Result<&Link> {
        let links = self.links.as_ref();
        let links = links
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "a member that is not configured"))?;
        let link = links.link(channel);
        let takes_part = |peer: Introduction| peer.id == self.target && self.book.may_ask(&peer).is_ok();
        if link.welcomed_by().is_some_and(takes_part) && self.book.own_stranger().is_none() {
            return Ok(link);
        }
        Err(io::Error::new(
            io::ErrorKind::NotConnected,
            "the member takes no part now",
        ))
    }

    fn denies_what_it_had(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        let index = request.prev_log_id.map(|id| id.index());
        index.is_some_and(|index| self.book.note_denied(self.target, index))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        channel: Channel,
        kind: Kind,
        request: &impl Serialize,
        option: &RPCOption,
    ) -> io::Result<T> {
        let answered = self.link(channel)?.ask(kind, encode(request)?);
        let body = timeout(option.soft_ttl(), answered).await?;
        decode(&body.map_err(io::Error::other)?)
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        mut request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let entries = request.entries.len();
        let channel = if self.heartbeats {
            Channel::Control
        } else {
            Channel::Append
        };
        loop {
            match self.ask(channel, Kind::Append, &request, &option).await {
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge && request.entries.len() > 1 => {
                    request.entries.truncate(request.entries.len() / 2);
                }
                // openraft takes for granted that this cannot happen.
                Ok(AppendEntriesResponse::Conflict) if self.denies_what_it_had(&request) => {
                    return Err(unreachable(io::Error::other("the member's log went back")));
                }
                Ok(AppendEntriesResponse::Success) if request.entries.len() < entries => {
                    let last = request.entries.last().map(|entry| entry.log_id);
                    return Ok(AppendEntriesResponse::PartialSuccess(last));
                }
                result => return result.map_err(unreachable),
            }
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.ask(Channel::Control, Kind::Vote, &request, &option);
        answer.await.map_err(unreachable)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.ask(Channel::Control, Kind::PreVote, &request, &option);
        answer.await.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteRecord,
        snapshot: Snapshot<LeaderId, RaftId, MemberRecord, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = self.send_snapshot(vote, snapshot) => {
                result.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let answer = self.ask(Channel::Control, Kind::TransferLeader, &request, &option);
        answer.await.map_err(unreachable)
    }
}

/// Every failure makes openraft pause before the next attempt: none of them is gone a microsecond later.
fn unreachable(error: io::Error) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}
