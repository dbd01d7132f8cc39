//! Recovery from lost pairs and nodes: reopens pairs, and sends unanswered requests to another node.

use std::time::Instant;

use tandem_cluster::NodeId;

use super::Balancer;
use super::input::{PairId, PairLoss, PairPurpose};
use super::node_table::{NodeEntry, SharedTable};
use super::output::{Count, DropReason, Limit, Output, RedispatchReason};
use super::pairs::{Access, Pair, PairState};
use super::pending::{EntryId, Place, RequestKind};

impl Balancer {
    /// Opens a pair with every reachable node that has none: at the client's first message, and when a node returns.
    pub(super) fn open_missing_pairs(&mut self, now: Instant) {
        let reachable: Vec<NodeId> = self
            .table
            .nodes()
            .filter(|node| node.is_reachable())
            .map(NodeEntry::id)
            .collect();
        for node in reachable {
            let wanted = self.pairs.access(node) == Access::Ready;
            if wanted && self.pairs.find(node, PairPurpose::Ordinary).is_none() {
                self.open_pair(node, PairPurpose::Ordinary, PairState::Opening, now);
            }
        }
    }

    pub(super) fn pair_opened(&mut self, id: PairId, now: Instant) {
        let Some(pair) = self.pairs.get(id) else { return };
        let node = pair.node;
        if matches!(pair.state, PairState::Draining) {
            return;
        }
        self.pairs.opened(id, now);
        self.pairs.clear_refusal(node);
        self.place_waiting(now);
    }

    pub(super) fn pair_lost(&mut self, id: PairId, loss: PairLoss, now: Instant) {
        let Some(pair) = self.pairs.remove(id) else { return };
        let stood = match pair.state {
            PairState::Standing | PairState::Draining => {
                !matches!(loss, PairLoss::ConnectFailed | PairLoss::OutOfDescriptors)
            }
            PairState::Opening | PairState::Reopening => false,
        };
        let orphans = self.pending.at(id);
        for &orphan in &orphans {
            self.orphan(orphan, stood, now);
        }
        self.report_loss(&pair, loss);
        self.reopen_or_refuse(&pair, loss, now);
        if loss == PairLoss::FramingLost {
            // The answers are lost with the framing, and a retry would be corrupted the same way.
            orphans
                .into_iter()
                .for_each(|orphan| self.give_up(orphan, 500, now));
        }
        self.place_waiting(now);
    }

    /// Takes a request back from a lost pair. One that a node may have seen is marked as re-sent when it is sent again.
    fn orphan(&mut self, id: EntryId, may_have_been_seen: bool, now: Instant) {
        self.detach(id, Some(now));
        self.pending.set_place(
            id,
            Place::Waiting {
                until: now + self.shared.settings.wait,
            },
        );
        let Some(entry) = self.pending.get_mut(id) else {
            return;
        };
        entry.may_have_been_seen |= may_have_been_seen;
        if entry.early_tag.is_some() || entry.kept.message().is_none() {
            return self.give_up(id, 500, now);
        }
        if entry.kind == RequestKind::Opening {
            self.count(Count::Redispatched(RedispatchReason::NodeLost));
        }
        self.hold_dialog(id);
    }

    fn report_loss(&mut self, pair: &Pair, loss: PairLoss) {
        match loss {
            PairLoss::ConnectFailed | PairLoss::Broken => {
                self.outputs.push(Output::DoubtNode(pair.node));
            }
            PairLoss::Drained | PairLoss::FramingLost | PairLoss::OutOfDescriptors => {}
        }
    }

    /// Reopens a lost pair, or retries after a pause. A node whose pair broke may still be alive: one attempt tells, and until
    /// then nothing is sent to its successor. A node that cannot be reached or sends invalid bytes is left alone for a while.
    fn reopen_or_refuse(&mut self, pair: &Pair, loss: PairLoss, now: Instant) {
        if pair.purpose == PairPurpose::Resent {
            return self.doubt_ordinary_pair(pair, loss, now);
        }
        let retry = self.shared.settings.pair_retry;
        let moved = self
            .table
            .node(pair.node)
            .is_some_and(|node| node.address != pair.address);
        let may_live = match (loss, pair.state) {
            // A node that accepts connections and breaks them at once is treated as one that refuses them.
            (PairLoss::Broken, _) => self.has_stood(pair, now),
            (PairLoss::Drained, _) => true,
            (PairLoss::ConnectFailed | PairLoss::OutOfDescriptors | PairLoss::FramingLost, _) => moved,
        };
        if !may_live {
            self.pairs.refuse(pair.node, now + retry);
        } else if self.pairs_wanted && self.table.is_reachable(pair.node) {
            self.open_pair(pair.node, PairPurpose::Ordinary, PairState::Reopening, now);
        }
    }

    /// Retires the ordinary pair of a node whose pair for re-sent requests failed: it is about to break as well. A pair that was
    /// refused or broke at once met a process that is ending, which closes its sockets in any order.
    fn doubt_ordinary_pair(&mut self, resent: &Pair, loss: PairLoss, now: Instant) {
        let is_ending = match loss {
            PairLoss::Broken => !self.has_stood(resent, now),
            // Without another node to take over, the node is given another chance.
            PairLoss::ConnectFailed => self.is_wanted(resent) && self.has_untried_node(&[resent.node]),
            PairLoss::Drained | PairLoss::FramingLost | PairLoss::OutOfDescriptors => return,
        };
        if is_ending {
            let retry = self.shared.settings.pair_retry;
            self.pairs.refuse(resent.node, now + retry);
        }
        if let Some((ordinary, _)) = self.pairs.find(resent.node, PairPurpose::Ordinary) {
            self.retire_pair(ordinary, now);
        }
    }

    /// Whether the pair was open long enough not to count as one that the node accepted and broke at once.
    fn has_stood(&self, pair: &Pair, now: Instant) -> bool {
        let retry = self.shared.settings.pair_retry;
        pair.stood_since.is_some_and(|since| since + retry <= now)
    }

    pub(super) fn pair_queue_full(&mut self, pair: PairId, entry: Option<EntryId>, now: Instant) {
        self.count(Count::LimitReached(Limit::PairQueue));
        let Some(id) = entry else { return };
        let Some(request) = self.pending.get(id) else {
            return;
        };
        if !matches!(request.place, Place::At { pair: at, .. } if at == pair) {
            return;
        }
        let elsewhere = request.kind == RequestKind::Opening && self.has_untried_node(&request.tried);
        self.detach(id, Some(now));
        self.pending.set_place(
            id,
            Place::Waiting {
                until: now + self.shared.settings.wait,
            },
        );
        if elsewhere {
            self.count(Count::Redispatched(RedispatchReason::QueueFull));
            self.place(id, None, now);
        } else {
            self.give_up(id, 500, now);
        }
    }

    pub(super) fn node_table_changed(&mut self, table: SharedTable, now: Instant) {
        let before = std::mem::replace(&mut self.table, table);
        let returned = |node: &&NodeEntry| node.is_reachable() && !before.is_reachable(node.id);
        let returned: Vec<NodeId> = self.table.nodes().filter(returned).map(NodeEntry::id).collect();
        returned
            .into_iter()
            .for_each(|node| self.pairs.clear_refusal(node));
        let doomed: Vec<PairId> = self
            .pairs
            .iter()
            .filter(|(_, pair)| !self.is_wanted(pair))
            .map(|(id, _)| id)
            .collect();
        doomed.into_iter().for_each(|pair| self.retire_pair(pair, now));
        if self.pairs_wanted {
            self.open_missing_pairs(now);
        }
        self.place_waiting(now);
    }

    /// Whether the pair's node is reachable, and still at the pair's address.
    fn is_wanted(&self, pair: &Pair) -> bool {
        let node = self.table.node(pair.node);
        node.is_some_and(|node| node.is_reachable() && node.address == pair.address)
    }

    fn retire_pair(&mut self, id: PairId, now: Instant) {
        match self.pairs.get(id).map(|pair| pair.state) {
            Some(PairState::Standing) => {
                self.pairs.set_state(id, PairState::Draining);
                self.outputs.push(Output::DrainPair(id));
            }
            Some(PairState::Opening | PairState::Reopening) => {
                self.outputs.push(Output::ClosePair(id));
                self.abandon(id, now);
            }
            Some(PairState::Draining) | None => {}
        }
    }

    /// Removes a pair that was never open: nothing was sent through it.
    fn abandon(&mut self, id: PairId, now: Instant) {
        self.pairs.remove(id);
        for orphan in self.pending.at(id) {
            self.orphan(orphan, false, now);
        }
    }

    /// Retries requests that their node disowned, which wait until this copy of the state has caught up with the node's.
    pub(super) fn look_up_owners(&mut self, now: Instant) {
        if self.owner_lookup_at.is_none_or(|at| at > now) {
            return;
        }
        self.place_waiting(now);
        let disowned = |id| {
            let entry = self.pending.get(id);
            entry.is_some_and(|entry| entry.disowned_by.is_some())
        };
        let any = self.pending.waiting().into_iter().any(disowned);
        self.owner_lookup_at = any.then_some(now + OWNER_LOOKUP_PAUSE);
    }

    pub(super) fn retry_refused_nodes(&mut self, now: Instant) {
        for node in self.pairs.due_for_retry(now) {
            if self.pairs_wanted && self.table.is_reachable(node) {
                self.open_pair(node, PairPurpose::Ordinary, PairState::Reopening, now);
            } else {
                self.pairs.clear_refusal(node);
            }
        }
    }

    /// Ends requests that have timed out: those waiting for a node are answered 500, those at a node are forgotten, since the
    /// client has given up on them as well.
    pub(super) fn expire_requests(&mut self, now: Instant) {
        while let Some(id) = self.pending.overdue(now) {
            self.give_up(id, 500, now);
        }
        while let Some(id) = self.pending.expired(now) {
            self.expire(id, now);
        }
    }

    fn expire(&mut self, id: EntryId, now: Instant) {
        self.detach(id, Some(now));
        let Some(entry) = self.pending.remove(id) else {
            return;
        };
        if entry.is_unanswered() {
            self.count(Count::Dropped(DropReason::Unanswered));
        }
        if let (true, RequestKind::InDialog { tag }) = (entry.holds_dialog, &entry.kind) {
            self.release_dialog(tag, now);
        }
    }

    /// Requests checks of nodes that owe an answer and send nothing: a frozen process keeps its connections open, so silence is
    /// its first sign.
    pub(super) fn doubt_silent_nodes(&mut self, now: Instant) {
        let is_due = |pair: &Pair| self.doubt_at(pair).is_some_and(|at| at <= now);
        let silent: Vec<(PairId, NodeId)> = self
            .pairs
            .iter()
            .filter(|(_, pair)| is_due(pair))
            .map(|(id, pair)| (id, pair.node))
            .collect();
        for (pair, node) in silent {
            self.pairs.doubt(pair, now);
            self.outputs.push(Output::DoubtNode(node));
        }
    }

    /// Notes whether the nodes are read. While they are not, their silence means nothing.
    pub(super) fn nodes_read(&mut self, are_read: bool, now: Instant) {
        self.nodes_are_read = are_read;
        if are_read {
            self.pairs.restart_silence(now);
        }
    }

    pub(super) fn close_idle_resent_pairs(&mut self, now: Instant) {
        let idle = |pair: &Pair| self.idle_at(pair).is_some_and(|at| at <= now);
        let idle: Vec<PairId> = self
            .pairs
            .iter()
            .filter(|(_, pair)| idle(pair))
            .map(|(id, _)| id)
            .collect();
        for pair in idle {
            self.outputs.push(Output::ClosePair(pair));
            self.pairs.remove(pair);
        }
    }

    pub(super) fn next_pair_deadline(&self) -> Option<Instant> {
        let deadlines = |(_, pair)| [self.doubt_at(pair), self.idle_at(pair)];
        self.pairs.iter().flat_map(deadlines).flatten().min()
    }

    fn doubt_at(&self, pair: &Pair) -> Option<Instant> {
        let owes = pair.state == PairState::Standing && pair.unanswered > 0 && self.nodes_are_read;
        let first = pair.quiet_since + self.shared.settings.unanswered;
        let again = pair.doubted.map(|doubted| doubted + DOUBTED_AGAIN_AFTER);
        owes.then(|| again.unwrap_or(first))
    }

    fn idle_at(&self, pair: &Pair) -> Option<Instant> {
        let idle =
            pair.purpose == PairPurpose::Resent && pair.state == PairState::Standing && pair.unanswered == 0;
        idle.then(|| pair.quiet_since + self.shared.settings.resent_pair_idle)
    }
}

/// Pause between lookups of an owner: this copy of the state lags by the time of one message between members.
pub(super) const OWNER_LOOKUP_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);
/// Pause before another check of a silent node is requested; as long as a check may take.
const DOUBTED_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
