//! The fence: holds back requests from a node that, by the replicated state, does not own the session.
//!
//! This copy of the state may lag behind the node's by the time of one message between members, and a successor acts as
//! soon as it learns that it owns the session. So a suspect request waits a moment before it is rejected.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tandem_cluster::NodeId;
use tandem_planted::{Bug, planted};
use tandem_sip::{RawMessage, write_answer};

use super::input::{PairId, PairPurpose};
use super::output::{Count, Output};
use super::{Balancer, reason_phrase};

/// Requests whose sender may not own their session, in order of arrival; bounded.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    queue: VecDeque<Suspect>,
    review_at: Option<Instant>,
}

#[derive(Debug)]
struct Suspect {
    pair: PairId,
    node: NodeId,
    request: RawMessage,
    judged_at: Instant,
}

impl Suspects {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.review_at
    }

    /// Checks the number of suspects and their deadline.
    ///
    /// # Panics
    /// When there are too many, or when they would never be reviewed.
    pub(super) fn check_invariants(&self) {
        assert!(self.queue.len() <= SUSPECTS_MAX, "too many suspects");
        assert_eq!(
            self.review_at.is_some(),
            !self.queue.is_empty(),
            "suspects are never reviewed"
        );
    }
}

impl Balancer {
    /// Passes a node's request on to the client, unless another live node owns its session.
    pub(super) fn fence(&mut self, pair: PairId, node: NodeId, request: RawMessage, now: Instant) {
        if !self.is_suspect(node, &request) {
            return self.send_to_client(request.bytes().clone());
        }
        let judged_at = match self.suspects.queue.len() < SUSPECTS_MAX {
            true => now + JUDGED_AFTER,
            false => now,
        };
        self.suspects.queue.push_back(Suspect {
            pair,
            node,
            request,
            judged_at,
        });
    }

    /// Forwards the requests whose sender turned out to be the owner, and rejects those that have waited long enough, in order.
    pub(super) fn review_suspects(&mut self, now: Instant) {
        for suspect in std::mem::take(&mut self.suspects.queue) {
            if !self.is_suspect(suspect.node, &suspect.request) {
                self.send_to_client(suspect.request.bytes().clone());
            } else if suspect.judged_at <= now {
                self.reject(&suspect);
            } else {
                self.suspects.queue.push_back(suspect);
            }
        }
        self.suspects.review_at = (!self.suspects.queue.is_empty()).then(|| now + REVIEW_PERIOD);
    }

    fn reject(&mut self, suspect: &Suspect) {
        self.count(Count::Fenced(suspect.node));
        if suspect.request.may_be_answered() && self.pairs.get(suspect.pair).is_some() {
            let tag = self.tags.next_tag();
            let bytes = write_answer(&suspect.request, 481, reason_phrase(481), &tag, &[FENCE_HEADER]);
            self.outputs.push(Output::SendToNode {
                pair: suspect.pair,
                bytes,
                entry: None,
            });
        }
    }

    /// Whether another node owns the session and is alive, as far as the front end knows.
    fn is_suspect(&self, node: NodeId, request: &RawMessage) -> bool {
        let tag = request.from_tag().filter(|_| !planted(Bug::FenceOff));
        let Some(tag) = tag else {
            return false;
        };
        let ownership = &self.shared.ownership;
        let owner = ownership.moved_to(tag).or_else(|| {
            let is_issuer = NodeId::from_tag(tag) == Some(node);
            if is_issuer {
                Some(node)
            } else {
                ownership.look_up(tag)
            }
        });
        owner.is_some_and(|owner| owner != node && self.table.is_reachable(owner) && self.is_connected(owner))
    }

    /// Whether the node's process is not known to be gone: the pair with it has not broken.
    fn is_connected(&self, node: NodeId) -> bool {
        self.pairs.find(node, PairPurpose::Ordinary).is_none() && !self.pairs_wanted
            || self.pairs.stands(node)
    }
}

/// Tells the node that the front end answered. The front end's To-tag cannot, because To has the client's tag already.
const FENCE_HEADER: (&str, &str) = ("Warning", "399 tandem-lb \"another node owns the session\"");
const SUSPECTS_MAX: usize = 256;
/// How long a suspect request waits: more than a heartbeat of the cluster, much less than any SIP timeout.
const JUDGED_AFTER: Duration = Duration::from_millis(300);
const REVIEW_PERIOD: Duration = Duration::from_millis(20);
