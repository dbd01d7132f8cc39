//! Presence as it is replicated: calendars by their owners' word, and what users said themselves.

use std::collections::BTreeMap;

use super::ClusterState;
use crate::cluster::command::{Applied, Change, Refusal};
use crate::cluster::node::{NodeId, successor_of_user};
use crate::cluster::presence::{CalendarPresence, ManualPresence, PresenceRecord};

impl ClusterState {
    #[must_use]
    pub fn presence(&self, user: &str) -> Option<&PresenceRecord> {
        self.presence.get(user)
    }

    #[must_use]
    pub fn presence_records(&self) -> &BTreeMap<String, PresenceRecord> {
        &self.presence
    }

    /// What an administrator said of a user's calendar; `None`: the directory decides.
    #[must_use]
    pub fn calendar_enabled(&self, user: &str) -> Option<bool> {
        self.calendar_enabled.get(user).copied()
    }

    /// The live node that keeps the user's calendar.
    #[must_use]
    pub fn calendar_owner(&self, user: &str) -> Option<NodeId> {
        successor_of_user(user, self.live_nodes())
    }

    /// A node that is no longer the owner of a user, or not yet, says nothing of him.
    pub(super) fn change_calendar_presence(
        &mut self,
        node: NodeId,
        users: Vec<(String, Option<CalendarPresence>)>,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let mut has_room = true;
        for (user, calendar) in users {
            if calendar.is_none() || self.calendar_owner(&user) == Some(node) {
                has_room &= self.change_presence(user, changes, |record| record.calendar = calendar);
            }
        }
        if has_room {
            Applied::Done
        } else {
            Applied::Refused(Refusal::LimitReached)
        }
    }

    pub(super) fn set_manual_presence(
        &mut self,
        user: String,
        manual: Option<ManualPresence>,
        changes: &mut Vec<Change>,
    ) -> Applied {
        match self.change_presence(user, changes, |record| record.manual = manual) {
            true => Applied::Done,
            false => Applied::Refused(Refusal::LimitReached),
        }
    }

    pub(super) fn enable_calendars(
        &mut self,
        users: Vec<String>,
        enabled: Option<bool>,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let new = users
            .iter()
            .filter(|user| !self.calendar_enabled.contains_key(*user))
            .count();
        if enabled.is_some() && self.calendar_enabled.len() + new > self.limits.users_assigned_max {
            return Applied::Refused(Refusal::LimitReached);
        }
        for user in &users {
            match enabled {
                Some(enabled) => drop(self.calendar_enabled.insert(user.clone(), enabled)),
                None => drop(self.calendar_enabled.remove(user)),
            }
        }
        changes.push(Change::CalendarEnabledChanged { users });
        Applied::Done
    }

    /// `false` when there is no room for one more user.
    fn change_presence(
        &mut self,
        user: String,
        changes: &mut Vec<Change>,
        change: impl FnOnce(&mut PresenceRecord),
    ) -> bool {
        let former = self.presence.get(&user);
        if former.is_none() && self.presence.len() >= self.limits.users_assigned_max {
            return false;
        }
        let mut record = former.cloned().unwrap_or_default();
        change(&mut record);
        if Some(&record) == former || (former.is_none() && record == PresenceRecord::default()) {
            return true;
        }
        record.version = record.version.saturating_add(1);
        changes.push(Change::PresenceChanged { user: user.clone() });
        if record.calendar.is_none() && record.manual.is_none() {
            self.presence.remove(&user);
        } else {
            self.presence.insert(user, record);
        }
        true
    }
}
