//! The member's own affairs: who is alive, who is a stranger, who leads, and when to act on it.
//!
//! One task. It watches the peers' processes and asks them how they are, lets `cluster::membership` judge them and form
//! the cluster, lets `cluster::witness` decide about campaigns, and as leader keeps the membership described, declares
//! nodes lost and lets old results expire. Everything is a level: it looks at what stands now, and remembers no events.

mod disk;
mod health;
mod hearing;
mod keeping;
mod lead;
mod losses;
mod membership;
mod peers;
mod snapshots;
mod strangers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use tandem_cluster::authority::{QuorumContact, Return, StateAsOf};
use tandem_cluster::witness::{ReluctantLeader, Successor};
use tandem_cluster::{MemberRole, NodeId};

use super::errors::StopReason;
use super::link::LinkEvent;
use super::member::Member;

use disk::DiskWatch;
use health::HealthWatch;
use hearing::Answered;
use membership::Upkeep;
use peers::Peer;
use snapshots::SnapshotWatch;

pub(super) struct Guardian {
    member: Arc<Member>,
    events: mpsc::Receiver<(NodeId, LinkEvent)>,
    peers: BTreeMap<NodeId, Peer>,
    polls: FuturesUnordered<BoxFuture<'static, Answered>>,
    campaigner: Campaigner,
    actions: JoinSet<()>,
    /// The incarnation under which each node stands in the state, and since when: to register is to be heard, even by a
    /// leader that has not reached the node again yet.
    registered: BTreeMap<NodeId, (u64, Instant)>,
    /// This member's last contact with a majority.
    contact: QuorumContact,
    /// Of which moment this member's state is.
    as_of: StateAsOf,
    /// From a time without such contact.
    returned: Return,
    /// Since when this member has led without a break.
    led_since: Option<Instant>,
    /// Nodes proposed as lost, and when: the proposal may take a moment to be applied.
    lost: BTreeMap<NodeId, (u64, Instant)>,
    /// When the cluster's time was last proposed.
    expired: Option<Instant>,
    /// The cluster's time when this member's lead began: it counts on from there.
    time_at_lead: Option<(u64, Instant)>,
    looked: Instant,
    upkeep: Upkeep,
    disk: DiskWatch,
    health: HealthWatch,
    snapshots: SnapshotWatch,
}

enum Campaigner {
    Node(Successor),
    Witness(ReluctantLeader),
}

impl Guardian {
    pub(super) fn new(member: Arc<Member>, events: mpsc::Receiver<(NodeId, LinkEvent)>) -> Self {
        let now = Instant::now();
        let config = &member.config;
        let others = config.members.iter().filter(|peer| peer.id != config.id);
        let peers = others.map(|peer| (peer.id, Peer::new(peer.role, now))).collect();
        let campaigner = match config.role {
            MemberRole::Node => Campaigner::Node(Successor::new(config.id)),
            MemberRole::Witness => Campaigner::Witness(ReluctantLeader::new(config.timings.witness_patience)),
        };
        Self {
            member,
            events,
            peers,
            polls: FuturesUnordered::new(),
            campaigner,
            actions: JoinSet::new(),
            registered: BTreeMap::new(),
            contact: QuorumContact::default(),
            as_of: StateAsOf::default(),
            returned: Return::default(),
            led_since: None,
            lost: BTreeMap::new(),
            expired: None,
            time_at_lead: None,
            looked: now,
            upkeep: Upkeep::new(now),
            disk: DiskWatch::new(),
            health: HealthWatch::default(),
            snapshots: SnapshotWatch::new(now),
        }
    }

    pub(super) async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut server = self.member.raft.server_metrics();
        loop {
            tokio::select! {
                biased;
                Some((peer, event)) = self.events.recv() => self.note(peer, event),
                Some(answered) = self.polls.next() => self.note_answer(answered),
                changed = server.changed() => if changed.is_err() {
                    return self.note_end();
                },
                _ = ticks.tick() => {}
            }
            while self.actions.try_join_next().is_some() {}
            self.member.config.pulse.beat();
            if !self.look() {
                return;
            }
        }
    }

    /// openraft never starts again after it has stopped.
    fn note_end(&self) {
        let reason = match self.member.raft_metrics().running_state {
            Err(fatal) => fatal.to_string(),
            Ok(()) => "openraft has stopped".to_owned(),
        };
        self.member.request_stop(StopReason::Failed(reason));
    }

    /// Looks at everything once; false when openraft has stopped.
    fn look(&mut self) -> bool {
        let now = Instant::now();
        self.forgive_after_pause(now);
        self.confirm_ends(now);
        let metrics = self.member.raft_metrics();
        self.note_lead(&metrics, now);
        self.publish(&metrics, now);
        if metrics.running_state.is_err() {
            self.note_end();
            return false;
        }
        self.keep_up(&metrics, now);
        self.watch_disk(&metrics, now);
        self.make_snapshots(&metrics, now);
        self.renew_links();
        self.poll_peers(now);
        self.campaign(&metrics, now);
        self.note_registered(now);
        if self.member.leads_with_quorum(&metrics) {
            self.declare_lost(now);
            self.expire(now);
        }
        true
    }
}

const TICK: Duration = Duration::from_millis(25);
