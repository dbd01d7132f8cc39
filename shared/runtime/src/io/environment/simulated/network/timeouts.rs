//! When a connection counts as broken because its other end is silent.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use super::EndId;
use super::state::{End, EndState, Net, Segment};

impl Net {
    /// Ends whose peer does not acknowledge, or answers no probe.
    pub(super) fn break_silent_connections(&mut self) {
        let mut broken: BTreeSet<EndId> = BTreeSet::new();
        for segment in self.held.values().flatten() {
            let patience = |end: &End| end.options.unacknowledged_max.unwrap_or(SENT_AGAIN_FOR);
            let is_over = |end: &End| self.now >= segment.sent_at + patience(end);
            if self.ends.get(&segment.sender).is_some_and(is_over) {
                broken.insert(segment.sender);
            }
        }
        for (id, end) in &self.ends {
            let Some(keepalive) = end.options.keepalive else {
                continue;
            };
            let retries = keepalive.retries.unwrap_or(PROBES_MAX);
            let patience = keepalive.idle + keepalive.interval * retries;
            let is_open = end.state == EndState::Open;
            if is_open && self.is_out_of_reach(end) && self.now >= end.last_heard + patience {
                broken.insert(*id);
            }
        }
        self.tally.timed_out += u64::try_from(broken.len()).unwrap_or(u64::MAX);
        for id in broken {
            self.break_end(id, io::ErrorKind::TimedOut);
        }
        let ends = &self.ends;
        for held in self.held.values_mut() {
            let is_given_up = |segment: &Segment| {
                let sender = ends.get(&segment.sender);
                sender.is_some_and(|end| matches!(end.state, EndState::Broken(_)))
            };
            held.retain(|segment| !is_given_up(segment));
        }
    }

    /// A probe would not be answered.
    fn is_out_of_reach(&self, end: &End) -> bool {
        let (own, peer) = (end.machine, end.peer_machine);
        let is_cut = self.cuts.contains(&(own, peer)) || self.cuts.contains(&(peer, own));
        let is_off = !self.machines.get(&peer).is_some_and(|machine| machine.is_on);
        let is_forgotten = !end.peer.is_some_and(|peer| self.ends.contains_key(&peer)) && !end.ended;
        is_cut || is_off || is_forgotten
    }
}

/// Linux gives a segment up after some fifteen minutes.
const SENT_AGAIN_FOR: Duration = Duration::from_secs(900);

const PROBES_MAX: u32 = 9;
