//! The stages of a drain, their deadline, and the tasks still running.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::environment;

/// How far a process has come on its way out. Stages only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// `/readyz` fails, so that whoever sends us work looks elsewhere; work that comes is still taken.
    LookAway,
    /// No connection is accepted any more.
    StopAccepting,
    /// What is there is finished or handed to others.
    Drain,
    /// The deadline has passed, or all is drained: what still runs ends now.
    Close,
}

/// Why a drain began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShutdownReason {
    /// SIGTERM or SIGINT.
    Signal(&'static str),
    /// A task that should have run for ever did not.
    TaskEnded(&'static str),
}

/// How long each stage of a drain may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainTimings {
    /// From `LookAway` to `StopAccepting`: a probe period or two of whoever looks at `/readyz`.
    pub look_away: Duration,
    /// From `StopAccepting` to `Close`, at most.
    pub deadline: Duration,
    /// What tasks are given after `Close` before they are left behind.
    pub close: Duration,
}

impl Default for DrainTimings {
    fn default() -> Self {
        Self {
            look_away: Duration::from_millis(500),
            deadline: Duration::from_secs(20),
            close: Duration::from_secs(1),
        }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Every task finished by itself.
    Drained,
    /// These were cut off: name and number of tasks.
    Cut(Vec<(&'static str, usize)>),
}

/// A handle of the process's way out; every task has one.
#[derive(Debug, Clone)]
pub struct Shutdown {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stage: watch::Sender<Stage>,
    reason: watch::Sender<Option<ShutdownReason>>,
    tasks: watch::Sender<BTreeMap<&'static str, usize>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    #[must_use]
    pub fn new() -> Self {
        let (stage, reason, tasks) = (
            watch::Sender::new(Stage::Serving),
            watch::Sender::new(None),
            watch::Sender::new(BTreeMap::new()),
        );
        Self {
            shared: Arc::new(Shared { stage, reason, tasks }),
        }
    }

    #[must_use]
    pub fn stage(&self) -> Stage {
        *self.shared.stage.borrow()
    }

    /// Returns once `stage` is reached or passed.
    pub async fn reached(&self, stage: Stage) {
        let mut stages = self.shared.stage.subscribe();
        // The sender lives in `self`, so it cannot have gone.
        let _ = stages.wait_for(|&now| now >= stage).await;
    }

    /// Goes on to `stage`; never back.
    pub fn advance(&self, stage: Stage) {
        self.shared.stage.send_if_modified(|now| {
            let further = stage > *now;
            *now = stage.max(*now);
            further
        });
    }

    /// Asks for a drain. The first reason stands.
    pub fn request(&self, reason: ShutdownReason) {
        self.shared.reason.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }

    /// Waits for SIGTERM, SIGINT, or a task's request.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub async fn requested(&self) -> std::io::Result<ShutdownReason> {
        let mut reasons = self.shared.reason.subscribe();
        let reason = tokio::select! {
            signal = environment::termination() => ShutdownReason::Signal(signal?),
            reason = reasons.wait_for(Option::is_some) => match reason.ok().and_then(|reason| reason.clone()) {
                Some(reason) => reason,
                None => ShutdownReason::TaskEnded("shutdown"),
            },
        };
        self.request(reason.clone());
        Ok(reason)
    }

    /// Runs a task that the drain waits for.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let tracked = self.track(name);
        tokio::spawn(async move {
            let _tracked = tracked;
            task.await
        })
    }

    /// As [`Self::spawn`], for a task without which the process is of no use: should it end or panic while the
    /// process is serving, a drain begins.
    pub fn spawn_vital<F>(&self, name: &'static str, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let vital = Vital {
            name,
            shutdown: self.clone(),
        };
        self.spawn(name, async move {
            let _vital = vital;
            task.await
        })
    }

    /// Counts a task until the returned value is dropped.
    #[must_use]
    pub fn track(&self, name: &'static str) -> Tracked {
        self.shared
            .tasks
            .send_modify(|tasks| *tasks.entry(name).or_default() += 1);
        Tracked {
            name,
            shutdown: self.clone(),
        }
    }

    /// The tasks still running: name and number.
    #[must_use]
    pub fn running(&self) -> Vec<(&'static str, usize)> {
        let tasks = self.shared.tasks.borrow();
        tasks.iter().map(|(&name, &count)| (name, count)).collect()
    }

    /// Returns when no tracked task is running.
    pub async fn all_finished(&self) {
        let mut tasks = self.shared.tasks.subscribe();
        // The sender lives in `self`, so it cannot have gone.
        let _ = tasks.wait_for(BTreeMap::is_empty).await;
    }

    /// Leads the process out: look away, stop accepting, drain while `hand_over` runs, close. Returns when all
    /// tasks have finished, or some time after the deadline without them.
    pub async fn drain(&self, timings: &DrainTimings, hand_over: impl Future<Output = ()>) -> DrainOutcome {
        self.advance(Stage::LookAway);
        tokio::time::sleep(timings.look_away).await;
        self.advance(Stage::StopAccepting);
        let finish = async {
            self.advance(Stage::Drain);
            hand_over.await;
            self.all_finished().await;
        };
        if tokio::time::timeout(timings.deadline, finish).await.is_ok() {
            self.advance(Stage::Close);
            info!("drained");
            return DrainOutcome::Drained;
        }
        let cut = self.running();
        warn!(?cut, "drain deadline passed; closing the remaining connections");
        self.advance(Stage::Close);
        let _ = tokio::time::timeout(timings.close, self.all_finished()).await;
        DrainOutcome::Cut(cut)
    }
}

/// One running task, counted until this is dropped.
#[derive(Debug)]
pub struct Tracked {
    name: &'static str,
    shutdown: Shutdown,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.shutdown.shared.tasks.send_modify(|tasks| {
            if let Some(count) = tasks.get_mut(self.name) {
                *count -= 1;
                if *count == 0 {
                    tasks.remove(self.name);
                }
            }
        });
    }
}

struct Vital {
    name: &'static str,
    shutdown: Shutdown,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if self.shutdown.stage() == Stage::Serving {
            self.shutdown.request(ShutdownReason::TaskEnded(self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_passes_every_stage_in_order_and_ends_when_the_tasks_do() {
        let shutdown = Shutdown::new();
        let (stage, mut seen) = tokio::sync::mpsc::unbounded_channel();
        for next in [Stage::LookAway, Stage::StopAccepting, Stage::Drain, Stage::Close] {
            let (shutdown, stage) = (shutdown.clone(), stage.clone());
            tokio::spawn(async move {
                shutdown.reached(next).await;
                stage.send(shutdown.stage()).unwrap();
            });
        }
        let finishing = shutdown.clone();
        shutdown.spawn("client", async move {
            finishing.reached(Stage::Drain).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        tokio::task::yield_now().await;
        assert_eq!(shutdown.running(), [("client", 1)]);
        let outcome = shutdown.drain(&DrainTimings::default(), async {}).await;
        assert_eq!(outcome, DrainOutcome::Drained);
        assert_eq!(shutdown.running(), []);
        tokio::task::yield_now().await;
        let mut stages = Vec::new();
        while let Ok(stage) = seen.try_recv() {
            stages.push(stage);
        }
        assert_eq!(
            (stages.len(), stages.first(), stages.last()),
            (4, Some(&Stage::LookAway), Some(&Stage::Close))
        );
        assert!(stages.is_sorted());
    }

    #[tokio::test(start_paused = true)]
    async fn what_outlives_the_deadline_is_cut_and_named() {
        let shutdown = Shutdown::new();
        let _stuck = [
            shutdown.track("client"),
            shutdown.track("client"),
            shutdown.track("witness"),
        ];
        let outcome = shutdown.drain(&DrainTimings::default(), async {}).await;
        assert_eq!(outcome, DrainOutcome::Cut(vec![("client", 2), ("witness", 1)]));
        assert_eq!(shutdown.stage(), Stage::Close);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hand_over_that_hangs_does_not_hold_the_drain_up() {
        let shutdown = Shutdown::new();
        let outcome = shutdown
            .drain(&DrainTimings::default(), std::future::pending())
            .await;
        assert_eq!(outcome, DrainOutcome::Cut(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_vital_task_that_panics_starts_a_drain_and_a_common_one_does_not() {
        let shutdown = Shutdown::new();
        let _ = shutdown.spawn("common", async { panic!("planted") }).await;
        assert_eq!(*shutdown.shared.reason.borrow(), None);
        let _ = shutdown.spawn_vital("vital", async { panic!("planted") }).await;
        assert_eq!(
            shutdown.requested().await.unwrap(),
            ShutdownReason::TaskEnded("vital")
        );
        assert_eq!(shutdown.running(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn stages_never_go_back_and_the_first_reason_stands() {
        let shutdown = Shutdown::new();
        shutdown.advance(Stage::Drain);
        shutdown.advance(Stage::LookAway);
        assert_eq!(shutdown.stage(), Stage::Drain);
        shutdown.request(ShutdownReason::TaskEnded("first"));
        shutdown.request(ShutdownReason::TaskEnded("second"));
        assert_eq!(
            shutdown.requested().await.unwrap(),
            ShutdownReason::TaskEnded("first")
        );
    }
}
