//! Handles messages from nodes.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use tandem_cluster::NodeId;
use tandem_sip::RawMessage;

use super::Balancer;
use super::input::{PairId, PairPurpose};
use super::output::{Count, DropReason, Output, RedispatchReason, ResentOutcome};
use super::pending::{Entry, EntryId, Place, RequestKind};
use super::recovery::OWNER_LOOKUP_PAUSE;

impl Balancer {
    pub(super) fn node_message(&mut self, id: PairId, message: RawMessage, now: Instant) {
        let Some(pair) = self.pairs.get(id) else { return };
        let (node, purpose) = (pair.node, pair.purpose);
        self.pairs.heard(id, now);
        if !message.is_request() {
            return self.node_response(id, node, &message, now);
        }
        match purpose {
            PairPurpose::Ordinary => self.fence(id, node, message, now),
            PairPurpose::Resent => self.count(Count::Dropped(DropReason::RequestOnResentPair)),
        }
    }

    pub(super) fn pair_pinged(&mut self, pair: PairId, now: Instant) {
        self.pairs.heard(pair, now);
        self.outputs.push(Output::SendToNode {
            pair,
            bytes: Bytes::from_static(b"\r\n"),
            entry: None,
        });
    }

    fn node_response(&mut self, pair: PairId, node: NodeId, response: &RawMessage, now: Instant) {
        let Some(id) = self.pending.request_of(response) else {
            return self.pass_back(response);
        };
        let Some(entry) = self.pending.get(id) else { return };
        match entry.place {
            Place::Answered { .. } if entry.is_repeated_by(response) => self.pass_back(response),
            Place::Answered { .. } | Place::AnsweredHere => {
                self.count(Count::Dropped(DropReason::SecondAnswer));
            }
            Place::At { .. } | Place::Waiting { .. } => self.answer_arrived(id, pair, node, response, now),
        }
    }

    fn answer_arrived(
        &mut self,
        id: EntryId,
        pair: PairId,
        node: NodeId,
        response: &RawMessage,
        now: Instant,
    ) {
        let status = response.status().unwrap_or_default();
        let Some(entry) = self.pending.get_mut(id) else {
            return;
        };
        let opens = entry.kind == RequestKind::Opening;
        match status {
            100..200 => {
                if let (true, Some(tag)) = (opens, response.to_tag()) {
                    entry.early_tag = Some(response.bytes().slice_ref(tag));
                }
                self.pass_back(response);
            }
            503 if opens => self.declined(id, pair, node, response, now),
            503 if entry.may_be_disowned() && disowns(response) => self.disowned(id, node, now),
            _ => {
                entry.accepted = (200..300).contains(&status);
                self.pass_back(response);
                self.settle(id, Place::Answered { pair, node }, ResentOutcome::Answered, now);
            }
        }
    }

    /// A node declined a session with 503: tries another node, or passes the answer on.
    fn declined(&mut self, id: EntryId, pair: PairId, node: NodeId, response: &RawMessage, now: Instant) {
        let tried = self
            .pending
            .get(id)
            .map(|entry| entry.tried.clone())
            .unwrap_or_default();
        let early = self
            .pending
            .get(id)
            .is_some_and(|entry| entry.early_tag.is_some());
        if early || !self.has_untried_node(&tried) {
            self.pass_back(response);
            self.settle(id, Place::Answered { pair, node }, ResentOutcome::Answered, now);
            return;
        }
        self.count(Count::Redispatched(RedispatchReason::Unavailable));
        self.detach(id, Some(now));
        self.pending.set_place(
            id,
            Place::Waiting {
                until: now + self.shared.settings.wait,
            },
        );
        self.place(id, None, now);
    }

    /// The node has given the session to another one. The request is sent there, marked as re-sent, once the front end knows
    /// the new owner.
    fn disowned(&mut self, id: EntryId, node: NodeId, now: Instant) {
        self.detach(id, Some(now));
        self.pending.set_place(
            id,
            Place::Waiting {
                until: now + self.shared.settings.wait,
            },
        );
        if let Some(entry) = self.pending.get_mut(id) {
            entry.disowned_by = Some(node);
            entry.may_have_been_seen = true;
        }
        self.hold_dialog(id);
        self.owner_lookup_at.get_or_insert(now + OWNER_LOOKUP_PAUSE);
        self.place(id, None, now);
    }

    /// Passes a response to the client unchanged, except that 503 becomes 500: only the front end sends 503 to clients.
    fn pass_back(&mut self, response: &RawMessage) {
        match response.status() {
            Some(503) => self.send_to_client(as_server_error(response)),
            Some(_) | None => self.send_to_client(response.bytes().clone()),
        }
    }
}

impl Entry {
    /// Whether a response repeats the 2xx to an INVITE, as nodes do until the ACK arrives (RFC 3261 §13.3.1.4). When the INVITE
    /// was sent again, each copy may be answered, even by the same node over another pair; one answer is enough then.
    fn is_repeated_by(&self, response: &RawMessage) -> bool {
        self.is_invite && self.accepted && self.attempts == 1 && matches!(response.status(), Some(200..300))
    }
}

/// Whether a node says, in a Warning (RFC 3261 §20.43), that it gave the session to another node.
fn disowns(response: &RawMessage) -> bool {
    let says = |(name, value): (&[u8], &[u8])| {
        name.eq_ignore_ascii_case(b"Warning") && value.trim_ascii().starts_with(b"399 tandem-node ")
    };
    response.headers().any(says)
}

/// Rewrites the status line to 500, as a proxy does with a 503 from behind it (RFC 3261 §16.7 step 6).
fn as_server_error(response: &RawMessage) -> Bytes {
    let bytes = response.bytes();
    let rest = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(&bytes[..0], |end| &bytes[end + 1..]);
    let mut changed = BytesMut::with_capacity(bytes.len());
    changed.put_slice(b"SIP/2.0 500 Server Internal Error\r\n");
    changed.put_slice(rest);
    changed.freeze()
}
