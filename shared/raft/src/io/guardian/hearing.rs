//! Hearing of the other members: from the links that watch their processes, and from their answers to the question how they
//! are.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use tandem_cluster::authority::LeaderAnswer;
use tandem_cluster::health::clock_ahead_ms;
use tandem_cluster::membership::Start;
use tandem_cluster::witness::LogPosition;
use tandem_cluster::{NodeId, RaftId};

use super::super::frame::{Kind, decode, encode};
use super::super::link::LinkEvent;
use super::super::messages::{PeerStatus, Standing, StatusQuestion};
use super::super::peer_pages::Baseline;
use super::Guardian;
use super::health::applied_position;
use super::peers::{Noticed, Peer, ended_processes, poll_interval};

/// A peer's answer to the question how it is, and what was known before it was asked.
pub(super) struct Answered {
    from: NodeId,
    asked: Instant,
    /// Where this member's own log ended.
    last_index: u64,
    /// Where its state ended.
    applied: Option<LogPosition>,
    baseline: Baseline,
    status: Option<PeerStatus>,
}

impl Guardian {
    pub(super) fn note(&mut self, id: NodeId, event: LinkEvent) {
        let now = Instant::now();
        let is_stranger = self.is_stranger(id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let start = peer.start;
        match peer.note(event, is_stranger, now) {
            Noticed::Nothing => {}
            Noticed::Broken => {
                if let Some(start) = start {
                    self.member.book.note_gone(id, start);
                }
            }
            Noticed::Suspected => self.poll_all(now),
            Noticed::Connected { former_ended } => {
                if former_ended {
                    self.note_process_ended(id, start, now);
                }
                self.poll(id, now);
            }
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

    pub(super) fn confirm_ends(&mut self, now: Instant) {
        for (id, start) in ended_processes(&self.peers, |id| self.is_stranger(id)) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.end_process(now);
            }
            self.note_process_ended(id, Some(start), now);
        }
    }

    /// A stranger's answer is no sign of the member that it claims to be.
    pub(super) fn note_answer(&mut self, answered: Answered) {
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
    pub(super) fn renew_links(&self) {
        for (id, peer) in &self.peers {
            if let (true, Some(start), Some(links)) = (peer.connected, peer.start, self.member.peers.get(id))
            {
                links.renew(start);
            }
        }
    }

    pub(super) fn is_stranger(&self, id: NodeId) -> bool {
        let present = self.member.book.present(id);
        present.is_some_and(|present| present.stranger.is_some())
    }

    pub(super) fn poll_peers(&mut self, now: Instant) {
        let leader = self.member.raft_metrics().current_leader.map(RaftId::member);
        let is_any_suspected = self.peers.values().any(|peer| peer.suspected.is_some());
        let timings = &self.member.config.timings;
        let due = |id: NodeId, peer: &Peer| {
            peer.is_due(poll_interval(is_any_suspected, leader == Some(id), timings), now)
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
    pub(super) fn forgive_after_pause(&mut self, now: Instant) {
        if now > self.looked + PAUSE_NOTICED {
            for peer in self.peers.values_mut().filter(|peer| peer.connected) {
                peer.heard = now;
            }
        }
        self.looked = now;
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

const POLL_TIMEOUT: Duration = Duration::from_millis(500);

const POLLS_UNDER_WAY_MAX: usize = 64;

/// Without a look for so long, this process did not run.
const PAUSE_NOTICED: Duration = Duration::from_millis(500);
