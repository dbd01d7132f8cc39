//! The member's own affairs: who is alive, who is a stranger, who leads, and when to act on it.
//!
//! One task. It watches the peers' processes and asks them how they are, lets `cluster::membership` judge them and form
//! the cluster, lets `cluster::witness` decide about campaigns, and as leader keeps the membership described, declares
//! nodes lost and lets old results expire. Everything is a level: it looks at what stands now, and remembers no events.

mod disk;
mod health;
mod lead;
mod losses;
mod membership;
mod snapshots;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use tandem_cluster::authority::{LeaderAnswer, QuorumContact, StateAsOf};
use tandem_cluster::health::clock_ahead_ms;
use tandem_cluster::membership::Start;
use tandem_cluster::witness::{Heir, LogPosition, ReluctantLeader};
use tandem_cluster::{Incarnation, MemberRole, NodeId, RaftId};

use super::frame::{Kind, PeerStatus, Standing, StatusQuestion, decode, encode};
use super::handle::StopReason;
use super::link::LinkEvent;
use super::member::Member;
use super::peer_book::Baseline;

use disk::DiskWatch;
use health::{HealthWatch, applied_position};
use membership::Upkeep;
use snapshots::SnapshotWatch;

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
    /// This member's last contact with a majority.
    contact: QuorumContact,
    /// Of which moment this member's state is.
    as_of: StateAsOf,
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

/// A peer's answer to the question how it is, and what was known before it was asked.
struct Answered {
    from: NodeId,
    asked: Instant,
    /// Where this member's own log ended.
    last_index: u64,
    /// Where its state ended.
    applied: Option<LogPosition>,
    baseline: Baseline,
    status: Option<PeerStatus>,
}

struct Peer {
    role: MemberRole,
    connected: bool,
    incarnation: Option<Incarnation>,
    /// Which start of its directory that life is.
    start: Option<Start>,
    /// The process that was last seen ending, and when.
    ended: Option<(Incarnation, Instant)>,
    /// Its machine refuses connections since then: the process has ended, or something on the way refuses.
    suspected: Option<Instant>,
    /// When it was asked a question that it answered, or a connection was made.
    heard: Instant,
    /// Its latest answer, and when it was asked.
    status: Option<(Instant, PeerStatus)>,
    /// By how much its wall clock is certainly ahead of this member's; negative: behind.
    clock_ahead_ms: Option<i64>,
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
            contact: QuorumContact::default(),
            as_of: StateAsOf::default(),
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
                let incarnation = Incarnation::from(incarnation);
                if peer.incarnation != Some(incarnation) {
                    peer.end_life(now);
                }
                // It was unreachable, and taken for dead.
                if peer
                    .ended
                    .is_some_and(|(ended, _)| ended.is_of_process(incarnation))
                {
                    peer.ended = None;
                }
                peer.incarnation = Some(incarnation);
                peer.start = Some(started);
                peer.connected = true;
                peer.suspected = None;
                if !is_stranger {
                    peer.heard = now;
                }
            }
            LinkEvent::Broken => {
                peer.connected = false;
                if let Some(start) = start {
                    self.member.book.note_gone(id, start);
                }
            }
            LinkEvent::Refused if peer.incarnation.is_some() && peer.suspected.is_none() => {
                peer.connected = false;
                peer.suspected = Some(now);
                self.poll_all(now);
            }
            LinkEvent::Refused => {}
        }
        let ended = |peer: &Peer| peer.ended.is_some_and(|(_, at)| at == now);
        if self.peers.get(&id).is_some_and(ended) {
            self.note_process_ended(id, start, now);
        }
        if let LinkEvent::Connected { .. } = event {
            self.poll(id, now);
        }
    }

    fn note_process_ended(&mut self, id: NodeId, start: Option<Start>, now: Instant) {
        tracing::info!(peer = %id, "a member's process has ended");
        if let Some(start) = start {
            self.member.book.note_gone(id, start);
        }
        // Fresh answers decide who may lead now.
        self.poll_all(now);
    }

    /// A refused connection alone may be a firewall's doing. A process has ended when another member, asked after the
    /// refusal, has no connection to it either.
    fn confirm_ends(&mut self, now: Instant) {
        let lost_by_another = |id: NodeId, start: Start, since: Instant| {
            self.peers.iter().any(|(other, peer)| {
                let answered = peer.status.as_ref().filter(|(asked, _)| *asked >= since);
                *other != id
                    && !self.is_stranger(*other)
                    && answered.is_some_and(|(_, status)| status.has_no_connection_to(id, start))
            })
        };
        let confirmed: Vec<(NodeId, Start)> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| Some((*id, peer.start?, peer.suspected?)))
            .filter(|(id, start, since)| lost_by_another(*id, *start, *since))
            .map(|(id, start, _)| (id, start))
            .collect();
        for (id, start) in confirmed {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.end_life(now);
            }
            self.note_process_ended(id, Some(start), now);
        }
    }

    /// A stranger's answer is no sign of life of the member that it claims to be.
    fn note_answer(&mut self, answered: Answered) {
        let (from, asked) = (answered.from, answered.asked);
        let (Some(peer), Some(status)) = (self.peers.get_mut(&from), answered.status) else {
            return;
        };
        let book = &self.member.book;
        book.note_told(from, status.stranger);
        if book
            .meet(&status.introduction, &status.reach, &answered.baseline)
            .is_err()
        {
            peer.status = None;
            peer.clock_ahead_ms = None;
            return;
        }
        let now = Instant::now();
        peer.clock_ahead_ms = Some(clock_ahead_ms(
            status.clock_ms,
            (self.member.config.wall_clock_ms)(),
            now - asked,
        ));
        if let Standing::Leads {
            committed,
            agrees,
            cluster_ms,
            ..
        } = status.standing
        {
            let applied = answered.applied.map_or(0, |applied| applied.index);
            self.health.note_leader(committed, applied, agrees, asked);
            self.member.note_time(cluster_ms, now);
        }
        if let Some(answer) = leader_answer(asked, &status.standing) {
            self.contact.note(&answer, answered.last_index);
            if let Some(contact) = answer.contact() {
                self.as_of.note(answer.committed, contact);
            }
        }
        peer.heard = peer.heard.max(asked);
        if peer.status.as_ref().is_none_or(|(earlier, _)| *earlier <= asked) {
            peer.status = Some((asked, status));
        }
    }

    /// The control link is the one that knows: something is said on it all the time.
    fn renew_links(&self) {
        for (id, peer) in &self.peers {
            if let (true, Some(start), Some(links)) = (peer.connected, peer.start, self.member.peers.get(id))
            {
                links.renew(start);
            }
        }
    }

    fn is_stranger(&self, id: NodeId) -> bool {
        let present = self.member.book.present(id);
        present.is_some_and(|present| present.stranger.is_some())
    }

    fn poll_peers(&mut self, now: Instant) {
        let timings = &self.member.config.timings;
        let leader = self.member.raft_metrics().current_leader.map(RaftId::member);
        let is_any_suspected = self.peers.values().any(|peer| peer.suspected.is_some());
        let due = |id: NodeId, peer: &Peer| {
            let interval = match (is_any_suspected, leader == Some(id)) {
                (true, _) => Duration::ZERO,
                // What it says of its majority counts for less than a lease.
                (false, true) => timings.heartbeat,
                (false, false) => timings.status_interval,
            };
            peer.connected && peer.polled.is_none_or(|polled| now >= polled + interval)
        };
        let due: Vec<NodeId> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| due(*id, peer).then_some(*id))
            .collect();
        due.into_iter().for_each(|id| self.poll(id, now));
    }

    fn poll_all(&mut self, now: Instant) {
        let all: Vec<NodeId> = self.peers.keys().copied().collect();
        all.into_iter().for_each(|id| self.poll(id, now));
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
        let last_index = self.member.log_position().index;
        let applied = applied_position(&self.member.raft_metrics());
        let Ok(question) = encode(&StatusQuestion { applied }) else {
            return;
        };
        self.polls.push(Box::pin(async move {
            let answer = timeout(POLL_TIMEOUT, control.ask(Kind::Status, question)).await;
            let status = answer
                .ok()
                .and_then(Result::ok)
                .and_then(|body| decode(&body).ok());
            Answered {
                from: id,
                asked: now,
                last_index,
                applied,
                baseline,
                status,
            }
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
            suspected: None,
            heard: now,
            status: None,
            clock_ahead_ms: None,
            polled: None,
        }
    }

    fn end_life(&mut self, now: Instant) {
        self.connected = false;
        self.suspected = None;
        self.status = None;
        self.clock_ahead_ms = None;
        if let Some(incarnation) = self.incarnation.take() {
            self.ended = Some((incarnation, now));
        }
    }

    /// Where its log ended, if it said so after the leader was last heard.
    fn log_since(&self, heard: Option<Instant>) -> Option<LogPosition> {
        let (asked, status) = self.status.as_ref()?;
        (heard.is_none_or(|heard| *asked > heard)).then_some(status.reach.last)
    }
}

fn leader_answer(asked: Instant, standing: &Standing) -> Option<LeaderAnswer> {
    let Standing::Leads {
        quorum_age_ms,
        acknowledged_age_ms,
        committed,
        ..
    } = *standing
    else {
        return None;
    };
    Some(LeaderAnswer {
        asked: asked.into_std(),
        quorum_age: Duration::from_millis(quorum_age_ms.into()),
        acknowledged_age: Duration::from_millis(acknowledged_age_ms.into()),
        committed,
    })
}

const TICK: Duration = Duration::from_millis(25);
const POLL_TIMEOUT: Duration = Duration::from_millis(500);
const POLLS_UNDER_WAY_MAX: usize = 64;
/// Without a look for so long, this process did not run.
const PAUSE_NOTICED: Duration = Duration::from_millis(500);
