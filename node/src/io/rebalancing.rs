//! Hands over what this node owns beyond its share, a few sessions per second.
//!
//! Every node hears of the same request through the log and makes the same plan; each hands over its own sessions and
//! watches the others do so. What a session is doing decides when it leaves, so the gateway is asked again until it
//! has; what decides whether it has left is the replicated state. The request itself leaves no trace in the state, and
//! a node that was brought up to date by a snapshot has not heard of it: the node that was asked asks once more when
//! somebody hands over nothing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use tandem_cluster::{Authority, ClusterState, Command, NodeId, SessionMove};
use tandem_raft::Cluster;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::gateway::Input;

use super::driver::DriverEvent;

/// The run that goes on, or the last one. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Rebalancing {
    progress: watch::Sender<Progress>,
    /// An administrator wanted the next run of this node.
    asked_here: Arc<AtomicBool>,
}

/// How far a run has come, in the whole cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    pub state: RunState,
    /// Runs since the start of this node.
    pub run: u64,
    pub planned: usize,
    pub moved: usize,
    /// Neither moved nor given up; sessions that ended, or whose node went, are in none of these.
    pub remaining: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    #[default]
    Idle,
    Running,
    Done,
    /// Without a quorum nothing moves, and a session that is never at rest stays.
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Moved,
    Pending,
    /// The session has ended, or one of the two nodes is gone.
    Void,
}

impl Rebalancing {
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

    /// Begins a run, unless one goes on.
    pub fn start(&self, id: NodeId, cluster: &Cluster, events: &mpsc::Sender<DriverEvent>, per_second: u32) {
        let begins = self.progress.send_if_modified(|progress| {
            let idle = progress.state != RunState::Running;
            if idle {
                *progress = Progress {
                    state: RunState::Running,
                    run: progress.run + 1,
                    ..Progress::default()
                };
            }
            idle
        });
        if begins {
            let run = Run {
                id,
                cluster: cluster.clone(),
                events: events.clone(),
                progress: self.progress.clone(),
                asked_here: self.asked_here.swap(false, Ordering::Relaxed),
                moved_from: BTreeSet::new(),
            };
            tokio::spawn(run.run(per_second.clamp(1, PER_SECOND_MAX)));
        }
    }
}

struct Run {
    id: NodeId,
    cluster: Cluster,
    events: mpsc::Sender<DriverEvent>,
    progress: watch::Sender<Progress>,
    asked_here: bool,
    /// Nodes that have handed something over.
    moved_from: BTreeSet<NodeId>,
}

impl Run {
    async fn run(mut self, per_second: u32) {
        let mut pending: VecDeque<SessionMove> = self.cluster.state().rebalancing_moves().into();
        let planned = pending.len();
        info!(planned, per_second, "sessions are evened out");
        self.progress.send_modify(|progress| {
            progress.planned = planned;
            progress.remaining = planned;
        });
        let pause = Duration::from_secs(1) / per_second;
        let one_round = pause * u32::try_from(planned).unwrap_or(u32::MAX);
        let mut deadline = Instant::now() + one_round + PATIENCE;
        let ask_again_at = Instant::now() + one_round + ASK_AGAIN_AFTER;
        let mut pace = interval(pause);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(step) = self.next_pending(&mut pending) {
            pace.tick().await;
            if Instant::now() > deadline || !self.has_quorum() || !self.ask(&step).await {
                return self.finish(RunState::Stopped);
            }
            pending.push_back(step);
            if self.asked_here && Instant::now() > ask_again_at {
                self.asked_here = false;
                if hands_over_nothing(&pending, &self.moved_from, self.id) {
                    self.ask_again(per_second);
                    deadline += one_round;
                }
            }
        }
        self.finish(RunState::Done);
    }

    /// The next move that has not happened; those that have are counted.
    fn next_pending(&mut self, pending: &mut VecDeque<SessionMove>) -> Option<SessionMove> {
        while let Some(step) = pending.pop_front() {
            let state = self.cluster.state();
            let standing = standing(&state, &step);
            if standing == Standing::Pending {
                return Some(step);
            }
            if standing == Standing::Moved {
                self.moved_from.insert(step.from);
            }
            self.progress.send_modify(|progress| {
                progress.remaining = pending.len();
                progress.moved += usize::from(standing == Standing::Moved);
            });
        }
        None
    }

    fn has_quorum(&self) -> bool {
        self.cluster.status().borrow().authority == Authority::Quorum
    }

    /// `false` when the node stops.
    async fn ask(&self, step: &SessionMove) -> bool {
        if step.from != self.id {
            return true;
        }
        let input = Input::HandOver {
            key: step.key.clone(),
            to: step.to,
        };
        self.events.send(DriverEvent::Gateway(input)).await.is_ok()
    }

    /// Nodes whose run goes on ignore it.
    fn ask_again(&self, per_second: u32) {
        info!("a node hands over nothing: the request is repeated");
        let cluster = self.cluster.clone();
        tokio::spawn(async move {
            if let Err(error) = cluster
                .propose(Command::Rebalance { per_second }, PROPOSE_TIMEOUT)
                .await
            {
                warn!(%error, "the request was not repeated");
            }
        });
    }

    fn finish(&self, state: RunState) {
        self.progress.send_modify(|progress| progress.state = state);
        let Progress {
            planned,
            moved,
            remaining,
            ..
        } = *self.progress.borrow();
        info!(?state, planned, moved, remaining, "sessions have been evened out");
    }
}

/// Another node has moves to make and has made none: it may not have heard that it is to.
fn hands_over_nothing(pending: &VecDeque<SessionMove>, moved_from: &BTreeSet<NodeId>, own: NodeId) -> bool {
    let mut others = pending.iter().filter(|step| step.from != own);
    others.any(|step| !moved_from.contains(&step.from))
}

fn standing(state: &ClusterState, step: &SessionMove) -> Standing {
    match state.owner_of(&step.key) {
        Some(owner) if owner == step.to => Standing::Moved,
        Some(owner) if owner == step.from && state.is_live(step.to) => Standing::Pending,
        Some(_) | None => Standing::Void,
    }
}

pub const PER_SECOND_MAX: u32 = 1000;
/// Beyond the time that the pace takes: for sessions that are busy when they are asked.
const PATIENCE: Duration = Duration::from_secs(30);
const BEGIN_WAIT: Duration = Duration::from_secs(1);
/// Beyond the time that the pace takes, until the request is repeated.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tandem_cluster::{Epoch, SessionKey};

    use super::*;

    #[test]
    fn only_another_node_that_has_made_none_of_its_moves_is_asked_again() {
        let step = |from: u64| SessionMove {
            key: SessionKey::new(format!("n{from}-a")),
            from_epoch: Epoch::FIRST,
            from: NodeId(from),
            to: NodeId(9),
        };
        let asks = |pending: &[u64], moved_from: &[u64]| {
            let pending = pending.iter().map(|from| step(*from)).collect();
            let moved_from = moved_from.iter().map(|from| NodeId(*from)).collect();
            hands_over_nothing(&pending, &moved_from, NodeId(1))
        };
        assert!(asks(&[1, 2], &[1]));
        assert!(asks(&[2, 3], &[2]));
        assert!(!asks(&[1, 1], &[]), "its own sessions are busy");
        assert!(!asks(&[2, 3], &[2, 3]), "they have begun");
        assert!(!asks(&[], &[]));
    }
}
