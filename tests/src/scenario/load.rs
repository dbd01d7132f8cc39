//! Writes that go on at every node whatever happens, and what came of them.
//!
//! Owns the writers, the history that they make, and the longest time in which nobody was acknowledged anything. Does not
//! own the ledger, which knows what must not be lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

use super::{History, Ledger, OperationKind};
use crate::cluster::Cluster;

/// Writers that run until they are told to end.
#[derive(Debug)]
pub struct Load {
    history: History,
    pauses: Arc<Mutex<Pauses>>,
    /// Held for reading by the tasks that write to the cluster.
    work: Arc<RwLock<()>>,
    ends: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// While this lives, nobody writes.
#[derive(Debug)]
pub struct Rest {
    pauses: Arc<Mutex<Pauses>>,
    _work: OwnedRwLockWriteGuard<()>,
}

/// What a load came to.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Of ledger and registers together.
    pub acknowledged: usize,
    /// The longest time without an acknowledged write, while there was a quorum.
    pub longest_pause: Duration,
    pub history: History,
}

/// When nobody was acknowledged anything.
#[derive(Debug)]
struct Pauses {
    acknowledged: usize,
    last: Instant,
    longest: Duration,
    /// There is no quorum now.
    excused: bool,
    /// There was none at some time since the last acknowledgement.
    excused_since: bool,
}

impl Load {
    /// A writer at every node.
    pub fn start(cluster: &Cluster, ledger: &Ledger) -> anyhow::Result<Self> {
        let mut load = Self {
            history: History::default(),
            pauses: Arc::new(Mutex::new(Pauses::since(Instant::now()))),
            work: Arc::default(),
            ends: Arc::default(),
            tasks: Vec::new(),
        };
        for (number, node) in cluster.nodes().into_iter().enumerate() {
            let writer = NodeWriter {
                admin: cluster.admin(node)?,
                ledger: ledger.clone(),
                history: load.history.clone(),
                pauses: Arc::clone(&load.pauses),
                work: Arc::clone(&load.work),
                ends: Arc::clone(&load.ends),
            };
            load.tasks.push(tokio::spawn(writer.run(number)));
        }
        Ok(load)
    }

    /// From now on nothing can be acknowledged, or it can again.
    pub fn excuse(&self, excused: bool) {
        let mut pauses = lock(&self.pauses);
        pauses.excused = excused;
        pauses.excused_since = true;
    }

    /// Waits for the answers to what has been asked, and asks nothing more for a while.
    pub async fn rest(&self) -> Rest {
        let work = Arc::clone(&self.work).write_owned().await;
        let mut pauses = lock(&self.pauses);
        pauses.note(Instant::now());
        Rest {
            pauses: Arc::clone(&self.pauses),
            _work: work,
        }
    }

    /// The longest pause so far, which is forgotten. One that has not ended counts as well.
    #[must_use]
    pub fn take_longest_pause(&self) -> Duration {
        lock(&self.pauses).take_longest(Instant::now())
    }

    /// How many writes were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        lock(&self.pauses).acknowledged
    }

    /// Ends the writing.
    pub async fn end(self) -> anyhow::Result<Tally> {
        self.ends.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.context("a writer has failed")?;
        }
        let mut pauses = lock(&self.pauses);
        Ok(Tally {
            acknowledged: pauses.acknowledged,
            longest_pause: pauses.take_longest(Instant::now()),
            history: self.history,
        })
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let mut pauses = lock(&self.pauses);
        pauses.last = Instant::now();
        pauses.excused_since = pauses.excused;
    }
}

/// Writes at one node, one after the other.
struct NodeWriter {
    admin: SocketAddr,
    ledger: Ledger,
    history: History,
    pauses: Arc<Mutex<Pauses>>,
    work: Arc<RwLock<()>>,
    ends: Arc<AtomicBool>,
}

impl NodeWriter {
    /// The writers' `number`s make them meet at the same registers at different times.
    async fn run(self, number: usize) {
        let mut turn = number * REGISTERS / 2;
        while !self.ends.load(Ordering::Relaxed) {
            turn += 1;
            let working = self.work.read().await;
            if self.write(turn).await {
                lock(&self.pauses).acknowledged(Instant::now());
            }
            drop(working);
            tokio::time::sleep(BREATH).await;
        }
    }

    async fn write(&self, turn: usize) -> bool {
        if turn.is_multiple_of(LEDGER_EVERY) {
            let written = tokio::time::timeout(PATIENCE, self.ledger.write_one(self.admin));
            return matches!(written.await, Ok(Ok(())));
        }
        let key = format!("register{:02}", turn % REGISTERS);
        let kind = if turn.is_multiple_of(FAILS_EVERY) {
            OperationKind::Fail
        } else {
            OperationKind::Assign
        };
        self.history.perform(self.admin, &key, kind, PATIENCE).await
    }
}

impl Pauses {
    fn since(now: Instant) -> Self {
        Self {
            acknowledged: 0,
            last: now,
            longest: Duration::ZERO,
            excused: false,
            excused_since: false,
        }
    }

    fn acknowledged(&mut self, now: Instant) {
        self.acknowledged += 1;
        self.note(now);
        self.last = now;
        self.excused_since = self.excused;
    }

    fn note(&mut self, now: Instant) {
        if !self.excused_since {
            self.longest = self.longest.max(now - self.last);
        }
    }

    fn take_longest(&mut self, now: Instant) -> Duration {
        self.note(now);
        std::mem::take(&mut self.longest)
    }
}

fn lock(pauses: &Mutex<Pauses>) -> std::sync::MutexGuard<'_, Pauses> {
    pauses.lock().unwrap_or_else(PoisonError::into_inner)
}

const REGISTERS: usize = 50;
/// Neither has a divisor in common with the number of registers, so every register sees every kind of operation.
const LEDGER_EVERY: usize = 7;
const FAILS_EVERY: usize = 3;
/// A writer does not wait for ever for a node that is frozen or cut off.
const PATIENCE: Duration = Duration::from_secs(2);
const BREATH: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_without_quorum_is_excused_and_the_next_one_counts() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut pauses = Pauses::since(start);
        pauses.acknowledged(at(1));
        (pauses.excused, pauses.excused_since) = (true, true);
        (pauses.excused, pauses.excused_since) = (false, true);
        pauses.acknowledged(at(9));
        assert_eq!(pauses.longest, Duration::from_secs(1));
        pauses.acknowledged(at(11));
        assert_eq!(pauses.take_longest(at(12)), Duration::from_secs(2));
    }
}
