//! The loop around the gateway. It has no opinion.

use std::time::Duration;

use tandem_cluster::{Applied, Change};
use tandem_raft::{ChangeReceiver, Cluster, ClusterStatus};
use tandem_runtime::io::environment;
use tandem_runtime::io::sip_stream::SipSender;
use tandem_runtime::io::watchdog::Pulse;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::cti::CtiInput;
use crate::following::{Following, Heard, Step};
use crate::gateway::{Gateway, Input, Output, Shell, View};
use crate::settings::{self, GatewaySettings};

use super::cti_link::CtiLinks;
use super::outbound::OutboundRoute;
use super::pair_senders::PairSenders;
use super::presence::PresenceView;
use super::rebalancing::Rebalancing;
use super::registration::Place;
use super::reports::Reporter;
use super::sip_connection::{ConnectionContext, OpenPair};
use super::sip_listener::PairIds;
use super::{clock, proposing};

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
    pub links: CtiLinks,
    pub cluster: Cluster,
    pub place: Place,
    pub reporter: Reporter,
    pub events: mpsc::Receiver<DriverEvent>,
    pub cti_inputs: mpsc::Receiver<CtiInput>,
    pub context: ConnectionContext,
    pub outbound: OutboundRoute,
    pub pair_ids: PairIds,
    pub rebalancing: Rebalancing,
    pub pulse: Pulse,
    pub pairs: PairSenders,
    pub following: Following,
    /// What holds where nothing was set in the cluster.
    pub configured: GatewaySettings,
    pub presence: PresenceView,
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
        self.take_in(Input::Cti(CtiInput::Started));
        loop {
            self.pulse.beat();
            match self.next(&mut changes, &mut status, &mut tick).await {
                Woken::Event(DriverEvent::Stop) | Woken::Ended => break,
                Woken::Event(event) => self.event(event),
                Woken::Cti(input) => self.take_in(Input::Cti(input)),
                Woken::Changes(changes) => self.heard(Heard::Changes(&changes)),
                Woken::Status(status) => self.status(&status),
                Woken::Deadline => self.deadline(),
                Woken::Tick => self.reporter.show(&self.gateway, &self.cluster.state()),
            }
        }
        self.take_in(Input::Stopped);
        self.pairs.close_all();
    }

    async fn next(
        &mut self,
        changes: &mut ChangeReceiver,
        status: &mut watch::Receiver<ClusterStatus>,
        tick: &mut tokio::time::Interval,
    ) -> Woken {
        let deadlines = [self.gateway.next_deadline(), self.following.next_deadline()];
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
                self.pairs.opened(id, sender);
                self.take_in(match target {
                    Some(target) => Input::OutboundOpened { target, id, pair },
                    None => Input::PairOpened { id, pair },
                });
            }
            DriverEvent::Gateway(input) => {
                if let Input::PairClosed { id } = &input {
                    self.pairs.closed(*id);
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
            Step::Register { incarnation } => {
                let (cluster, events) = (self.cluster.clone(), self.context.events.clone());
                tokio::spawn(self.place.identity().register(cluster, incarnation, events));
            }
            Step::Joined => self.place.joined(),
            Step::Left {
                standing,
                incarnation,
            } => self.place.left(standing, incarnation),
            Step::TakeInSettings => self.take_in_settings(),
            Step::Rebalance { per_second } => {
                let events = Some(&self.context.events);
                // One that goes on is not begun anew.
                let _ = self.rebalancing.start(&self.cluster, events, per_second);
            }
        }
    }

    fn take_in_settings(&mut self) {
        let settings = settings::gateway(&self.cluster.state(), self.configured);
        self.take_in(Input::SettingsChanged(settings));
    }

    fn status(&mut self, status: &ClusterStatus) {
        self.place.show(status);
        // The state has moved on, whether or not that changed anything for those who follow it.
        self.heard(Heard::Changes(&[]));
        self.take_in(Input::AuthorityChanged(status.authority));
    }

    fn deadline(&mut self) {
        let now = environment::now();
        if self.following.next_deadline().is_some_and(|at| at <= now) {
            self.heard(Heard::DeadlineReached);
        }
        if self.gateway.next_deadline().is_some_and(|at| at <= now) {
            self.take_in(Input::DeadlineReached);
        }
    }
}

impl Shell for Driver {
    fn handle(&mut self, input: Input) -> Vec<Output> {
        let view = View {
            state: &self.cluster.state(),
            phones: &self.presence,
        };
        self.gateway.handle(input, view, clock::now(&self.cluster))
    }

    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Send { pair, bytes } => self.pairs.send(pair, bytes, &self.context.metrics),
            Output::ClosePair { pair } => self.pairs.close(pair),
            Output::DialOutbound { target } => {
                self.outbound.dial(target, self.pair_ids.next(), &self.context)
            }
            Output::ConnectLink { link, address } => self.links.connect(link, &address),
            Output::WriteLink { link, bytes } => return self.links.write(link, bytes).map(Input::Cti),
            Output::CloseLink { link } => self.links.close(link),
            Output::Propose { batch, command } => {
                let (cluster, events) = (self.cluster.clone(), self.context.events.clone());
                tokio::spawn(proposing::propose(cluster, batch, command, events));
            }
            Output::Report(report) => self.reporter.report(&report, &self.gateway),
        }
        None
    }
}

const METRICS_INTERVAL: Duration = Duration::from_secs(1);
