//! The member's own affairs: who is alive, who leads, when to act on it.
//!
//! One task. It watches the peers' processes and asks them how they are, forms the cluster, lets
//! `cluster::witness` decide about campaigns, and as leader declares nodes lost and lets old results expire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cluster::witness::{Decision, Heir, Lead, LogPosition, NodeView, ReluctantLeader, View};
use crate::cluster::{Command, MemberRecord, MemberRole, NodeId, NodeState, RaftId};

use super::frame::{Kind, PeerStatus, decode};
use super::handle::StopReason;
use super::link::LinkEvent;
use super::member::{Member, Metrics, is_initialized};
use super::status::{Authority, ClusterStatus, RaftRole};

pub(super) struct Guardian {
    member: Arc<Member>,
    events: mpsc::Receiver<(NodeId, LinkEvent)>,
    peers: BTreeMap<u64, Peer>,
    polls: FuturesUnordered<BoxFuture<'static, (u64, Option<PeerStatus>)>>,
    campaigner: Campaigner,
    actions: JoinSet<()>,
    /// The life in which each node stands in the state, and since when: to register is to be heard, even by a
    /// leader that has not reached the node again yet.
    lives: BTreeMap<NodeId, (u64, Instant)>,
    /// Nodes proposed as lost, and when: the proposal may take a moment to be applied.
    lost: BTreeMap<NodeId, (u64, Instant)>,
    expired: Instant,
    looked: Instant,
}

struct Peer {
    role: MemberRole,
    connected: bool,
    incarnation: Option<u64>,
    /// The life of the process that was last seen ending, and when.
    ended: Option<(u64, Instant)>,
    /// An answer, or a connection made.
    heard: Instant,
    status: Option<(Instant, PeerStatus)>,
    polled: Option<Instant>,
}

enum Campaigner {
    Heir(Heir),
    Witness(ReluctantLeader),
}

impl Guardian {
    pub(super) fn new(member: Arc<Member>, events: mpsc::Receiver<(NodeId, LinkEvent)>) -> Self {
        let now = Instant::now();
        let config = &member.config;
        let others = config.members.iter().filter(|peer| peer.id != config.id);
        let peers = others
            .map(|peer| (peer.id.0, Peer::new(peer.role, now)))
            .collect();
        let campaigner = match config.role {
            MemberRole::Node => Campaigner::Heir(Heir::new(config.id)),
            MemberRole::Witness => Campaigner::Witness(ReluctantLeader::new(config.timings.witness_patience)),
        };
        Self {
            member,
            events,
            peers,
            polls: FuturesUnordered::new(),
            campaigner,
            actions: JoinSet::new(),
            lives: BTreeMap::new(),
            lost: BTreeMap::new(),
            expired: now,
            looked: now,
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
                Some((peer, status)) = self.polls.next() => self.note_status(peer, status),
                changed = server.changed() => if changed.is_err() {
                    return self.note_end();
                },
                _ = ticks.tick() => {}
            }
            while self.actions.try_join_next().is_some() {}
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
        let metrics = self.member.raft_metrics();
        self.publish(&metrics, now);
        if metrics.running_state.is_err() {
            self.note_end();
            return false;
        }
        self.poll_peers(now);
        self.form_cluster(&metrics);
        self.campaign(&metrics, now);
        self.note_registered(now);
        if self.member.leads_with_quorum(&metrics) {
            self.declare_lost(now);
            self.expire(now);
        }
        true
    }
}

/// Who is alive.
impl Guardian {
    fn note(&mut self, id: NodeId, event: LinkEvent) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id.0) else {
            return;
        };
        match event {
            LinkEvent::Connected { incarnation } => {
                if peer.incarnation != Some(incarnation) {
                    peer.end_life(now);
                }
                peer.incarnation = Some(incarnation);
                peer.connected = true;
                peer.heard = now;
            }
            LinkEvent::Broken => peer.connected = false,
            LinkEvent::Refused => peer.end_life(now),
        }
        if peer.ended.is_some_and(|(_, at)| at == now) {
            tracing::info!(peer = %id, "a member's process has ended");
            // Fresh answers decide who may lead now.
            let others: Vec<u64> = self.peers.keys().copied().collect();
            others.into_iter().for_each(|other| self.poll(other, now));
        }
        if let LinkEvent::Connected { .. } = event {
            self.poll(id.0, now);
        }
    }

    fn note_status(&mut self, id: u64, status: Option<PeerStatus>) {
        let now = Instant::now();
        if let (Some(peer), Some(status)) = (self.peers.get_mut(&id), status) {
            peer.heard = now;
            peer.status = Some((now, status));
        }
    }

    fn poll_peers(&mut self, now: Instant) {
        let interval = self.member.config.timings.status_interval;
        let due = |peer: &Peer| peer.connected && peer.polled.is_none_or(|polled| now >= polled + interval);
        let due: Vec<u64> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| due(peer).then_some(*id))
            .collect();
        due.into_iter().for_each(|id| self.poll(id, now));
    }

    fn poll(&mut self, id: u64, now: Instant) {
        let (Some(peer), Some(links)) = (self.peers.get_mut(&id), self.member.peers.get(&id)) else {
            return;
        };
        if self.polls.len() >= POLLS_UNDER_WAY_MAX {
            return;
        }
        peer.polled = Some(now);
        let control = links.control.clone();
        self.polls.push(Box::pin(async move {
            let answer = timeout(POLL_TIMEOUT, control.ask(Kind::Status, Bytes::new())).await;
            let status = answer
                .ok()
                .and_then(Result::ok)
                .and_then(|body| decode(&body).ok());
            (id, status)
        }));
    }

    /// This process itself was stopped or starved: silence of the others proves nothing.
    fn forgive_after_pause(&mut self, now: Instant) {
        if now > self.looked + PAUSE_NOTICED {
            for peer in self.peers.values_mut().filter(|peer| peer.connected) {
                peer.heard = now;
            }
        }
        self.looked = now;
    }
}

/// Who leads.
impl Guardian {
    fn lead(&self, metrics: &Metrics) -> Lead {
        let heard = self.member.heard().unwrap_or(self.member.started);
        let leader = metrics.current_leader;
        let died = leader
            .and_then(|leader| self.peers.get(&leader.member().0))
            .and_then(|peer| peer.ended)
            .is_some_and(|(_, at)| at >= heard);
        if metrics.state == ServerState::Leader {
            Lead::Own
        } else if died {
            Lead::Dead {
                term: metrics.current_term,
            }
        } else if self.member.heard_within_lease() {
            Lead::Heard
        } else {
            Lead::SilentSince(heard.into_std())
        }
    }

    fn campaign(&mut self, metrics: &Metrics, now: Instant) {
        if !is_initialized(metrics) || self.member.draining.load(Ordering::Relaxed) {
            return;
        }
        let lead = self.lead(metrics);
        if !self.member.config.fast_take_over && matches!(lead, Lead::Dead { .. }) {
            return;
        }
        let view = View {
            lead,
            log: self.member.log_position(),
            nodes: self.node_views(metrics),
        };
        let decision = match &mut self.campaigner {
            Campaigner::Heir(heir) => heir.handle(&view, now.into_std()),
            Campaigner::Witness(witness) => witness.handle(&view, now.into_std()),
        };
        if let Some(decision) = decision {
            tracing::info!(?decision, ?lead, "acting on the lead");
            self.act(decision, metrics);
        }
    }

    fn node_views(&self, metrics: &Metrics) -> Vec<NodeView> {
        let heard = self.member.heard();
        let matched = |id: u64| {
            let replication = metrics.replication.as_ref()?;
            Some((*replication.get(&RaftId::new(0, NodeId(id)))?)?.index())
        };
        let nodes = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.role == MemberRole::Node);
        nodes
            .map(|(&id, peer)| NodeView {
                id: NodeId(id),
                reachable: peer.connected,
                log: peer.log_since(heard),
                matched: matched(id),
            })
            .collect()
    }

    fn act(&mut self, decision: Decision, metrics: &Metrics) {
        let member = self.member.clone();
        let vote = metrics.vote;
        if decision == Decision::TakeOver {
            self.member.metrics.take_overs.inc();
        }
        self.actions.spawn(async move {
            let result = match decision {
                Decision::TakeOver => {
                    let last = member.log.last_log_id();
                    let request = TransferLeaderRequest::new(vote, RaftId::new(0, NodeId(member.id())), last);
                    match member.raft.handle_transfer_leader(request).await {
                        // Another survivor was quicker to campaign, and perhaps cannot win.
                        Ok(Err(_)) => member.raft.trigger().elect(true).await,
                        Ok(Ok(())) => Ok(()),
                        Err(fatal) => Err(fatal),
                    }
                }
                Decision::Campaign => member.raft.trigger().elect(true).await,
                Decision::HandOver(to) => member.raft.trigger().transfer_leader(RaftId::new(0, to)).await,
            };
            if let Err(error) = result {
                tracing::warn!(%error, "openraft has stopped");
            }
        });
    }

    fn publish(&self, metrics: &Metrics, now: Instant) {
        let lead = self.lead(metrics);
        let own_quorum = self.member.leads_with_quorum(metrics);
        let leader = match lead {
            Lead::Own => own_quorum.then_some(self.member.config.id),
            Lead::Heard => metrics.current_leader.map(RaftId::member),
            Lead::Dead { .. } | Lead::SilentSince(_) => None,
        };
        let status = ClusterStatus {
            role: role(metrics),
            leader,
            term: metrics.current_term,
            last_applied: *self.member.machine.applied_index().borrow(),
            authority: if own_quorum || self.member.heard_within_lease() {
                Authority::Quorum
            } else {
                self.authority_of_front_ends(now)
            },
        };
        self.member.metrics.observe(&status);
        self.member.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    /// Without a majority: what the front ends, through which all clients come, hear of a leader.
    fn authority_of_front_ends(&self, now: Instant) -> Authority {
        let fresh = self.member.config.timings.status_interval * STATUS_INTERVALS_FRESH;
        let witnesses = self
            .peers
            .values()
            .filter(|peer| peer.role == MemberRole::Witness);
        let mut answers = witnesses
            .filter_map(|peer| peer.status)
            .filter(|(at, _)| now < *at + fresh)
            .map(|(_, status)| status.hears_leader)
            .peekable();
        if answers.peek().is_none() || answers.any(|hears_leader| hears_leader) {
            Authority::Isolated
        } else {
            Authority::NoLeader
        }
    }
}

/// What only one member does for all.
impl Guardian {
    /// The lowest node writes the first entry: when it has seen that all are as new as itself, or, after a while,
    /// a majority is and nobody within reach is not.
    fn form_cluster(&mut self, metrics: &Metrics) {
        let config = &self.member.config;
        let nodes = config
            .members
            .iter()
            .filter(|member| member.role == MemberRole::Node);
        if is_initialized(metrics) || nodes.map(|node| node.id).min() != Some(config.id) {
            return;
        }
        let answers: Vec<bool> = self
            .peers
            .values()
            .filter(|peer| peer.connected)
            .filter_map(|peer| peer.status.map(|(_, status)| status.initialized))
            .collect();
        let pristine = 1 + answers.len();
        let enough = pristine == config.members.len()
            || (pristine > config.members.len() / 2
                && self.member.started.elapsed() > FORM_WITHOUT_MINORITY_AFTER);
        if !enough || answers.contains(&true) || !self.actions.is_empty() {
            return;
        }
        let members: BTreeMap<RaftId, MemberRecord> = config
            .members
            .iter()
            .map(|member| (RaftId::new(0, member.id), MemberRecord::Undescribed))
            .collect();
        let member = self.member.clone();
        self.actions.spawn(async move {
            match member.raft.initialize(members).await {
                Ok(()) => tracing::info!("formed the cluster"),
                Err(error) => tracing::warn!(%error, "cannot form the cluster"),
            }
        });
    }

    fn note_registered(&mut self, now: Instant) {
        let present: BTreeMap<NodeId, u64> = self.member.machine.with_state(|state| {
            let present = state
                .nodes()
                .values()
                .filter(|node| node.state != NodeState::Lost);
            present.map(|node| (node.id, node.incarnation)).collect()
        });
        self.lives
            .retain(|id, (incarnation, _)| present.get(id) == Some(incarnation));
        for (id, incarnation) in present {
            self.lives.entry(id).or_insert((incarnation, now));
        }
    }

    fn declare_lost(&mut self, now: Instant) {
        let silent_after = self.member.config.timings.silent_after;
        for (id, (incarnation, since)) in self.lives.clone() {
            let gone = self.peers.get(&id.0).is_some_and(|peer| {
                peer.ended.is_some_and(|(ended, _)| ended == incarnation)
                    || now > peer.heard.max(since) + silent_after
            });
            let proposed = self
                .lost
                .get(&id)
                .is_some_and(|(lost, at)| *lost == incarnation && now < *at + LOST_REPEATED_AFTER);
            if gone && !proposed {
                tracing::warn!(node = %id, "declaring a node lost");
                self.lost.insert(id, (incarnation, now));
                self.member.metrics.nodes_lost.inc();
                self.propose(Command::NodeLost { id, incarnation });
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let timings = &self.member.config.timings;
        if now < self.expired + timings.expire_interval {
            return;
        }
        self.expired = now;
        let age = u64::try_from(timings.expire_age.as_millis()).unwrap_or(u64::MAX);
        let before_ms = (self.member.config.wall_clock_ms)().saturating_sub(age);
        self.propose(Command::Expire { before_ms });
    }

    fn propose(&mut self, command: Command) {
        let member = self.member.clone();
        self.actions.spawn(async move {
            if let Err(error) = member.propose(command, PROPOSAL_DEADLINE).await {
                tracing::debug!(%error, "a proposal of the leader failed");
            }
        });
    }
}

impl Peer {
    fn new(role: MemberRole, now: Instant) -> Self {
        Self {
            role,
            connected: false,
            incarnation: None,
            ended: None,
            heard: now,
            status: None,
            polled: None,
        }
    }

    fn end_life(&mut self, now: Instant) {
        self.connected = false;
        self.status = None;
        if let Some(incarnation) = self.incarnation.take() {
            self.ended = Some((incarnation, now));
        }
    }

    /// Where its log ended, if it said so after the leader was last heard.
    fn log_since(&self, heard: Option<Instant>) -> Option<LogPosition> {
        let (at, status) = self.status?;
        (heard.is_none_or(|heard| at > heard)).then_some(LogPosition {
            term: status.last_term,
            index: status.last_index,
        })
    }
}

fn role(metrics: &Metrics) -> RaftRole {
    if metrics.running_state.is_err() {
        return RaftRole::Stopped;
    }
    match metrics.state {
        ServerState::Learner => RaftRole::Learner,
        ServerState::Follower => RaftRole::Follower,
        ServerState::Candidate => RaftRole::Candidate,
        ServerState::Leader => RaftRole::Leader,
        ServerState::Shutdown => RaftRole::Stopped,
    }
}

const TICK: Duration = Duration::from_millis(25);
const POLL_TIMEOUT: Duration = Duration::from_millis(500);
const POLLS_UNDER_WAY_MAX: usize = 64;
/// An answer older than this many intervals says nothing.
const STATUS_INTERVALS_FRESH: u32 = 3;
/// Without a look for so long, this process did not run.
const PAUSE_NOTICED: Duration = Duration::from_millis(500);
const FORM_WITHOUT_MINORITY_AFTER: Duration = Duration::from_secs(3);
const LOST_REPEATED_AFTER: Duration = Duration::from_secs(1);
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(2);
