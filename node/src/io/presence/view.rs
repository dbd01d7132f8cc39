//! The current presence of every user, and every change to it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tandem_cluster::Change;
use tandem_raft::Cluster;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tokio::sync::broadcast;

use super::metrics::PresenceMetrics;
use crate::io::clock;
use crate::presence::following::{self, Follower, Looks};
use crate::presence::{Composed, Phones, PhonesInUse, PresenceChanged};

/// The view that all consumers of presence on this node share. Clones share it.
#[derive(Clone)]
pub struct PresenceView {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Cluster,
    phones: RwLock<Phones>,
    metrics: PresenceMetrics,
    changes: broadcast::Sender<PresenceChanged>,
}

impl PresenceView {
    /// Knows who is on the phone once [`Self::run`] runs.
    #[must_use]
    pub fn new(cluster: Cluster, metrics: PresenceMetrics) -> Self {
        let shared = Shared {
            cluster,
            phones: RwLock::default(),
            metrics,
            changes: broadcast::Sender::new(CHANGES_BEHIND_MAX),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// By the directory's user id.
    #[must_use]
    pub fn get(&self, user: &str) -> Composed {
        following::current(&self.shared.cluster.state(), self, user, clock::unix_ms())
    }

    /// Changes from now on. Subscribing first and then calling [`Self::get`] misses nothing; a receiver that falls too
    /// far behind is told how many changes it has lost.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<PresenceChanged> {
        self.shared.changes.subscribe()
    }

    /// Users with any known presence, in order, after `after`; at most `limit`.
    #[must_use]
    pub fn users_after(&self, after: Option<&str>, limit: usize) -> Vec<String> {
        let state = self.shared.cluster.state();
        self.with_phones(|phones| following::users_after(&state, phones, after, limit))
    }

    /// Follows the cluster until it, or the process, ends.
    pub async fn run(self, shutdown: Shutdown) {
        let mut changes = self.shared.cluster.changes();
        let mut follower = Follower::default();
        self.look(&mut follower, &[Change::Replaced]);
        loop {
            let expiry = until(follower.next_expiry_ms());
            tokio::select! {
                changed = changes.recv() => match changed {
                    Some(changes) => self.look(&mut follower, &changes),
                    None => return,
                },
                () = tokio::time::sleep(expiry) => self.expire(&mut follower),
                () = shutdown.reached(Stage::Close) => return,
            }
        }
    }

    fn look(&self, follower: &mut Follower, changes: &[Change]) {
        let state = self.shared.cluster.state();
        let mut looks = Looks::of(changes, &state);
        self.change_phones(|phones| looks.read_phones(phones, &state));
        for changed in follower.look(looks, &state, self, clock::unix_ms()) {
            self.tell(changed);
        }
    }

    fn expire(&self, follower: &mut Follower) {
        let state = self.shared.cluster.state();
        for changed in follower.expire(&state, self, clock::unix_ms()) {
            self.tell(changed);
        }
    }

    pub(super) fn metrics(&self) -> &PresenceMetrics {
        &self.shared.metrics
    }

    pub(super) fn tell(&self, changed: PresenceChanged) {
        self.shared.metrics.changes.inc();
        // Having no watchers is no error.
        let _ = self.shared.changes.send(changed);
    }

    fn with_phones<R>(&self, read: impl FnOnce(&Phones) -> R) -> R {
        read(&self.shared.phones.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_phones<R>(&self, change: impl FnOnce(&mut Phones) -> R) -> R {
        change(&mut self.shared.phones.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl PhonesInUse for PresenceView {
    fn is_in_use_by(&self, user: &str) -> bool {
        self.with_phones(|phones| phones.is_in_use_by(user))
    }

    fn users_on_the_phone(&self) -> Vec<String> {
        self.with_phones(PhonesInUse::users_on_the_phone)
    }
}

/// The wall clock may be set, so it is read again now and then.
fn until(expiry_ms: Option<u64>) -> Duration {
    let wait = expiry_ms.map(|at_ms| at_ms.saturating_sub(clock::unix_ms()));
    wait.map_or(LOOK_AT_THE_CLOCK, Duration::from_millis)
        .min(LOOK_AT_THE_CLOCK)
}

const CHANGES_BEHIND_MAX: usize = 4096;
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(30);
