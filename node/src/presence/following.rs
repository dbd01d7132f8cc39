//! Follows every user's presence: what the replicated state makes of it now, and what has changed since it was last told.
//!
//! Owns what was told last of each user, and when it changes by itself. Does not own the state, the clock or who is on the
//! phone. What always holds: a change only says whom to look at; a user whose presence is unknown is not remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use tandem_cluster::{Change, ClusterState, SessionChange, SessionKey, SettingName};

use super::composition::next_change_ms;
use super::{Composed, Phones, PhonesInUse, compose};
use crate::settings;

/// The presence of one user has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChanged {
    /// The directory's user id.
    pub user: Arc<str>,
    pub composed: Composed,
}

/// A user's presence as it is now. `user` is the directory's id.
#[must_use]
pub fn current(state: &ClusterState, phones: &dyn PhonesInUse, user: &str, now_ms: u64) -> Composed {
    let on_the_phone = phones.is_in_use_by(user);
    compose(
        state.presence(user),
        on_the_phone,
        settings::composition(state),
        now_ms,
    )
}

/// Users with any known presence, in order, after `after`; at most `limit`.
#[must_use]
pub fn users_after(state: &ClusterState, phones: &Phones, after: Option<&str>, limit: usize) -> Vec<String> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let records = state.presence_records().range::<_, str>((from, Bound::Unbounded));
    let mut users: BTreeSet<String> = records.take(limit).map(|(user, _)| user.to_string()).collect();
    let calling = phones
        .users()
        .filter(|user| after.is_none_or(|after| *user > after));
    users.extend(calling.map(str::to_owned));
    users.into_iter().take(limit).collect()
}

/// Whom to look at again, and how to learn who is on the phone.
#[derive(Debug)]
pub struct Looks<'a> {
    phones: PhonesToRead<'a>,
    everybody: bool,
    users: BTreeSet<String>,
}

#[derive(Debug)]
enum PhonesToRead<'a> {
    /// All sessions have been read.
    All(Phones),
    Of(BTreeSet<&'a SessionKey>),
}

impl<'a> Looks<'a> {
    /// After these changes.
    #[must_use]
    pub fn of(changes: &'a [Change], state: &ClusterState) -> Self {
        if changes.contains(&Change::Replaced) {
            return Self::everything(state);
        }
        let mut sessions = BTreeSet::new();
        let (mut everybody, mut users) = (false, BTreeSet::new());
        for change in changes {
            match change {
                Change::Presence { user } => drop(users.insert(user.clone())),
                Change::Session(change) => sessions.extend(whose_calls_changed(change)),
                Change::Setting { name } => everybody |= decides_presence(name),
                Change::Replaced
                | Change::Node(_)
                | Change::Calendar(_)
                | Change::Watcher(_)
                | Change::RebalanceRequested { .. } => {}
            }
        }
        Self {
            phones: PhonesToRead::Of(sessions),
            everybody,
            users,
        }
    }

    /// At the start, or after any number of changes.
    #[must_use]
    pub fn everything(state: &ClusterState) -> Self {
        Self {
            phones: PhonesToRead::All(Phones::of(state.sessions())),
            everybody: true,
            users: BTreeSet::new(),
        }
    }

    /// Brings `phones` up to date. Quick, so that a lock may be held meanwhile.
    pub fn read_phones(&mut self, phones: &mut Phones, state: &ClusterState) {
        match &mut self.phones {
            PhonesToRead::All(read) => *phones = std::mem::take(read),
            PhonesToRead::Of(sessions) => {
                for key in std::mem::take(sessions) {
                    let changed = match state.session(key) {
                        Some(session) => phones.session_changed(session),
                        None => phones.session_closed(key),
                    };
                    self.users.extend(changed);
                }
            }
        }
    }
}

fn whose_calls_changed(change: &SessionChange) -> Option<&SessionKey> {
    match change {
        SessionChange::Opened(key) | SessionChange::Updated(key) | SessionChange::Closed { key, .. } => {
            Some(key)
        }
        SessionChange::Moved { .. } => None,
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

/// What was last told of each user, and when it changes by itself.
#[derive(Debug, Default)]
pub struct Follower {
    told: BTreeMap<Arc<str>, Composed>,
    /// Unix milliseconds at which a user's manual state ends.
    expiries: BTreeMap<Arc<str>, u64>,
    by_expiry: BTreeSet<(u64, Arc<str>)>,
}

impl Follower {
    /// Looks at everybody who may have changed. The phones have been read before.
    #[must_use]
    pub fn look(
        &mut self,
        looks: Looks<'_>,
        state: &ClusterState,
        phones: &dyn PhonesInUse,
        now_ms: u64,
    ) -> Vec<PresenceChanged> {
        let mut users: BTreeSet<Arc<str>> = looks.users.into_iter().map(Arc::from).collect();
        if looks.everybody {
            users.extend(self.told.keys().cloned());
            users.extend(state.presence_records().keys().cloned());
            users.extend(phones.users_on_the_phone().into_iter().map(Arc::from));
        }
        let changed = users
            .into_iter()
            .filter_map(|user| self.look_at(&user, state, phones, now_ms));
        changed.collect()
    }

    /// Looks at everybody whose presence has changed by itself by now.
    #[must_use]
    pub fn expire(
        &mut self,
        state: &ClusterState,
        phones: &dyn PhonesInUse,
        now_ms: u64,
    ) -> Vec<PresenceChanged> {
        let mut changed = Vec::new();
        while let Some((at_ms, user)) = self.by_expiry.first().cloned() {
            if at_ms > now_ms {
                break;
            }
            self.set_expiry(&user, None);
            changed.extend(self.look_at(&user, state, phones, now_ms));
        }
        changed
    }

    /// When `expire` is wanted next, in Unix milliseconds.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.by_expiry.first().map(|(at_ms, _)| *at_ms)
    }

    fn look_at(
        &mut self,
        user: &str,
        state: &ClusterState,
        phones: &dyn PhonesInUse,
        now_ms: u64,
    ) -> Option<PresenceChanged> {
        let composed = current(state, phones, user, now_ms);
        let record = state.presence(user);
        let expiry = record.and_then(|record| next_change_ms(record, now_ms));
        let known = self.told.get_key_value(user);
        let told = known.map_or(Composed::UNKNOWN, |(_, told)| *told);
        let user: Arc<str> = known.map_or_else(|| Arc::from(user), |(known, _)| known.clone());
        self.set_expiry(&user, expiry);
        if composed == told {
            return None;
        }
        if composed == Composed::UNKNOWN {
            self.told.remove(&user);
        } else {
            self.told.insert(user.clone(), composed);
        }
        Some(PresenceChanged { user, composed })
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
}

#[cfg(test)]
mod tests {
    use tandem_cluster::{Applied, Command, ManualPresence, ManualState, StateLimits};

    use super::*;
    use crate::presence::Availability;

    struct World {
        state: ClusterState,
        phones: Phones,
        follower: Follower,
        now_ms: u64,
    }

    impl World {
        fn new() -> Self {
            Self {
                state: ClusterState::new(StateLimits::default()),
                phones: Phones::default(),
                follower: Follower::default(),
                now_ms: 1000,
            }
        }

        fn set(&mut self, user: &str, state: ManualState, until_ms: Option<u64>) -> Vec<Change> {
            let manual = Some(ManualPresence {
                state,
                set_at_ms: self.now_ms,
                until_ms,
            });
            let user = user.to_owned();
            self.apply(Command::ManualPresenceSet { user, manual })
        }

        fn apply(&mut self, command: Command) -> Vec<Change> {
            let (applied, changes) = self.state.apply(command);
            assert_eq!(applied, Applied::Done);
            changes
        }

        fn hear(&mut self, changes: &[Change]) -> Vec<(String, Availability)> {
            let mut looks = Looks::of(changes, &self.state);
            looks.read_phones(&mut self.phones, &self.state);
            let changed = self.follower.look(looks, &self.state, &self.phones, self.now_ms);
            named(changed)
        }

        fn expire(&mut self) -> Vec<(String, Availability)> {
            named(self.follower.expire(&self.state, &self.phones, self.now_ms))
        }
    }

    fn named(changed: Vec<PresenceChanged>) -> Vec<(String, Availability)> {
        let changed = changed.into_iter();
        changed
            .map(|changed| (changed.user.to_string(), changed.composed.availability))
            .collect()
    }

    #[test]
    fn a_change_is_told_once_and_ends_by_itself() {
        let mut world = World::new();
        let changes = world.set("ana", ManualState::Busy, Some(5000));
        assert_eq!(world.hear(&changes), [("ana".to_owned(), Availability::Busy)]);
        assert_eq!(world.hear(&changes), [], "nothing has changed since");
        assert_eq!(world.follower.next_expiry_ms(), Some(5000));
        assert_eq!(world.expire(), [], "it is not time yet");
        world.now_ms = 5000;
        assert_eq!(world.expire().len(), 1);
        assert_eq!(world.follower.next_expiry_ms(), None);
    }

    /// What changed while nobody listened is found when the whole state is looked at.
    #[test]
    fn whoever_hears_only_that_the_state_was_replaced_is_told_of_everybody_who_changed() {
        let mut world = World::new();
        let changes = world.set("ana", ManualState::Busy, None);
        let _ = world.hear(&changes);
        let _unheard = world.set("ben", ManualState::Away, None);
        let user = "ana".to_owned();
        let _unheard = world.apply(Command::ManualPresenceSet { user, manual: None });
        let told = world.hear(&[Change::Replaced]);
        let expected = [
            ("ana".to_owned(), Availability::Unknown),
            ("ben".to_owned(), Availability::Away),
        ];
        assert_eq!(told, expected);
        assert!(world.follower.told.len() == 1, "of ana nothing is known any more");
    }

    #[test]
    fn only_settings_of_presence_and_calls_of_sessions_are_looked_at() {
        let world = World::new();
        let setting = |name: &str| Change::Setting {
            name: name.to_owned(),
        };
        let looks_at_all = |change: Change| Looks::of(&[change], &world.state).everybody;
        assert!(looks_at_all(setting("calendar_busy_shows_as")));
        assert!(!looks_at_all(setting("calendar_spread_secs")));
        assert!(looks_at_all(Change::Replaced));
    }
}
