//! Calendar subscriptions: at which Client Access Server (CAS) each user is read, and what each calendar says now (CAL-1 to
//! CAL-4, CAL-8 to CAL-10).
//!
//! Owns the subscriptions of this node's users, the rate of requests to each CAS, and the times at which presence
//! changes. Does not own assignments (the replicated state does), connections or the clock.
//! What always holds: a user is subscribed before the calendar read that counts; throttling, per-user errors and
//! restarting a node move no user; a rejected password is retried by one request at a time; what was published last
//! stays until something better is known.

mod answers;
mod breaker;
mod bulk;
mod callbacks;
mod credential;
mod edges;
mod explain;
mod explaining;
mod failures;
mod following;
mod input;
#[cfg(test)]
mod invariants;
mod job;
mod lane;
mod membership;
mod moving;
mod one_user;
mod output;
mod pace;
pub mod probing;
mod proposals;
mod reading;
mod requests;
mod settings;
mod streaming;
mod streams;
mod subscribing;
mod sweep;
#[cfg(test)]
mod tests;
mod timeline;
mod user;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tandem_cluster::{CasEndpoint, CasId, NodeId};

use crate::gateway::Now;

pub use explain::{
    BreakerState, CallbackVerdict, CasHealth, Census, DeliveryKind, Explanation, SubscriptionState,
};
pub use following::enabled_users;
pub use input::{CalendarUser, Callback, Input, StreamEnd, View};
pub use output::{CallbackId, CallbackOutcome, Output, Report, RequestId, StreamId};
pub use settings::{CalendarSettings, Delivery};
pub use timeline::{Timeline, edge_offset};

use callbacks::{Notes, Unwanted};
use credential::CredentialGate;
use explain::Tally;
use following::Following;
use job::Flight;
use lane::{Lane, LaneId};
use one_user::OneUser;
use proposals::Proposals;
use streams::Streams;
use user::{Placement, UserKey};
use users::Users;

/// Limits of one node's calendars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalendarsConfig {
    pub node: NodeId,
    /// Enabled users in the cluster; more are not followed, which is reported.
    pub users_max: usize,
    /// Users named in one entry of the log.
    pub users_per_entry_max: usize,
    /// `MaxEntriesReturned` of a CalendarView.
    pub entries_max: u16,
    /// Something listens for push callbacks.
    pub has_push: bool,
    /// For a cluster that has none.
    pub initial_cas: Vec<(CasId, CasEndpoint)>,
}

impl CalendarsConfig {
    /// With a listener for callbacks, and without initial CAS.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            users_max: 1_000_000,
            users_per_entry_max: 500,
            entries_max: 500,
            has_push: true,
            initial_cas: Vec::new(),
        }
    }
}

/// The calendars of one node.
#[derive(Debug)]
pub struct Calendars {
    config: CalendarsConfig,
    /// As in the configuration file.
    file: CalendarSettings,
    settings: CalendarSettings,
    following: Following,
    rng: StdRng,
    /// When the last input arrived.
    last: Option<Now>,
    may_start: bool,
    live_nodes: Vec<NodeId>,
    users_known: bool,
    /// When users without an assignment may be given one: the log's assignments should be known by then.
    assign_at: Option<Instant>,
    users: Users,
    /// Assignments of users who are not enabled.
    strays: BTreeMap<String, Placement>,
    lanes: Vec<Lane>,
    lanes_by_name: BTreeMap<CasId, LaneId>,
    /// As configured.
    lanes_in_order: Vec<LaneId>,
    streams: Streams,
    proposals: Proposals,
    notes: Notes,
    unwanted: Unwanted,
    credential: CredentialGate,
    requests: BTreeMap<RequestId, Flight>,
    next_request: u64,
    deadlines: BTreeSet<(Instant, UserKey)>,
    /// By Unix milliseconds, so nothing needs to be done here when the clock is set.
    edges: BTreeSet<(u64, UserKey)>,
    /// Users whose deadlines may have changed in this step.
    touched: Vec<UserKey>,
    tally: Tally,
    outputs: Vec<Output>,
}

impl Calendars {
    /// `file`: the settings where an administrator has set nothing.
    #[must_use]
    pub fn new(config: CalendarsConfig, file: CalendarSettings, seed: u64) -> Self {
        Self {
            config,
            settings: file.clone().bounded(),
            file,
            following: Following::default(),
            rng: StdRng::seed_from_u64(seed),
            last: None,
            may_start: false,
            live_nodes: Vec::new(),
            users_known: false,
            assign_at: None,
            users: Users::default(),
            strays: BTreeMap::new(),
            lanes: Vec::new(),
            lanes_by_name: BTreeMap::new(),
            lanes_in_order: Vec::new(),
            streams: Streams::default(),
            proposals: Proposals::default(),
            notes: Notes::default(),
            unwanted: Unwanted::default(),
            credential: CredentialGate::new(),
            requests: BTreeMap::new(),
            next_request: 0,
            deadlines: BTreeSet::new(),
            edges: BTreeSet::new(),
            touched: Vec::new(),
            tally: Tally::default(),
            outputs: Vec::new(),
        }
    }

    /// Takes what happened and returns what to do, in order.
    #[must_use]
    pub fn handle(&mut self, input: Input, view: View<'_>, now: Now) -> Vec<Output> {
        self.notice_clock(now);
        self.take_in(input, view, now);
        self.publish_due_edges(now);
        self.users_due(now);
        self.groups_due(now);
        self.index_deadlines();
        self.evacuate(now);
        self.dispatch(now);
        self.propose(view, now);
        self.index_deadlines();
        std::mem::take(&mut self.outputs)
    }

    /// When `handle` next wants `DeadlineReached`. It never lies far ahead while an edge is awaited, so that a clock
    /// that was set is noticed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let last = self.last?;
        let edge = self.edges.first().map(|(due_ms, _)| {
            let wait = Duration::from_millis(due_ms.saturating_sub(last.unix_ms));
            last.instant + wait.min(CLOCK_CHECK)
        });
        [
            edge,
            self.deadlines.first().map(|(at, _)| *at),
            self.streams.next_deadline(),
            self.next_request_deadline(last.instant),
            self.next_proposal_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
        // Everything due has been done; another deadline within the same millisecond would only spin.
        .map(|at| at.max(last.instant + TICK))
    }

    fn take_in(&mut self, input: Input, view: View<'_>, now: Now) {
        match input {
            Input::Changes(changes) => self.changes_told(&changes, view, now),
            Input::StandingChanged => self.standing_changed(view, now),
            Input::DirectoryChanged => self.directory_changed(view, now),
            Input::CredentialChanged => self.credential_changed(now),
            Input::CallbackAddressChanged => self.renew_push_subscriptions(now),
            Input::Answered {
                request,
                result,
                latency,
            } => self.answered(request, result, latency, now),
            Input::CalledBack(callback) => self.called_back(callback, view, now),
            Input::StreamPart { stream, part } => self.stream_spoke(stream, part, now),
            Input::StreamEnded { stream, end } => self.stream_ended(stream, end, now),
            Input::Committed { proposal, applied } => self.committed(proposal, applied, now),
            Input::DeadlineReached => {}
        }
    }

    /// Derives what depends on the wall clock again when that was set back far. A clock that was set forward finds its
    /// edges due, and a small step back is waited out, so that no state flickers.
    fn notice_clock(&mut self, now: Now) {
        if let Some(last) = self.last {
            let elapsed = now.instant.saturating_duration_since(last.instant);
            let expected_ms = last
                .unix_ms
                .saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            if now.unix_ms.saturating_add(SET_BACK_MS) < expected_ms {
                self.rederive_edges(now);
            }
        }
        self.last = Some(now);
    }

    fn settings_changed(&mut self, settings: CalendarSettings, now: Now) {
        let settings = settings.bounded();
        let former = std::mem::replace(&mut self.settings, settings);
        for lane in &mut self.lanes {
            lane.pace
                .change_bounds(self.settings.concurrency, self.settings.concurrency_max);
        }
        if former.spread_secs != self.settings.spread_secs {
            self.reschedule_edges(now);
        }
        let is_subscribed_otherwise = former.status_frequency != self.settings.status_frequency;
        if former.delivery != self.settings.delivery {
            self.change_delivery(now);
        } else if is_subscribed_otherwise {
            self.renew_push_subscriptions(now);
        }
    }

    /// Every user with a deadline that has passed, once.
    fn users_due(&mut self, now: Now) {
        while let Some((at, key)) = self.deadlines.first().copied() {
            if at > now.instant {
                return;
            }
            self.deadlines.remove(&(at, key));
            let user = self.one_user(key, now);
            debug_assert!(user.is_some(), "a deadline is a user's of this node");
            if let Some(mut user) = user {
                user.care.deadline = None;
                user.subscription_due();
                user.reading_due();
            }
            self.index_deadlines();
        }
    }

    fn index_deadlines(&mut self) {
        while let Some(key) = self.touched.pop() {
            let Some(care) = self.users.care_mut(key) else {
                continue;
            };
            let next = care.next_deadline();
            if care.deadline != next {
                if let Some(former) = care.deadline {
                    self.deadlines.remove(&(former, key));
                }
                self.deadlines.extend(next.map(|at| (at, key)));
                care.deadline = next;
            }
        }
    }

    fn lane(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(usize::from(id.0))
    }

    fn lane_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::from(id.0))
    }

    fn lane_ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        let count = u16::try_from(self.lanes.len()).unwrap_or(u16::MAX);
        (0..count).map(LaneId)
    }

    fn cas_of(&self, lane: LaneId) -> CasId {
        self.lane(lane)
            .map_or_else(|| CasId(String::new()), |lane| lane.id.clone())
    }

    fn lane_of(&self, key: UserKey) -> Option<LaneId> {
        Some(self.users.get(key)?.placement?.lane)
    }

    fn name_of(&self, key: UserKey) -> String {
        self.users
            .get(key)
            .map_or_else(String::new, |user| user.id.to_string())
    }

    fn report(&mut self, report: Report) {
        self.outputs.push(Output::Report(report));
    }

    /// Somewhere in the second half of the given time.
    fn jittered(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(self.rng.random_range(0.5..1.0))
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.random_range(0.0..1.0))
    }
}

/// How often the clock is compared while an edge is awaited.
const CLOCK_CHECK: Duration = Duration::from_secs(5);

const TICK: Duration = Duration::from_millis(1);

/// A step back of the clock is believed if it is larger than this.
const SET_BACK_MS: u64 = 60_000;
