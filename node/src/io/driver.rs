//! The loop around the gateway and the CTI connections. It has no opinion.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tandem_shared::cluster::health::{Severity, Subject};
use tandem_shared::cluster::{Applied, Change, Command, NodeId};
use tandem_shared::io::admin::Readiness;
use tandem_shared::io::environment;
use tandem_shared::io::raft::{ChangeReceiver, Cluster, ClusterStatus};
use tandem_shared::io::sip_stream::{SendRefused, SipSender};
use tandem_shared::io::watchdog::Pulse;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use crate::cti::{Connections, CtiInput, CtiOutput};
use crate::following::{Following, Heard, Step};
use crate::gateway::{Gateway, Input, Output, PairId, Report, View};
use crate::settings::{self, GatewaySettings};

use super::cti_link::CtiLinks;
use super::outbound::OutboundRoute;
use super::presence::PresenceView;
use super::rebalancing::Rebalancing;
use super::registration;
use super::sip_connection::{ConnectionContext, OpenPair};
use super::sip_listener::PairIds;
use super::{clock, outbound};

/// What the tasks around the loop tell it.
#[derive(Debug)]
pub enum DriverEvent {
    PairOpened {
        open: OpenPair,
        sender: SipSender,
    },
    Gateway(Input),
    /// What came of an attempt to register; `None`: the outcome is unknown.
    RegistrationAnswered(Option<Applied>),
    /// A planned stop has begun.
    DrainStarted,
    /// Everything is handed over: the loop ends.
    Stop,
}

/// The parts that the loop holds together.
pub struct Driver {
    pub gateway: Gateway,
    pub connections: Connections,
    pub links: CtiLinks,
    pub cluster: Cluster,
    pub identity: Identity,
    pub events: mpsc::Receiver<DriverEvent>,
    pub cti_inputs: mpsc::Receiver<CtiInput>,
    pub context: ConnectionContext,
    pub outbound: OutboundRoute,
    pub pair_ids: PairIds,
    pub readiness: Readiness,
    pub rebalancing: Rebalancing,
    pub pulse: Pulse,
    pub senders: HashMap<PairId, SipSender>,
    /// Inputs that came of outputs, to be taken in before any other.
    pub follow_ups: VecDeque<Input>,
    pub following: Following,
    /// What holds where nothing was set in the cluster.
    pub configured: GatewaySettings,
    /// Whether the cluster has taken the node in, once at least.
    pub joined: watch::Sender<bool>,
    pub presence: PresenceView,
}

/// Who this node is to the cluster.
#[derive(Debug, Clone)]
pub struct Identity {
    pub id: NodeId,
    pub sip_address: SocketAddr,
    pub incarnation: watch::Sender<u64>,
    /// The names of the CTI connections, in configured order.
    pub cti_names: Vec<String>,
}

enum Woken {
    Event(DriverEvent),
    Cti(CtiInput),
    Changes(Vec<Change>),
    Status(ClusterStatus),
    Deadline,
    Tick,
    Ended,
}

impl Driver {
    /// Runs until it is told to stop.
    pub async fn run(mut self) {
        let mut changes = self.cluster.changes();
        let mut status = self.cluster.status();
        status.mark_changed();
        let mut tick = interval(METRICS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.cti(CtiInput::Started);
        loop {
            self.pulse.beat();
            match self.next(&mut changes, &mut status, &mut tick).await {
                Woken::Event(DriverEvent::Stop) | Woken::Ended => break,
                Woken::Event(event) => self.event(event),
                Woken::Cti(input) => self.cti(input),
                Woken::Changes(changes) => self.heard(Heard::Changes(&changes)),
                Woken::Status(status) => self.status(&status),
                Woken::Deadline => self.deadline(),
                Woken::Tick => self.show_metrics(),
            }
            self.follow_up();
        }
        self.cti(CtiInput::DrainStarted);
        for sender in self.senders.values() {
            sender.close();
        }
    }

    async fn next(
        &mut self,
        changes: &mut ChangeReceiver,
        status: &mut watch::Receiver<ClusterStatus>,
        tick: &mut tokio::time::Interval,
    ) -> Woken {
        let deadlines = [
            self.gateway.next_deadline(),
            self.connections.next_deadline(),
            self.following.next_deadline(),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let sleep = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What changes the owner of a session comes before what its client wants.
            biased;
            changed = changes.recv() => changed.map_or(Woken::Ended, Woken::Changes),
            changed = status.changed() => match changed {
                Ok(()) => Woken::Status(status.borrow_and_update().clone()),
                Err(_) => Woken::Ended,
            },
            () = sleep => Woken::Deadline,
            input = self.cti_inputs.recv() => input.map_or(Woken::Ended, Woken::Cti),
            event = self.events.recv() => event.map_or(Woken::Ended, Woken::Event),
            _ = tick.tick() => Woken::Tick,
        }
    }

    fn event(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::PairOpened { open, sender } => {
                let OpenPair { id, pair, target } = open;
                self.senders.insert(id, sender);
                self.take_in(match target {
                    Some(target) => Input::OutboundOpened { target, id, pair },
                    None => Input::PairOpened { id, pair },
                });
            }
            DriverEvent::Gateway(input) => {
                if let Input::PairClosed { id } = &input {
                    self.senders.remove(id);
                }
                self.take_in(input);
            }
            DriverEvent::RegistrationAnswered(applied) => {
                self.heard(Heard::RegistrationAnswered(applied.as_ref()));
            }
            DriverEvent::DrainStarted => {
                self.heard(Heard::DrainStarted);
                self.take_in(Input::DrainStarted);
            }
            DriverEvent::Stop => {}
        }
    }

    /// What was heard means what the state says now.
    fn heard(&mut self, heard: Heard<'_>) {
        let following = &mut self.following;
        let steps = following.handle(heard, &self.cluster.state(), environment::now());
        for step in steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Gateway(input) => self.take_in(*input),
            Step::Register { incarnation } => self.register(incarnation),
            Step::Joined => {
                info!(node = %self.identity.id, sip_address = %self.identity.sip_address, "registered");
                self.readiness.resolved(REGISTRATION);
                self.joined.send_replace(true);
            }
            Step::Left {
                standing,
                incarnation,
            } => {
                let reason = standing.explanation();
                warn!(
                    reason,
                    "the node gives up its sessions and begins again under a new incarnation"
                );
                let detail = format!("{reason}; it has not been taken in again yet");
                self.readiness.not_ready(REGISTRATION, detail);
                self.identity.incarnation.send_replace(incarnation);
            }
            Step::LookAtPresence => self.look_at_everybody(),
            Step::TakeInSettings => self.take_in_settings(),
            Step::Rebalance { per_second } => {
                let (id, events) = (self.identity.id, &self.context.events);
                self.rebalancing.start(id, &self.cluster, events, per_second);
            }
        }
    }

    /// Users have other keepers when the set of nodes has changed: who publishes for whom is decided anew.
    fn look_at_everybody(&mut self) {
        if self.gateway.publishes() {
            for user in self.presence.users_after(None, usize::MAX) {
                self.take_in(Input::PresenceChanged { user });
            }
        }
    }

    fn take_in_settings(&mut self) {
        let settings = settings::gateway(&self.cluster.state(), self.configured);
        self.connections.change_timings(settings.cti);
        let secs = settings.session_timer_secs;
        self.take_in(Input::SessionTimerChanged { secs });
    }

    fn status(&mut self, status: &ClusterStatus) {
        for subject in Subject::ALL {
            let condition = status
                .conditions
                .iter()
                .find(|condition| condition.subject == subject && condition.severity == Severity::NotReady);
            match condition {
                Some(condition) => self.readiness.not_ready(subject.label(), condition.text.clone()),
                None => self.readiness.resolved(subject.label()),
            }
        }
        // The state has moved on, whether or not that changed anything for those who follow it.
        self.heard(Heard::Changes(&[]));
        self.take_in(Input::AuthorityChanged(status.authority));
    }

    fn deadline(&mut self) {
        let now = environment::now();
        if self.following.next_deadline().is_some_and(|at| at <= now) {
            self.heard(Heard::DeadlineReached);
        }
        if self.connections.next_deadline().is_some_and(|at| at <= now) {
            self.cti(CtiInput::DeadlineReached);
        }
        if self.gateway.next_deadline().is_some_and(|at| at <= now) {
            self.take_in(Input::DeadlineReached);
        }
    }

    fn follow_up(&mut self) {
        while let Some(input) = self.follow_ups.pop_front() {
            self.take_in(input);
        }
    }

    fn take_in(&mut self, input: Input) {
        let view = View {
            state: &self.cluster.state(),
            phones: &self.presence,
        };
        for output in self.gateway.handle(input, view, clock::now(&self.cluster)) {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send { pair, bytes } => self.send(pair, bytes),
            Output::ClosePair { pair } => {
                if let Some(sender) = self.senders.get(&pair) {
                    sender.close();
                }
            }
            Output::DialOutbound { target } => {
                let (route, id) = (self.outbound.clone(), self.pair_ids.next());
                let context = self.context.clone();
                let dialled = outbound::run(target, route, id, context);
                self.context.shutdown.spawn("outbound connection", dialled);
            }
            Output::CtiRequest {
                connection,
                token,
                request,
            } => {
                let outputs = self
                    .connections
                    .submit(connection, token, request, environment::now());
                self.perform_cti(outputs);
            }
            Output::Propose { batch, command } => self.propose(batch, command),
            Output::Report(report) => self.report(&report),
        }
    }

    fn send(&self, pair: PairId, bytes: bytes::Bytes) {
        let Some(sender) = self.senders.get(&pair) else {
            return self.context.metrics.send_failures.inc();
        };
        match sender.try_send(bytes) {
            Ok(()) => {}
            Err(SendRefused::Full) => {
                // A front end that does not read is as good as gone; it asks again elsewhere.
                warn!(?pair, "a front end does not read: its connection is closed");
                self.context.metrics.send_failures.inc();
                sender.close();
            }
            Err(SendRefused::Closed) => self.context.metrics.send_failures.inc(),
        }
    }

    fn propose(&self, batch: u64, command: Command) {
        let (cluster, events) = (self.cluster.clone(), self.context.events.clone());
        tokio::spawn(async move {
            let applied = match cluster.propose(command, PROPOSE_TIMEOUT).await {
                Ok(applied) => Some(applied),
                Err(error) => {
                    debug!(%error, "a batch was not committed in time");
                    // One that failed at once is not tried again at once.
                    tokio::time::sleep(PROPOSE_PAUSE).await;
                    None
                }
            };
            // The loop may be gone already.
            let _ = events
                .send(DriverEvent::Gateway(Input::Committed { batch, applied }))
                .await;
        });
    }

    fn register(&self, incarnation: u64) {
        let (cluster, events) = (self.cluster.clone(), self.context.events.clone());
        let (id, sip_address) = (self.identity.id, self.identity.sip_address);
        tokio::spawn(async move {
            let applied = registration::register(&cluster, id, sip_address, incarnation).await;
            // The loop may be gone already.
            let _ = events.send(DriverEvent::RegistrationAnswered(applied)).await;
        });
    }

    fn cti(&mut self, input: CtiInput) {
        let outputs = self.connections.handle(input, environment::now());
        self.perform_cti(outputs);
    }

    fn perform_cti(&mut self, outputs: Vec<CtiOutput>) {
        for output in outputs {
            match output {
                CtiOutput::Connect { link } => {
                    if let Some(address) = self.connections.address(link.connection).map(ToOwned::to_owned) {
                        self.links.connect(link, &address);
                    }
                }
                CtiOutput::Write { link, bytes } => {
                    if let Some(failed) = self.links.write(link, bytes) {
                        self.cti(failed);
                    }
                }
                CtiOutput::Close { link } => self.links.close(link),
                CtiOutput::Answered { token, result } => {
                    self.follow_ups.push_back(Input::CtiAnswered { token, result });
                }
                CtiOutput::Event { connection, event } => self.follow_ups.push_back(Input::CtiEvent {
                    connection,
                    event: Box::new(event),
                }),
                CtiOutput::MonitorStopped {
                    connection,
                    cross_ref_id,
                } => self.follow_ups.push_back(Input::CtiMonitorStopped {
                    connection,
                    cross_ref_id,
                }),
                CtiOutput::ConnectionUp { connection } => {
                    info!(
                        connection = self.cti_name(connection.0),
                        "CTI connection in service"
                    );
                    self.follow_ups.push_back(Input::CtiInService { connection });
                    self.show_metrics();
                }
                CtiOutput::ConnectionDown { connection, reason } => {
                    let name = self.cti_name(connection.0);
                    warn!(connection = name, %reason, "CTI connection out of service");
                    self.context.metrics.link_lost(name, reason);
                    self.follow_ups.push_back(Input::CtiOutOfService { connection });
                    self.show_metrics();
                }
            }
        }
    }

    fn cti_name(&self, index: usize) -> &str {
        self.identity
            .cti_names
            .get(index)
            .map_or("unknown", String::as_str)
    }

    fn show_metrics(&self) {
        let metrics = &self.context.metrics;
        metrics.show_census(&self.gateway.census(), &self.identity.cti_names);
        metrics.show_replicated_watchers(self.cluster.state().watchers().len());
        let now = environment::now();
        for status in self.connections.statuses() {
            metrics.show_cti(&status, now);
        }
    }

    fn report(&self, report: &Report) {
        self.context.metrics.record(report, &self.identity.cti_names);
        match report {
            Report::SessionStarted {
                key,
                user,
                line,
                device,
                connection,
                replicated,
                subject,
            } => {
                let connection = self.cti_name(connection.0);
                info!(session = %key, user, line, device, connection, replicated, subject, "session started");
            }
            Report::SessionMovedHere { key, user, epoch } => {
                info!(session = %key, user, epoch, "session moved here")
            }
            Report::SessionMovedAway { key, to } => {
                let to = to.map(|node| node.to_string());
                info!(session = %key, to, "session moved away");
            }
            Report::SessionRebalanced { key } => info!(session = %key, "session handed over"),
            Report::SessionRelinked { key, connection } => {
                let connection = self.cti_name(connection.0);
                info!(session = %key, connection, "session goes on at a CTI connection");
            }
            Report::SessionEnded { key, user, reason } => {
                info!(session = %key, user, reason = reason.label(), "session ended");
            }
            Report::Fenced { key } => {
                warn!(session = %key, "a front end says that another node owns the session")
            }
            Report::IntentRepeated {
                service,
                known_result,
            } => {
                info!(
                    service,
                    known_result, "a repeated command is not carried out again"
                );
            }
            Report::Watcher(_)
            | Report::Published(_)
            | Report::Answered { .. }
            | Report::CstaError { .. }
            | Report::EventSent { .. }
            | Report::EventUnanswered
            | Report::EventOfUnknownMonitor
            | Report::EventDropped => {}
        }
    }
}

/// Why the node is not ready.
pub const REGISTRATION: &str = "registration";

const METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// One attempt to commit a batch; what has more time goes again with the next one.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(1);
const PROPOSE_PAUSE: Duration = Duration::from_millis(20);
