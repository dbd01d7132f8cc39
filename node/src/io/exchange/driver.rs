//! The loop around the calendars of this node. It makes no decisions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::{CasId, Change};
use tandem_raft::{ChangeReceiver, Cluster, ClusterStatus};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tracing::info;

use crate::calendar::{Calendars, Callback, CallbackId, CasHealth, Explanation, Input, StreamId};
use crate::directory::Directory;
use crate::io::presence::PresenceOut;
use crate::metrics::CalendarMetrics;
use tandem_exchange::ews::SubscriptionStatus;

use super::client::EwsClient;
use super::performing::Awaited;
use super::push::CallbackUrls;
use super::push_listener::CallbackArrived;
use super::reports::Reports;
use super::streaming::StreamHandle;

/// The parts that the loop holds together.
pub struct CalendarDriver {
    /// Under which the node registers.
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
}

/// Requests of other tasks to the loop.
#[derive(Debug)]
pub enum Question {
    Explain {
        user: String,
        answer: oneshot::Sender<Option<Explanation>>,
    },
    CasList {
        answer: oneshot::Sender<CasAnswer>,
    },
    /// The node's users have other owners: the loop ends when the work under way is done, or soon after.
    Stop,
}

#[derive(Debug, Clone)]
pub struct CasAnswer {
    pub cas_list: Vec<CasHealth>,
    pub credential_refused: bool,
}

impl CalendarDriver {
    /// Runs until it is told to stop.
    pub async fn run(self) {
        let (sender, inputs) = mpsc::channel(INPUTS_WAITING_MAX);
        let running = Running {
            status: self.cluster.status(),
            callbacks: HashMap::new(),
            callbacks_taken: 0,
            reports: Reports::new(self.metrics.clone()),
            driver: self,
            sender,
            inputs,
            tasks: JoinSet::new(),
            awaited: HashMap::new(),
            streams: HashMap::new(),
            shown: BTreeSet::new(),
        };
        running.run().await;
    }
}

pub(super) struct Running {
    pub(super) driver: CalendarDriver,
    pub(super) status: watch::Receiver<ClusterStatus>,
    /// Those that wait for their answer, which comes in the same step.
    pub(super) callbacks: HashMap<CallbackId, oneshot::Sender<SubscriptionStatus>>,
    callbacks_taken: u64,
    pub(super) reports: Reports,
    pub(super) sender: mpsc::Sender<Input>,
    inputs: mpsc::Receiver<Input>,
    /// Requests and proposals under way; the calendars bound their number.
    pub(super) tasks: JoinSet<Input>,
    pub(super) awaited: HashMap<Id, Awaited>,
    pub(super) streams: HashMap<StreamId, StreamHandle>,
    /// CAS with metrics.
    shown: BTreeSet<CasId>,
}

enum Woken {
    Input(Input),
    Done(Result<(Id, Input), JoinError>),
    Called(CallbackArrived),
    Asked(Question),
    Tick,
    Ended,
}

impl Running {
    async fn run(mut self) {
        let mut changes = self.driver.cluster.changes();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.take_in(Input::StandingChanged);
        loop {
            match self.next(&mut changes, &mut tick).await {
                Woken::Ended | Woken::Asked(Question::Stop) => break,
                Woken::Input(input) => self.take_in(input),
                Woken::Done(done) => self.done(done),
                Woken::Called(arrived) => self.called(arrived),
                Woken::Asked(question) => self.asked(question),
                Woken::Tick => self.tick(),
            }
        }
        self.finish().await;
    }

    async fn next(&mut self, changes: &mut ChangeReceiver, tick: &mut Interval) -> Woken {
        let deadline = self.driver.calendars.next_deadline();
        let sleep = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.recv() => told(changed),
            changed = self.status.changed() => match changed {
                Ok(()) => Woken::Input(Input::StandingChanged),
                Err(_) => Woken::Ended,
            },
            Ok(()) = self.driver.directory.changed() => Woken::Input(Input::DirectoryChanged),
            Ok(()) = self.driver.credential_changes.changed() => Woken::Input(Input::CredentialChanged),
            true = address_changed(&mut self.driver.push) => Woken::Input(Input::CallbackAddressChanged),
            Ok(()) = self.driver.incarnation.changed() => Woken::Input(Input::StandingChanged),
            Some(done) = self.tasks.join_next_with_id() => Woken::Done(done),
            Some(input) = self.inputs.recv() => Woken::Input(input),
            Some(arrived) = called_back(&mut self.driver.arrived) => Woken::Called(arrived),
            question = self.driver.questions.recv() => question.map_or(Woken::Ended, Woken::Asked),
            () = sleep => Woken::Input(Input::DeadlineReached),
            _ = tick.tick() => Woken::Tick,
        }
    }

    fn called(&mut self, arrived: CallbackArrived) {
        self.callbacks_taken += 1;
        let id = CallbackId(self.callbacks_taken);
        self.callbacks.insert(id, arrived.verdict);
        self.take_in(Input::CalledBack(Callback {
            id,
            user: arrived.user,
            attempt: arrived.attempt,
            notifications: arrived.notifications,
        }));
    }

    fn asked(&self, question: Question) {
        let calendars = &self.driver.calendars;
        // The caller may be gone.
        match question {
            Question::Explain { user, answer } => drop(answer.send(calendars.explain(&user))),
            Question::CasList { answer } => drop(answer.send(CasAnswer {
                cas_list: calendars.cas_statuses(),
                credential_refused: calendars.census().credential_refused,
            })),
            Question::Stop => {}
        }
    }

    fn tick(&mut self) {
        self.reports.summarize();
        self.show_metrics();
    }

    fn show_metrics(&mut self) {
        let (metrics, calendars) = (&self.driver.metrics, &self.driver.calendars);
        metrics.show_census(&calendars.census());
        let statuses = calendars.cas_statuses();
        for health in &statuses {
            metrics.show_cas(health);
        }
        let shown: BTreeSet<CasId> = statuses.into_iter().map(|health| health.cas).collect();
        metrics.forget_cas(&self.shown.difference(&shown).cloned().collect());
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

fn told(changes: Option<Vec<Change>>) -> Woken {
    changes.map_or(Woken::Ended, |changes| Woken::Input(Input::Changes(changes)))
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

/// The metrics of a hundred thousand users are counted, not kept.
const TICK: Duration = Duration::from_secs(2);
const INPUTS_WAITING_MAX: usize = 4096;
const LAST_REQUESTS: Duration = Duration::from_secs(2);
