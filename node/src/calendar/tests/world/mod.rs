//! Nodes, the replicated state and Exchange in simulated time. One seed, no sleeping.

mod judging;
mod people;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tandem_cluster::{
    Applied, Authority, CalendarPresence, CalendarState, CasEndpoint, CasId, ClusterState, Command, NodeId,
    StateLimits,
};

use super::super::{
    CalendarSettings, CalendarUser, Calendars, CalendarsConfig, CallbackId, CallbackVerdict, Input, Output,
    Report, RequestId, StreamEnd, StreamId, Timeline, View,
};
use super::exchange::{CasState, Exchange, Told};
use crate::directory::Directory;
use crate::gateway::Now;
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{
    Answer, CalendarItem, Failure, FreeBusyStatus, Mailbox, Operation, StreamPart, SubscriptionId,
    SubscriptionStatus,
};

use people::entry;

pub(super) use people::{address, meeting, minute, name, user};

/// 2026-11-22T08:00:00Z.
pub(super) const START_MS: u64 = 1_795_334_400_000;

pub(super) struct World {
    start: Instant,
    pub unix_ms: u64,
    pub nodes: BTreeMap<NodeId, Calendars>,
    pub state: ClusterState,
    pub exchange: Exchange,
    users: Vec<CalendarUser>,
    directory: Directory,
    authority: Authority,
    settings: CalendarSettings,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    rng: StdRng,
    pub published: BTreeMap<String, Vec<(u64, CalendarPresence)>>,
    pub reports: Vec<(u64, Report)>,
    pub proposals: Vec<Command>,
    in_flight: BTreeMap<(NodeId, CasId), usize>,
    pub in_flight_max: usize,
    /// Every request: when, which node, where, what.
    pub requests: Vec<(u64, NodeId, CasId, &'static str)>,
    /// Exchange calls back at a node of its choice, not at the owner of the user.
    pub calls_any_node: bool,
    /// No node hears of changes.
    pub is_deaf: bool,
    /// Subscriptions of which a callback told, until it is answered.
    calling: BTreeMap<CallbackId, SubscriptionId>,
    /// How often each machine was called within the present millisecond.
    calls: (u64, u32),
    pub no_log: bool,
    clock_offset_ms: i64,
}

#[derive(Debug)]
enum Happening {
    Answer(NodeId, RequestId, CasId, Result<Answer, Failure>, Duration),
    Told(Told),
    StatusEvent(String),
    Part(NodeId, StreamId, StreamPart),
    End(NodeId, StreamId, StreamEnd),
    Commit(NodeId, u64, Command),
}

impl Happening {
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Answer(node, ..) | Self::Part(node, ..) | Self::End(node, ..) | Self::Commit(node, ..) => {
                Some(*node)
            }
            Self::Told(Told::Stream { node, .. }) => Some(NodeId(*node)),
            Self::Told(Told::Callback { .. }) | Self::StatusEvent(_) => None,
        }
    }
}

impl World {
    pub(super) fn new(nodes: u64, cas_list: &[&str], users: usize, settings: CalendarSettings) -> Self {
        let mut world = Self {
            start: an_instant(),
            unix_ms: START_MS,
            nodes: BTreeMap::new(),
            state: ClusterState::new(StateLimits {
                sessions_max: 10,
                calls_per_session_max: 1,
                intents_max: 1,
                opening_results_max: 1,
                users_assigned_max: 200_000,
            }),
            exchange: Exchange::with(cas_list),
            users: Vec::new(),
            directory: Directory::default(),
            authority: Authority::Quorum,
            settings,
            queue: BTreeMap::new(),
            sequence: 0,
            rng: StdRng::seed_from_u64(7),
            published: BTreeMap::new(),
            reports: Vec::new(),
            proposals: Vec::new(),
            in_flight: BTreeMap::new(),
            in_flight_max: 0,
            requests: Vec::new(),
            calls_any_node: false,
            is_deaf: false,
            calling: BTreeMap::new(),
            calls: (0, 0),
            no_log: false,
            clock_offset_ms: 0,
        };
        world.list((0..users).map(user).collect());
        for node in 1..=nodes {
            world.register(node);
        }
        let configured = cas_list.iter().map(|name| CasId((*name).to_owned()));
        let configured = configured.map(|id| (id.clone(), CasEndpoint::of(&id))).collect();
        world.apply(Command::CasGatewaysConfigured {
            gateways: configured,
            at_ms: 1,
        });
        for number in 0..users {
            let items = world.some_items(number);
            world.exchange.mailbox(&address(number)).items = items;
        }
        world
    }

    /// Meetings around the start, different from user to user.
    fn some_items(&mut self, number: usize) -> Vec<CalendarItem> {
        let at = |minutes: u64| i64::try_from(START_MS / 1000 + minutes * 60).unwrap();
        (0..6)
            .map(|slot| {
                let start = 30 * slot * 2 + 30 * (number as u64 % 2);
                let status = match self.rng.random_range(0..5) {
                    0 => FreeBusyStatus::Tentative,
                    1 => FreeBusyStatus::OutOfOffice,
                    _ => FreeBusyStatus::Busy,
                };
                meeting(at(start), at(start + 30), status)
            })
            .collect()
    }

    fn register(&mut self, node: u64) {
        let id = NodeId(node);
        self.state.apply(Command::NodeRegistered {
            id,
            sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
            incarnation: node,
        });
        self.nodes.insert(
            id,
            Calendars::new(CalendarsConfig::new(id), self.settings.clone(), node),
        );
    }

    pub(super) fn start(&mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            self.start_node(node);
        }
    }

    pub(super) fn start_node(&mut self, node: NodeId) {
        self.input(node, Input::StandingChanged);
    }

    fn list(&mut self, users: Vec<CalendarUser>) {
        self.directory = Directory::new(users.iter().map(entry).collect(), Vec::new());
        self.users = users;
    }

    pub(super) fn now(&self) -> Now {
        Now {
            instant: self.start + Duration::from_millis(self.unix_ms - START_MS),
            unix_ms: self.wall_ms(),
            cluster_ms: self.wall_ms(),
        }
    }

    pub(super) fn wall_ms(&self) -> u64 {
        self.unix_ms.checked_add_signed(self.clock_offset_ms).unwrap()
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.unix_ms + u64::try_from(time.as_millis()).unwrap();
        while let Some((at, next)) = self.next(until) {
            self.unix_ms = self.unix_ms.max(at);
            match next {
                Some(happening) => self.happen(happening),
                None => self.wake(),
            }
        }
        self.unix_ms = until;
    }

    /// A time after the start.
    pub(super) fn run_to(&mut self, time: Duration) {
        let passed = Duration::from_millis(self.unix_ms - START_MS);
        self.run(time.saturating_sub(passed));
    }

    fn next(&mut self, until: u64) -> Option<(u64, Option<Happening>)> {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let start = self.start;
        let deadlines = self.nodes.values().filter_map(Calendars::next_deadline);
        let wake = deadlines
            .map(|at| START_MS + u64::try_from((at - start).as_nanos().div_ceil(1_000_000)).unwrap())
            .min();
        match (queued, wake) {
            (Some(queued), wake) if queued <= until && wake.is_none_or(|wake| queued <= wake) => self
                .queue
                .pop_first()
                .map(|((at, _), happening)| (at, Some(happening))),
            (_, Some(wake)) if wake <= until => Some((wake, None)),
            (_, _) => None,
        }
    }

    fn wake(&mut self) {
        let now = self.now().instant;
        let due = self
            .nodes
            .iter()
            .filter(|(_, node)| node.next_deadline().is_some_and(|at| at <= now));
        let due: Vec<NodeId> = due.map(|(id, _)| *id).collect();
        for node in due {
            self.input(node, Input::DeadlineReached);
        }
    }

    fn later(&mut self, wait: Duration, happening: Happening) {
        let at = self.unix_ms + u64::try_from(wait.as_millis()).unwrap();
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Answer(node, request, cas, result, latency) => {
                if let Some(count) = self.in_flight.get_mut(&(node, cas)) {
                    *count -= 1;
                }
                self.input(
                    node,
                    Input::Answered {
                        request,
                        result,
                        latency,
                    },
                );
            }
            Happening::Told(told) => self.tell(told),
            Happening::StatusEvent(id) => {
                let told = self.exchange.status_event(&id);
                if self.exchange.subscriptions.contains_key(&id) {
                    let minutes = u64::from(self.settings.status_frequency);
                    self.later(Duration::from_secs(60 * minutes), Happening::StatusEvent(id));
                }
                if let Some(told) = told {
                    self.tell(told);
                }
            }
            Happening::Part(node, stream, part) => self.input(node, Input::StreamPart { stream, part }),
            Happening::End(node, stream, end) => self.input(node, Input::StreamEnded { stream, end }),
            Happening::Commit(node, proposal, command) => {
                let applied = match self.no_log {
                    true => None,
                    false => Some(self.apply(command)),
                };
                self.input(node, Input::Committed { proposal, applied });
            }
        }
    }

    pub(super) fn apply(&mut self, command: Command) -> Applied {
        let (applied, changes) = self.state.apply(command);
        if !self.is_deaf {
            self.input_all(|_| Input::Changes(changes.clone()));
        }
        applied
    }

    pub(super) fn input_all(&mut self, input: impl Fn(&Self) -> Input) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            let input = input(self);
            self.input(node, input);
        }
    }

    pub(super) fn input(&mut self, node: NodeId, input: Input) {
        self.assert_no_spinning();
        let now = self.now();
        let Some(calendars) = self.nodes.get_mut(&node) else {
            return;
        };
        let view = View {
            state: &self.state,
            directory: &self.directory,
            incarnation: node.0,
            authority: self.authority,
        };
        let outputs = calendars.handle(input, view, now);
        calendars.check_invariants();
        for output in outputs {
            self.perform(node, output);
        }
    }

    fn assert_no_spinning(&mut self) {
        let (at, calls) = &mut self.calls;
        *calls = if *at == self.unix_ms { *calls + 1 } else { 0 };
        *at = self.unix_ms;
        assert!(
            *calls < 100_000,
            "the machine spins at {}",
            self.unix_ms - START_MS
        );
    }

    fn perform(&mut self, node: NodeId, output: Output) {
        match output {
            Output::Request {
                request,
                cas,
                operation,
                impersonate,
                timeout,
                ..
            } => {
                self.ask(node, request, cas, &operation, impersonate, None, timeout);
            }
            Output::SubscribePush {
                request,
                cas,
                user,
                mailbox,
                attempt,
                status_frequency,
                timeout,
            } => {
                let operation = Operation::SubscribePush {
                    callback_url: "https://gateway.test/ews".to_owned(),
                    status_frequency,
                };
                self.ask(
                    node,
                    request,
                    cas,
                    &operation,
                    Some(mailbox),
                    Some((user, attempt)),
                    timeout,
                );
            }
            Output::OpenStream {
                stream,
                cas,
                subscriptions,
                affinity,
                ..
            } => {
                assert!(subscriptions.len() <= self.settings.stream_group_max);
                self.open(node, stream, &cas, &subscriptions, &affinity);
            }
            Output::CloseStream { stream } => {
                self.exchange.close_stream(stream_key(node, stream));
                self.later(
                    Duration::from_millis(1),
                    Happening::End(node, stream, StreamEnd::Closed),
                );
            }
            Output::Propose { proposal, command } => {
                self.proposals.push(command.clone());
                self.later(
                    Duration::from_millis(10),
                    Happening::Commit(node, proposal, command),
                );
            }
            Output::Publish { user, presence } => {
                // It concerns no calendar.
                self.state.apply(Command::CalendarPresenceChanged {
                    node,
                    users: vec![(user.clone(), Some(presence))],
                });
                self.published
                    .entry(user)
                    .or_default()
                    .push((self.unix_ms, presence));
            }
            Output::AnswerCallback { callback, status } => {
                let subscription = self.calling.remove(&callback);
                if let (SubscriptionStatus::Unsubscribe, Some(id)) = (status, subscription) {
                    self.exchange.subscriptions.remove(&id.0);
                }
            }
            Output::UseCas(_) | Output::ListenForCallbacks { .. } => {}
            Output::Report(report) => self.reports.push((self.unix_ms, report)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of an output")]
    fn ask(
        &mut self,
        node: NodeId,
        request: RequestId,
        cas: CasId,
        operation: &Operation,
        impersonate: Option<Mailbox>,
        push: Option<(String, u64)>,
        timeout: Duration,
    ) {
        self.requests
            .push((self.unix_ms, node, cas.clone(), operation.label()));
        let count = self.in_flight.entry((node, cas.clone())).or_default();
        *count += 1;
        self.in_flight_max = self.in_flight_max.max(*count);
        assert!(
            *count <= self.settings.concurrency_max + 1,
            "one probe more at most"
        );
        let (result, latency) = self
            .exchange
            .perform(&cas, operation, impersonate.as_ref(), push, timeout);
        if let (Operation::SubscribePush { .. }, Ok(Answer::Subscribed { subscription, .. })) =
            (operation, &result)
        {
            let id = subscription.0.clone();
            self.later(Duration::from_millis(20), Happening::StatusEvent(id));
        }
        let jitter = Duration::from_millis(self.rng.random_range(0..20));
        let answer = Happening::Answer(node, request, cas, result, latency);
        self.later(latency + jitter, answer);
    }

    fn open(
        &mut self,
        node: NodeId,
        stream: StreamId,
        cas: &CasId,
        ids: &[SubscriptionId],
        affinity: &AffinityKey,
    ) {
        let wait = Duration::from_millis(30);
        if self.exchange.cas(&cas.0).state != CasState::Up {
            let refused = StreamEnd::Failed(Failure::Unreachable("refused".to_owned()));
            return self.later(wait, Happening::End(node, stream, refused));
        }
        match self
            .exchange
            .open_stream(node.0, stream_key(node, stream), ids, affinity)
        {
            Ok(told) => {
                self.later(wait, Happening::Part(node, stream, StreamPart::Opened));
                for told in told {
                    self.later(wait, Happening::Told(own(told)));
                }
            }
            Err(subscriptions) => {
                let failure = super::exchange::code("ErrorSubscriptionNotFound");
                let part = StreamPart::Rejected {
                    subscriptions,
                    failure,
                };
                self.later(wait, Happening::Part(node, stream, part));
            }
        }
    }

    /// Ends every open stream of the CAS.
    pub(super) fn end_streams(&mut self, cas: &str, end: &StreamEnd) {
        let open = self
            .exchange
            .subscriptions
            .values()
            .filter(|subscription| subscription.cas.0 == cas);
        let streams: BTreeSet<(u64, StreamId)> = open
            .filter_map(|subscription| match subscription.delivery {
                super::exchange::Delivery::Stream { open } => open,
                super::exchange::Delivery::Push { .. } | super::exchange::Delivery::Pull => None,
            })
            .collect();
        for (node, stream) in streams {
            self.exchange.close_stream(stream);
            let happening = Happening::End(NodeId(node), own_stream(stream), end.clone());
            self.later(Duration::from_millis(1), happening);
        }
    }

    pub(super) fn change(&mut self, number: usize, items: Vec<CalendarItem>) {
        for told in self.exchange.change(&address(number), items) {
            self.later(Duration::from_millis(200), Happening::Told(own(told)));
        }
    }

    /// As [`Self::change`], and nobody hears of it.
    pub(super) fn change_untold(&mut self, number: usize, items: Vec<CalendarItem>) {
        drop(self.exchange.change(&address(number), items));
    }

    pub(super) fn kill_node(&mut self, node: u64) {
        let id = NodeId(node);
        self.nodes.remove(&id);
        self.apply(Command::NodeLost {
            id,
            incarnation: node,
        });
    }

    /// The process starts again: it knows nothing, its connections are gone, and the log has all.
    pub(super) fn restart_node(&mut self, node: u64) {
        let id = NodeId(node);
        let machine = Calendars::new(CalendarsConfig::new(id), self.settings.clone(), self.unix_ms);
        self.nodes.insert(id, machine);
        self.queue.retain(|_, happening| happening.node() != Some(id));
        self.in_flight.retain(|(owner, _), _| *owner != id);
        self.start_node(id);
    }
}

#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
fn an_instant() -> Instant {
    Instant::now()
}

/// Streams of several nodes in one table.
fn stream_key(node: NodeId, stream: StreamId) -> StreamId {
    StreamId(node.0 * 1_000_000 + stream.0)
}

fn own_stream(stream: StreamId) -> StreamId {
    StreamId(stream.0 % 1_000_000)
}

fn own(told: Told) -> Told {
    match told {
        Told::Stream {
            node,
            stream,
            notification,
        } => Told::Stream {
            node,
            stream: own_stream(stream),
            notification,
        },
        callback @ Told::Callback { .. } => callback,
    }
}
