//! Presence as it is replicated: calendars as their owners report them, and what users set themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::ClusterState;
use crate::command::{Applied, CalendarChange, Change, Refusal};
use crate::node::{NodeId, successor_of_user};
use crate::presence::{CalendarPresence, ManualPresence, PresenceRecord};

impl ClusterState {
    #[must_use]
    pub fn presence(&self, user: &str) -> Option<&PresenceRecord> {
        self.presence.get(user)
    }

    #[must_use]
    pub fn presence_records(&self) -> &OrdMap<Arc<str>, PresenceRecord> {
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

    /// A node that is no longer the owner of a user, or not yet, is not heard about them. A user without a gateway, or
    /// whose calendar an administrator switched off, has no calendar: what was under way when that was decided is
    /// not heard. Users for whom there is no room are left out; the others are not made to suffer for it.
    pub(super) fn change_calendar_presence(
        &mut self,
        node: NodeId,
        users: Vec<(String, Option<CalendarPresence>)>,
        changes: &mut Vec<Change>,
    ) -> Applied {
        // Of a user who is named several times the last report counts, or the command applied again would change something.
        let last: BTreeMap<String, Option<CalendarPresence>> = users.into_iter().collect();
        for (user, calendar) in last {
            if calendar.is_none() || self.may_tell_calendar(node, &user) {
                self.change_presence(user, changes, |record| record.calendar = calendar);
            }
        }
        Applied::Done
    }

    fn may_tell_calendar(&self, node: NodeId, user: &str) -> bool {
        self.assignments.contains_key(user)
            && self.calendar_enabled(user) != Some(false)
            && self.calendar_owner(user) == Some(node)
    }

    pub(super) fn forget_calendar(&mut self, user: &str, changes: &mut Vec<Change>) {
        if self
            .presence
            .get(user)
            .is_some_and(|record| record.calendar.is_some())
        {
            self.change_presence(user.to_owned(), changes, |record| record.calendar = None);
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

    /// Switched off, a calendar says nothing from this entry on; its subscription is its owner's to end.
    pub(super) fn enable_calendars(
        &mut self,
        users: Vec<String>,
        enabled: Option<bool>,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let new: BTreeSet<&String> = users
            .iter()
            .filter(|user| !self.calendar_enabled.contains_key(user.as_str()))
            .collect();
        if enabled.is_some() && self.calendar_enabled.len() + new.len() > self.limits.users_assigned_max {
            return Applied::Refused(Refusal::LimitReached);
        }
        let users: Vec<String> = users
            .into_iter()
            .filter(|user| self.enable_calendar(user, enabled))
            .collect();
        if enabled == Some(false) {
            for user in &users {
                self.forget_calendar(user, changes);
            }
        }
        if !users.is_empty() {
            changes.push(Change::Calendar(CalendarChange::Enabled { users }));
        }
        Applied::Done
    }

    /// Whether that is news.
    fn enable_calendar(&mut self, user: &str, enabled: Option<bool>) -> bool {
        let former = match enabled {
            Some(enabled) => self.calendar_enabled.insert(user.into(), enabled),
            None => self.calendar_enabled.remove(user),
        };
        former != enabled
    }

    /// `false` when there is no room for one more user.
    fn change_presence(
        &mut self,
        user: String,
        changes: &mut Vec<Change>,
        change: impl FnOnce(&mut PresenceRecord),
    ) -> bool {
        let former = self.presence.get(user.as_str());
        let mut record = former.cloned().unwrap_or_default();
        change(&mut record);
        if record == former.cloned().unwrap_or_default() {
            return true;
        }
        if former.is_none() && self.presence.len() >= self.limits.users_assigned_max {
            return false;
        }
        record.version = record.version.saturating_add(1);
        changes.push(Change::Presence { user: user.clone() });
        if record.calendar.is_none() && record.manual.is_none() {
            self.presence.remove(user.as_str());
        } else {
            self.presence.insert(user.into(), record);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{apply_all, assign, cluster_of, gateways, lost, user};
    use super::*;
    use crate::command::Command;
    use crate::presence::{CalendarState, ManualState};

    const BUSY: CalendarPresence = CalendarPresence {
        state: CalendarState::Busy,
        from_ms: 1000,
        until_ms: Some(2000),
    };

    const AWAY: ManualPresence = ManualPresence {
        state: ManualState::Away,
        set_at_ms: 1,
        until_ms: None,
    };

    fn says(node: NodeId, number: u64, calendar: Option<CalendarPresence>) -> Command {
        Command::CalendarPresenceChanged {
            node,
            users: vec![(user(number), calendar)],
        }
    }

    fn manual(number: u64, manual: Option<ManualPresence>) -> Command {
        Command::ManualPresenceSet {
            user: user(number),
            manual,
        }
    }

    fn enabled(numbers: &[u64], enabled: Option<bool>) -> Command {
        Command::CalendarEnabled {
            users: numbers.iter().map(|&number| user(number)).collect(),
            enabled,
        }
    }

    fn calendars(users: u64) -> ClusterState {
        let mut state = cluster_of(2);
        apply_all(&mut state, [gateways(&["a"]), assign(0..users)]);
        state
    }

    fn owner(state: &ClusterState, number: u64) -> NodeId {
        state.calendar_owner(&user(number)).unwrap()
    }

    fn other(node: NodeId) -> NodeId {
        NodeId(3 - node.0)
    }

    fn changed(number: u64) -> Vec<Change> {
        vec![Change::Presence { user: user(number) }]
    }

    #[test]
    fn of_a_calendar_only_what_its_owner_reports_counts() {
        let mut state = calendars(1);
        let owner = owner(&state, 0);
        assert_eq!(apply_all(&mut state, [says(other(owner), 0, Some(BUSY))]), []);
        assert_eq!(apply_all(&mut state, [says(owner, 0, Some(BUSY))]), changed(0));
        assert_eq!(apply_all(&mut state, [says(owner, 0, Some(BUSY))]), []);
        let record = state.presence(&user(0)).unwrap();
        assert_eq!((record.calendar, record.version), (Some(BUSY), 1));
        apply_all(&mut state, [lost(owner.0, 1)]);
        let free = CalendarPresence {
            state: CalendarState::Free,
            ..BUSY
        };
        assert_eq!(
            apply_all(&mut state, [says(owner, 0, Some(free))]),
            [],
            "who is lost owns nothing"
        );
        assert_eq!(
            apply_all(&mut state, [says(other(owner), 0, Some(free))]),
            changed(0)
        );
    }

    #[test]
    fn anybody_may_forget_a_calendar() {
        let mut state = calendars(1);
        let owner = owner(&state, 0);
        apply_all(&mut state, [says(owner, 0, Some(BUSY))]);
        assert_eq!(apply_all(&mut state, [says(other(owner), 0, None)]), changed(0));
        assert!(state.presence_records().is_empty());
    }

    #[test]
    fn a_user_without_a_gateway_has_no_calendar() {
        let mut state = calendars(1);
        let (first, second) = (owner(&state, 0), owner(&state, 1));
        assert_eq!(apply_all(&mut state, [says(second, 1, Some(BUSY))]), []);
        apply_all(&mut state, [says(first, 0, Some(BUSY)), manual(0, Some(AWAY))]);
        let unassign = Command::CasUnassign { users: vec![user(0)] };
        let changes = apply_all(&mut state, [unassign]);
        assert_eq!(changes.last(), changed(0).last());
        assert_eq!(state.presence(&user(0)).unwrap().calendar, None);
        assert_eq!(
            state.presence(&user(0)).unwrap().manual,
            Some(AWAY),
            "what the user set stays"
        );
        assert_eq!(
            apply_all(&mut state, [says(first, 0, Some(BUSY))]),
            [],
            "what was under way comes too late"
        );
    }

    #[test]
    fn a_calendar_that_is_switched_off_is_silent_at_once() {
        let mut state = calendars(1);
        let owner = owner(&state, 0);
        apply_all(&mut state, [says(owner, 0, Some(BUSY))]);
        let changes = apply_all(&mut state, [enabled(&[0], Some(false))]);
        let told = Change::Calendar(CalendarChange::Enabled { users: vec![user(0)] });
        assert_eq!(changes, [changed(0), vec![told.clone()]].concat());
        assert_eq!(state.calendar_enabled(&user(0)), Some(false));
        assert_eq!(apply_all(&mut state, [says(owner, 0, Some(BUSY))]), []);
        assert_eq!(apply_all(&mut state, [enabled(&[0], Some(false))]), []);
        assert_eq!(apply_all(&mut state, [enabled(&[0], None)]), [told]);
        assert_eq!(apply_all(&mut state, [says(owner, 0, Some(BUSY))]), changed(0));
    }

    #[test]
    fn what_a_user_set_is_taken_back_and_leaves_nothing_behind() {
        let mut state = cluster_of(0);
        assert_eq!(
            apply_all(&mut state, [manual(0, Some(AWAY)), manual(0, Some(AWAY))]),
            changed(0)
        );
        assert_eq!(
            apply_all(&mut state, [manual(0, None), manual(0, None)]),
            changed(0)
        );
        assert!(state.presence_records().is_empty());
    }

    #[test]
    fn the_tables_are_bounded() {
        let mut state = calendars(3);
        state.limits.users_assigned_max = 3;
        assert_eq!(
            state.apply(enabled(&[0, 1, 2, 3], Some(true))).0,
            Applied::Refused(Refusal::LimitReached)
        );
        assert_eq!(state.calendar_enabled(&user(0)), None, "all or nothing");
        assert_eq!(state.apply(enabled(&[0, 1, 1], Some(true))).0, Applied::Done);
        assert_eq!(state.apply(enabled(&[7, 8, 9], None)).0, Applied::Done);
        apply_all(&mut state, [0, 1, 7].map(|number| manual(number, Some(AWAY))));
        assert_eq!(
            state.apply(manual(2, Some(AWAY))).0,
            Applied::Refused(Refusal::LimitReached)
        );
        assert_eq!(state.apply(manual(2, None)).0, Applied::Done);
        let node = owner(&state, 2);
        assert_eq!(
            state.apply(says(node, 2, Some(BUSY))),
            (Applied::Done, Vec::new())
        );
    }
}
