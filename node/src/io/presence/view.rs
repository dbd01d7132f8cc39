//! The current presence of every user, and every change to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tandem_cluster::{Change, ClusterState, SessionChange, SessionKey, SettingName};
use tandem_raft::Cluster;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tokio::sync::broadcast;

use super::metrics::PresenceMetrics;
use crate::io::clock;
use crate::presence::composition::next_change_ms;
use crate::presence::{Composed, Phones, PhonesInUse, compose};
use crate::settings;

/// The presence of one user has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChanged {
    /// The directory's user id.
    pub user: Arc<str>,
    pub composed: Composed,
}

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
        let on_the_phone = self.is_in_use_by(user);
        let now_ms = clock::unix_ms();
        let state = self.shared.cluster.state();
        compose(
            state.presence(user),
            on_the_phone,
            settings::composition(&state),
            now_ms,
        )
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
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.shared.cluster.state();
        let records = state.presence_records().range::<_, str>((from, Bound::Unbounded));
        let mut users: BTreeSet<String> = records.take(limit).map(|(user, _)| user.to_string()).collect();
        self.with_phones(|phones| {
            let calling = phones
                .users()
                .filter(|user| after.is_none_or(|after| *user > after));
            users.extend(calling.map(str::to_owned));
        });
        users.into_iter().take(limit).collect()
    }

    /// Follows the cluster until it, or the process, ends.
    pub async fn run(self, shutdown: Shutdown) {
        let mut changes = self.shared.cluster.changes();
        let mut follower = Follower::of(self);
        follower.read_all();
        loop {
            let expiry = follower.until_next_expiry();
            tokio::select! {
                changed = changes.recv() => match changed {
                    Some(changes) => changes.iter().for_each(|change| follower.take_in(change)),
                    None => return,
                },
                () = tokio::time::sleep(expiry) => follower.expire(),
                () = shutdown.reached(Stage::Close) => return,
            }
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

/// What was last reported of each user, and when it changes by itself.
struct Follower {
    view: PresenceView,
    told: BTreeMap<Arc<str>, Composed>,
    /// Unix milliseconds at which a user's manual state ends.
    expiries: BTreeMap<Arc<str>, u64>,
    by_expiry: BTreeSet<(u64, Arc<str>)>,
}

impl Follower {
    fn of(view: PresenceView) -> Self {
        Self {
            view,
            told: BTreeMap::new(),
            expiries: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
        }
    }

    fn take_in(&mut self, change: &Change) {
        match change {
            Change::Presence { user } => self.read(user),
            Change::Session(change) => self.session_changed(change),
            Change::Setting { name } if decides_presence(name) => self.read_again(),
            Change::Replaced => self.read_all(),
            Change::Setting { .. }
            | Change::Node(_)
            | Change::Calendar(_)
            | Change::Watcher(_)
            | Change::RebalanceRequested { .. } => {}
        }
    }

    fn session_changed(&mut self, change: &SessionChange) {
        match change {
            SessionChange::Opened(key) | SessionChange::Updated(key) => self.read_session(key),
            SessionChange::Closed { key, .. } => {
                if let Some(user) = self.view.change_phones(|phones| phones.session_closed(key)) {
                    self.read(&user);
                }
            }
            SessionChange::Moved { .. } => {}
        }
    }

    fn read_session(&mut self, key: &SessionKey) {
        let session = self.state().session(key).cloned();
        let changed =
            session.and_then(|session| self.view.change_phones(|phones| phones.session_changed(&session)));
        if let Some(user) = changed {
            self.read(&user);
        }
    }

    fn read_all(&mut self) {
        let state = self.state();
        let phones = Phones::of(state.sessions());
        self.view.change_phones(|known| *known = phones);
        self.read_again();
    }

    /// All users of whom anything is known or was reported.
    fn read_again(&mut self) {
        let mut users: BTreeSet<Arc<str>> = self.told.keys().cloned().collect();
        let state = self.state();
        users.extend(state.presence_records().keys().cloned());
        self.view
            .with_phones(|phones| users.extend(phones.users().map(Arc::from)));
        for user in users {
            self.read(&user);
        }
    }

    /// Reports a user's presence if it has changed.
    fn read(&mut self, user: &str) {
        let now_ms = clock::unix_ms();
        let composed = self.view.get(user);
        let state = self.state();
        let expiry = state
            .presence(user)
            .and_then(|record| next_change_ms(record, now_ms));
        let known = self.told.get_key_value(user);
        let told = known.map_or(Composed::UNKNOWN, |(_, told)| *told);
        let user: Arc<str> = known.map_or_else(|| Arc::from(user), |(known, _)| known.clone());
        self.set_expiry(&user, expiry);
        if composed == told {
            return;
        }
        if composed == Composed::UNKNOWN {
            self.told.remove(&user);
        } else {
            self.told.insert(user.clone(), composed);
        }
        self.view.tell(PresenceChanged { user, composed });
    }

    fn set_expiry(&mut self, user: &Arc<str>, expiry: Option<u64>) {
        let former = match expiry {
            Some(at) => self.expiries.insert(user.clone(), at),
            None => self.expiries.remove(user),
        };
        if let Some(at) = former {
            self.by_expiry.remove(&(at, user.clone()));
        }
        self.by_expiry.extend(expiry.map(|at| (at, user.clone())));
    }

    fn expire(&mut self) {
        let now_ms = clock::unix_ms();
        while let Some((at, user)) = self.by_expiry.first().cloned() {
            if at > now_ms {
                return;
            }
            self.set_expiry(&user, None);
            self.read(&user);
        }
    }

    /// The wall clock may be set, so it is read again now and then.
    fn until_next_expiry(&self) -> Duration {
        let next = self
            .by_expiry
            .first()
            .map(|(at, _)| at.saturating_sub(clock::unix_ms()));
        next.map_or(LOOK_AT_THE_CLOCK, Duration::from_millis)
            .min(LOOK_AT_THE_CLOCK)
    }

    fn state(&self) -> Arc<ClusterState> {
        self.view.shared.cluster.state()
    }
}

fn decides_presence(setting: &str) -> bool {
    [
        SettingName::CalendarBusyShowsAs,
        SettingName::CalendarWorkingElsewhereShowsAs,
    ]
    .iter()
    .any(|name| name.as_str() == setting)
}

const CHANGES_BEHIND_MAX: usize = 4096;
const LOOK_AT_THE_CLOCK: Duration = Duration::from_secs(30);
