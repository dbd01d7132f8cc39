//! The member's own affairs: who is alive, who is a stranger, who leads, and when to act on it.
//!
//! One task. It watches the peers' processes and asks them how they are, lets `cluster::membership` judge them and form
//! the cluster, lets `cluster::witness` decide about campaigns, and as leader keeps the membership described, declares
//! nodes lost and lets old results expire. Everything is a level: it looks at what stands now, and remembers no events.

mod disk;
mod lead;
mod losses;
mod membership;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::cluster::membership::Start;
use crate::cluster::witness::{Heir, LogPosition, ReluctantLeader};
use crate::cluster::{MemberRole, NodeId};

use super::frame::{Kind, PeerStatus, decode};
use super::handle::StopReason;
use super::link::LinkEvent;
use super::member::Member;
use super::peer_book::Baseline;

use disk::DiskWatch;
use membership::Upkeep;

pub(super) struct Guardian {
    member: Arc<Member>,
    events: mpsc::Receiver<(NodeId, LinkEvent)>,
    peers: BTreeMap<NodeId, Peer>,
    polls: FuturesUnordered<BoxFuture<'static, Answered>>,
    campaigner: Campaigner,
    actions: JoinSet<()>,
    /// The life in which each node stands in the state, and since when: to register is to be heard, even by a
    /// leader that has not reached the node again yet.
    lives: BTreeMap<NodeId, (u64, Instant)>,
    /// Nodes proposed as lost, and when: the proposal may take a moment to be applied.
    lost: BTreeMap<NodeId, (u64, Instant)>,
    expired: Instant,
    looked: Instant,
    upkeep: Upkeep,
    disk: DiskWatch,
}

/// A peer's answer to the question how it is, and what was known of logs before it was asked.
type Answered = (NodeId, Baseline, Option<PeerStatus>);

struct Peer {
    role: MemberRole,
    connected: bool,
    incarnation: Option<u64>,
    /// Which start of its directory that life is.
    start: Option<Start>,
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
        let peers = others.map(|peer| (peer.id, Peer::new(peer.role, now))).collect();
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
            upkeep: Upkeep::new(now),
            disk: DiskWatch::new(),
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
        self.keep_up(&metrics, now);
        self.watch_disk(&metrics, now);
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

/// Who is alive.
impl Guardian {
    fn note(&mut self, id: NodeId, event: LinkEvent) {
        let now = Instant::now();
        let is_stranger = self.is_stranger(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let start = peer.start;
        match event {
            LinkEvent::Connected {
                incarnation,
                start: started,
            } => {
                if peer.incarnation != Some(incarnation) {
                    peer.end_life(now);
                }
                peer.incarnation = Some(incarnation);
                peer.start = Some(started);
                peer.connected = true;
                if !is_stranger {
                    peer.heard = now;
                }
            }
            LinkEvent::Broken => peer.connected = false,
            LinkEvent::Refused => peer.end_life(now),
        }
        if peer.ended.is_some_and(|(_, at)| at == now) {
            tracing::info!(peer = %id, "a member's process has ended");
            if let Some(start) = start {
                self.member.book.note_ended(id, start);
            }
            // Fresh answers decide who may lead now.
            let others: Vec<NodeId> = self.peers.keys().copied().collect();
            others.into_iter().for_each(|other| self.poll(other, now));
        }
        if let LinkEvent::Connected { .. } = event {
            self.poll(id, now);
        }
    }

    /// A stranger's answer is no sign of life of the member that it claims to be.
    fn note_answer(&mut self, (id, baseline, status): Answered) {
        let now = Instant::now();
        let (Some(peer), Some(status)) = (self.peers.get_mut(&id), status) else {
            return;
        };
        let book = &self.member.book;
        book.note_told(id, status.stranger);
        match book.meet(&status.introduction, &status.reach, &baseline) {
            Ok(()) => {
                peer.heard = now;
                peer.status = Some((now, status));
            }
            Err(_) => peer.status = None,
        }
    }

    fn is_stranger(&self, id: NodeId) -> bool {
        let present = self.member.book.present(id);
        present.is_some_and(|present| present.stranger.is_some())
    }

    fn poll_peers(&mut self, now: Instant) {
        let interval = self.member.config.timings.status_interval;
        let due = |peer: &Peer| peer.connected && peer.polled.is_none_or(|polled| now >= polled + interval);
        let due: Vec<NodeId> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| due(peer).then_some(*id))
            .collect();
        due.into_iter().for_each(|id| self.poll(id, now));
    }

    fn poll(&mut self, id: NodeId, now: Instant) {
        let (Some(peer), Some(links)) = (self.peers.get_mut(&id), self.member.peers.get(&id)) else {
            return;
        };
        if self.polls.len() >= POLLS_UNDER_WAY_MAX {
            return;
        }
        peer.polled = Some(now);
        let control = links.control.clone();
        let baseline = self.member.book.baseline();
        self.polls.push(Box::pin(async move {
            let answer = timeout(POLL_TIMEOUT, control.ask(Kind::Status, Bytes::new())).await;
            let status = answer
                .ok()
                .and_then(Result::ok)
                .and_then(|body| decode(&body).ok());
            (id, baseline, status)
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

impl Peer {
    fn new(role: MemberRole, now: Instant) -> Self {
        Self {
            role,
            connected: false,
            incarnation: None,
            start: None,
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
        (heard.is_none_or(|heard| at > heard)).then_some(status.reach.last)
    }
}

const TICK: Duration = Duration::from_millis(25);
const POLL_TIMEOUT: Duration = Duration::from_millis(500);
const POLLS_UNDER_WAY_MAX: usize = 64;
/// Without a look for so long, this process did not run.
const PAUSE_NOTICED: Duration = Duration::from_millis(500);
