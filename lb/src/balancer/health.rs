//! The keepalive state of one node: alive, dying, down, refusing or suspended.

use std::time::{Duration, Instant};

use super::node_table::KeepaliveState;

/// The keepalive parameters of LB-1, and the hold-down of flapping nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// Time between checks of a node that answers.
    pub period: Duration,
    /// Failed checks in a row that take a node out of service (at least 1).
    pub failures: u32,
    /// Time between checks of a node that does not answer (dying or down).
    pub retry_period: Duration,
    /// Successful checks in a row that bring a node back (at least 1).
    pub successes: u32,
    /// How long a node stays out after leaving service for the second time within `flap_window`; each further time doubles it.
    pub hold_down: Duration,
    pub hold_down_max: Duration,
    /// A departure from service this long after the one before counts as the first again.
    pub flap_window: Duration,
    /// The time over which a node's share of new sessions grows to the full after a return. Zero, the default, turns this off:
    /// the round robin is exact only while all shares are equal.
    pub slow_start: Duration,
}

/// Something that happened to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthInput {
    CheckSucceeded,
    CheckFailed(CheckFailure),
    /// A client's connection with the node broke, or requests stay unanswered. This only requests a check at once: no client
    /// may take a node out of service for the others.
    Doubted,
    /// The cluster has committed that the node is lost.
    NodeLost,
    /// The cluster has committed a registration of the node: check it at once.
    NodeRegistered,
    /// The cluster is unavailable; what it committed last no longer counts.
    ClusterUnavailable,
    /// The cluster has committed that the node is draining: no new sessions.
    Suspended,
    /// The node is no longer draining.
    Resumed,
    DeadlineReached,
}

/// Why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckFailure {
    /// The connection was refused.
    Refused,
    /// The address cannot be reached.
    Unreachable,
    /// The connection timed out.
    Timeout,
    /// The node accepts connections but does not answer in time: its process is frozen.
    Unanswered,
    /// The front end had no file descriptor left: nothing is known about the node.
    OutOfDescriptors,
    /// The node closes the connection without answering: it does not accept this machine as a front end.
    RefusesUs,
}

impl CheckFailure {
    /// As metrics and logs spell it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Unanswered => "unanswered",
            Self::OutOfDescriptors => "out_of_descriptors",
            Self::RefusesUs => "refuses_us",
        }
    }
}

/// Something to do for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthOutput {
    /// Check the node, and report the result.
    Check,
    /// Publish a new node table: the state or the share has changed.
    Publish,
}

/// The health of one node. It has a single timer: separate timers that disagree are a known cause of flapping.
#[derive(Debug, Clone)]
pub struct NodeHealth {
    settings: HealthSettings,
    level: Level,
    suspended: bool,
    /// Committed as lost: checks alone do not bring the node back.
    lost: bool,
    checking: bool,
    /// When the latest check began. The next one is scheduled from here, so that a slow check does not delay it.
    began: Instant,
    next_check: Instant,
    /// Checks in a row that failed with `RefusesUs`. A node that is stopping closes its connections without answering as well,
    /// but is gone by the next check.
    refusals: u32,
    /// Departures from service in a row, each within the window of the one before.
    departures: u32,
    departed: Option<Instant>,
    /// The slow start in progress. The first success after the start of the front end begins none.
    ramp: Option<Ramp>,
    seen_alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Alive,
    /// Failed checks in a row.
    Dying(u32),
    /// Successful checks in a row.
    Down(u32),
}

#[derive(Debug, Clone, Copy)]
struct Ramp {
    since: Instant,
    published_step: u32,
}

impl NodeHealth {
    /// A node that is out of service until its first successful check; the first check is due at once.
    #[must_use]
    pub fn new(settings: HealthSettings, now: Instant) -> Self {
        Self {
            settings,
            level: Level::Down(0),
            suspended: false,
            lost: false,
            checking: false,
            began: now,
            next_check: now,
            refusals: 0,
            departures: 0,
            departed: None,
            ramp: None,
            seen_alive: false,
        }
    }

    /// Handles one event and returns what to do.
    #[must_use]
    pub fn handle(&mut self, input: HealthInput, now: Instant) -> Vec<HealthOutput> {
        let before = (self.state(), self.share_step(now));
        match input {
            HealthInput::CheckSucceeded => self.check_succeeded(now),
            HealthInput::CheckFailed(failure) => self.check_failed(failure, now),
            HealthInput::Doubted => self.doubted(now),
            HealthInput::NodeLost => self.node_lost(now),
            HealthInput::NodeRegistered => self.node_registered(now),
            HealthInput::ClusterUnavailable => (self.lost, self.suspended) = (false, false),
            HealthInput::Suspended => self.suspended = true,
            HealthInput::Resumed => self.suspended = false,
            HealthInput::DeadlineReached => {}
        }
        let mut outputs = self.check_if_due(now);
        if self.publish_is_due(before, now) {
            outputs.push(HealthOutput::Publish);
        }
        outputs
    }

    /// When `handle` next wants `DeadlineReached`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let check = (!self.checking).then_some(self.next_check);
        let step = self
            .ramp
            .map(|ramp| ramp.since + self.settings.slow_start * (ramp.published_step + 1) / SHARE_STEPS);
        check.into_iter().chain(step).min()
    }

    /// The keepalive state.
    #[must_use]
    pub fn state(&self) -> KeepaliveState {
        match self.level {
            Level::Down(_) if self.refusals >= REFUSALS_MIN => KeepaliveState::RefusesUs,
            Level::Down(_) => KeepaliveState::Down,
            Level::Alive | Level::Dying(_) if self.suspended => KeepaliveState::Suspended,
            Level::Alive => KeepaliveState::Alive,
            Level::Dying(_) => KeepaliveState::Dying,
        }
    }

    /// Whether the node was committed as lost and has not registered since.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The node's share of new sessions, 1 to [`SHARE_STEPS`]; less than the maximum during a slow start.
    #[must_use]
    pub fn share_step(&self, now: Instant) -> u32 {
        let Some(ramp) = self.ramp else { return SHARE_STEPS };
        let elapsed = now.saturating_duration_since(ramp.since).as_millis();
        let whole = self.settings.slow_start.as_millis().max(1);
        let step = elapsed * u128::from(SHARE_STEPS) / whole;
        u32::try_from(step).unwrap_or(SHARE_STEPS).clamp(1, SHARE_STEPS)
    }

    /// When the node last left service; the latest one is the last resort. `None` while the node is in service, has never been,
    /// is suspended, or is committed as lost.
    #[must_use]
    pub fn last_resort_rank(&self) -> Option<Instant> {
        match self.level {
            Level::Down(_) if !self.lost && !self.suspended => self.departed,
            Level::Down(_) | Level::Alive | Level::Dying(_) => None,
        }
    }

    fn check_succeeded(&mut self, now: Instant) {
        self.checking = false;
        self.refusals = 0;
        match self.level {
            Level::Alive | Level::Dying(_) => self.level = Level::Alive,
            Level::Down(successes) => self.count_success(successes + 1, now),
        }
        self.schedule_check();
    }

    fn count_success(&mut self, successes: u32, now: Instant) {
        self.level = Level::Down(successes.min(self.settings.successes));
        let wanted = if self.seen_alive {
            self.settings.successes
        } else {
            1
        };
        if successes < wanted || self.lost || self.is_held_down(now) {
            return;
        }
        if self.seen_alive && !self.settings.slow_start.is_zero() {
            self.ramp = Some(Ramp {
                since: now,
                published_step: 1,
            });
        }
        self.level = Level::Alive;
        self.seen_alive = true;
    }

    fn check_failed(&mut self, failure: CheckFailure, now: Instant) {
        self.checking = false;
        if failure == CheckFailure::OutOfDescriptors {
            return self.schedule_check();
        }
        self.refusals = match failure {
            CheckFailure::RefusesUs => self.refusals.saturating_add(1),
            CheckFailure::Refused
            | CheckFailure::Unreachable
            | CheckFailure::Timeout
            | CheckFailure::Unanswered
            | CheckFailure::OutOfDescriptors => 0,
        };
        match self.level {
            Level::Alive => self.count_failure(1, now),
            Level::Dying(failures) => self.count_failure(failures + 1, now),
            Level::Down(_) => self.level = Level::Down(0),
        }
        self.schedule_check();
    }

    fn count_failure(&mut self, failures: u32, now: Instant) {
        if failures < self.settings.failures {
            self.level = Level::Dying(failures);
        } else {
            self.leave_service(now);
        }
    }

    /// Requests a check soon. However many connections request one, a single check runs at a time, with a pause before the
    /// next.
    fn doubted(&mut self, now: Instant) {
        let soon = now.max(self.began + DOUBTED_CHECK_PAUSE);
        self.next_check = self.next_check.min(soon);
    }

    fn leave_service(&mut self, now: Instant) {
        let in_window = self
            .departed
            .is_some_and(|last| now < last + self.settings.flap_window);
        self.departures = if in_window { self.departures + 1 } else { 1 };
        self.departed = Some(now);
        self.ramp = None;
        self.level = Level::Down(0);
    }

    fn is_held_down(&self, now: Instant) -> bool {
        self.departed
            .is_some_and(|departed| now < departed + self.hold_down())
    }

    /// The hold-down after the latest departure: none for the first, the base for the second, then doubled each time.
    fn hold_down(&self) -> Duration {
        match self.departures {
            0 | 1 => Duration::ZERO,
            departures => {
                let doubled = self
                    .settings
                    .hold_down
                    .saturating_mul(1 << (departures - 2).min(16));
                doubled.min(self.settings.hold_down_max)
            }
        }
    }

    fn node_lost(&mut self, now: Instant) {
        self.lost = true;
        match self.level {
            Level::Alive | Level::Dying(_) => self.leave_service(now),
            Level::Down(_) => self.level = Level::Down(0),
        }
    }

    fn node_registered(&mut self, now: Instant) {
        self.lost = false;
        self.next_check = now;
    }

    fn schedule_check(&mut self) {
        let period = match self.level {
            Level::Alive => self.settings.period,
            Level::Dying(_) | Level::Down(_) => self.settings.retry_period,
        };
        self.next_check = self.began + period;
    }

    fn check_if_due(&mut self, now: Instant) -> Vec<HealthOutput> {
        if self.checking || now < self.next_check {
            return Vec::new();
        }
        self.checking = true;
        self.began = now;
        vec![HealthOutput::Check]
    }

    fn publish_is_due(&mut self, before: (KeepaliveState, u32), now: Instant) -> bool {
        let step = self.share_step(now);
        let grown = self.ramp.is_some_and(|ramp| step > ramp.published_step);
        if let Some(ramp) = &mut self.ramp {
            ramp.published_step = step;
        }
        if step == SHARE_STEPS {
            self.ramp = None;
        }
        grown || before != (self.state(), step)
    }
}

const REFUSALS_MIN: u32 = 2;
const DOUBTED_CHECK_PAUSE: Duration = Duration::from_millis(100);

/// The steps of a slow start, each of which gives the node one more tenth of its share.
pub const SHARE_STEPS: u32 = 10;

#[cfg(test)]
mod tests {
    use crate::io::clock::now;

    use super::*;
    use HealthInput::*;

    fn settings() -> HealthSettings {
        HealthSettings {
            period: secs(5),
            failures: 3,
            retry_period: secs(1),
            successes: 2,
            hold_down: secs(5),
            hold_down_max: secs(300),
            flap_window: secs(300),
            slow_start: Duration::ZERO,
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn alive(now: Instant) -> NodeHealth {
        let mut health = NodeHealth::new(settings(), now);
        assert_eq!(health.handle(DeadlineReached, now), [HealthOutput::Check]);
        assert_eq!(health.handle(CheckSucceeded, now), [HealthOutput::Publish]);
        assert_eq!(health.state(), KeepaliveState::Alive);
        health
    }

    fn check(health: &mut NodeHealth, result: HealthInput) -> Instant {
        let due = health.next_deadline().expect("a probe is due");
        assert_eq!(health.handle(DeadlineReached, due), [HealthOutput::Check]);
        drop(health.handle(result, due));
        due
    }

    #[test]
    fn a_node_is_in_service_after_its_first_successful_probe() {
        let now = now();
        assert_eq!(alive(now).next_deadline(), Some(now + secs(5)));
    }

    #[test]
    fn three_failures_take_a_node_out_and_two_successes_bring_it_back() {
        let now = now();
        let mut health = alive(now);
        assert_eq!(
            check(&mut health, CheckFailed(CheckFailure::Refused)),
            now + secs(5)
        );
        assert_eq!(health.state(), KeepaliveState::Dying);
        assert_eq!(
            check(&mut health, CheckFailed(CheckFailure::Refused)),
            now + secs(6)
        );
        assert_eq!(health.state(), KeepaliveState::Dying);
        assert_eq!(
            check(&mut health, CheckFailed(CheckFailure::Refused)),
            now + secs(7)
        );
        assert_eq!(health.state(), KeepaliveState::Down);
        assert_eq!(check(&mut health, CheckSucceeded), now + secs(8));
        assert_eq!(health.state(), KeepaliveState::Down);
        assert_eq!(check(&mut health, CheckSucceeded), now + secs(9));
        assert_eq!(health.state(), KeepaliveState::Alive);
        assert_eq!(health.next_deadline(), Some(now + secs(14)));
    }

    #[test]
    fn a_success_resets_earlier_failures() {
        let mut health = alive(now());
        check(&mut health, CheckFailed(CheckFailure::Refused));
        check(&mut health, CheckFailed(CheckFailure::Refused));
        check(&mut health, CheckSucceeded);
        check(&mut health, CheckFailed(CheckFailure::Refused));
        assert_eq!(health.state(), KeepaliveState::Dying);
    }

    #[test]
    fn what_clients_see_requests_one_check_and_changes_no_state() {
        let now = now();
        let mut health = alive(now);
        let later = now + secs(1);
        assert_eq!(health.handle(Doubted, later), [HealthOutput::Check]);
        for _ in 0..1_000 {
            assert_eq!(health.handle(Doubted, later), []);
        }
        assert_eq!(health.state(), KeepaliveState::Alive);
        assert_eq!(health.handle(CheckSucceeded, later), []);
        assert_eq!(health.state(), KeepaliveState::Alive);
        assert_eq!(
            health.next_deadline(),
            Some(later + secs(5)),
            "it was requested before the answer"
        );
        assert_eq!(health.handle(Doubted, later), []);
        assert_eq!(health.next_deadline(), Some(later + DOUBTED_CHECK_PAUSE));
    }

    #[test]
    fn a_frozen_node_is_out_of_service_within_four_seconds_of_its_first_silence() {
        let frozen = now();
        let mut health = alive(frozen);
        let mut now = frozen + Duration::from_millis(500);
        let mut outputs = health.handle(Doubted, now);
        while health.state() != KeepaliveState::Down {
            assert!(outputs.contains(&HealthOutput::Check), "{outputs:?}");
            now += secs(1);
            outputs = health.handle(CheckFailed(CheckFailure::Unanswered), now);
        }
        assert!(now < frozen + secs(4));
    }

    #[test]
    fn a_lack_of_descriptors_counts_against_no_node() {
        let mut health = alive(now());
        for _ in 0..10 {
            check(&mut health, CheckFailed(CheckFailure::OutOfDescriptors));
        }
        assert_eq!(health.state(), KeepaliveState::Alive);
    }

    #[test]
    fn a_node_that_refuses_the_front_end_is_distinguished_from_one_that_is_down() {
        let mut health = alive(now());
        for _ in 0..3 {
            check(&mut health, CheckFailed(CheckFailure::RefusesUs));
        }
        assert_eq!(health.state(), KeepaliveState::RefusesUs);
        check(&mut health, CheckFailed(CheckFailure::Refused));
        assert_eq!(health.state(), KeepaliveState::Down);
        check(&mut health, CheckFailed(CheckFailure::RefusesUs));
        assert_eq!(health.state(), KeepaliveState::Down, "it may be stopping");
        check(&mut health, CheckFailed(CheckFailure::RefusesUs));
        assert_eq!(health.state(), KeepaliveState::RefusesUs);
    }

    #[test]
    fn a_node_committed_as_lost_returns_only_when_it_registers() {
        let now = now();
        let mut health = alive(now);
        assert_eq!(health.handle(NodeLost, now), [HealthOutput::Publish]);
        for _ in 0..5 {
            check(&mut health, CheckSucceeded);
        }
        assert_eq!(
            (health.state(), health.last_resort_rank()),
            (KeepaliveState::Down, None)
        );
        let later = now + secs(60);
        assert_eq!(health.handle(NodeRegistered, later), [HealthOutput::Check]);
        drop(health.handle(CheckSucceeded, later));
        assert_eq!(health.state(), KeepaliveState::Alive);
    }

    #[test]
    fn without_the_cluster_checks_decide_again() {
        let now = now();
        let mut health = alive(now);
        drop(health.handle(Suspended, now));
        drop(health.handle(NodeLost, now));
        drop(health.handle(ClusterUnavailable, now));
        check(&mut health, CheckSucceeded);
        check(&mut health, CheckSucceeded);
        assert_eq!(health.state(), KeepaliveState::Alive);
    }

    #[test]
    fn each_departure_in_a_short_time_doubles_the_hold_down() {
        let now = now();
        let mut health = alive(now);
        let absence = |health: &mut NodeHealth| {
            while health.state() != KeepaliveState::Down {
                check(health, CheckFailed(CheckFailure::Refused));
            }
            let departed = health.departed.expect("it has departed");
            loop {
                let at = check(health, CheckSucceeded);
                if health.state() == KeepaliveState::Alive {
                    return at - departed;
                }
            }
        };
        assert_eq!(absence(&mut health), secs(2));
        assert_eq!(absence(&mut health), secs(5));
        assert_eq!(absence(&mut health), secs(10));
        assert_eq!(absence(&mut health), secs(20));
    }

    #[test]
    fn a_suspended_node_stays_alive_for_what_it_has() {
        let now = now();
        let mut health = alive(now);
        assert_eq!(health.handle(Suspended, now), [HealthOutput::Publish]);
        assert_eq!(health.state(), KeepaliveState::Suspended);
        assert_eq!(health.handle(Resumed, now), [HealthOutput::Publish]);
    }

    #[test]
    fn a_slow_start_grows_the_share_by_tenths_and_only_after_a_return() {
        let now = now();
        let slow = HealthSettings {
            slow_start: secs(10),
            ..settings()
        };
        let mut health = NodeHealth::new(slow, now);
        drop(health.handle(DeadlineReached, now));
        drop(health.handle(CheckSucceeded, now));
        assert_eq!(health.share_step(now), SHARE_STEPS);
        for _ in 0..3 {
            check(&mut health, CheckFailed(CheckFailure::Refused));
        }
        check(&mut health, CheckSucceeded);
        let back = check(&mut health, CheckSucceeded);
        assert_eq!(health.share_step(back), 1);
        assert_eq!(
            health.handle(DeadlineReached, back + secs(2)),
            [HealthOutput::Publish]
        );
        assert_eq!(health.share_step(back + secs(5)), 5);
        drop(health.handle(DeadlineReached, back + secs(10)));
        assert_eq!(health.share_step(back + secs(11)), SHARE_STEPS);
    }
}
