//! What the guardian knows of the other members' processes, and what follows from it: decisions alone, without network or
//! task.
//!
//! What always holds: a process that was seen to end is never taken for one that runs, but for a later incarnation of it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::membership::Start;
use tandem_cluster::witness::LogPosition;
use tandem_cluster::{Incarnation, MemberRole, NodeId};

use super::super::config::Timings;
use super::super::link::LinkEvent;
use super::super::messages::PeerStatus;

pub(super) struct Peer {
    pub(super) role: MemberRole,
    pub(super) connected: bool,
    pub(super) incarnation: Option<Incarnation>,
    /// Which start of its directory that incarnation belongs to.
    pub(super) start: Option<Start>,
    /// The process that was last seen ending, and when.
    pub(super) ended: Option<(Incarnation, Instant)>,
    /// Its machine refuses connections since then: the process has ended, or something on the way refuses.
    pub(super) suspected: Option<Instant>,
    /// When it was asked a question that it answered, or a connection was made.
    pub(super) heard: Instant,
    /// Its latest answer, and when it was asked.
    pub(super) status: Option<(Instant, PeerStatus)>,
    /// By how much its wall clock is certainly ahead of this member's; negative: behind.
    pub(super) clock_ahead_ms: Option<i64>,
    pub(super) polled: Option<Instant>,
}

impl Peer {
    pub(super) fn new(role: MemberRole, now: Instant) -> Self {
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

    /// Takes in an event of the link that watches the peer's process.
    pub(super) fn note(&mut self, event: LinkEvent, is_stranger: bool, now: Instant) -> Noticed {
        match event {
            LinkEvent::Connected { incarnation, start } => {
                self.connect(incarnation.into(), start, now);
                if !is_stranger {
                    self.heard = now;
                }
                Noticed::Connected {
                    former_ended: self.ended.is_some_and(|(_, at)| at == now),
                }
            }
            LinkEvent::Broken => {
                self.connected = false;
                Noticed::Broken
            }
            LinkEvent::Refused if self.incarnation.is_some() && self.suspected.is_none() => {
                self.connected = false;
                self.suspected = Some(now);
                Noticed::Suspected
            }
            LinkEvent::Refused => Noticed::Nothing,
        }
    }

    fn connect(&mut self, incarnation: Incarnation, start: Start, now: Instant) {
        if self.incarnation != Some(incarnation) {
            self.end_process(now);
        }
        // It was unreachable, and taken for dead.
        if self
            .ended
            .is_some_and(|(ended, _)| ended.is_of_process(incarnation))
        {
            self.ended = None;
        }
        self.incarnation = Some(incarnation);
        self.start = Some(start);
        self.connected = true;
        self.suspected = None;
    }

    /// Whether the node that registered under this incarnation is gone: its process has ended, or nothing was heard of it
    /// for `silent_after` since it was heard last, or registered. `None`: silence alone proves nothing now.
    pub(super) fn is_gone(
        &self,
        incarnation: Incarnation,
        registered: Instant,
        silent_after: Option<Duration>,
        now: Instant,
    ) -> bool {
        let has_ended = self
            .ended
            .is_some_and(|(ended, _)| ended.is_of_process(incarnation));
        has_ended || silent_after.is_some_and(|silent_after| now > self.heard.max(registered) + silent_after)
    }

    pub(super) fn is_due(&self, interval: Duration, now: Instant) -> bool {
        self.connected && self.polled.is_none_or(|polled| now >= polled + interval)
    }

    pub(super) fn end_process(&mut self, now: Instant) {
        self.connected = false;
        self.suspected = None;
        self.status = None;
        self.clock_ahead_ms = None;
        if let Some(incarnation) = self.incarnation.take() {
            self.ended = Some((incarnation, now));
        }
    }

    /// Where its log ended, if it said so after the leader was last heard.
    pub(super) fn log_since(&self, heard: Option<Instant>) -> Option<LogPosition> {
        let (asked, status) = self.status.as_ref()?;
        (heard.is_none_or(|heard| *asked > heard)).then_some(status.reach.last)
    }
}

/// What follows from an event of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noticed {
    Nothing,
    /// Whoever answers is to be asked how it is; where another process answered before, that one has ended.
    Connected {
        former_ended: bool,
    },
    /// The connection has ended, and nothing else is known.
    Broken,
    /// Its machine refuses connections: the others are to be asked whether they have lost it too.
    Suspected,
}

/// The processes that have ended. A refused connection alone may be a firewall's doing: another member, asked after the
/// refusal, must have no connection to the process either. What strangers say does not count.
pub(super) fn ended_processes(
    peers: &BTreeMap<NodeId, Peer>,
    is_stranger: impl Fn(NodeId) -> bool,
) -> Vec<(NodeId, Start)> {
    let lost_by_another = |id: NodeId, start: Start, since: Instant| {
        peers.iter().any(|(other, peer)| {
            let answered = peer.status.as_ref().filter(|(asked, _)| *asked >= since);
            *other != id
                && !is_stranger(*other)
                && answered.is_some_and(|(_, status)| status.has_no_connection_to(id, start))
        })
    };
    let suspected = peers
        .iter()
        .filter_map(|(id, peer)| Some((*id, peer.start?, peer.suspected?)));
    suspected
        .filter(|(id, start, since)| lost_by_another(*id, *start, *since))
        .map(|(id, start, _)| (id, start))
        .collect()
}

/// How often a peer is asked how it is. While a process is suspected, at once; the leader in every heartbeat: what it says of
/// its majority counts for less than a lease.
pub(super) fn poll_interval(is_any_suspected: bool, is_leader: bool, timings: &Timings) -> Duration {
    match (is_any_suspected, is_leader) {
        (true, _) => Duration::ZERO,
        (false, true) => timings.heartbeat,
        (false, false) => timings.status_interval,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::messages::Standing;
    use super::*;
    use tandem_cluster::membership::{Introduction, Reach};
    use tandem_cluster::{DirectoryId, Format, RaftId};

    const FIRST: u64 = 1 << 16;
    const OTHER: u64 = 2 << 16;
    /// Of the same process as `FIRST`.
    const FIRST_AGAIN: u64 = FIRST + 1;

    fn start(count: u64) -> Start {
        Start { count, nonce: count }
    }

    fn connected(incarnation: u64, count: u64) -> LinkEvent {
        LinkEvent::Connected {
            incarnation,
            start: start(count),
        }
    }

    /// A peer whose process is connected.
    fn peer(now: Instant) -> Peer {
        let mut peer = Peer::new(MemberRole::Node, now);
        let noticed = peer.note(connected(FIRST, 1), false, now);
        assert_eq!(noticed, Noticed::Connected { former_ended: false });
        peer
    }

    /// Says to which process of node 2 it has a connection.
    fn status(connected: Vec<(NodeId, Start)>) -> PeerStatus {
        PeerStatus {
            incarnation: 7,
            introduction: Introduction {
                id: RaftId::new(0, NodeId(3)),
                role: MemberRole::Node,
                directory: DirectoryId(3),
                cluster: None,
                start: start(1),
                newest_format: Format::NEWEST,
            },
            reach: Reach {
                last: LogPosition::default(),
                applied: 0,
                initialized: true,
                disk_nearly_full: false,
                disk_stands_still: false,
                state_mark: None,
            },
            stranger: None,
            standing: Standing::Follows,
            connected,
            writes_snapshot: false,
            clock_ms: 0,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn another_process_under_the_number_ends_the_former_one() {
        let now = Instant::now();
        let mut peer = peer(now);
        let later = now + seconds(1);
        assert_eq!(peer.note(LinkEvent::Broken, false, later), Noticed::Broken);
        assert_eq!(peer.ended, None, "a broken connection proves nothing");
        let noticed = peer.note(connected(OTHER, 2), false, later);
        assert_eq!(noticed, Noticed::Connected { former_ended: true });
        assert!(peer.is_gone(FIRST.into(), now, None, later));
        assert!(!peer.is_gone(OTHER.into(), later, None, later));
    }

    #[test]
    fn a_later_incarnation_of_the_same_process_ends_nothing() {
        let now = Instant::now();
        let mut peer = peer(now);
        let noticed = peer.note(connected(FIRST_AGAIN, 1), false, now + seconds(1));
        assert_eq!(noticed, Noticed::Connected { former_ended: false });
        assert!(!peer.is_gone(FIRST.into(), now, None, now + seconds(1)));
    }

    #[test]
    fn a_refusal_is_a_suspicion_until_another_member_confirms_it() {
        let now = Instant::now();
        let mut refusing = peer(now);
        assert_eq!(
            refusing.note(LinkEvent::Refused, false, now + seconds(1)),
            Noticed::Suspected
        );
        assert_eq!(
            refusing.note(LinkEvent::Refused, false, now + seconds(2)),
            Noticed::Nothing
        );
        let other = |asked: Instant, connected: Vec<(NodeId, Start)>| {
            let mut other = peer(now);
            other.status = Some((asked, status(connected)));
            other
        };
        let ended = |other: Peer, is_stranger: bool| {
            let mut refusing = peer(now);
            refusing.note(LinkEvent::Refused, false, now + seconds(1));
            let peers = BTreeMap::from([(NodeId(2), refusing), (NodeId(3), other)]);
            ended_processes(&peers, |id| is_stranger && id == NodeId(3))
        };
        let still = vec![(NodeId(2), start(1))];
        assert_eq!(
            ended(other(now, Vec::new()), false),
            [],
            "asked before the refusal"
        );
        assert_eq!(
            ended(other(now + seconds(1), still), false),
            [],
            "connected to it"
        );
        assert_eq!(ended(other(now + seconds(1), Vec::new()), true), [], "a stranger");
        let confirmed = ended(other(now + seconds(1), Vec::new()), false);
        assert_eq!(confirmed, [(NodeId(2), start(1))]);
    }

    #[test]
    fn silence_counts_from_the_registration_or_the_last_answer_and_only_where_it_may() {
        let now = Instant::now();
        let peer = peer(now);
        let is_gone = |registered: u64, silent_after: Option<u64>, at: u64| {
            peer.is_gone(
                FIRST.into(),
                now + seconds(registered),
                silent_after.map(seconds),
                now + seconds(at),
            )
        };
        assert!(!is_gone(0, Some(4), 4));
        assert!(is_gone(0, Some(4), 5));
        assert!(!is_gone(3, Some(4), 5), "to register is to be heard");
        assert!(!is_gone(0, None, 500));
    }

    #[test]
    fn what_a_stranger_says_is_no_sign_of_the_member() {
        let now = Instant::now();
        let mut peer = peer(now);
        peer.note(connected(FIRST, 1), true, now + seconds(5));
        assert!(peer.is_gone(FIRST.into(), now, Some(seconds(4)), now + seconds(5)));
    }
}
