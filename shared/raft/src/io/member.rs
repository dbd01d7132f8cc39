//! The local member: openraft and its stores, as the server, the guardian and the handle use them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Instant as _, ServerState};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use tandem_cluster::health::WRITING_MAX;
use tandem_cluster::membership::{Introduction, ListedMember, Reach, list_difference};
use tandem_cluster::witness::LogPosition;
use tandem_cluster::{NodeId, RaftId};

use super::config::ClusterConfig;
use super::directory::Directory;
use super::errors::StopReason;
use super::log_store::LogStore;
use super::messages::{Declined, Hello};
use super::metrics::RaftMetrics;
use super::network::PeerLinks;
use super::peer_book::PeerBook;
use super::refusals::{Refusal, Refusals};
use super::snapshot_intake::IncomingSnapshot;
use super::state_machine::StateMachine;
use super::status::ClusterStatus;
use super::type_config::{Raft, TypeConfig, position_of};

pub(super) struct Member {
    pub(super) config: ClusterConfig,
    pub(super) directory: Directory,
    pub(super) book: Arc<PeerBook>,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) machine: StateMachine,
    pub(super) metrics: RaftMetrics,
    pub(super) peers: BTreeMap<NodeId, PeerLinks>,
    pub(super) status: watch::Sender<ClusterStatus>,
    /// The latest moment of which the local state is known to hold all that was committed before.
    pub(super) state_as_of: watch::Sender<Option<std::time::Instant>>,
    pub(super) stop: watch::Sender<Option<StopReason>>,
    /// A planned stop is under way: this member takes no lead.
    pub(super) draining: AtomicBool,
    pub(super) disk_nearly_full: AtomicBool,
    /// What is known of the other members could not be written down the last time.
    pub(super) book_unsaved: AtomicBool,
    pub(super) proposals: Semaphore,
    pub(super) refusals: Refusals,
    pub(super) list_differences: Mutex<BTreeMap<NodeId, String>>,
    /// When this member's certificate ends, in seconds of Unix time; 0: it has none.
    pub(super) certificate_expires: Arc<AtomicU64>,
    /// One change of the membership at a time.
    pub(super) membership_changes: Semaphore,
    pub(super) incoming: Mutex<IncomingSnapshot>,
    /// The cluster's time as a leader told it last, and when.
    pub(super) told_time: Mutex<Option<(u64, Instant)>>,
    pub(super) started: Instant,
    /// Microseconds from `started` to when a leader was heard last; 0: never.
    pub(super) heard_us: AtomicU64,
}

/// openraft's view, copied.
pub(super) type Metrics = openraft::RaftMetrics<TypeConfig>;

impl Member {
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn disk_nearly_full(&self) -> bool {
        self.disk_nearly_full.load(Ordering::Relaxed)
    }

    /// The write that is under way takes too long.
    pub(super) fn disk_stands_still(&self) -> bool {
        self.log.writing_for().is_some_and(|time| time > WRITING_MAX)
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.config.incarnation.as_u64()
    }

    pub(super) fn id(&self) -> NodeId {
        self.config.id
    }

    /// The cluster's time, in milliseconds: the later of what the state and a leader said last, and what this process's
    /// monotonic clock has counted since; the wall clock's, as Unix time, before anybody has told one.
    pub(super) fn cluster_ms(&self) -> u64 {
        let now = Instant::now();
        let age = self.config.timings.expire_age;
        let by_state = self
            .machine
            .ticked()
            .map(|ticked| counted_on(ticked.before_ms, now.saturating_duration_since(ticked.at) + age));
        let by_leader = *self.told_time.lock().unwrap_or_else(PoisonError::into_inner);
        let by_leader = by_leader.map(|(told, at)| counted_on(told, now.saturating_duration_since(at)));
        by_state
            .max(by_leader)
            .unwrap_or_else(|| (self.config.wall_clock_ms)())
    }

    /// A leader said so just now. The log tells the time only while something can expire.
    pub(super) fn note_time(&self, told_ms: u64, now: Instant) {
        let mut told = self.told_time.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was deposed, or is behind, takes nothing back.
        if told.is_none_or(|(known, at)| counted_on(known, now.saturating_duration_since(at)) <= told_ms) {
            *told = Some((told_ms, now));
        }
    }

    pub(super) fn raft_id(&self) -> RaftId {
        self.directory.raft_id()
    }

    pub(super) fn introduction(&self) -> Introduction {
        self.directory.introduction()
    }

    /// How far this member's log reaches now.
    pub(super) fn reach(&self) -> Reach {
        Reach {
            last: self.log_position(),
            applied: self.machine.applied_index().borrow().min(self.log.synced_index()),
            initialized: is_initialized(&self.raft_metrics()),
            disk_nearly_full: self.disk_nearly_full(),
            disk_stands_still: self.disk_stands_still(),
            state_mark: self.machine.mark(),
        }
    }

    /// Why a connection that began with this hello is refused.
    pub(super) fn refusal(&self, hello: &Hello) -> Option<Refusal> {
        let from = hello.from.id.member();
        if hello.cluster != self.config.name {
            Some(Refusal::AnotherCluster {
                theirs: hello.cluster.chars().take(NAME_CHARS_MAX).collect(),
                ours: self.config.name.clone(),
            })
        } else if hello.to != self.id() {
            Some(Refusal::AnotherMember {
                wanted: hello.to,
                ours: self.id(),
            })
        } else if !self.peers.contains_key(&from) {
            Some(Refusal::NotConfigured(from))
        } else {
            None
        }
    }

    pub(super) fn note_declined(&self, peer: NodeId, declined: Declined) {
        match declined {
            Declined::You(stranger) => self.book.note_told(peer, Some(stranger)),
            Declined::Me(stranger) => {
                tracing::debug!(%peer, %stranger, "peer is not a member of the cluster")
            }
            Declined::Stopped => tracing::debug!(%peer, "a member has stopped"),
        }
    }

    /// The member that votes, or else follows, under this number.
    pub(super) fn seat_of(&self, number: NodeId) -> Option<RaftId> {
        let membership = self.raft_metrics().membership_config;
        let voter = membership.voter_ids().find(|id| id.member() == number);
        voter.or_else(|| {
            let mut learners = membership.membership().learner_ids();
            learners.find(|id| id.member() == number)
        })
    }

    pub(super) fn raft_metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The first reason stands.
    pub(super) fn request_stop(&self, reason: StopReason) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            stop.get_or_insert(reason);
            first
        });
    }

    /// When a leader was last heard.
    pub(super) fn heard(&self) -> Option<Instant> {
        let micros = self.heard_us.load(Ordering::Relaxed);
        (micros > 0).then(|| self.started + Duration::from_micros(micros))
    }

    pub(super) fn heard_within_lease(&self) -> bool {
        self.heard()
            .is_some_and(|heard| heard.elapsed() < self.config.timings.election_max)
    }

    /// Leads, and a majority answered within a lease.
    pub(super) fn leads_with_quorum(&self, metrics: &Metrics) -> bool {
        let lease = self.config.timings.election_max;
        metrics.state == ServerState::Leader && self.quorum_age(metrics).is_some_and(|age| age < lease)
    }

    /// How long ago this member, as leader, sent what a majority acknowledged last; `None`: never.
    pub(super) fn quorum_age(&self, metrics: &Metrics) -> Option<Duration> {
        let own = self.raft_id();
        match metrics.membership_config.voter_ids().all(|voter| voter == own) {
            true => Some(Duration::ZERO),
            false => metrics.last_quorum_acked.as_ref().map(|at| at.elapsed()),
        }
    }

    /// No entry after this one is committed, as this member knows that leads. What the leaders before it committed, it knows
    /// only once an entry of its own is.
    pub(super) fn committed_at_most(&self, metrics: &Metrics) -> u64 {
        let committed = metrics.cluster_committed.map(position_of);
        let of_own_term = committed.filter(|position| position.term == metrics.current_term);
        of_own_term.unwrap_or_else(|| self.log_position()).index
    }

    pub(super) fn log_position(&self) -> LogPosition {
        self.log
            .last_log_id()
            .map_or_else(LogPosition::default, position_of)
    }

    /// The configured list.
    pub(super) fn listed(&self) -> Vec<ListedMember> {
        let members = self.config.members.iter();
        members
            .map(|member| ListedMember {
                id: member.id,
                role: member.role,
                address: member.address.clone(),
            })
            .collect()
    }

    /// Takes in the list of a peer.
    pub(super) fn note_list(&self, peer: NodeId, theirs: &[ListedMember]) {
        let difference = list_difference(&self.listed(), peer, theirs);
        let mut differences = self
            .list_differences
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match difference {
            Some(difference) => differences.insert(peer, difference),
            None => differences.remove(&peer),
        };
    }

    /// By peer: how its list differs from this member's.
    pub(super) fn list_differences(&self) -> BTreeMap<NodeId, String> {
        self.list_differences
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

pub(super) fn is_initialized(metrics: &Metrics) -> bool {
    metrics.current_term > 0 || metrics.membership_config.voter_ids().next().is_some()
}

/// What a time in milliseconds has become after so long.
fn counted_on(ms: u64, after: Duration) -> u64 {
    ms.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}

/// What a stranger claims is not repeated at any length.
const NAME_CHARS_MAX: usize = 64;
