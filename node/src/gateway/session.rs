//! One session as its owner holds it: the replicated record, and what only lives as long as the owner does.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{CallRecord, ConnectionId, Epoch, OpeningKey, RequestKey, SessionKey, SessionRecord};
use tandem_sip::{RawMessage, Request};

use crate::csta::{self, service::Evidence};
use crate::cti::{CtiConnectionId, MonitorPriority, RequestToken};

use super::pairs::{Pair, PairId, PairPurpose};
use super::proposals::RequestNumber;

/// A session of this node.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) record: SessionRecord,
    pub(super) stage: Stage,
    pub(super) link: Link,
    /// Requests that must be carried out in the order of their arrival; the first one is being carried out.
    pub(super) requests: VecDeque<QueuedRequest>,
    pub(super) progress: Progress,
    pub(super) events: VecDeque<ClientEvent>,
    /// The event that the client has been sent last, while it may still answer.
    pub(super) unanswered: Option<UnansweredEvent>,
    /// Events wait until then: the answer before them travels on another connection.
    pub(super) events_not_before: Option<Instant>,
    /// A node that is gone may have made a call that the client has yet to ask for again.
    pub(super) call_expected_until: Option<Instant>,
    /// The session's calls as the PBX has told them, by the callID that the client has (or will have). What the
    /// client has been told is in the record.
    pub(super) calls: BTreeMap<String, CallRecord>,
    /// The last CSeq number used towards the client.
    pub(super) cseq: u32,
    pub(super) expires_at: Instant,
    pub(super) last_request_at: Instant,
    /// How often the front end's fence has turned an event away in a row.
    pub(super) fenced: u32,
    pub(super) resumptions_failed: u32,
    /// The cluster knows the session.
    pub(super) replicated: bool,
    /// Its move to another node is being committed: nothing is begun.
    pub(super) is_leaving: bool,
}

/// Where the session stands with its client.
#[derive(Debug)]
pub(super) enum Stage {
    /// The 200 waits for the commit.
    Opening(Box<Opening>),
    Established,
}

/// An opening INVITE without a final answer.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) request: QueuedRequest,
    pub(super) key: OpeningKey,
    pub(super) trying_at: Option<Instant>,
}

/// The session's place at the CTI managers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// No connection is in service.
    Down,
    /// Has asked for the monitor of its device on this connection, whose start may have to wait its turn.
    StartingMonitor { connection: CtiConnectionId },
    /// The monitor runs; what it reports is kept until the snapshot has told how things were before.
    ReadingSnapshot {
        connection: CtiConnectionId,
        meanwhile: VecDeque<csta::Event>,
        /// The device's calls, once they are told, while the parties of new ones are asked for.
        found: Option<Found>,
    },
    /// With a monitor, if the client has one.
    Up { connection: CtiConnectionId },
}

/// What a snapshot has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) connections: Vec<csta::SnapshotConnection>,
    /// Calls whose parties are yet to be asked for.
    pub(super) nameless: Vec<String>,
    pub(super) parties: BTreeMap<String, CallParties>,
}

/// Who called whom, as far as the CTI manager tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CallParties {
    pub(super) calling: Option<csta::Device>,
    pub(super) called: Option<csta::Device>,
}

impl Link {
    pub(super) fn connection(&self) -> Option<CtiConnectionId> {
        match self {
            Self::Down => None,
            Self::StartingMonitor { connection }
            | Self::ReadingSnapshot { connection, .. }
            | Self::Up { connection } => Some(*connection),
        }
    }

    /// It is as it will be: up, or down for want of a connection.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Self::Down | Self::Up { .. } => true,
            Self::StartingMonitor { .. } | Self::ReadingSnapshot { .. } => false,
        }
    }

    /// The monitor runs. Returns where.
    ///
    /// # Panics
    /// When it was not being started.
    pub(super) fn monitor_started(&mut self) -> CtiConnectionId {
        let Self::StartingMonitor { connection } = *self else {
            panic!("a monitor runs that the session has not asked for");
        };
        *self = Self::Up { connection };
        connection
    }

    /// Where it is kept what a snapshot shows, while one is read at that connection.
    pub(super) fn reading_at(&mut self, place: CtiConnectionId) -> Option<&mut Option<Found>> {
        match self {
            Self::ReadingSnapshot {
                connection, found, ..
            } if *connection == place => Some(found),
            Self::Down | Self::StartingMonitor { .. } | Self::ReadingSnapshot { .. } | Self::Up { .. } => {
                None
            }
        }
    }

    /// The snapshot is read. Returns what it has shown, and the events that have come meanwhile.
    ///
    /// # Panics
    /// When none was being read.
    pub(super) fn snapshot_read(&mut self) -> (Option<Found>, VecDeque<csta::Event>) {
        let Self::ReadingSnapshot {
            connection,
            meanwhile,
            found,
        } = std::mem::replace(self, Self::Down)
        else {
            panic!("a snapshot is over that the session has not asked for");
        };
        *self = Self::Up { connection };
        (found, meanwhile)
    }

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Down => "no_cti",
            Self::StartingMonitor { .. } | Self::ReadingSnapshot { .. } => "resuming",
            Self::Up { .. } => "established",
        }
    }
}

/// A request of the client, with where its answer goes.
#[derive(Debug, Clone)]
pub(super) struct QueuedRequest {
    pub(super) raw: RawMessage,
    pub(super) request: Request,
    /// That its last copy came by.
    pub(super) pair: PairId,
    /// That earlier copies came by.
    earlier_pairs: Vec<PairId>,
    pub(super) connection: ConnectionId,
    /// It came over a connection of re-sent requests: a lost node may have carried it out.
    pub(super) resent: bool,
    pub(super) makes_call: bool,
    pub(super) arrived_at: Instant,
}

impl QueuedRequest {
    pub(super) fn new(raw: RawMessage, request: Request, pair_id: PairId, pair: &Pair, now: Instant) -> Self {
        Self {
            makes_call: contains(&request.body, b"MakeCall"),
            raw,
            request,
            pair: pair_id,
            earlier_pairs: Vec::new(),
            connection: pair.connection,
            resent: pair.purpose == PairPurpose::Resent,
            arrived_at: now,
        }
    }

    pub(super) fn key(&self) -> RequestKey {
        RequestKey {
            top_via: String::from_utf8_lossy(self.raw.top_via()).into_owned(),
            cseq: self.raw.cseq_number(),
        }
    }

    /// Another copy of the request has come. The front end may not read what it has asked by before, and a first copy
    /// that the network held up may come behind the one that was sent again: each is answered where it came by.
    /// Returns a pair by which no answer goes any more.
    pub(super) fn came_again(&mut self, pair: PairId) -> Option<PairId> {
        if pair == self.pair || self.earlier_pairs.contains(&pair) {
            return Some(pair);
        }
        self.earlier_pairs.push(std::mem::replace(&mut self.pair, pair));
        (self.earlier_pairs.len() > EARLIER_PAIRS_MAX).then(|| self.earlier_pairs.remove(0))
    }

    /// That copies of it came by, each once.
    pub(super) fn pairs(&self) -> impl Iterator<Item = PairId> {
        self.earlier_pairs.iter().copied().chain([self.pair])
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.raw.via_branch().is_some() && self.raw.transaction_key() == other.raw.transaction_key()
    }
}

/// How far the first request of the queue has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nobody has begun with it, or there is none.
    Idle,
    /// Needs the CTI manager, and the session's place there is being made.
    WaitingForLink,
    /// A MonitorStart: the device's monitor is being started, or joined.
    WaitingForMonitor,
    /// `Command::Intent` is on its way.
    WaitingForIntent {
        number: RequestNumber,
        request: csta::CallRequest,
    },
    /// The state of the monitor is being written; the answer stands ready.
    WaitingForCommit {
        number: RequestNumber,
        response: csta::Response,
    },
    WaitingForCti {
        token: RequestToken,
        request: csta::Request,
    },
    /// A repeated command with an intent and no result: the snapshot tells what came of it.
    WaitingForEvidence {
        token: RequestToken,
        request: csta::CallRequest,
        evidence: Evidence,
    },
}

impl Progress {
    pub(super) fn cti_request(&self) -> Option<RequestToken> {
        match self {
            Self::WaitingForCti { token, .. } | Self::WaitingForEvidence { token, .. } => Some(*token),
            Self::Idle
            | Self::WaitingForLink
            | Self::WaitingForMonitor
            | Self::WaitingForIntent { .. }
            | Self::WaitingForCommit { .. } => None,
        }
    }

    /// Something other than looking may have been done for it.
    pub(super) fn may_have_changed_something(&self) -> bool {
        match self {
            Self::Idle | Self::WaitingForLink => false,
            Self::WaitingForCti { request, .. } => request.service().is_some_and(csta::Service::changes_pbx),
            Self::WaitingForMonitor
            | Self::WaitingForIntent { .. }
            | Self::WaitingForCommit { .. }
            | Self::WaitingForEvidence { .. } => true,
        }
    }

    /// Nothing is on its way that would bring it further.
    pub(super) fn is_stuck(&self) -> bool {
        match self {
            Self::Idle | Self::WaitingForLink => true,
            Self::WaitingForMonitor
            | Self::WaitingForIntent { .. }
            | Self::WaitingForCommit { .. }
            | Self::WaitingForCti { .. }
            | Self::WaitingForEvidence { .. } => false,
        }
    }

    pub(super) fn is_waiting_for_monitor(&self) -> bool {
        matches!(self, Self::WaitingForMonitor)
    }

    pub(super) fn is_waiting_for_commit(&self) -> bool {
        matches!(self, Self::WaitingForCommit { .. })
    }
}

/// An event on its way to the client. Call and devices are the client's already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientEvent {
    pub(super) event: csta::Event,
    /// What the client knows of the call once it has the event; `None`: the call is over.
    pub(super) call: Option<CallRecord>,
}

impl ClientEvent {
    pub(super) fn call_id(&self) -> &str {
        &self.event.connection.call_id
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnansweredEvent {
    pub(super) branch: String,
    pub(super) pair: PairId,
    pub(super) event: ClientEvent,
    pub(super) until: Instant,
}

impl Session {
    pub(super) fn new(record: SessionRecord, stage: Stage, link: Link, now: Instant, now_ms: u64) -> Self {
        let (first, _) = record.epoch.cseq_block();
        let calls = record.calls.clone();
        let remaining = Duration::from_millis(record.expires_at_ms.saturating_sub(now_ms));
        Self {
            record,
            stage,
            link,
            requests: VecDeque::new(),
            progress: Progress::Idle,
            events: VecDeque::new(),
            unanswered: None,
            events_not_before: None,
            call_expected_until: None,
            calls,
            cseq: first.saturating_sub(1),
            expires_at: now + remaining,
            last_request_at: now,
            fenced: 0,
            resumptions_failed: 0,
            replicated: true,
            is_leaving: false,
        }
    }

    pub(super) fn key(&self) -> &SessionKey {
        &self.record.key
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.record.epoch
    }

    pub(super) fn is_established(&self) -> bool {
        match self.stage {
            Stage::Opening(_) => false,
            Stage::Established => true,
        }
    }

    pub(super) fn is_replicated(&self) -> bool {
        self.replicated
    }

    /// For the metric of sessions by state.
    pub(super) fn state_label(&self) -> &'static str {
        match self.stage {
            Stage::Opening(_) => "opening",
            Stage::Established => self.link.label(),
        }
    }

    /// RFC 3261 §12.2.1.1. The block of an epoch holds a million numbers; one who uses them up stays at its end.
    pub(super) fn next_cseq(&mut self) -> u32 {
        let (_, last) = self.record.epoch.cseq_block();
        self.cseq = (self.cseq + 1).min(last);
        self.cseq
    }

    /// Begins with the first request of the queue, if there is one and nothing stands against it.
    pub(super) fn begin_next(&mut self) -> Option<QueuedRequest> {
        let may_begin = match self.progress {
            Progress::Idle => true,
            Progress::WaitingForLink => self.link.is_settled(),
            Progress::WaitingForMonitor
            | Progress::WaitingForIntent { .. }
            | Progress::WaitingForCommit { .. }
            | Progress::WaitingForCti { .. }
            | Progress::WaitingForEvidence { .. } => false,
        };
        let first = self.requests.front().filter(|_| may_begin).cloned()?;
        self.progress = Progress::Idle;
        Some(first)
    }

    /// The request that is being carried out.
    ///
    /// # Panics
    /// When there is none.
    pub(super) fn first(&self) -> &QueuedRequest {
        let first = self.requests.front();
        first.expect("only a request of the queue is carried out")
    }

    /// Takes out the request that is being carried out, to be answered now.
    ///
    /// # Panics
    /// As [`Self::first`].
    pub(super) fn take_first(&mut self) -> QueuedRequest {
        self.progress = Progress::Idle;
        let first = self.requests.pop_front();
        first.expect("only a request of the queue is answered")
    }

    /// Sessions whose users wait, or are on the phone, come first.
    pub(super) fn priority(&self) -> MonitorPriority {
        if self.requests.is_empty() && self.calls.is_empty() {
            MonitorPriority::Background
        } else {
            MonitorPriority::Traffic
        }
    }

    /// Nothing happens in it: no call, no request, no event.
    pub(super) fn is_idle(&self) -> bool {
        self.is_established() && self.calls.is_empty() && self.requests.is_empty() && self.events.is_empty()
    }

    /// A MakeCall is being carried out, or waits for it: its callID is not known to the client yet.
    pub(super) fn expects_call(&self) -> bool {
        self.call_expected_until.is_some() || self.requests.iter().any(|queued| queued.makes_call)
    }

    /// When the session next wants time. A request that cannot go on waits for `request_wait`.
    pub(super) fn next_deadline(&self, request_wait: Duration) -> Instant {
        let opening = match &self.stage {
            Stage::Opening(opening) => opening.trying_at,
            Stage::Established => None,
        };
        let event = self.unanswered.as_ref().map(|unanswered| unanswered.until);
        let expected = self.call_expected_until.filter(|_| !self.events.is_empty());
        let first = self.requests.front().filter(|_| self.progress.is_stuck());
        let request = first.map(|queued| queued.arrived_at + request_wait);
        let waits = [opening, event, expected, self.events_not_before, request];
        waits.into_iter().flatten().fold(self.expires_at, Instant::min)
    }
}

fn contains(haystack: &Bytes, needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// A front end gives a request to nodes four times at most, unless it is configured otherwise.
const EARLIER_PAIRS_MAX: usize = 8;
