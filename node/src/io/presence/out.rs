//! Batches calendar states into few entries of the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tandem_cluster::{Applied, CalendarPresence, Command, NodeId};
use tandem_raft::{Cluster, ProposeError};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::metrics::PresenceMetrics;

/// Accepts calendar states without ever making the calendars wait. Clones share it.
#[derive(Clone)]
pub struct PresenceOut {
    waiting: Arc<Mutex<Waiting>>,
    arrived: Arc<Notify>,
    metrics: PresenceMetrics,
}

/// The latest state of each user that is not in the log yet.
type Waiting = BTreeMap<String, CalendarPresence>;

impl PresenceOut {
    #[must_use]
    pub fn new(metrics: PresenceMetrics) -> Self {
        Self {
            waiting: Arc::default(),
            arrived: Arc::default(),
            metrics,
        }
    }

    /// Only the latest state of a user counts: each user waits once, so there are never more entries than users. Beyond
    /// `WAITING_MAX` a state is dropped, with a warning.
    pub fn publish(&self, user: String, presence: CalendarPresence) {
        let has_room = self.with_waiting(|waiting| {
            let has_room = waiting.len() < WAITING_MAX || waiting.contains_key(&user);
            if has_room {
                waiting.insert(user, presence);
            }
            has_room
        });
        if has_room {
            self.arrived.notify_one();
        } else {
            self.count("dropped");
            warn!("presence queue is full; a change was dropped");
        }
    }

    /// Writes what is published into the log in the name of `node`, until the member stops.
    pub async fn run(self, node: NodeId, cluster: Cluster) {
        loop {
            self.arrived.notified().await;
            tokio::time::sleep(GATHERING).await;
            while let Some(batch) = self.take_batch() {
                let batch = owned(&cluster, node, batch);
                if batch.is_empty() {
                    continue;
                }
                if self.write(node, &cluster, batch).await == Err(ProposeError::Stopped) {
                    return;
                }
            }
        }
    }

    /// Queues what was not committed again.
    async fn write(&self, node: NodeId, cluster: &Cluster, batch: Waiting) -> Result<(), ProposeError> {
        let users = said(&batch);
        let command = Command::CalendarPresenceChanged { node, users };
        match cluster.propose(command, COMMIT_TIMEOUT).await {
            Ok(Applied::Refused(refusal)) => {
                self.count("refused");
                warn!(?refusal, "the cluster refused calendar states");
                Ok(())
            }
            Ok(_) => {
                self.count("committed");
                Ok(())
            }
            Err(error) => {
                self.count("retried");
                debug!(%error, users = batch.len(), "calendar states could not be committed; retrying");
                self.put_back(batch);
                tokio::time::sleep(PAUSE).await;
                Err(error)
            }
        }
    }

    fn count(&self, outcome: &str) {
        self.metrics.batches.with_label_values(&[outcome]).inc();
    }

    fn take_batch(&self) -> Option<Waiting> {
        let batch = self.with_waiting(|waiting| match waiting.keys().nth(BATCH_MAX).cloned() {
            Some(first_left) => {
                let rest = waiting.split_off(&first_left);
                std::mem::replace(waiting, rest)
            }
            None => std::mem::take(waiting),
        });
        (!batch.is_empty()).then_some(batch)
    }

    /// A newer state takes precedence.
    fn put_back(&self, batch: Waiting) {
        self.with_waiting(|waiting| {
            for (user, presence) in batch {
                waiting.entry(user).or_insert(presence);
            }
        });
    }

    fn with_waiting<R>(&self, work: impl FnOnce(&mut Waiting) -> R) -> R {
        // Nothing under the lock can panic.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut waiting);
        self.metrics
            .waiting
            .set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
        result
    }
}

fn said(batch: &Waiting) -> Vec<(String, Option<CalendarPresence>)> {
    batch
        .iter()
        .map(|(user, presence)| (user.clone(), Some(*presence)))
        .collect()
}

/// Another node reports for a user that moved there; `apply` would ignore us.
fn owned(cluster: &Cluster, node: NodeId, mut batch: Waiting) -> Waiting {
    let state = cluster.state();
    batch.retain(|user, _| state.calendar_owner(user) == Some(node));
    batch
}

/// Long enough to gather what changes together into one entry, too short to be noticed.
const GATHERING: Duration = Duration::from_millis(50);
const BATCH_MAX: usize = 500;
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(200);
/// As many users as the cluster assigns to gateways.
const WAITING_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tandem_cluster::CalendarState;

    use super::*;

    fn out() -> PresenceOut {
        PresenceOut::new(PresenceMetrics::register(&Registry::new()))
    }

    fn since(from_ms: u64) -> CalendarPresence {
        CalendarPresence {
            state: CalendarState::Busy,
            from_ms,
            until_ms: None,
        }
    }

    #[test]
    fn of_each_user_the_latest_word_waits() {
        let out = out();
        out.publish("ana".to_owned(), since(1));
        out.publish("ben".to_owned(), since(1));
        out.publish("ana".to_owned(), since(2));
        let expected = Waiting::from([("ana".to_owned(), since(2)), ("ben".to_owned(), since(1))]);
        assert_eq!(out.take_batch(), Some(expected));
        assert_eq!(out.take_batch(), None);
    }

    #[test]
    fn what_could_not_be_written_is_outdated_by_what_was_said_since() {
        let out = out();
        out.publish("ana".to_owned(), since(1));
        out.publish("ben".to_owned(), since(1));
        let failed = out.take_batch().unwrap();
        out.publish("ana".to_owned(), since(2));
        out.put_back(failed);
        let expected = Waiting::from([("ana".to_owned(), since(2)), ("ben".to_owned(), since(1))]);
        assert_eq!(out.take_batch(), Some(expected));
    }

    #[test]
    fn batches_are_bounded_and_lose_nobody() {
        let out = out();
        for number in 0..1234 {
            out.publish(format!("user{number:04}"), since(1));
        }
        let sizes: Vec<usize> = std::iter::from_fn(|| out.take_batch())
            .map(|batch| batch.len())
            .collect();
        assert_eq!(sizes, [500, 500, 234]);
        assert_eq!(out.metrics.waiting.get(), 0);
    }
}
