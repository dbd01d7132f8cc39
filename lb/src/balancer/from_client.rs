//! Handles messages from the client.

use std::time::Instant;

use bytes::Bytes;
use tandem_cluster::NodeId;
use tandem_sip::RawMessage;

use super::Balancer;
use super::input::PairPurpose;
use super::output::{Count, DropReason, Limit, Output};
use super::pairs::PairState;
use super::pending::{Place, RequestKind};
use super::routing::Target;
use super::tags::is_own_tag;

impl Balancer {
    pub(super) fn client_message(&mut self, message: RawMessage, now: Instant) {
        if !std::mem::replace(&mut self.pairs_wanted, true) {
            self.open_missing_pairs(now);
        }
        match message.is_request() {
            true => self.client_request(message, now),
            false => self.client_response(&message),
        }
    }

    pub(super) fn client_request(&mut self, request: RawMessage, now: Instant) {
        match request.method() {
            Some(b"ACK") => self.acknowledge(request, now),
            Some(b"CANCEL") => self.cancel(request, now),
            Some(_) | None => self.ordinary_request(request, now),
        }
    }

    fn ordinary_request(&mut self, request: RawMessage, now: Instant) {
        if self.is_repeated(&request) {
            return;
        }
        match tag_of(&request) {
            Some(tag) if is_own_tag(&tag) => self.answer(&request, 481),
            Some(tag) if self.holds.is_held(&tag) => self.wait_behind(&tag, &request, now),
            Some(tag) => self.admit(&request, RequestKind::InDialog { tag }, now),
            None if request.is_opening_invite() => self.admit(&request, RequestKind::Opening, now),
            None => self.admit(&request, RequestKind::OutsideDialog, now),
        }
    }

    /// Drops a request whose transaction is not answered yet: it gets that transaction's answer and none of its own
    /// (RFC 3261 §17.2). TCP loses nothing, so such a client is impatient or reuses a branch.
    fn is_repeated(&mut self, request: &RawMessage) -> bool {
        let is_repeated = self.pending.is_of_unanswered_transaction(request);
        if is_repeated {
            self.count(Count::Dropped(DropReason::Repeated));
        }
        is_repeated
    }

    /// Forwards an ACK. The ACK to a final answer other than 2xx belongs to the INVITE's transaction and goes where that was
    /// answered; the ACK to a 2xx is a request in the dialog (RFC 3261 §17.1.1.3).
    fn acknowledge(&mut self, ack: RawMessage, now: Instant) {
        if ack.to_tag().is_some_and(is_own_tag) {
            return;
        }
        let invite = self.pending.invite_of(&ack).and_then(|id| self.pending.get(id));
        let invite = invite.filter(|invite| !invite.accepted);
        match invite.map(|invite| invite.place) {
            Some(Place::AnsweredHere) => {}
            Some(Place::Answered { pair, .. }) if self.pairs.get(pair).is_some() => self.pass_on(pair, &ack),
            Some(Place::Answered { node, .. }) => self.acknowledge_at(node, &ack, now),
            Some(Place::Waiting { .. } | Place::At { .. }) | None => self.acknowledge_in_dialog(ack, now),
        }
    }

    fn acknowledge_in_dialog(&mut self, ack: RawMessage, now: Instant) {
        let Some(tag) = tag_of(&ack) else {
            return self.count(Count::Dropped(DropReason::AckWithoutNode));
        };
        if self.holds.is_held(&tag) {
            return self.wait_behind(&tag, &ack, now);
        }
        match self.dialog_target(&tag) {
            Target::Node(node) => self.acknowledge_at(node, &ack, now),
            Target::WithInvite(_) | Target::Wait | Target::Answer(_) => {
                self.count(Count::Dropped(DropReason::AckWithoutNode));
            }
        }
    }

    fn acknowledge_at(&mut self, node: NodeId, ack: &RawMessage, now: Instant) {
        match self.pair_to(node, PairPurpose::Ordinary, now) {
            Some(pair) => self.pass_on(pair, ack),
            None => self.count(Count::Dropped(DropReason::AckWithoutNode)),
        }
    }

    /// Forwards a CANCEL; one that matches no INVITE is answered 481 (RFC 3261 §9.2).
    fn cancel(&mut self, cancel: RawMessage, now: Instant) {
        if self.is_repeated(&cancel) {
            return;
        }
        let held = tag_of(&cancel).filter(|tag| self.holds.is_held(tag));
        match (self.pending.invite_of(&cancel), held) {
            (Some(invite), _) => self.admit(&cancel, RequestKind::Cancel { invite }, now),
            (None, Some(tag)) => self.wait_behind(&tag, &cancel, now),
            (None, None) => self.answer(&cancel, 481),
        }
    }

    fn wait_behind(&mut self, tag: &[u8], request: &RawMessage, now: Instant) {
        let until = now + self.shared.settings.wait;
        if !self.holds.wait(tag, request, until) {
            self.count(Count::LimitReached(Limit::WaitingRequests));
            self.refuse(request, 500);
        }
    }

    /// Answers 500 to requests that have waited for too long behind a re-sent one.
    pub(super) fn answer_overdue(&mut self, now: Instant) {
        for request in self.holds.take_overdue(now) {
            self.refuse(&request, 500);
        }
    }

    /// Forwards a response to the node named in the Via branch that the node put on its request.
    fn client_response(&mut self, response: &RawMessage) {
        let node = response.via_branch().and_then(NodeId::from_branch);
        let pair = node.and_then(|node| self.pairs.find(node, PairPurpose::Ordinary));
        match pair {
            Some((id, pair)) if !matches!(pair.state, PairState::Draining) => self.pass_on(id, response),
            Some(_) | None => self.count(Count::Dropped(DropReason::ResponseWithoutNode)),
        }
    }

    fn pass_on(&mut self, pair: super::PairId, message: &RawMessage) {
        self.outputs.push(Output::SendToNode {
            pair,
            bytes: message.bytes().clone(),
            entry: None,
        });
    }
}

fn tag_of(request: &RawMessage) -> Option<Bytes> {
    request.to_tag().map(|tag| request.bytes().slice_ref(tag))
}
