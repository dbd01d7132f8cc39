//! The loop around the calendars of this node. It makes no decisions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::{Authority, CalendarChange, CasEndpoint, CasId, Change, NodeId};
use tandem_raft::{ChangeReceiver, Cluster, ClusterStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tracing::info;

use crate::calendar::{CalendarSettings, Calendars, Explanation, GatewayHealth, Input, StreamId};
use crate::directory::Directory;
use crate::following::Standing;
use crate::io::presence::PresenceOut;
use crate::metrics::CalendarMetrics;
use crate::settings;

use super::callbacks::{Callbacks, notification_of};
use super::client::EwsClient;
use super::performing::Awaited;
use super::push::CallbackUrls;
use super::push_listener::CallbackArrived;
use super::replicated;
use super::reports::Reports;
use super::streaming::StreamHandle;

/// The parts that the loop holds together.
pub struct CalendarDriver {
    pub id: NodeId,
    /// Of the incarnation that the cluster has accepted.
    pub incarnation: watch::Receiver<u64>,
    pub calendars: Calendars,
    pub cluster: Cluster,
    pub directory: watch::Receiver<Arc<Directory>>,
    pub client: EwsClient,
    pub credential_changes: watch::Receiver<u64>,
    /// `None`: nothing listens for callbacks.
    pub push: Option<CallbackUrls>,
    pub arrived: Option<mpsc::Receiver<CallbackArrived>>,
    pub presence: PresenceOut,
    pub questions: mpsc::Receiver<Question>,
    pub metrics: CalendarMetrics,
    /// As in the configuration file.
    pub defaults: CalendarSettings,
    /// For a cluster that has none.
    pub initial_gateways: Vec<(CasId, CasEndpoint)>,
}

/// Requests of other tasks to the loop.
#[derive(Debug)]
pub enum Question {
    Explain {
        user: String,
        answer: oneshot::Sender<Option<Explanation>>,
    },
    Gateways {
        answer: oneshot::Sender<GatewaysAnswer>,
    },
    /// The node's users have other owners: the loop ends when the work under way is done, or soon after.
    Stop,
}

#[derive(Debug, Clone)]
pub struct GatewaysAnswer {
    pub gateways: Vec<GatewayHealth>,
    pub credential_refused: bool,
}

impl CalendarDriver {
    /// Runs until it is told to stop.
    pub async fn run(self) {
        let (sender, inputs) = mpsc::channel(INPUTS_WAITING_MAX);
        let running = Running {
            callbacks: Callbacks::new(self.cluster.clone(), self.metrics.clone()),
            reports: Reports::new(self.metrics.clone()),
            driver: self,
            sender,
            inputs,
            tasks: JoinSet::new(),
            awaited: HashMap::new(),
            streams: HashMap::new(),
            registered: None,
            may_start: false,
            shown: BTreeSet::new(),
            users_enabled: 0,
            ticks: 0,
        };
        running.run().await;
    }
}

pub(super) struct Running {
    pub(super) driver: CalendarDriver,
    callbacks: Callbacks,
    pub(super) reports: Reports,
    pub(super) sender: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    /// Requests and proposals under way; the calendars bound their number.
    pub(super) tasks: JoinSet<Input>,
    pub(super) awaited: HashMap<Id, Awaited>,
    pub(super) streams: HashMap<StreamId, StreamHandle>,
    /// The incarnation under which the state shows this node live.
    registered: Option<u64>,
    may_start: bool,
    shown: BTreeSet<CasId>,
    users_enabled: usize,
    ticks: u64,
}

enum Woken {
    Changes(Vec<Change>),
    StatusChanged,
    Input(Input),
    Done(Result<(Id, Input), JoinError>),
    Called(CallbackArrived),
    Asked(Question),
    DirectoryChanged,
    CredentialChanged,
    IncarnationChanged,
    CallbackAddressChanged,
    Deadline,
    Tick,
    Ended,
}

impl Running {
    async fn run(mut self) {
        let mut changes = self.driver.cluster.changes();
        let mut status = self.driver.cluster.status();
        status.mark_changed();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.standing_changed();
        loop {
            match self.next(&mut changes, &mut status, &mut tick).await {
                Woken::Ended | Woken::Asked(Question::Stop) => break,
                Woken::Changes(changes) => self.changes(&changes),
                Woken::StatusChanged | Woken::IncarnationChanged => self.standing_changed(),
                Woken::Input(input) => self.take_in(input),
                Woken::Done(done) => self.done(done),
                Woken::Called(arrived) => self.called(arrived),
                Woken::Asked(question) => self.asked(question),
                Woken::DirectoryChanged => self.take_in_users(),
                Woken::CredentialChanged => self.take_in(Input::CredentialChanged),
                Woken::CallbackAddressChanged => self.take_in(Input::CallbackAddressChanged),
                Woken::Deadline => self.take_in(Input::DeadlineReached),
                Woken::Tick => self.tick(),
            }
        }
        self.finish().await;
    }

    async fn next(
        &mut self,
        changes: &mut ChangeReceiver,
        status: &mut watch::Receiver<ClusterStatus>,
        tick: &mut Interval,
    ) -> Woken {
        let deadline = self.driver.calendars.next_deadline();
        let sleep = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.recv() => changed.map_or(Woken::Ended, Woken::Changes),
            changed = status.changed() => match changed {
                Ok(()) => Woken::StatusChanged,
                Err(_) => Woken::Ended,
            },
            Ok(()) = self.driver.directory.changed() => Woken::DirectoryChanged,
            Ok(()) = self.driver.credential_changes.changed() => Woken::CredentialChanged,
            true = address_changed(&mut self.driver.push) => Woken::CallbackAddressChanged,
            Ok(()) = self.driver.incarnation.changed() => Woken::IncarnationChanged,
            Some(done) = self.tasks.join_next_with_id() => Woken::Done(done),
            Some(input) = self.inputs.recv() => Woken::Input(input),
            Some(arrived) = called_back(&mut self.driver.arrived) => Woken::Called(arrived),
            question = self.driver.questions.recv() => question.map_or(Woken::Ended, Woken::Asked),
            () = sleep => Woken::Deadline,
            _ = tick.tick() => Woken::Tick,
        }
    }

    fn changes(&mut self, changes: &[Change]) {
        let mut reassigned = Vec::new();
        for change in changes {
            self.change(change, &mut reassigned);
        }
        if !reassigned.is_empty() {
            self.reassigned(reassigned);
        }
    }

    fn change(&mut self, change: &Change, reassigned: &mut Vec<String>) {
        match change {
            Change::Node(_) => {
                self.standing_changed();
                self.take_in_recorded();
            }
            Change::Setting { .. } => self.take_in_settings(),
            Change::Calendar(change) => self.calendar_change(change, reassigned),
            Change::Replaced => {
                self.standing_changed();
                self.take_in_state();
            }
            // These are the gateway's, the watchers' and those of whoever evens out shares.
            Change::Session(_)
            | Change::Watcher(_)
            | Change::Presence { .. }
            | Change::RebalanceRequested { .. } => {}
        }
    }

    fn calendar_change(&mut self, change: &CalendarChange, reassigned: &mut Vec<String>) {
        match change {
            CalendarChange::Gateways => self.take_in_gateways(),
            CalendarChange::Enabled { .. } => self.take_in_users(),
            CalendarChange::Assigned { user } => reassigned.push(user.clone()),
            CalendarChange::CallbacksReceived { callbacks } => {
                for note in callbacks {
                    if self.owns(&note.user) {
                        self.take_in(Input::Pushed {
                            user: note.user.clone(),
                            attempt: note.attempt,
                            notification: notification_of(note),
                        });
                    }
                }
            }
        }
    }

    /// Until the cluster has accepted the node, log entries about it concern an earlier incarnation.
    fn standing_changed(&mut self) {
        let incarnation = *self.driver.incarnation.borrow_and_update();
        let (id, cluster) = (self.driver.id, &self.driver.cluster);
        let standing = Standing::of(&cluster.state(), id, incarnation);
        let has_authority = cluster.status().borrow().authority != Authority::Isolated;
        let registered = (standing == Standing::Live).then_some(incarnation);
        let begins = registered.is_some() && registered != self.registered;
        if begins && self.registered.take().is_some() {
            // Lost and registered again between two looks: other nodes have owned this node's users meanwhile.
            self.take_in_live_nodes();
        }
        self.registered = registered;
        if begins {
            self.take_in_state();
            self.propose_initial_gateways();
        } else {
            self.take_in_live_nodes();
        }
        let may_start = registered.is_some() && has_authority;
        if may_start != self.may_start {
            self.may_start = may_start;
            self.take_in(Input::AuthorityChanged { may_start });
        }
    }

    fn take_in_state(&mut self) {
        self.take_in_settings();
        self.take_in_gateways();
        self.take_in_live_nodes();
        self.take_in_users();
        let directory = self.driver.directory.borrow().clone();
        let state = self.driver.cluster.state();
        let assignments = replicated::all_assignments(&state, &directory);
        self.take_in(Input::Assignments(assignments));
        self.take_in_recorded();
    }

    fn take_in_recorded(&mut self) {
        let state = self.driver.cluster.state();
        let recorded = replicated::recorded(&state);
        self.take_in(Input::Recorded(recorded));
    }

    fn take_in_settings(&mut self) {
        let (cluster, defaults) = (&self.driver.cluster, &self.driver.defaults);
        let (users, has_push) = (self.users_enabled, self.driver.push.is_some());
        let state = cluster.state();
        let settings = settings::calendars(&state, users, defaults, has_push);
        if let Some(push) = &self.driver.push {
            let port = settings::push_port(&state);
            push.move_to(
                port,
                Duration::from_secs(u64::from(settings.status_frequency) * 60),
            );
        }
        self.take_in(Input::Settings(settings));
    }

    fn take_in_gateways(&mut self) {
        let gateways = self.driver.cluster.state().cas_gateways().to_vec();
        self.driver.client.set_gateways(&gateways);
        self.take_in(Input::Gateways(gateways));
    }

    fn take_in_live_nodes(&mut self) {
        let nodes = match self.registered.is_some() {
            true => self.driver.cluster.state().live_nodes().collect(),
            false => Vec::new(),
        };
        self.take_in(Input::LiveNodes(nodes));
    }

    fn take_in_users(&mut self) {
        let directory = self.driver.directory.borrow_and_update().clone();
        let state = self.driver.cluster.state();
        let users = replicated::calendar_users(&state, &directory);
        let count = std::mem::replace(&mut self.users_enabled, users.len());
        if count != self.users_enabled {
            // The spread may depend on their number.
            self.take_in_settings();
        }
        self.take_in(Input::Users(users));
    }

    fn reassigned(&mut self, users: Vec<String>) {
        let id = self.driver.id;
        let state = self.driver.cluster.state();
        let (assignments, own) = replicated::assignments_of(&state, users, id);
        for assignment in &own {
            self.driver.metrics.assigned(assignment);
        }
        self.take_in(Input::Assignments(assignments));
    }

    fn propose_initial_gateways(&mut self) {
        let gateways = std::mem::take(&mut self.driver.initial_gateways);
        if !gateways.is_empty() {
            tokio::spawn(replicated::propose_gateways(
                self.driver.cluster.clone(),
                gateways,
            ));
        }
    }

    fn owns(&self, user: &str) -> bool {
        let owner = self.driver.cluster.state().calendar_owner(user);
        self.registered.is_some() && owner == Some(self.driver.id)
    }

    fn called(&mut self, arrived: CallbackArrived) {
        let is_ours = self.owns(&arrived.user);
        for input in self.callbacks.take(arrived, is_ours, &self.driver.calendars) {
            self.take_in(input);
        }
    }

    fn asked(&self, question: Question) {
        let calendars = &self.driver.calendars;
        // The caller may be gone.
        match question {
            Question::Explain { user, answer } => drop(answer.send(calendars.explain(&user))),
            Question::Gateways { answer } => drop(answer.send(GatewaysAnswer {
                gateways: calendars.gateway_statuses(),
                credential_refused: calendars.census().credential_refused,
            })),
            Question::Stop => {}
        }
    }

    fn tick(&mut self) {
        self.callbacks.flush();
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_SHOW) {
            self.reports.summarize();
            self.show_metrics();
        }
    }

    fn show_metrics(&mut self) {
        let (metrics, calendars) = (&self.driver.metrics, &self.driver.calendars);
        metrics.show_census(&calendars.census());
        let statuses = calendars.gateway_statuses();
        for health in &statuses {
            metrics.show_gateway(health);
        }
        let shown: BTreeSet<CasId> = statuses.into_iter().map(|health| health.gateway).collect();
        metrics.forget_gateways(&self.shown.difference(&shown).cloned().collect());
        self.shown = shown;
    }

    /// Sends what the calendars still have to tell Exchange.
    async fn finish(mut self) {
        self.streams.clear();
        let under_way = self.tasks.len();
        let all_done = async { while self.tasks.join_next().await.is_some() {} };
        let done = tokio::time::timeout(LAST_REQUESTS, all_done).await.is_ok();
        info!(under_way, done, "calendars handed over");
        self.tasks.shutdown().await;
    }
}

/// `false` where nothing listens.
async fn address_changed(push: &mut Option<CallbackUrls>) -> bool {
    match push {
        Some(push) => push.changed().await,
        None => false,
    }
}

/// Without a listener no callbacks come.
async fn called_back(arrived: &mut Option<mpsc::Receiver<CallbackArrived>>) -> Option<CallbackArrived> {
    match arrived {
        Some(arrived) => arrived.recv().await,
        None => None,
    }
}

const TICK: Duration = Duration::from_millis(500);
/// The metrics of a hundred thousand users are counted, not kept.
const TICKS_PER_SHOW: u64 = 4;
const INPUTS_WAITING_MAX: usize = 4096;
const LAST_REQUESTS: Duration = Duration::from_secs(2);
