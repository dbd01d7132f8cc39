//! Decides which node gets each message.
//!
//! Owns one client connection's pairs with the nodes, its unanswered requests and every decision about them; also the health
//! of nodes and the round robin. Does not own sockets, the clock or randomness. What always holds: every request of the client
//! is answered at most once; a message is forwarded unchanged or not at all; what a node wrote before it was lost is
//! handled before its requests are sent to another node; nothing grows without a bound.

mod from_client;
mod from_node;
pub mod health;
mod holds;
pub mod input;
mod invariants;
pub mod node_set;
pub mod node_table;
pub mod options_check;
pub mod output;
pub mod ownership;
mod pairs;
pub mod pending;
mod placement;
mod recovery;
mod routing;
pub mod selection;
pub mod settings;
mod suspects;
mod tags;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_sip::{RawMessage, write_answer};

use self::holds::Holds;
pub use self::input::{Input, PairId, PairLoss, PairPurpose, StandingPair};
use self::invariants::Checks;
use self::node_table::SharedTable;
use self::output::Count;
pub use self::output::{CloseReason, Output};
use self::ownership::Ownership;
use self::pairs::Pairs;
use self::pending::PendingTable;
use self::selection::Turns;
use self::settings::{BalancerSettings, ByteBudget};
use self::suspects::Suspects;
use self::tags::TagSource;

/// State shared by all connections of a listener.
#[derive(Debug, Clone)]
pub struct Shared {
    pub settings: Arc<BalancerSettings>,
    pub turns: Arc<Turns>,
    pub ownership: Arc<Ownership>,
    pub kept_in_all: Arc<ByteBudget>,
}

/// The state machine of one client connection.
#[derive(Debug)]
pub struct Balancer {
    shared: Shared,
    table: SharedTable,
    pairs: Pairs,
    pending: PendingTable,
    holds: Holds,
    suspects: Suspects,
    /// When the owners of disowned requests are looked up again.
    owner_lookup_at: Option<Instant>,
    tags: TagSource,
    phase: Phase,
    /// The client has sent a SIP message, so pairs with all nodes are wanted.
    pairs_wanted: bool,
    nodes_are_read: bool,
    /// The message with which framing was lost, and the status to answer it with after everything before it is answered.
    final_answer: Option<(RawMessage, u16)>,
    outputs: Vec<Output>,
    checks: Checks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Closed as soon as nothing is outstanding, or at `until`.
    Finishing {
        until: Option<Instant>,
        reason: CloseReason,
    },
    Closed,
}

impl Balancer {
    /// A new connection. `seed` is the only randomness of its answers.
    #[must_use]
    pub fn new(shared: Shared, table: SharedTable, seed: u64) -> Self {
        let settings = &shared.settings;
        let kept_in_all = Arc::clone(&shared.kept_in_all);
        Self {
            pending: PendingTable::new(
                settings.pending_requests_max,
                settings.kept_bytes_max,
                kept_in_all,
            ),
            holds: Holds::new(settings.waiting_requests_max),
            suspects: Suspects::default(),
            owner_lookup_at: None,
            table,
            pairs: Pairs::default(),
            tags: TagSource::new(seed),
            phase: Phase::Serving,
            pairs_wanted: false,
            nodes_are_read: true,
            final_answer: None,
            outputs: Vec::new(),
            checks: Checks::default(),
            shared,
        }
    }

    /// Makes this a connection requested by a node, whose own connection becomes its pair.
    #[must_use]
    pub fn with_standing_pair(mut self, standing: StandingPair, now: Instant) -> Self {
        if let Some(node) = self.table.node(standing.node) {
            self.pairs.add_standing(standing, node.address, now);
        }
        self
    }

    /// Handles one event and returns what to do, in order. A closed connection ignores everything.
    #[must_use]
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        match input {
            Input::ClientGone => self.forget_all(),
            Input::ClientMessage(message) => self.client_message(message, now),
            Input::ClientMessageRefused { message, status } => self.refuse(&message, status),
            Input::ClientFramingLost { answer } => self.framing_lost(answer, now),
            Input::ClientPinged => self.send_to_client(Bytes::from_static(b"\r\n")),
            Input::ClientHalfClosed => {
                self.finish(
                    CloseReason::HalfClosed,
                    Some(now + self.shared.settings.half_close),
                );
            }
            Input::PairOpened(pair) => self.pair_opened(pair, now),
            Input::PairMessage { pair, message } => self.node_message(pair, message, now),
            Input::PairPinged(pair) => self.pair_pinged(pair, now),
            Input::PairLost { pair, loss } => self.pair_lost(pair, loss, now),
            Input::PairQueueFull { pair, entry } => self.pair_queue_full(pair, entry, now),
            Input::NodesRead(are_read) => self.nodes_read(are_read, now),
            Input::NodeTableChanged(table) => self.node_table_changed(table, now),
            Input::DrainStarted => self.finish(CloseReason::Drained, None),
            Input::DeadlineReached => self.deadline_reached(now),
        }
        self.review_suspects(now);
        self.close_when_finished(now);
        let outputs = std::mem::take(&mut self.outputs);
        if cfg!(debug_assertions) {
            self.check_now_and_then();
        }
        outputs
    }

    /// When `handle` next wants `DeadlineReached`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let finish = match self.phase {
            Phase::Serving => None,
            Phase::Finishing { until, .. } => until,
            Phase::Closed => return None,
        };
        let deadlines = [
            finish,
            self.pending.next_expiry(),
            self.pending.next_overdue(),
            self.holds.next_deadline(),
            self.suspects.next_deadline(),
            self.owner_lookup_at,
            self.pairs.next_retry(),
            self.next_pair_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The number of client requests without a final answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.pending.unanswered() + self.holds.waiting()
    }

    /// Whether as many requests are unanswered as permitted. The client is read again when one is answered.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pending.is_full() || self.holds.is_full()
    }

    fn deadline_reached(&mut self, now: Instant) {
        self.expire_requests(now);
        self.answer_overdue(now);
        self.look_up_owners(now);
        self.retry_refused_nodes(now);
        self.doubt_silent_nodes(now);
        self.close_idle_resent_pairs(now);
    }

    fn refuse(&mut self, message: &RawMessage, status: u16) {
        if message.may_be_answered() {
            self.answer(message, status);
        }
    }

    /// Closes the connection after the messages before the loss, which were valid, are answered.
    fn framing_lost(&mut self, answer: Option<(RawMessage, u16)>, now: Instant) {
        self.final_answer = answer;
        let until = now + self.shared.settings.framing_lost;
        match self.phase {
            Phase::Serving => self.finish(CloseReason::FramingLost, Some(until)),
            Phase::Finishing { until: earlier, .. } => {
                self.phase = Phase::Finishing {
                    until: Some(earlier.map_or(until, |earlier| earlier.min(until))),
                    reason: CloseReason::FramingLost,
                };
            }
            Phase::Closed => {}
        }
    }

    fn finish(&mut self, reason: CloseReason, until: Option<Instant>) {
        if self.phase == Phase::Serving {
            self.phase = Phase::Finishing { until, reason };
        }
    }

    fn close_when_finished(&mut self, now: Instant) {
        let Phase::Finishing { until, reason } = self.phase else {
            return;
        };
        if self.unanswered() == 0 || until.is_some_and(|until| until <= now) {
            self.close(reason);
        }
    }

    fn close(&mut self, reason: CloseReason) {
        if let Some((message, status)) = self.final_answer.take() {
            self.refuse(&message, status);
        }
        self.forget_all();
        self.outputs.push(Output::CloseClient(reason));
    }

    /// Forgets all requests, because the client is gone.
    fn forget_all(&mut self) {
        for id in self.pending.ids() {
            self.detach(id, None);
            drop(self.pending.remove(id));
        }
        self.phase = Phase::Closed;
    }

    /// Answers a request as the front end itself (RFC 3261 §8.2.6). The To-tag tells that the ACK ends here as well.
    fn answer(&mut self, request: &RawMessage, status: u16) {
        let tag = self.tags.next_tag();
        self.answer_with_tag(request, status, &tag);
    }

    fn answer_with_tag(&mut self, request: &RawMessage, status: u16, tag: &str) {
        let bytes = self.own_answer(request, status, tag);
        self.count(Count::Generated(status));
        self.send_to_client(bytes);
    }

    fn own_answer(&mut self, request: &RawMessage, status: u16, tag: &str) -> Bytes {
        match status {
            // OCS stops using its next hop for all users on a 503, for as long as Retry-After says.
            503 => {
                let retry_after = self.tags.retry_after_secs().to_string();
                write_answer(
                    request,
                    status,
                    reason_phrase(status),
                    tag,
                    &[("Retry-After", &retry_after)],
                )
            }
            _ => write_answer(request, status, reason_phrase(status), tag, &[]),
        }
    }

    fn send_to_client(&mut self, bytes: Bytes) {
        self.outputs.push(Output::SendToClient(bytes));
    }

    fn count(&mut self, count: Count) {
        self.outputs.push(Output::Count(count));
    }
}

/// The reason phrases of the front end's own answers (RFC 3261 §21).
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        481 => "Call/Transaction Does Not Exist",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        _ => "Error",
    }
}
