//! What must hold after every command; checked in debug builds, by the property tests and in simulations.

use std::collections::BTreeSet;
use std::fmt;

use super::ClusterState;
use super::assignments::GATEWAYS_MAX;
use super::members::REMOVED_MEMBERS_MAX;
use super::nodes::NODES_MAX;
use crate::assignment::CasGateway;
use crate::command::{CalendarChange, Change, SessionChange, WatcherChange};
use crate::node::NodeId;
use crate::session::{Epoch, SessionKey, SessionRecord};

/// An invariant that does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {place}")]
pub struct Broken {
    what: &'static str,
    place: String,
}

type Checked = Result<(), Broken>;

impl ClusterState {
    /// Whether everything holds that must; linear in the state.
    pub fn check_invariants(&self) -> Checked {
        self.check_sums()?;
        for session in self.sessions() {
            self.check_session(session)?;
        }
        let mut owned = self.owned.values();
        hold(
            owned.all(|keys| !keys.is_empty()),
            "a node is listed that owns nothing",
            &self.owned.keys(),
        )?;
        self.check_openings()?;
        self.check_intents()?;
        self.check_watchers()?;
        self.check_calendars()?;
        self.check_gateways()
    }

    /// After a command that told of these changes. A small state is checked as a whole; of a large one only the sums
    /// and what has changed, so that a command costs the same whatever is there.
    ///
    /// # Panics
    /// When the state contradicts itself.
    pub(super) fn assert_invariants(&self, changes: &[Change]) {
        let checked = match self.items() <= SMALL {
            true => self.check_invariants(),
            false => self.check_sums().and_then(|()| self.check_changed(changes)),
        };
        if let Err(broken) = checked {
            panic!("{broken}");
        }
    }

    fn items(&self) -> usize {
        self.sessions.len()
            + self.openings.len()
            + self.intents_by_age.len()
            + self.watchers.len()
            + self.assignments.len()
            + self.presence.len()
            + self.calendar_enabled.len()
    }

    /// Whatever can be told from the sizes of the tables and from the ends of the indexes.
    fn check_sums(&self) -> Checked {
        let limits = &self.limits;
        let bounded = [
            ("sessions", self.sessions.len(), limits.sessions_max),
            ("watchers", self.watchers.len(), limits.sessions_max),
            ("opening results", self.openings.len(), limits.opening_results_max),
            ("intents", self.intents_by_age.len(), limits.intents_max),
            ("assignments", self.assignments.len(), limits.users_assigned_max),
            ("presence", self.presence.len(), limits.users_assigned_max),
            ("nodes", self.nodes.len(), NODES_MAX),
            ("CAS", self.gateways.len(), GATEWAYS_MAX),
            ("removed members", self.removed_members.len(), REMOVED_MEMBERS_MAX),
            (
                "calendar switches",
                self.calendar_enabled.len(),
                limits.users_assigned_max,
            ),
        ];
        for (table, len, most) in bounded {
            hold(len <= most, "a table is over its limit", &table)?;
        }
        let owned: usize = self.owned.values().map(imbl::OrdSet::len).sum();
        hold(
            owned == self.sessions.len(),
            "the index by owner has another number of sessions",
            &owned,
        )?;
        let by_age = self.openings_by_age.len();
        hold(
            by_age == self.openings.len(),
            "the index of openings by age has another number",
            &by_age,
        )?;
        hold(
            self.intents.len() <= self.intents_by_age.len(),
            "intents are missing in the index by age",
            &by_age,
        )?;
        let has_live = self.live_nodes().next().is_some();
        for owner in self.owned.keys() {
            hold(
                !has_live || self.is_live(*owner),
                "a node owns sessions and is not live",
                owner,
            )?;
        }
        let turn = self.next_gateway;
        hold(
            turn == 0 || turn < self.gateways.len(),
            "it is the turn of no CAS",
            &turn,
        )?;
        self.check_oldest()
    }

    /// The first ones of the indexes by age, which are the next to be forgotten.
    fn check_oldest(&self) -> Checked {
        if let Some((decided_at_ms, opening)) = self.openings_by_age.get_min() {
            let known = self.openings.get(opening).map(|result| result.decided_at_ms);
            hold(
                known == Some(*decided_at_ms),
                "the oldest opening is of another time",
                opening,
            )?;
        }
        if let Some((decided_at_ms, session, request)) = self.intents_by_age.get_min() {
            let known = self.intent(session, request).map(|intent| intent.decided_at_ms);
            hold(
                known == Some(*decided_at_ms),
                "the oldest intent is of another time",
                session,
            )?;
        }
        Ok(())
    }

    fn check_changed(&self, changes: &[Change]) -> Checked {
        changes.iter().try_for_each(|change| match change {
            Change::Session(change) => self.check_changed_session(change),
            Change::Watcher(WatcherChange::Written(key) | WatcherChange::Moved { key, .. }) => {
                self.check_watcher(key)
            }
            Change::Presence { user } => self.check_presence(user),
            Change::Calendar(CalendarChange::Gateways) => self.check_gateways(),
            Change::Calendar(CalendarChange::Assigned { user }) => self.check_assignment(user),
            Change::Calendar(CalendarChange::Enabled { .. } | CalendarChange::CallbacksReceived { .. })
            | Change::Watcher(WatcherChange::Removed { .. })
            | Change::Node(_)
            | Change::Setting { .. }
            | Change::RebalanceRequested { .. }
            | Change::Replaced => Ok(()),
        })
    }

    fn check_changed_session(&self, change: &SessionChange) -> Checked {
        match change {
            SessionChange::Opened(key) | SessionChange::Updated(key) => self.check_key(key),
            SessionChange::Moved { key, from, .. } | SessionChange::Closed { key, owner: from } => {
                let owner = self.session(key).map(|session| session.owner);
                let is_listed = self.owned.get(from).is_some_and(|keys| keys.contains(key));
                hold(
                    is_listed == (owner == Some(*from)),
                    "the index names a former owner",
                    key,
                )?;
                self.check_key(key)
            }
        }
    }

    fn check_key(&self, key: &SessionKey) -> Checked {
        match self.session(key) {
            Some(session) => self.check_session(session),
            None => hold(
                !self.intents.contains_key(key),
                "intents of a session that is gone",
                key,
            ),
        }
    }

    fn check_session(&self, session: &SessionRecord) -> Checked {
        let key = &session.key;
        let owned = self.owned.get(&session.owner);
        let calls = session.calls.len();
        hold(
            owned.is_some_and(|keys| keys.contains(key)),
            "the index by owner misses a session",
            key,
        )?;
        hold(
            calls <= self.limits.calls_per_session_max,
            "a session has too many calls",
            key,
        )?;
        hold(
            session.epoch <= Epoch::MAX,
            "a session is beyond its last epoch",
            key,
        )
    }

    fn check_openings(&self) -> Checked {
        for (opening, result) in &self.openings {
            let at = (result.decided_at_ms, opening.clone());
            hold(
                self.openings_by_age.contains(&at),
                "an opening is missing in the index by age",
                opening,
            )?;
        }
        Ok(())
    }

    fn check_intents(&self) -> Checked {
        let mut count = 0;
        for (session, requests) in &self.intents {
            hold(
                self.sessions.contains_key(session),
                "intents of a session that is gone",
                session,
            )?;
            hold(
                !requests.is_empty(),
                "a session is listed that has no intents",
                session,
            )?;
            for (request, intent) in requests {
                let at = (intent.decided_at_ms, session.clone(), request.clone());
                hold(
                    self.intents_by_age.contains(&at),
                    "an intent is missing in the index by age",
                    session,
                )?;
                count += 1;
            }
        }
        hold(
            count == self.intents_by_age.len(),
            "the index by age has another number of intents",
            &count,
        )
    }

    fn check_watchers(&self) -> Checked {
        self.watchers.keys().try_for_each(|key| self.check_watcher(key))
    }

    fn check_watcher(&self, key: &SessionKey) -> Checked {
        let Some(watcher) = self.watchers.get(key) else {
            return Ok(());
        };
        let may_own = self.is_live(watcher.owner) || self.live_nodes().next().is_none();
        hold(may_own, "a watcher's owner is not live", key)?;
        hold(
            watcher.epoch <= Epoch::MAX,
            "a watcher is beyond its last epoch",
            key,
        )
    }

    fn check_calendars(&self) -> Checked {
        self.presence
            .keys()
            .try_for_each(|user| self.check_presence(user))?;
        self.assignments
            .keys()
            .try_for_each(|user| self.check_assignment(user))
    }

    /// Only a user with a CAS, whose calendar is not switched off, has calendar presence.
    fn check_presence(&self, user: &str) -> Checked {
        let Some(record) = self.presence.get(user) else {
            return Ok(());
        };
        let may_have_one = self.assignments.contains_key(user) && self.calendar_enabled(user) != Some(false);
        hold(
            record.calendar.is_some() || record.manual.is_some(),
            "a presence that says nothing",
            &user,
        )?;
        hold(
            record.calendar.is_none() || may_have_one,
            "a user without a calendar has calendar presence",
            &user,
        )
    }

    /// No user stays with a CAS that is not configured while another takes users.
    fn check_assignment(&self, user: &str) -> Checked {
        let is_stray = self
            .assignments
            .get(user)
            .is_some_and(|assignment| self.gateways.iter().all(|gateway| gateway.id != assignment.cas));
        let can_move = self.gateways.iter().any(CasGateway::takes_users);
        hold(!is_stray || !can_move, "a user's CAS is not configured", &user)
    }

    fn check_gateways(&self) -> Checked {
        let live: BTreeSet<NodeId> = self.live_nodes().collect();
        let mut listed = BTreeSet::new();
        for gateway in self.gateways.iter() {
            hold(
                gateway.broken_for.is_subset(&live),
                "a CAS is broken for a node that is not live",
                &gateway.id,
            )?;
            hold(listed.insert(&gateway.id), "a CAS is listed twice", &gateway.id)?;
        }
        Ok(())
    }
}

fn hold(holds: bool, what: &'static str, place: &impl fmt::Debug) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(Broken {
            what,
            place: format!("{place:?}"),
        }),
    }
}

/// A state of so few records is checked as a whole after every command.
const SMALL: usize = 64;
