//! What the leader does for all: declaring nodes lost, and letting old results expire.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::{Command, NodeId, NodeState};

use super::Guardian;

impl Guardian {
    pub(super) fn note_registered(&mut self, now: Instant) {
        let state = self.member.machine.state();
        let present = state
            .nodes()
            .values()
            .filter(|node| node.state != NodeState::Lost);
        let present: BTreeMap<NodeId, u64> = present.map(|node| (node.id, node.incarnation)).collect();
        self.registered
            .retain(|id, (incarnation, _)| present.get(id) == Some(incarnation));
        for (id, incarnation) in present {
            self.registered.entry(id).or_insert((incarnation, now));
        }
    }

    pub(super) fn declare_lost(&mut self, now: Instant) {
        let silent_after = self.member.config.timings.silent_after;
        // Until then a node without a majority may rely on a front end that heard no leader.
        let reliance = self.reliance();
        let is_relied_on_no_more = self
            .led_since
            .is_some_and(|since| now > since + reliance.answer + reliance.lease);
        for (id, (incarnation, since)) in self.registered.clone() {
            let silent_after = is_relied_on_no_more.then_some(silent_after);
            let gone = self
                .peers
                .get(&id)
                .is_some_and(|peer| peer.is_gone(incarnation.into(), since, silent_after, now));
            let proposed = self
                .lost
                .get(&id)
                .is_some_and(|(lost, at)| *lost == incarnation && now < *at + LOST_REPEATED_AFTER);
            if gone && !proposed {
                tracing::warn!(node = %id, "declaring a node lost");
                self.lost.insert(id, (incarnation, now));
                self.member.metrics.nodes_lost.inc();
                self.propose(Command::NodeLost { id, incarnation });
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        let timings = &self.member.config.timings;
        // The first one cannot wait: until the log tells the time, every member goes by its own wall clock.
        let interval = match self.member.machine.ticked() {
            Some(_) => timings.expire_interval,
            None => FIRST_TIME_REPEATED_AFTER,
        };
        if self.expired.is_some_and(|expired| now < expired + interval) {
            return;
        }
        let is_known = self.member.machine.ticked().is_some();
        if is_known && !self.member.machine.state().can_expire() {
            return;
        }
        self.expired = Some(now);
        let (began_ms, began) = *self
            .time_at_lead
            .get_or_insert_with(|| (self.member.cluster_ms(), now));
        let led = now.saturating_duration_since(began);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let before_ms = (began_ms + millis(led)).saturating_sub(millis(timings.expire_age));
        self.propose(Command::Expire { before_ms });
    }

    pub(super) fn propose(&mut self, command: Command) {
        let member = self.member.clone();
        self.actions.spawn(async move {
            if let Err(error) = member.propose_own(command, PROPOSAL_DEADLINE).await {
                tracing::debug!(%error, "a proposal of the leader failed");
            }
        });
    }
}

const FIRST_TIME_REPEATED_AFTER: Duration = Duration::from_secs(1);
const LOST_REPEATED_AFTER: Duration = Duration::from_secs(1);
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(2);
