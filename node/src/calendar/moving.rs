//! Assignments in the log: which users get a CAS, need another one or need none, and which CAS takes no users for now
//! (CAL-2).

use std::time::{Duration, Instant};

use tandem_cluster::{Applied, Command};

use super::input::View;
use super::lane::Lane;
use super::output::{Output, Report};
use super::proposals::{MoveCause, Purpose};
use super::user::{Asking, Task, UserKey};
use super::{Calendars, Now, OneUser};

/// What became of an entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Applied,
    Refused,
    /// Not committed in time.
    Unknown,
}

impl OneUser<'_> {
    /// The user's subscription failed at their CAS. Where no other takes users, it is tried again there.
    pub(super) fn ask_for_another(&mut self, cause: MoveCause) {
        self.give_up_reservation();
        if self.lane.is_none() || self.care.asking == Asking::Moving {
            return;
        }
        let trouble = &mut self.care.trouble;
        trouble.tries = 0;
        trouble.store_failures = 0;
        trouble.count_move(self.now.instant);
        match self.another_takes_users {
            true => self.queue_move(cause),
            false => self.stay(),
        }
    }

    fn queue_move(&mut self, cause: MoveCause) {
        self.care.asking = Asking::Moving;
        if matches!(self.care.reading.task, Task::Waiting(_)) {
            self.care.reading.task = Task::Idle;
        }
        self.proposals.moves.push_back((self.key, cause));
        *self.tally.moves_by_cause.entry(cause.as_str()).or_default() += 1;
        let (user, cas, cause) = (self.name(), self.cas(), cause.as_str());
        self.report(Report::Moving { user, cas, cause });
    }

    /// The CAS is down: the user goes to another one, if there is one.
    fn evacuate(&mut self) {
        if self.care.asking != Asking::Moving && self.another_takes_users {
            self.give_up_reservation();
            self.queue_move(MoveCause::Breaker);
        }
    }

    /// No other CAS can take the user: whatever failed is tried again here, with growing pauses.
    fn stay(&mut self) {
        let moves = self.care.trouble.moves.max(1).saturating_add(1);
        let wait = self.jittered(move_back_off(moves));
        self.care.asking = Asking::Idle;
        match self.care.live.is_some() {
            true => self.read_at(wait),
            false => self.subscribe_at(self.now.instant + wait),
        }
    }

    /// Name and epoch. `None`: the user has moved meanwhile, or no longer needs to.
    fn still_to_be_moved(&mut self, cause: MoveCause) -> Option<(String, u32)> {
        let epoch = self.placement?.epoch;
        if self.care.asking != Asking::Moving {
            return None;
        }
        let lane = self.lane.as_deref();
        let is_back = cause == MoveCause::Breaker && lane.is_some_and(|lane| lane.breaker.is_closed());
        if is_back {
            self.care.asking = Asking::Idle;
            if self.care.live.is_none() {
                self.want_subscription();
            }
            return None;
        }
        if !self.another_takes_users {
            self.stay();
            return None;
        }
        Some((self.name(), epoch))
    }

    /// Whoever still wants to move was not moved.
    fn not_moved(&mut self, cause: MoveCause, is_applied: bool) {
        match (self.care.asking == Asking::Moving, is_applied) {
            // The answer shows that no other CAS could take the user.
            (true, true) => self.stay(),
            (true, false) => self.proposals.moves.push_back((self.key, cause)),
            (false, true | false) => {}
        }
    }
}

impl Calendars {
    /// The users of CAS that are down will be moved, unless all CAS soon turn out to be down: then the fault is in our own
    /// network.
    pub(super) fn plan_evacuations(&mut self, now: Now) {
        for lane in &mut self.lanes {
            if !lane.breaker.is_closed() && !lane.members.is_empty() {
                lane.evacuate_at.get_or_insert(now.instant + EVACUATION_GRACE);
            }
        }
    }

    pub(super) fn evacuate(&mut self, now: Now) {
        for id in self.lane_ids() {
            let Some(lane) = self.lane_mut(id) else {
                continue;
            };
            if lane.evacuate_at.is_none_or(|at| at > now.instant) {
                continue;
            }
            lane.evacuate_at = None;
            if lane.breaker.is_closed() {
                continue;
            }
            let members: Vec<UserKey> = lane.members.iter().copied().collect();
            for key in members {
                let user = self.one_user(key, now);
                debug_assert!(user.is_some(), "the members of a lane are users of this node");
                if let Some(mut user) = user {
                    user.evacuate();
                }
            }
        }
    }

    /// One entry at a time, the most urgent first.
    pub(super) fn propose(&mut self, view: View<'_>, now: Now) {
        if !self.may_start || !self.proposals.may_propose(now.instant) {
            return;
        }
        let proposed = self
            .cas_to_offer(view, now)
            .or_else(|| self.breaker_to_tell())
            .or_else(|| self.callbacks_to_pass_on(now))
            .or_else(|| self.users_to_forget())
            .or_else(|| self.users_to_move(now))
            .or_else(|| self.users_to_assign(now));
        if let Some((purpose, command)) = proposed {
            let proposal = self.proposals.begin(purpose);
            self.outputs.push(Output::Propose { proposal, command });
        }
    }

    /// Where the log says otherwise than this node's breaker.
    fn breaker_to_tell(&self) -> Option<(Purpose, Command)> {
        let node = self.config.node;
        if !self.live_nodes.contains(&node) {
            return None;
        }
        self.lane_ids().find_map(|id| {
            let lane = self.lane(id)?;
            let told = lane.cas.as_ref()?.broken_for.contains(&node);
            let open = !lane.breaker.is_closed();
            let is_news = open != told && lane.breaker_told != Some(open);
            let cas = lane.id.clone();
            is_news.then_some((
                Purpose::Breaker { lane: id, open },
                Command::CasBreaker { cas, node, open },
            ))
        })
    }

    fn users_to_forget(&mut self) -> Option<(Purpose, Command)> {
        let most = self.config.users_per_entry_max.max(1);
        let users: Vec<String> = self.proposals.departed.iter().take(most).cloned().collect();
        if users.is_empty() {
            return None;
        }
        for user in &users {
            self.proposals.departed.remove(user);
        }
        let node = self.config.node;
        let forgotten = users.iter().map(|user| (user.clone(), None)).collect();
        let command = Command::Batch(vec![
            Command::CasUnassign { users: users.clone() },
            Command::CalendarPresenceChanged {
                node,
                users: forgotten,
            },
        ]);
        Some((Purpose::Depart(users), command))
    }

    fn users_to_move(&mut self, now: Now) -> Option<(Purpose, Command)> {
        if self.proposals.moves.is_empty() {
            return None;
        }
        let allowed = self
            .proposals
            .moves_allowed(self.settings.moves_per_second, now.instant)
            .min(self.config.users_per_entry_max);
        let (mut keys, mut users) = (Vec::new(), Vec::new());
        while keys.len() < allowed
            && let Some((key, cause)) = self.proposals.moves.pop_front()
        {
            let user = self.one_user(key, now);
            if let Some(named) = user.and_then(|mut user| user.still_to_be_moved(cause)) {
                users.push(named);
                keys.push((key, cause));
            }
        }
        if keys.is_empty() {
            return None;
        }
        self.proposals.moved(keys.len());
        let at_ms = now.unix_ms;
        Some((Purpose::Move(keys), Command::CasFailed { users, at_ms }))
    }

    fn users_to_assign(&mut self, now: Now) -> Option<(Purpose, Command)> {
        let is_time = self.assign_at.is_some_and(|at| at <= now.instant);
        let most = self.config.users_per_entry_max.max(1);
        if !is_time || self.proposals.assigns.is_empty() || !self.lanes.iter().any(Lane::takes_users) {
            return None;
        }
        let keys: Vec<UserKey> = self.proposals.assigns.iter().copied().take(most).collect();
        let mut wanted = Vec::new();
        let mut users = Vec::new();
        for key in keys {
            self.proposals.assigns.remove(&key);
            if let Some(user) = self.users.get(key).filter(|user| user.care.is_some()) {
                users.push(user.id.to_string());
                wanted.push(key);
            }
        }
        let at_ms = now.unix_ms;
        (!wanted.is_empty()).then_some((Purpose::Assign(wanted), Command::CasAssign { users, at_ms }))
    }

    pub(super) fn committed(&mut self, proposal: u64, applied: Option<Applied>, now: Now) {
        let Some(purpose) = self.proposals.finish(proposal) else {
            return;
        };
        let outcome = match &applied {
            None => Outcome::Unknown,
            Some(Applied::Refused(_)) => Outcome::Refused,
            Some(
                Applied::Done
                | Applied::AlreadyOpened { .. }
                | Applied::Session(_)
                | Applied::IntentKnown(_)
                | Applied::Assignments(_)
                | Applied::Batch(_),
            ) => Outcome::Applied,
        };
        if let Some(Applied::Assignments(assignments)) = applied {
            self.assignments_changed(assignments, now);
        }
        if outcome != Outcome::Applied {
            self.proposals.retry_later(now.instant);
        }
        self.conclude(purpose, outcome, now);
    }

    fn conclude(&mut self, purpose: Purpose, outcome: Outcome, now: Now) {
        let is_applied = outcome == Outcome::Applied;
        match purpose {
            Purpose::Breaker { lane, open } => {
                if let Some(lane) = self.lane_mut(lane).filter(|_| is_applied) {
                    lane.breaker_told = Some(open);
                }
            }
            Purpose::Assign(keys) => {
                let unplaced = keys.into_iter().filter(|key| {
                    let user = self.users.get(*key).filter(|user| user.care.is_some());
                    user.is_some_and(|user| user.placement.is_none())
                });
                self.proposals.assigns.extend(unplaced.collect::<Vec<_>>());
            }
            Purpose::Move(keys) => {
                for (key, cause) in keys {
                    if let Some(mut user) = self.one_user(key, now) {
                        user.not_moved(cause, is_applied);
                    }
                }
            }
            Purpose::Depart(users) => {
                if !is_applied {
                    self.proposals.departed.extend(users);
                }
            }
            Purpose::Offer => {
                if outcome != Outcome::Unknown {
                    self.cas_offered(is_applied);
                }
            }
            Purpose::PassOn => {}
        }
    }

    pub(super) fn next_proposal_deadline(&self) -> Option<Instant> {
        if !self.may_start {
            return None;
        }
        let last = self.last?.instant;
        let assign = self
            .assign_at
            .filter(|at| *at > last && !self.proposals.assigns.is_empty());
        let others = self.proposals.next_deadline().filter(|at| *at > last);
        let notes = self.notes.next_deadline().filter(|at| *at > last);
        [assign, others, notes].into_iter().flatten().min()
    }
}

impl super::user::Trouble {
    /// Moves in close succession delay the next Subscribe.
    fn count_move(&mut self, now: Instant) {
        let is_close = self.last_move.is_some_and(|at| at + MOVES_ARE_CLOSE > now);
        self.moves = match is_close {
            true => self.moves.saturating_add(1),
            false => 1,
        };
        self.last_move = Some(now);
    }

    /// How long a user who was assigned a CAS waits before being subscribed there.
    pub(super) fn wait_after_move(&self, now: Instant) -> Duration {
        match self.last_move {
            Some(at) if at + MOVES_ARE_CLOSE > now => move_back_off(self.moves),
            Some(_) | None => Duration::ZERO,
        }
    }
}

/// None after the first move.
fn move_back_off(moves: u8) -> Duration {
    match moves.checked_sub(2) {
        None => Duration::ZERO,
        Some(times) => MOVE_WAIT.saturating_mul(1 << times.min(8)).min(MOVE_WAIT_MAX),
    }
}

/// Everything that goes down at the same time is detected within this time.
const EVACUATION_GRACE: Duration = Duration::from_secs(3);

const MOVES_ARE_CLOSE: Duration = Duration::from_secs(2 * 3600);
const MOVE_WAIT: Duration = Duration::from_secs(30);
const MOVE_WAIT_MAX: Duration = Duration::from_secs(3600);
