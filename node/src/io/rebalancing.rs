//! Carries out runs that even out shares ([`crate::rebalancing`]), one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tandem_cluster::{Authority, Command, NodeId};
use tandem_raft::Cluster;
use tandem_runtime::io::environment;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use crate::gateway::Input;
use crate::rebalancing::{Order, Progress, Run, Share, Step};

use super::clock;
use super::driver::DriverEvent;

/// The run that goes on, or the last one of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rebalancing {
    share: Share,
    node: NodeId,
    progress: watch::Sender<Progress>,
    /// An administrator wanted the next run of this node.
    asked_here: Arc<AtomicBool>,
}

impl Rebalancing {
    #[must_use]
    pub fn new(share: Share, node: NodeId) -> Self {
        Self {
            share,
            node,
            progress: watch::Sender::default(),
            asked_here: Arc::default(),
        }
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Until this node has begun the run after `run`.
    pub async fn begun_after(&self, run: u64) {
        let mut progress = self.progress.subscribe();
        // A node that lags begins later: the caller has its answer all the same.
        let _ = timeout(BEGIN_WAIT, progress.wait_for(|progress| progress.run > run)).await;
    }

    /// The next request comes of an administrator who asks here.
    pub fn asked_here(&self) {
        self.asked_here.store(true, Ordering::Relaxed);
    }

    /// Begins a run and returns how many moves it plans; `None` while one is running. Sessions are handed over through
    /// `events`; users need none.
    pub fn start(
        &self,
        cluster: &Cluster,
        events: Option<&mpsc::Sender<DriverEvent>>,
        per_second: u32,
    ) -> Option<usize> {
        if !self.progress.send_if_modified(Progress::begin) {
            return None;
        }
        let order = Order {
            share: self.share,
            node: self.node,
            per_second,
            asked_here: self.asked_here.swap(false, Ordering::Relaxed),
        };
        let run = Run::new(order, self.progress(), &cluster.state(), environment::now());
        let planned = run.progress().planned;
        self.progress.send_replace(run.progress());
        info!(what = self.share.label(), planned, per_second, "rebalancing");
        let runner = Runner {
            cluster: cluster.clone(),
            events: events.cloned(),
            progress: self.progress.clone(),
        };
        tokio::spawn(runner.run(run, self.share.label()));
        Some(planned)
    }
}

struct Runner {
    cluster: Cluster,
    events: Option<mpsc::Sender<DriverEvent>>,
    progress: watch::Sender<Progress>,
}

impl Runner {
    async fn run(self, mut run: Run, what: &'static str) {
        while let Some(at) = run.next_deadline() {
            sleep_until(at.into()).await;
            let has_quorum = self.cluster.status().borrow().authority == Authority::Quorum;
            let steps = run.handle(&self.cluster.state(), has_quorum, environment::now());
            self.progress.send_replace(run.progress());
            for step in steps {
                self.perform(step).await;
            }
        }
        let Progress {
            state,
            planned,
            moved,
            remaining,
            ..
        } = run.progress();
        info!(what, ?state, planned, moved, remaining, "rebalancing has ended");
    }

    async fn perform(&self, step: Step) {
        match step {
            Step::HandOver { key, to } => {
                let input = Input::HandOver { key, to };
                if let Some(events) = &self.events {
                    // The loop may be gone already.
                    let _ = events.send(DriverEvent::Gateway(input)).await;
                }
            }
            Step::MoveUsers(users) => {
                let at_ms = clock::unix_ms();
                self.propose(Command::CasMoved { users, at_ms }).await;
            }
            Step::AskAgain { per_second } => {
                info!("no sessions were handed over; repeating the request");
                self.propose(Command::Rebalance { per_second }).await;
            }
        }
    }

    /// What was not committed is asked for again.
    async fn propose(&self, command: Command) {
        if let Err(error) = self.cluster.propose(command, PROPOSE_TIMEOUT).await {
            warn!(%error, "a step of rebalancing was not committed");
        }
    }
}

const BEGIN_WAIT: Duration = Duration::from_secs(1);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
