//! From "a request wants a node" to "it is queued there", or to an answer of our own.

use std::time::Instant;

use bytes::Bytes;
use tandem_cluster::NodeId;
use tandem_planted::{Bug, planted};
use tandem_sip::RawMessage;

use super::input::{PairId, PairPurpose};
use super::output::{Count, Output, ResentOutcome};
use super::pairs::PairState;
use super::pending::{Entry, EntryId, Kept, Place, RequestKind};
use super::routing::Target;
use super::{Balancer, output::Limit};

impl Balancer {
    /// A new request: remembered, then given to a node.
    pub(super) fn admit(&mut self, request: &RawMessage, kind: RequestKind, now: Instant) {
        if !self.pending.make_room() {
            self.count(Count::LimitReached(Limit::PendingRequests));
            self.answer(request, 500);
            return;
        }
        let lifetime = match request.method() {
            Some(b"INVITE") => self.shared.settings.invite_lifetime,
            Some(_) | None => self.shared.settings.request_lifetime,
        };
        let until = now + self.shared.settings.wait;
        let id = self.pending.insert(request, kind, until, now + lifetime);
        if let Err(limit) = self.pending.keep(id, request) {
            self.count(Count::LimitReached(limit));
            let tag = self.tags.next_tag();
            let answer = self.own_answer(request, 500, &tag);
            self.pending.keep_answer_only(id, answer);
        }
        self.place(id, Some(request.bytes()), now);
    }

    /// Tries again for everything that waits for a node, in order of arrival.
    pub(super) fn place_waiting(&mut self, now: Instant) {
        for id in self.pending.waiting() {
            self.place(id, None, now);
        }
    }

    /// Finds a node for a request that is at none. `bytes` are at hand for a new one, else the kept ones are sent.
    pub(super) fn place(&mut self, id: EntryId, bytes: Option<&Bytes>, now: Instant) {
        let Some(entry) = self.pending.get(id) else { return };
        let kept = entry.kept.message().map(RawMessage::bytes);
        let Some(bytes) = bytes.or(kept).cloned() else {
            return self.give_up(id, 500, now);
        };
        if entry.attempts >= self.shared.settings.attempts_max {
            return self.give_up(id, 500, now);
        }
        match self.target(id) {
            Target::Node(node) => self.send_to_node(id, node, bytes, now),
            Target::WithInvite(invite) => self.send_after_invite(id, invite, bytes, now),
            Target::Wait => self.wait_for_node(id, now),
            Target::Answer(status) => self.give_up(id, status, now),
        }
    }

    fn send_to_node(&mut self, id: EntryId, node: NodeId, bytes: Bytes, now: Instant) {
        let Some(entry) = self.pending.get(id) else { return };
        let purpose = match entry.may_have_been_seen && !planted(Bug::ResentUnmarked) {
            true => PairPurpose::Resent,
            false => PairPurpose::Ordinary,
        };
        let Some(pair) = self.pair_to(node, purpose, now) else {
            return self.wait_for_node(id, now);
        };
        self.send_through(id, pair, node, bytes, now);
    }

    fn send_after_invite(&mut self, id: EntryId, invite: EntryId, bytes: Bytes, now: Instant) {
        let place = self.pending.get(invite).map(|invite| invite.place);
        match place {
            Some(Place::At { pair, node } | Place::Answered { pair, node })
                if self.pairs.get(pair).is_some() =>
            {
                self.send_through(id, pair, node, bytes, now);
            }
            Some(Place::At { node, .. } | Place::Answered { node, .. }) => {
                self.send_to_node(id, node, bytes, now);
            }
            Some(Place::Waiting { .. } | Place::AnsweredHere) | None => self.give_up(id, 481, now),
        }
    }

    fn send_through(&mut self, id: EntryId, pair: PairId, node: NodeId, bytes: Bytes, now: Instant) {
        let Some(entry) = self.pending.get_mut(id) else {
            return;
        };
        entry.attempts += 1;
        entry.tried.push(node);
        // The state has caught up with the node that disowned it: should the session come back, that one is its owner.
        if !planted(Bug::ReturnedDialogForgotten) {
            entry.disowned_by = None;
        }
        let (method, opens, again) = (
            entry.method,
            entry.kind == RequestKind::Opening,
            entry.may_have_been_seen,
        );
        self.pending.set_place(id, Place::At { pair, node });
        self.pairs.request_sent(pair, now);
        self.outputs.push(Output::SendToNode {
            pair,
            bytes,
            entry: Some(id),
        });
        self.count(Count::Pending {
            node,
            method,
            change: 1,
        });
        if opens {
            self.count(Count::SessionAssigned(node));
        }
        if again {
            self.count(Count::Resent {
                method,
                outcome: ResentOutcome::Sent,
            });
        }
    }

    /// The request has arrived at a moment when nobody can say who lives: later ones of its dialog wait behind it.
    fn wait_for_node(&mut self, id: EntryId, now: Instant) {
        let Some(entry) = self.pending.get(id) else { return };
        if entry.kept.message().is_none() {
            return self.give_up(id, 500, now);
        }
        self.hold_dialog(id);
    }

    pub(super) fn hold_dialog(&mut self, id: EntryId) {
        let Some(entry) = self.pending.get_mut(id) else {
            return;
        };
        let RequestKind::InDialog { tag } = &entry.kind else {
            return;
        };
        if !std::mem::replace(&mut entry.holds_dialog, true) {
            self.holds.begin(tag);
        }
    }

    /// The pair of that purpose with a node, opened now if there is none. `None` while the old one is drained.
    pub(super) fn pair_to(&mut self, node: NodeId, purpose: PairPurpose, now: Instant) -> Option<PairId> {
        match self.pairs.find(node, purpose) {
            Some((id, pair)) => match pair.state {
                PairState::Opening | PairState::Standing => Some(id),
                PairState::Reopening | PairState::Draining => None,
            },
            None => self.open_pair(node, purpose, PairState::Opening, now),
        }
    }

    pub(super) fn open_pair(
        &mut self,
        node: NodeId,
        purpose: PairPurpose,
        state: PairState,
        now: Instant,
    ) -> Option<PairId> {
        let address = self.table.node(node)?.address;
        let pair = self.pairs.open(node, address, purpose, state, now);
        self.outputs.push(Output::OpenPair {
            pair,
            node,
            address,
            purpose,
        });
        Some(pair)
    }

    /// No node will answer this request any more: we do. 503 stays 503 only here, where no node can be used.
    pub(super) fn give_up(&mut self, id: EntryId, status: u16, now: Instant) {
        let Some(entry) = self.pending.get(id) else { return };
        // RFC 3261 §12.1: the client may have an early dialog, which this answer must end.
        let early_tag = entry
            .early_tag
            .as_ref()
            .map(|tag| String::from_utf8_lossy(tag).into_owned());
        match &entry.kept {
            Kept::Whole(request) => {
                let request = request.clone();
                let tag = early_tag.unwrap_or_else(|| self.tags.next_tag());
                self.answer_with_tag(&request, status, &tag);
            }
            Kept::AnswerOnly(answer) => {
                let answer = answer.clone();
                self.count(Count::Generated(500));
                self.send_to_client(answer);
            }
            Kept::Nothing => {}
        }
        self.settle(id, Place::AnsweredHere, ResentOutcome::Failed, now);
    }

    /// The request has its final answer, whoever gave it.
    pub(super) fn settle(&mut self, id: EntryId, place: Place, outcome: ResentOutcome, now: Instant) {
        self.detach(id, Some(now));
        let Some(entry) = self.pending.get_mut(id) else {
            return;
        };
        let held = std::mem::replace(&mut entry.holds_dialog, false);
        let tag = entry.dialog_tag().filter(|_| held).cloned();
        if entry.may_have_been_seen {
            let method = entry.method;
            self.outputs
                .push(Output::Count(Count::Resent { method, outcome }));
        }
        let remember = entry
            .must_be_remembered()
            .then(|| now + self.shared.settings.answered_lifetime);
        self.pending.answered(id, place, remember);
        if let Some(tag) = tag {
            self.release_dialog(&tag, now);
        }
    }

    /// The dialog's re-sent request is settled; what waited behind it goes on in order.
    pub(super) fn release_dialog(&mut self, tag: &[u8], now: Instant) {
        for (_, request) in self.holds.end(tag) {
            self.client_request(request, now);
        }
    }

    /// The request is not at its node any more. Without a time, because everything ends.
    pub(super) fn detach(&mut self, id: EntryId, now: Option<Instant>) {
        let Some(entry) = self.pending.get(id) else { return };
        let Place::At { pair, node } = entry.place else {
            return;
        };
        let method = entry.method;
        if let Some(now) = now {
            self.pairs.request_settled(pair, now);
        }
        self.count(Count::Pending {
            node,
            method,
            change: -1,
        });
    }
}

impl Entry {
    /// A request of a dialog that another node can be asked.
    pub(super) fn may_be_disowned(&self) -> bool {
        self.dialog_tag().is_some() && self.early_tag.is_none() && self.kept.message().is_some()
    }

    pub(super) fn dialog_tag(&self) -> Option<&Bytes> {
        match &self.kind {
            RequestKind::InDialog { tag } => Some(tag),
            RequestKind::Opening | RequestKind::OutsideDialog | RequestKind::Cancel { .. } => None,
        }
    }

    /// An INVITE for the ACK to come; anything that some node may still answer, or answer once more, for that answer.
    fn must_be_remembered(&self) -> bool {
        self.is_invite || self.may_have_been_seen || self.attempts > 1
    }
}
