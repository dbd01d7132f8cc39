//! A hundred thousand users in simulated time: the machine that decides, and nothing around it. Exchange is a function
//! of the user's number, and the replicated state is a real one without a log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tandem_cluster::{
    Applied, Authority, CalendarState, CasEndpoint, CasId, ClusterState, Command, NodeId, StateLimits,
};
use tandem_exchange::ews::{
    Answer, CalendarItem, ChangeStamp, Event, EventKind, Failure, FreeBusyStatus, Mailbox, Notification,
    Operation, SubscriptionId, TimeWindow,
};
use tandem_node::calendar::{
    CalendarSettings, Calendars, CalendarsConfig, Callback, CallbackId, Input, Output, RequestId,
    SubscriptionState, View,
};
use tandem_node::directory::{Directory, RemoteCallControl, User};
use tandem_node::gateway::Now;
use tandem_tests::figures::Figures;

use crate::allocation::bytes_held;

/// Twenty minutes from nothing to a full hour, at which every other user switches.
pub(crate) fn run(users: usize, cas: usize, figures: &mut Figures) -> anyhow::Result<()> {
    println!("\n{users} users of one node in simulated time");
    figures.count("simulated_users", users);
    let mut world = World::new(users, cas);
    let cpu_before = cpu_time()?;
    world.start();
    let all_right = world.run_until_all(users, "right", |world| world.published)?;
    let all_live = world.run_until_all(users, "subscribed", World::live_users)?;
    world.run_until(PEAK_MS - 60_000);
    figures.seconds("simulated_right_seconds", all_right);
    figures.seconds("simulated_subscribed_seconds", all_live);
    figures.seconds(
        "simulated_start_cpu_seconds",
        cpu_time()?.saturating_sub(cpu_before),
    );
    peak(&mut world, figures)?;
    let held = bytes_held();
    drop(world.calendars);
    figures.count("simulated_bytes_per_user", (held - bytes_held()) / users);
    Ok(())
}

/// Half of all users switch in the same minute.
fn peak(world: &mut World, figures: &mut Figures) -> anyhow::Result<()> {
    let users = world.users;
    world.switches = Some(Vec::with_capacity(users));
    world.slowest = Duration::ZERO;
    let cpu_before = cpu_time()?;
    world.run_until(PEAK_MS + 60_000);
    let cpu = cpu_time()?.saturating_sub(cpu_before);
    let switches = world.switches.take().unwrap_or_default();
    let distinct: BTreeSet<usize> = switches.iter().map(|(user, _)| *user).collect();
    let last_ms = switches
        .iter()
        .map(|(_, at_ms)| at_ms - PEAK_MS)
        .max()
        .unwrap_or(0);
    figures.count("simulated_switches", switches.len());
    figures.seconds("simulated_last_switch_seconds", Duration::from_millis(last_ms));
    figures.seconds("simulated_peak_cpu_seconds", cpu);
    let slowest_us = usize::try_from(world.slowest.as_micros())?;
    figures.count("simulated_slowest_input_us", slowest_us);
    ensure!(
        distinct.len() == users / 2 && switches.len() == users / 2,
        "{} users switched {} times, and {} should have once",
        distinct.len(),
        switches.len(),
        users / 2
    );
    let spread_secs = u64::from(CalendarSettings::default().spread_secs);
    ensure!(
        last_ms <= (spread_secs + 1) * 1000,
        "the last switch came {last_ms} ms after the full hour"
    );
    Ok(())
}

struct World {
    users: usize,
    calendars: Calendars,
    state: ClusterState,
    directory: Directory,
    start: Instant,
    unix_ms: u64,
    happenings: BTreeMap<(u64, u64), Input>,
    sequence: u64,
    /// Users whose presence was published at least once.
    published: usize,
    seen: Vec<bool>,
    switches: Option<Vec<(usize, u64)>>,
    slowest: Duration,
}

impl World {
    fn new(users: usize, cas: usize) -> Self {
        let config = CalendarsConfig::new(NODE);
        let limits = StateLimits {
            users_assigned_max: users,
            ..StateLimits::default()
        };
        let mut world = Self {
            users,
            calendars: Calendars::new(config, CalendarSettings::default(), 1),
            state: ClusterState::new(limits),
            directory: Directory::new((0..users).map(user).collect(), Vec::new()),
            start: Instant::now(),
            unix_ms: START_MS,
            happenings: BTreeMap::new(),
            sequence: 0,
            published: 0,
            seen: vec![false; users],
            switches: None,
            slowest: Duration::ZERO,
        };
        let gateways = (0..cas).map(cas_id);
        world.apply(Command::CasGatewaysConfigured {
            gateways: gateways.map(|id| (id.clone(), CasEndpoint::of(&id))).collect(),
            at_ms: START_MS,
        });
        world.apply(Command::NodeRegistered {
            id: NODE,
            sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
            incarnation: INCARNATION,
        });
        world
    }

    fn start(&mut self) {
        self.input(Input::StandingChanged);
    }

    fn run_until_all(
        &mut self,
        users: usize,
        what: &str,
        count: impl Fn(&Self) -> usize,
    ) -> anyhow::Result<Duration> {
        while count(self) < users {
            ensure!(
                self.unix_ms < PEAK_MS - 120_000,
                "only {} of {users} users are {what}",
                count(self)
            );
            self.run_until(self.unix_ms + 1000);
        }
        Ok(Duration::from_millis(self.unix_ms - START_MS))
    }

    fn live_users(&self) -> usize {
        let census = self.calendars.census();
        let live = census.subscriptions.get(&SubscriptionState::Live);
        live.copied().unwrap_or(0)
    }

    fn run_until(&mut self, until_ms: u64) {
        loop {
            let queued = self.happenings.first_key_value().map(|((at_ms, _), _)| *at_ms);
            let deadline = self.calendars.next_deadline().map(|at| self.ms_of(at));
            let Some(next) = [queued, deadline].into_iter().flatten().min() else {
                break;
            };
            if next > until_ms {
                break;
            }
            self.unix_ms = self.unix_ms.max(next);
            let happening = match queued == Some(next) {
                true => self.happenings.pop_first().map(|(_, input)| input),
                false => None,
            };
            self.input(happening.unwrap_or(Input::DeadlineReached));
        }
        self.unix_ms = until_ms;
    }

    fn ms_of(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.start).as_nanos();
        START_MS + u64::try_from(passed.div_ceil(1_000_000)).unwrap_or(u64::MAX / 2)
    }

    fn input(&mut self, input: Input) {
        let now = Now {
            instant: self.start + Duration::from_millis(self.unix_ms - START_MS),
            unix_ms: self.unix_ms,
            cluster_ms: self.unix_ms,
        };
        let view = View {
            state: &self.state,
            directory: &self.directory,
            incarnation: INCARNATION,
            authority: Authority::Quorum,
        };
        let begun = Instant::now();
        let outputs = self.calendars.handle(input, view, now);
        self.slowest = self.slowest.max(begun.elapsed());
        for output in outputs {
            self.perform(output);
        }
    }

    fn later(&mut self, wait_ms: u64, input: Input) {
        self.sequence += 1;
        self.happenings
            .insert((self.unix_ms + wait_ms, self.sequence), input);
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Request {
                request,
                operation,
                impersonate,
                ..
            } => {
                let result = answer(&operation, impersonate.as_ref());
                self.answer_later(request, result);
            }
            Output::SubscribePush {
                request,
                user,
                attempt,
                ..
            } => {
                self.answer_later(request, Ok(subscribed(&user, attempt)));
                let notifications = vec![Ok(status_event(&user, attempt))];
                let callback = Callback {
                    id: CallbackId(0),
                    user,
                    attempt,
                    notifications,
                };
                self.later(LATENCY_MS + 20, Input::CalledBack(callback));
            }
            Output::Propose { proposal, command } => {
                let applied = Some(self.apply(command));
                self.later(5, Input::Committed { proposal, applied });
            }
            Output::Publish { user, presence } => self.publish(&user, presence.state),
            Output::OpenStream { .. }
            | Output::CloseStream { .. }
            | Output::UseCas(_)
            | Output::ListenForCallbacks { .. }
            | Output::AnswerCallback { .. }
            | Output::Report(_) => {}
        }
    }

    fn answer_later(&mut self, request: RequestId, result: Result<Answer, Failure>) {
        let latency = Duration::from_millis(LATENCY_MS);
        self.later(
            LATENCY_MS,
            Input::Answered {
                request,
                result,
                latency,
            },
        );
    }

    /// As the log does: the machine hears of the changes a little later.
    fn apply(&mut self, command: Command) -> Applied {
        let (applied, changes) = self.state.apply(command);
        self.later(5, Input::Changes(changes));
        applied
    }

    fn publish(&mut self, user: &str, state: CalendarState) {
        let number = number_of(user);
        if let Some(seen) = self.seen.get_mut(number)
            && !std::mem::replace(seen, true)
        {
            self.published += 1;
        }
        if let Some(switches) = &mut self.switches
            && state != CalendarState::Unknown
        {
            switches.push((number, self.unix_ms));
        }
    }
}

fn user(number: usize) -> User {
    User {
        id: name(number),
        mail: Some(address(number)),
        ocs_primary_address: None,
        display_name: None,
        remote_call_control: RemoteCallControl::Enabled,
        calendar: true,
    }
}

fn answer(operation: &Operation, impersonate: Option<&Mailbox>) -> Result<Answer, Failure> {
    match operation {
        Operation::GetUserAvailability { mailboxes, window } => {
            let free_busy = |mailbox: &Mailbox| Ok(meetings(number_of(&mailbox.0), *window));
            Ok(Answer::Availability(mailboxes.iter().map(free_busy).collect()))
        }
        Operation::FindCalendarItems { window, .. } => {
            let number = impersonate.map_or(usize::MAX, |mailbox| number_of(&mailbox.0));
            Ok(Answer::Items {
                items: meetings(number, *window),
                complete: true,
            })
        }
        Operation::GetChangeStamp => Ok(Answer::ChangeStamp(ChangeStamp::default())),
        Operation::SubscribePush { .. }
        | Operation::SubscribeStreaming
        | Operation::SubscribePull { .. }
        | Operation::GetEvents { .. }
        | Operation::GetStreamingEvents { .. }
        | Operation::Unsubscribe { .. } => Err(Failure::Malformed("not simulated")),
    }
}

/// Eight meetings on each of two days, 30 minutes each: of even users at full hours, of odd ones a quarter later.
fn meetings(number: usize, window: TimeWindow) -> Vec<CalendarItem> {
    let first = DAY_SECS + if number.is_multiple_of(2) { 0 } else { 900 };
    let starts = (0..2).flat_map(|day| (8..16).map(move |hour| first + day * 86_400 + hour * 3600));
    starts
        .map(|start| CalendarItem {
            start,
            end: start + 1800,
            status: FreeBusyStatus::Busy,
            all_day: false,
            cancelled: false,
            declined: false,
        })
        .filter(|item| item.end > window.from && item.start < window.until)
        .collect()
}

/// Ids and watermarks as long as those of Exchange.
fn subscribed(user: &str, attempt: u64) -> Answer {
    Answer::Subscribed {
        subscription: subscription(user, attempt),
        watermark: Some(watermark(attempt)),
    }
}

fn status_event(user: &str, attempt: u64) -> Notification {
    Notification {
        subscription: subscription(user, attempt),
        previous_watermark: Some(watermark(attempt)),
        more_events: false,
        events: vec![Event {
            kind: EventKind::Status,
            watermark: Some(watermark(attempt)),
        }],
    }
}

fn subscription(user: &str, attempt: u64) -> SubscriptionId {
    SubscriptionId(format!("{:-<88}{user}{attempt}", "EwBjYXMuZXhhbXBsZS50ZXN0"))
}

fn watermark(attempt: u64) -> String {
    format!("{:A<28}{attempt}", "AQAAAA")
}

fn name(number: usize) -> String {
    format!("user{number:06}")
}

fn address(number: usize) -> String {
    format!("user{number:06}@company.example.test")
}

fn number_of(user: &str) -> usize {
    let digits = user.get(4..10).and_then(|digits| digits.parse().ok());
    digits.unwrap_or(usize::MAX)
}

fn cas_id(number: usize) -> CasId {
    CasId(format!("cas-{number}"))
}

/// Of this thread, without what others on the machine took.
fn cpu_time() -> anyhow::Result<Duration> {
    let statistics =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("reading the CPU time")?;
    let nanoseconds = statistics.split(' ').next().and_then(|first| first.parse().ok());
    Ok(Duration::from_nanos(
        nanoseconds.context("the CPU time is not a number")?,
    ))
}

const NODE: NodeId = NodeId(1);
const INCARNATION: u64 = 1;
const LATENCY_MS: u64 = 40;

/// 2026-11-23T00:00:00Z.
const DAY_SECS: i64 = 1_795_392_000;

/// 10:00 on that day.
const PEAK_MS: u64 = 1_795_428_000_000;

/// Twenty past nine: nobody has a meeting that ends or begins before the peak's minute but those at 9:30 and 9:45.
const START_MS: u64 = PEAK_MS - 20 * 60_000;
