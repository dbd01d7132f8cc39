//! Rebalances users between CAS on request, at the given rate (CAL-2: nothing else moves a user whose subscription
//! works). The node that was asked sets the pace; the others see assignments change.

use std::time::Duration;

use serde::Serialize;
use tandem_cluster::{Authority, CasMove, Command};
use tandem_raft::Cluster;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::io::clock;
use crate::io::rebalancing::RunState;

/// The current run, or the last one of this node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CasRebalancing {
    progress: watch::Sender<CasProgress>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CasProgress {
    pub state: RunState,
    pub planned: usize,
    /// Requested so far. A user who was moved for another reason meanwhile stays there.
    pub moved: usize,
}

impl CasRebalancing {
    #[must_use]
    pub fn progress(&self) -> CasProgress {
        *self.progress.borrow()
    }

    /// Begins a run and returns how many users it moves; `None` while one is running.
    pub fn start(&self, cluster: &Cluster, per_second: u32) -> Option<usize> {
        let moves = cluster.state().cas_rebalancing_moves();
        let planned = moves.len();
        let begins = self.progress.send_if_modified(|progress| {
            let idle = progress.state != RunState::Running;
            if idle {
                *progress = CasProgress {
                    state: RunState::Running,
                    planned,
                    moved: 0,
                };
            }
            idle
        });
        if !begins {
            return None;
        }
        let run = Run {
            cluster: cluster.clone(),
            progress: self.progress.clone(),
        };
        tokio::spawn(run.run(moves, per_second.clamp(1, PER_SECOND_MAX)));
        Some(planned)
    }
}

struct Run {
    cluster: Cluster,
    progress: watch::Sender<CasProgress>,
}

impl Run {
    async fn run(self, moves: Vec<CasMove>, per_second: u32) {
        info!(planned = moves.len(), per_second, "rebalancing users between CAS");
        let (step, pause) = pace(per_second);
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for some in moves.chunks(step) {
            ticks.tick().await;
            if !self.has_quorum() || !self.propose(some).await {
                return self.finish(RunState::Stopped);
            }
            self.progress.send_modify(|progress| progress.moved += some.len());
        }
        self.finish(RunState::Done);
    }

    async fn propose(&self, moves: &[CasMove]) -> bool {
        let one = |step: &CasMove| (step.user.clone(), step.from_epoch, step.to.clone());
        let command = Command::CasMoved {
            users: moves.iter().map(one).collect(),
            at_ms: clock::unix_ms(),
        };
        let proposed = self.cluster.propose(command, PROPOSE_TIMEOUT).await;
        if let Err(error) = &proposed {
            warn!(%error, "rebalancing users between CAS stopped");
        }
        proposed.is_ok()
    }

    fn has_quorum(&self) -> bool {
        self.cluster.status().borrow().authority == Authority::Quorum
    }

    fn finish(&self, state: RunState) {
        self.progress.send_modify(|progress| progress.state = state);
        let CasProgress { planned, moved, .. } = *self.progress.borrow();
        info!(?state, planned, moved, "rebalanced users between CAS");
    }
}

/// Users per log entry, and the pause between entries: at most ten entries per second.
fn pace(per_second: u32) -> (usize, Duration) {
    let step = per_second.div_ceil(ENTRIES_PER_SECOND_MAX).max(1);
    let pause = Duration::from_secs(1) * step / per_second.max(1);
    (usize::try_from(step).unwrap_or(1), pause)
}

pub const PER_SECOND_MAX: u32 = 5000;
const ENTRIES_PER_SECOND_MAX: u32 = 10;
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_in_few_entries_of_the_log() {
        assert_eq!(pace(1), (1, Duration::from_secs(1)));
        assert_eq!(pace(5), (1, Duration::from_millis(200)));
        assert_eq!(pace(50), (5, Duration::from_millis(100)));
        assert_eq!(pace(5000), (500, Duration::from_millis(100)));
    }
}
