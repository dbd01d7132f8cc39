//! openraft's types, as this project uses them.

use openraft::impls::{InlineBatch, OneshotResponder};
use openraft::{AnyError, EntryPayload, RaftTypeConfig, Vote};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;

use tandem_cluster::witness::LogPosition;
use tandem_cluster::{Applied, MemberRecord, Proposal, RaftId};

use super::state_machine::StateMachine;

/// tokio, with random numbers from a seed: simulations choose it, everybody else draws it.
pub(super) type Runtime = DeterministicRng<TokioRuntime>;
pub(super) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, RaftId>;
pub(super) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(super) type Entry = openraft::alias::DefaultEntryOf<TypeConfig>;
pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type VoteRecord = openraft::alias::VoteOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<RaftId, MemberRecord>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Payload = EntryPayload<Proposal, RaftId, MemberRecord>;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Applied;
    type NodeId = RaftId;
    type Node = MemberRecord;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote<LeaderId>;
    type Entry = openraft::alias::DefaultEntryOf<Self>;
    type Payload = Payload;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type AsyncRuntime = Runtime;
    type ErrorSource = AnyError;
}

/// Where a log stands whose last entry is this one.
pub(super) fn position_of(id: LogId) -> LogPosition {
    LogPosition {
        term: id.committed_leader_id().term,
        index: id.index(),
    }
}
