//! When a member campaigns or hands the lead over on its own account: decisions only, no clock, no network.
//!
//! openraft's timeouts elect a leader by themselves in most cases. Two cases are decided here. A node that knows
//! the leader's process to be dead does not wait for timeouts. And the witness, which never campaigns by
//! timeout, takes the lead when the nodes within reach lack entries that it holds, because nobody else can win
//! then; it brings them up to date and hands over at once.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::node::NodeId;
use tandem_planted::{Bug, planted};

/// The end of a log: term and index of the last entry. A log that ends lower cannot win an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct LogPosition {
    pub term: u64,
    pub index: u64,
}

/// What a member sees at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub lead: Lead,
    pub log: LogPosition,
    /// The other nodes; witnesses are not listed.
    pub nodes: Vec<NodeView>,
}

/// Who leads, as far as this member can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// This member.
    Own,
    /// A leader was heard within a lease, and its process is not known to be dead.
    Heard,
    /// The leader of this term had its process seen dying; only it could have led in this term.
    Dead { term: u64 },
    /// No leader has been heard since then.
    SilentSince(Instant),
}

impl Lead {
    /// How long nothing has been heard of the leader; `None` while there is one, or it is known to be gone.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::SilentSince(since) => Some(now.saturating_duration_since(*since)),
            Self::Own | Self::Heard | Self::Dead { .. } => None,
        }
    }
}

/// One of the other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeView {
    pub id: NodeId,
    /// Connected, and not known to be dead.
    pub reachable: bool,
    /// Where its log ended when it was asked after the leader had fallen silent.
    pub log: Option<LogPosition>,
    /// Last index known to be in its log; for the leader only.
    pub matched: Option<u64>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Campaign in the dead leader's name: its lease binds nobody any more.
    TakeOver,
    /// Campaign as after a timeout, asking first whether it could be won.
    Campaign,
    /// Transfer the lead.
    HandOver(NodeId),
}

/// A node that may succeed a dead leader.
#[derive(Debug)]
pub struct Successor {
    id: NodeId,
    tried: Option<u64>,
    pending: Option<(u64, Instant)>,
}

impl Successor {
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            tried: None,
            pending: None,
        }
    }

    /// One attempt per dead leader: after a failed one the timeouts decide.
    #[must_use]
    pub fn handle(&mut self, view: &View, now: Instant) -> Option<Decision> {
        let Lead::Dead { term } = view.lead else {
            self.pending = None;
            return None;
        };
        if self.tried == Some(term) || planted(Bug::NoFastTakeOver) {
            return None;
        }
        let due = match self.pending {
            Some((pending, due)) if pending == term => due,
            Some(_) | None => now + self.delay(view),
        };
        self.pending = Some((term, due));
        if now < due {
            return None;
        }
        self.tried = Some(term);
        self.pending = None;
        Some(Decision::TakeOver)
    }

    /// When `handle` next wants to be called.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.pending.map(|(_, due)| due)
    }

    /// Several survivors do not campaign against each other: the lowest id goes first.
    fn delay(&self, view: &View) -> Duration {
        let before = view
            .nodes
            .iter()
            .filter(|node| node.reachable && node.id < self.id);
        RANK_DELAY * u32::try_from(before.count()).unwrap_or(u32::MAX)
    }
}

/// The witness: leads only as long as no node can.
#[derive(Debug)]
pub struct ReluctantLeader {
    /// After this long without a leader it campaigns whatever it knows of the nodes.
    patience: Duration,
    attempted: Option<Instant>,
}

impl ReluctantLeader {
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            attempted: None,
        }
    }

    #[must_use]
    pub fn handle(&mut self, view: &View, now: Instant) -> Option<Decision> {
        let (decision, pause) = match view.lead {
            Lead::Heard => return None,
            Lead::Dead { .. } | Lead::SilentSince(_) if planted(Bug::WitnessNeverLeads) => return None,
            Lead::Own => (Decision::HandOver(caught_up_node(view)?), HAND_OVER_PAUSE),
            Lead::Dead { .. } => (nodes_lag(view).then_some(Decision::TakeOver)?, ATTEMPT_PAUSE),
            Lead::SilentSince(since) => {
                let overdue = now >= since + self.patience && view.nodes.iter().any(|node| node.reachable);
                let needed = overdue || nodes_lag(view);
                (needed.then_some(Decision::Campaign)?, ATTEMPT_PAUSE)
            }
        };
        if self.attempted.is_some_and(|attempted| now < attempted + pause) {
            return None;
        }
        self.attempted = Some(now);
        Some(decision)
    }

    /// When `handle` wants to be called again, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.attempted.map(|attempted| attempted + HAND_OVER_PAUSE)
    }
}

/// Every node within reach, and there is one, lacks entries that this member holds.
fn nodes_lag(view: &View) -> bool {
    let mut reachable = view.nodes.iter().filter(|node| node.reachable).peekable();
    reachable.peek().is_some() && reachable.all(|node| node.log.is_some_and(|log| log < view.log))
}

/// The node to hand over to. It need not have the very last entry: openraft waits for the rest.
fn caught_up_node(view: &View) -> Option<NodeId> {
    let reachable = view.nodes.iter().filter(|node| node.reachable);
    let best = reachable.max_by_key(|node| (node.matched, std::cmp::Reverse(node.id)))?;
    let caught_up = best.matched? + LAG_FOR_HAND_OVER_MAX >= view.log.index;
    caught_up.then_some(best.id)
}

const RANK_DELAY: Duration = Duration::from_millis(30);
const ATTEMPT_PAUSE: Duration = Duration::from_millis(300);
const HAND_OVER_PAUSE: Duration = Duration::from_millis(100);
/// Entries.
const LAG_FOR_HAND_OVER_MAX: u64 = 32;

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "an arbitrary point in time to start from"
)]
mod tests {
    use super::*;

    const OWN_LOG: LogPosition = LogPosition { term: 3, index: 20 };

    fn node(id: u64, index: u64) -> NodeView {
        NodeView {
            id: NodeId(id),
            reachable: true,
            log: Some(LogPosition { term: 3, index }),
            matched: Some(index),
        }
    }

    fn view(lead: Lead, nodes: &[NodeView]) -> View {
        View {
            lead,
            log: OWN_LOG,
            nodes: nodes.to_vec(),
        }
    }

    fn unreachable(node: NodeView) -> NodeView {
        NodeView {
            reachable: false,
            ..node
        }
    }

    #[test]
    fn a_node_takes_over_once_when_the_leader_died() {
        let now = Instant::now();
        let mut successor = Successor::new(NodeId(1));
        let dead = view(Lead::Dead { term: 3 }, &[node(2, 20)]);
        assert_eq!(successor.handle(&view(Lead::Heard, &[]), now), None);
        assert_eq!(successor.handle(&dead, now), Some(Decision::TakeOver));
        assert_eq!(successor.handle(&dead, now), None);
        let died_again = view(Lead::Dead { term: 4 }, &[node(2, 20)]);
        assert_eq!(successor.handle(&died_again, now), Some(Decision::TakeOver));
    }

    #[test]
    fn of_several_survivors_the_lowest_id_goes_first() {
        let now = Instant::now();
        let mut successor = Successor::new(NodeId(3));
        let dead = view(Lead::Dead { term: 3 }, &[unreachable(node(1, 20)), node(2, 20)]);
        assert_eq!(successor.handle(&dead, now), None);
        assert_eq!(successor.next_deadline(), Some(now + RANK_DELAY));
        assert_eq!(
            successor.handle(&dead, now + RANK_DELAY),
            Some(Decision::TakeOver)
        );
        assert_eq!(successor.next_deadline(), None);
    }

    #[test]
    fn the_witness_leaves_the_lead_to_a_node_that_has_everything() {
        let now = Instant::now();
        let mut witness = ReluctantLeader::new(Duration::from_secs(2));
        let dead = view(Lead::Dead { term: 3 }, &[unreachable(node(1, 20)), node(2, 20)]);
        assert_eq!(witness.handle(&dead, now), None);
        let silent = view(Lead::SilentSince(now), &[node(2, 20)]);
        assert_eq!(witness.handle(&silent, now + Duration::from_millis(1900)), None);
    }

    #[test]
    fn the_witness_takes_the_lead_when_the_only_node_lacks_entries() {
        let now = Instant::now();
        for (lead, decision) in [
            (Lead::Dead { term: 3 }, Decision::TakeOver),
            (Lead::SilentSince(now), Decision::Campaign),
        ] {
            let mut witness = ReluctantLeader::new(Duration::from_secs(2));
            let lagging = view(lead, &[node(2, 19)]);
            assert_eq!(witness.handle(&lagging, now), Some(decision));
            assert_eq!(witness.handle(&lagging, now), None);
            assert_eq!(witness.handle(&lagging, now + ATTEMPT_PAUSE), Some(decision));
        }
    }

    #[test]
    fn the_witness_does_not_judge_a_node_it_could_not_ask() {
        let now = Instant::now();
        let mut witness = ReluctantLeader::new(Duration::from_secs(2));
        let unasked = NodeView {
            log: None,
            ..node(2, 0)
        };
        assert_eq!(
            witness.handle(&view(Lead::Dead { term: 3 }, &[unasked]), now),
            None
        );
        assert_eq!(witness.handle(&view(Lead::Dead { term: 3 }, &[]), now), None);
    }

    #[test]
    fn the_witness_loses_patience_when_nobody_leads() {
        let now = Instant::now();
        let mut witness = ReluctantLeader::new(Duration::from_secs(2));
        let later = now + Duration::from_secs(2);
        let alone = view(Lead::SilentSince(now), &[unreachable(node(2, 20))]);
        assert_eq!(witness.handle(&alone, later), None);
        let silent = view(Lead::SilentSince(now), &[node(2, 20)]);
        assert_eq!(witness.handle(&silent, later), Some(Decision::Campaign));
    }

    #[test]
    fn the_witness_hands_over_to_the_node_with_the_longest_log() {
        let now = Instant::now();
        let mut witness = ReluctantLeader::new(Duration::from_secs(2));
        let mut far_behind = view(Lead::Own, &[node(2, 20)]);
        far_behind.log.index = 200;
        assert_eq!(witness.handle(&far_behind, now), None);
        let leading = view(
            Lead::Own,
            &[unreachable(node(1, 20)), node(2, 19), node(3, 20), node(4, 20)],
        );
        assert_eq!(witness.handle(&leading, now), Some(Decision::HandOver(NodeId(3))));
        assert_eq!(witness.handle(&leading, now), None);
        assert_eq!(
            witness.handle(&leading, now + HAND_OVER_PAUSE),
            Some(Decision::HandOver(NodeId(3)))
        );
    }
}
