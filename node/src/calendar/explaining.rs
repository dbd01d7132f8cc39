//! Assembles what is shown about users and CAS, and the figures.

use std::time::Instant;

use tandem_cluster::{Assignment, CasGateway};

use super::Calendars;
use super::explain::{CasHealth, Census, Explanation};
use super::lane::{Lane, LaneId};
use super::user::{Asking, Care, Placement, Source, Task, User, UserKey};

impl Calendars {
    /// `None`: no user of this name is enabled.
    #[must_use]
    pub fn explain(&self, user: &str) -> Option<Explanation> {
        let key = self.users.find(user)?;
        let user = self.users.get(key)?;
        let explanation = Explanation {
            user: user.id.to_string(),
            mailbox: user.mailbox(),
            assignment: user.placement.map(|placement| self.assignment_of(placement)),
            subscription: user.state(),
            delivery: None,
            subscribed_at_ms: None,
            last_heard_ms: None,
            last_event_ms: None,
            last_read_ms: None,
            known_until_ms: None,
            next_read_ms: None,
            published: None,
            next_edge_ms: None,
            next_retry_ms: None,
            trouble: None,
            push_unreachable: false,
            moves: 0,
        };
        Some(match &user.care {
            Some(care) => self.explain_care(explanation, care),
            None => explanation,
        })
    }

    fn explain_care(&self, plain: Explanation, care: &Care) -> Explanation {
        let is_known = care.known.source != Source::Nothing;
        let next_retry = match care.asking {
            Asking::Waiting(at) => Some(at),
            Asking::Idle | Asking::Queued | Asking::Sent { .. } | Asking::Moving => None,
        };
        let next_read = match care.reading.task {
            Task::Waiting(at) => Some(at),
            Task::Idle | Task::Queued | Task::InFlight => care.reading.refresh_at,
        };
        Explanation {
            delivery: care.delivery(),
            subscribed_at_ms: care.live.as_ref().map(|live| live.since_ms),
            last_heard_ms: self.heard_of(care).and_then(|at| self.unix_ms_of(at)),
            last_event_ms: care.last_event.and_then(|at| self.unix_ms_of(at)),
            last_read_ms: is_known.then_some(care.known.read_at_ms),
            known_until_ms: is_known.then_some(care.known.until_ms),
            next_read_ms: next_read.and_then(|at| self.unix_ms_of(at)),
            published: care.published,
            next_edge_ms: care.next_publication_ms(),
            next_retry_ms: next_retry.and_then(|at| self.unix_ms_of(at)),
            trouble: care.trouble.class,
            push_unreachable: care.push_unreachable,
            moves: u32::from(care.trouble.moves),
            ..plain
        }
    }

    /// A sign of life on a stream counts for all its subscriptions.
    fn heard_of(&self, care: &Care) -> Option<Instant> {
        let live = care.live.as_ref()?;
        let of_stream = live.group().and_then(|group| self.streams.get(group)?.heard);
        Some(of_stream.map_or(live.heard, |heard| heard.max(live.heard)))
    }

    fn assignment_of(&self, placement: Placement) -> Assignment {
        Assignment {
            cas: self.cas_of(placement.lane),
            epoch: placement.epoch,
            since_ms: placement.since_ms,
            reason: placement.reason,
        }
    }

    /// By the clock of the last input.
    fn unix_ms_of(&self, at: Instant) -> Option<u64> {
        let last = self.last?;
        let millis = |from: Instant, to: Instant| {
            u64::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(u64::MAX)
        };
        Some(
            last.unix_ms
                .saturating_add(millis(last.instant, at))
                .saturating_sub(millis(at, last.instant)),
        )
    }

    /// In configured order, then those that are no longer configured and still have users.
    #[must_use]
    pub fn cas_statuses(&self) -> Vec<CasHealth> {
        let configured = self.lanes_in_order.iter().copied();
        let leftover = self.lane_ids().filter(|id| {
            self.lane(*id)
                .is_some_and(|lane| !lane.is_configured() && !lane.members.is_empty())
        });
        configured
            .chain(leftover)
            .filter_map(|id| Some(self.health_of(id, self.lane(id)?)))
            .collect()
    }

    fn health_of(&self, id: LaneId, lane: &Lane) -> CasHealth {
        let care = |key: &UserKey| self.users.care(*key);
        let unreachable = lane.members.iter().filter_map(care);
        let last = self.last.map(|last| last.instant);
        CasHealth {
            cas: lane.id.clone(),
            configured: lane.is_configured(),
            takes_users: lane.cas.as_ref().is_some_and(CasGateway::takes_users),
            breaker: lane.breaker.state(),
            breaker_since_ms: lane.breaker.open_since().and_then(|at| self.unix_ms_of(at)),
            refuses_account: lane.refusal.is_some(),
            users: lane.members.len(),
            subscribed: lane.subscribed,
            push_unreachable: unreachable.filter(|care| care.push_unreachable).count(),
            streams: self.streams.count_at(id),
            queued: lane.queued() + lane.bulk.first.len() + lane.bulk.settled.len(),
            in_flight: lane.in_flight,
            concurrency: lane.pace.concurrency(),
            back_off_until_ms: last
                .and_then(|last| lane.pace.back_off_until(last))
                .and_then(|at| self.unix_ms_of(at)),
            requests: lane.counters.requests,
            failures: lane.counters.failures,
            throttled: lane.counters.throttled,
            refused: lane.counters.refused,
            last_success_ms: lane.counters.last_success_ms,
            last_latency: lane.counters.last_latency,
            last_failure_ms: lane.counters.last_failure.as_ref().map(|(at_ms, _)| *at_ms),
            last_failure: lane.counters.last_failure.as_ref().map(|(_, what)| what.clone()),
        }
    }

    /// Counts every user: for a scrape, not for every input.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            users_enabled: self.users.len(),
            users_owned: self.users.owned(),
            streams: self.streams.len(),
            requests_queued: self.lanes.iter().map(Lane::queued).sum(),
            requests_in_flight: self.requests.len(),
            proposals_in_flight: self.proposals.in_flight(),
            moves_by_cause: self.tally.moves_by_cause.clone(),
            edges_published: self.tally.edges_published,
            edges_late: self.tally.edges_late,
            credential_refused: self.credential.is_refused(),
            ..Census::default()
        };
        for (_, user) in self.users.iter() {
            census.count(user);
        }
        census
    }
}

impl Census {
    fn count(&mut self, user: &User) {
        let Some(care) = &user.care else {
            return;
        };
        *self.subscriptions.entry(user.state()).or_default() += 1;
        if let Some(delivery) = care.delivery() {
            *self.deliveries.entry(delivery).or_default() += 1;
        }
        self.calendars_known += usize::from(care.known.source != Source::Nothing);
    }
}
