//! All CTI connections: connect to each, and try again for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::csta_link::{CstaLink, LinkCounters, LinkOutput};
use super::{
    CtiConnectionId, CtiFailure, CtiInput, CtiOutput, CtiSettings, LinkFailure, LinkId, RequestToken,
};
use crate::csta::Request;

/// The machine that owns every link of this node.
#[derive(Debug)]
pub struct Connections {
    settings: Arc<CtiSettings>,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    id: CtiConnectionId,
    state: State,
    incarnation: u64,
    /// Of the links before the present one.
    counters: LinkCounters,
    connects_failed: u64,
    transitions: u64,
}

#[derive(Debug)]
enum State {
    /// Not started yet, or drained.
    Idle,
    Waiting {
        connect_at: Instant,
    },
    Connecting,
    Open(Box<CstaLink>),
}

/// What may change while the node runs (RCC-15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CtiTimings {
    pub heartbeat_interval: Duration,
    pub heartbeat_timeout: Duration,
    pub request_timeout: Duration,
    pub reconnect_interval: Duration,
}

impl CtiTimings {
    #[must_use]
    pub fn of(settings: &CtiSettings) -> Self {
        Self {
            heartbeat_interval: settings.heartbeat_interval,
            heartbeat_timeout: settings.heartbeat_timeout,
            request_timeout: settings.request_timeout,
            reconnect_interval: settings.reconnect_interval,
        }
    }
}

/// One connection, for metrics and the admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionStatus<'a> {
    pub connection: CtiConnectionId,
    pub name: &'a str,
    pub address: &'a str,
    pub in_service: bool,
    /// Times it went into or out of service.
    pub transitions: u64,
    pub connects_failed: u64,
    pub outstanding: usize,
    pub waiting: usize,
    pub counters: LinkCounters,
}

impl Connections {
    #[must_use]
    pub fn new(settings: CtiSettings) -> Self {
        let connections = (0..settings.connections.len()).map(|id| Connection::new(CtiConnectionId(id)));
        Self {
            connections: connections.collect(),
            settings: Arc::new(settings),
        }
    }

    #[must_use]
    pub fn handle(&mut self, input: CtiInput, now: Instant) -> Vec<CtiOutput> {
        let mut outputs = Vec::new();
        match input {
            CtiInput::Started => self
                .connections
                .iter_mut()
                .for_each(|each| each.start(&mut outputs)),
            CtiInput::LinkOpened(link) => self.link_opened(link, now, &mut outputs),
            CtiInput::BytesReceived { link, bytes } => {
                self.with_link(link, now, &mut outputs, |link| link.received(&bytes, now));
            }
            CtiInput::LinkClosed { link, reason } => self.link_closed(link, reason, now, &mut outputs),
            CtiInput::DeadlineReached => self.deadline_reached(now, &mut outputs),
            CtiInput::DrainStarted => {
                self.connections
                    .iter_mut()
                    .for_each(|connection| connection.drain(now, &mut outputs));
            }
        }
        outputs
    }

    /// Heartbeats and requests that are under way keep the deadlines they have.
    pub fn change_timings(&mut self, timings: CtiTimings) {
        let mut settings = CtiSettings::clone(&self.settings);
        settings.heartbeat_interval = timings.heartbeat_interval;
        settings.heartbeat_timeout = timings.heartbeat_timeout;
        settings.request_timeout = timings.request_timeout;
        settings.reconnect_interval = timings.reconnect_interval;
        if settings == *self.settings {
            return;
        }
        self.settings = Arc::new(settings);
        for connection in &mut self.connections {
            if let State::Open(link) = &mut connection.state {
                link.change_settings(Arc::clone(&self.settings));
            }
        }
    }

    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.connections
            .iter()
            .filter_map(Connection::next_deadline)
            .min()
    }

    /// Sends a request, or lets it wait its turn. It is answered exactly once, perhaps at once.
    #[must_use]
    pub fn submit(
        &mut self,
        connection: CtiConnectionId,
        token: RequestToken,
        request: Request,
        now: Instant,
    ) -> Vec<CtiOutput> {
        let mut outputs = Vec::new();
        let not_in_service = CtiOutput::Answered {
            token,
            result: Err(CtiFailure::NotInService),
        };
        match self.link_of(connection) {
            Some(link) => self.with_link(link, now, &mut outputs, |link| link.submit(token, request, now)),
            None => outputs.push(not_in_service),
        }
        outputs
    }

    /// The configured `host:port`.
    #[must_use]
    pub fn address(&self, connection: CtiConnectionId) -> Option<&str> {
        self.settings
            .connections
            .get(connection.0)
            .map(|each| each.address.as_str())
    }

    pub fn statuses(&self) -> impl Iterator<Item = ConnectionStatus<'_>> {
        self.connections
            .iter()
            .zip(&self.settings.connections)
            .map(|(connection, settings)| ConnectionStatus {
                connection: connection.id,
                name: &settings.name,
                address: &settings.address,
                in_service: connection.is_in_service(),
                transitions: connection.transitions,
                connects_failed: connection.connects_failed,
                outstanding: connection.link().map_or(0, CstaLink::outstanding),
                waiting: connection.link().map_or(0, CstaLink::waiting),
                counters: connection.link().map_or(connection.counters, CstaLink::counters),
            })
    }

    fn link_of(&self, connection: CtiConnectionId) -> Option<LinkId> {
        self.connections
            .get(connection.0)
            .filter(|each| each.link().is_some())
            .map(Connection::link_id)
    }

    /// `None` when the link is of an earlier incarnation: its news are late.
    fn current(&mut self, link: LinkId) -> Option<&mut Connection> {
        self.connections
            .get_mut(link.connection.0)
            .filter(|connection| connection.link_id() == link)
    }

    fn link_opened(&mut self, link: LinkId, now: Instant, outputs: &mut Vec<CtiOutput>) {
        let settings = Arc::clone(&self.settings);
        let Some(connection) = self.current(link) else {
            return;
        };
        if !matches!(connection.state, State::Connecting) {
            return;
        }
        connection.state = State::Open(Box::new(CstaLink::new(settings, connection.counters)));
        self.with_link(link, now, outputs, |link| link.opened(now));
    }

    fn link_closed(&mut self, link: LinkId, reason: LinkFailure, now: Instant, outputs: &mut Vec<CtiOutput>) {
        let connect_at = now + self.settings.reconnect_interval;
        if let Some(connection) = self.current(link) {
            connection.fail(reason, State::Waiting { connect_at }, outputs);
        }
    }

    fn deadline_reached(&mut self, now: Instant, outputs: &mut Vec<CtiOutput>) {
        for position in 0..self.connections.len() {
            let connection = &mut self.connections[position];
            connection.connect_if_due(now, outputs);
            if connection
                .link()
                .and_then(CstaLink::next_deadline)
                .is_some_and(|deadline| deadline <= now)
            {
                let link = connection.link_id();
                self.with_link(link, now, outputs, |link| link.deadline_reached(now));
            }
        }
    }

    /// Has the link do something, and does what it asks for.
    fn with_link(
        &mut self,
        link: LinkId,
        now: Instant,
        outputs: &mut Vec<CtiOutput>,
        action: impl FnOnce(&mut CstaLink) -> Vec<LinkOutput>,
    ) {
        let connect_at = now + self.settings.reconnect_interval;
        let Some(connection) = self.current(link) else {
            return;
        };
        let State::Open(open) = &mut connection.state else {
            return;
        };
        for output in action(open) {
            connection.perform(output, connect_at, outputs);
        }
    }
}

impl Connection {
    fn new(id: CtiConnectionId) -> Self {
        Self {
            id,
            state: State::Idle,
            incarnation: 0,
            counters: LinkCounters::default(),
            connects_failed: 0,
            transitions: 0,
        }
    }

    fn link_id(&self) -> LinkId {
        LinkId {
            connection: self.id,
            incarnation: self.incarnation,
        }
    }

    fn link(&self) -> Option<&CstaLink> {
        match &self.state {
            State::Open(link) => Some(link),
            State::Idle | State::Waiting { .. } | State::Connecting => None,
        }
    }

    fn is_in_service(&self) -> bool {
        self.link().is_some_and(CstaLink::is_in_service)
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Open(link) => link.next_deadline(),
            State::Waiting { connect_at } => Some(*connect_at),
            State::Idle | State::Connecting => None,
        }
    }

    fn start(&mut self, outputs: &mut Vec<CtiOutput>) {
        if matches!(self.state, State::Idle) {
            self.connect(outputs);
        }
    }

    fn connect_if_due(&mut self, now: Instant, outputs: &mut Vec<CtiOutput>) {
        if let State::Waiting { connect_at } = self.state
            && connect_at <= now
        {
            self.connect(outputs);
        }
    }

    fn connect(&mut self, outputs: &mut Vec<CtiOutput>) {
        self.incarnation += 1;
        self.state = State::Connecting;
        outputs.push(CtiOutput::Connect { link: self.link_id() });
    }

    fn perform(&mut self, output: LinkOutput, connect_at: Instant, outputs: &mut Vec<CtiOutput>) {
        let (connection, link) = (self.id, self.link_id());
        match output {
            LinkOutput::Write(bytes) => outputs.push(CtiOutput::Write { link, bytes }),
            LinkOutput::InService => {
                self.transitions += 1;
                outputs.push(CtiOutput::ConnectionUp { connection });
            }
            LinkOutput::Answered { token, result } => outputs.push(CtiOutput::Answered { token, result }),
            LinkOutput::Event(event) => outputs.push(CtiOutput::Event { connection, event }),
            LinkOutput::MonitorStopped { cross_ref_id } => {
                outputs.push(CtiOutput::MonitorStopped {
                    connection,
                    cross_ref_id,
                });
            }
            LinkOutput::Failed(reason) => {
                outputs.push(CtiOutput::Close { link });
                self.fail(reason, State::Waiting { connect_at }, outputs);
            }
        }
    }

    /// Says of every request on the link that it failed, then of the connection that it is down if it was up.
    fn fail(&mut self, reason: LinkFailure, next: State, outputs: &mut Vec<CtiOutput>) {
        match std::mem::replace(&mut self.state, next) {
            State::Open(link) => {
                self.counters = link.counters();
                let was_in_service = link.is_in_service();
                outputs.extend(link.into_unanswered().into_iter().map(|(token, failure)| {
                    CtiOutput::Answered {
                        token,
                        result: Err(failure),
                    }
                }));
                if was_in_service {
                    self.transitions += 1;
                    outputs.push(CtiOutput::ConnectionDown {
                        connection: self.id,
                        reason,
                    });
                }
            }
            State::Connecting => self.connects_failed += 1,
            // Already known to have failed: nothing changes, neither the time of the next attempt.
            before @ (State::Idle | State::Waiting { .. }) => self.state = before,
        }
    }

    fn drain(&mut self, now: Instant, outputs: &mut Vec<CtiOutput>) {
        let link = self.link_id();
        if let State::Open(open) = &mut self.state {
            for output in open.farewell(now) {
                self.perform(output, now, outputs);
            }
        }
        if matches!(self.state, State::Open(_) | State::Connecting) {
            outputs.push(CtiOutput::Close { link });
            self.fail(LinkFailure::Drained, State::Idle, outputs);
        }
        self.state = State::Idle;
    }
}
