//! Routing rules: the target of a request, given what is known about nodes and sessions.

use tandem_cluster::{NodeId, SessionKey, successor};
use tandem_planted::{Bug, planted};

use super::Balancer;
use super::node_table::NodeEntry;
use super::pairs::Access;
use super::pending::{Entry, EntryId, Place, RequestKind};
use super::selection::RoundRobin;

/// The target of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Node(NodeId),
    /// The node that has its INVITE.
    WithInvite(EntryId),
    /// Not known yet; it will be soon.
    Wait,
    /// No node: the front end answers with this status.
    Answer(u16),
}

impl Balancer {
    pub(super) fn target(&self, id: EntryId) -> Target {
        let Some(entry) = self.pending.get(id) else {
            return Target::Answer(500);
        };
        match &entry.kind {
            RequestKind::Opening => self.session_target(&self.shared.turns.opening, &entry.tried),
            RequestKind::OutsideDialog => self.session_target(&self.shared.turns.other, &entry.tried),
            RequestKind::InDialog { tag } => self.in_dialog_target(entry, tag),
            RequestKind::Cancel { invite } => self.cancel_target(*invite),
        }
    }

    /// The next node in turn that can take the request and has not had it; when all have had it, the next that can take it.
    fn session_target(&self, position: &RoundRobin, tried: &[NodeId]) -> Target {
        let turns = self.table.turns();
        let is_ready = |node| self.pairs.access(node) == Access::Ready;
        let node = position
            .take(turns, |node| is_ready(node) && !tried.contains(&node))
            .or_else(|| position.take(turns, is_ready));
        match node {
            Some(node) => Target::Node(node),
            None if turns
                .iter()
                .any(|&node| self.pairs.access(node) == Access::Uncertain) =>
            {
                Target::Wait
            }
            None => Target::Answer(503),
        }
    }

    /// Whether a node in service that has not had the request could take it now.
    pub(super) fn has_untried_node(&self, tried: &[NodeId]) -> bool {
        let may_take = |node: &NodeId| !tried.contains(node) && self.pairs.access(*node) == Access::Ready;
        self.table.turns().iter().any(may_take)
    }

    /// The target of a request in a dialog. While the front end still takes a node that gave the session away for the owner, its
    /// copy of the state lags behind and the request waits. When a move was told here since the request was sent, and that node
    /// is the owner, the session has come back to it.
    fn in_dialog_target(&self, entry: &Entry, tag: &[u8]) -> Target {
        let target = self.dialog_target(tag);
        let Some(former) = entry.disowned_by else {
            return target;
        };
        let report = self.shared.ownership.latest_report_on(tag);
        let has_moved = report != entry.sent_at_report && !planted(Bug::ReturnedDialogForgotten);
        let lags = !has_moved && target == Target::Node(former) && self.owner(tag) == Some(former);
        if lags { Target::Wait } else { target }
    }

    /// The session's owner, or its successor while the owner cannot be reached.
    pub(super) fn dialog_target(&self, tag: &[u8]) -> Target {
        let Some(owner) = self.owner(tag) else {
            return Target::Answer(481);
        };
        let access = self.pairs.access(owner);
        match access {
            Access::Ready if self.table.is_reachable(owner) => Target::Node(owner),
            Access::Uncertain => Target::Wait,
            Access::Ready | Access::Refused => self.successor_target(tag, owner),
        }
    }

    /// The owner by the table of moved sessions, else by the tag. A tag of an unknown node is looked up in the whole state.
    fn owner(&self, tag: &[u8]) -> Option<NodeId> {
        let issuer = NodeId::from_tag(tag).filter(|&node| self.table.node(node).is_some());
        self.shared
            .ownership
            .moved_to(tag)
            .or(issuer)
            .or_else(|| self.shared.ownership.look_up(tag))
    }

    /// The successor that `apply` chooses (or will choose) for the session.
    fn successor_target(&self, tag: &[u8], owner: NodeId) -> Target {
        let Ok(tag) = std::str::from_utf8(tag) else {
            return Target::Answer(481);
        };
        let others = || {
            self.table
                .nodes()
                .filter(|node| node.is_in_service() && node.id != owner)
                .map(NodeEntry::id)
        };
        let ready = others().filter(|&node| self.pairs.access(node) == Access::Ready);
        match successor(&SessionKey::new(tag), ready) {
            Some(successor) => Target::Node(successor),
            None if others().any(|node| self.pairs.access(node) == Access::Uncertain) => Target::Wait,
            None => Target::Answer(503),
        }
    }

    /// RFC 3261 §9.1: CANCEL goes the way of its INVITE.
    fn cancel_target(&self, invite: EntryId) -> Target {
        let Some(entry) = self.pending.get(invite) else {
            return Target::Answer(481);
        };
        match entry.place {
            Place::Waiting { .. } => Target::Wait,
            Place::At { .. } | Place::Answered { .. } => Target::WithInvite(invite),
            Place::AnsweredHere => Target::Answer(481),
        }
    }
}
