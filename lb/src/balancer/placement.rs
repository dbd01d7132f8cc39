//! Placement of requests: finds a node and queues the request there, or answers it.

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
    /// Records a new request and sends it to a node.
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

    /// Retries all requests waiting for a node, in order of arrival.
    pub(super) fn place_waiting(&mut self, now: Instant) {
        for id in self.pending.waiting() {
            self.place(id, None, now);
        }
    }

    /// Sends a request that is at no node to its target. `bytes` are those of a new request; otherwise the kept ones are sent.
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
        if let RequestKind::InDialog { tag } = &entry.kind {
            entry.sent_at_report = self.shared.ownership.latest_report_on(tag);
        }
        // The state has caught up with the node that disowned the dialog; if the session returns, that node owns it again.
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

    /// Lets a request wait until its target is known; later requests of its dialog wait behind it.
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

    /// The pair of that purpose with a node, opened now if there is none. `None` while it is being reopened or drained.
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

    /// Answers a request that no node will answer any more. Only here does a client get 503, when no node can be used.
    pub(super) fn give_up(&mut self, id: EntryId, status: u16, now: Instant) {
        let Some(entry) = self.pending.get(id) else { return };
        // The client may have an early dialog (RFC 3261 §12.1), which this answer must end.
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

    /// Records that the request has its final answer, from a node or the front end.
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

    /// Handles, in order, the requests that waited behind a dialog's re-sent request, now that it is answered.
    pub(super) fn release_dialog(&mut self, tag: &[u8], now: Instant) {
        for (_, request) in self.holds.end(tag) {
            self.client_request(request, now);
        }
    }

    /// Takes the request away from its node. `now` is `None` when the whole connection ends.
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
    /// Whether the request belongs to a dialog and can still be sent to another node.
    pub(super) fn may_be_disowned(&self) -> bool {
        self.dialog_tag().is_some() && self.early_tag.is_none() && self.kept.message().is_some()
    }

    pub(super) fn dialog_tag(&self) -> Option<&Bytes> {
        match &self.kind {
            RequestKind::InDialog { tag } => Some(tag),
            RequestKind::Opening | RequestKind::OutsideDialog | RequestKind::Cancel { .. } => None,
        }
    }

    /// Whether the request must be remembered once it is answered: an INVITE, for its ACK, and any request that a node may still
    /// answer, or answer again.
    fn must_be_remembered(&self) -> bool {
        self.is_invite || self.may_have_been_seen || self.attempts > 1
    }
}
