//! Sessions: who owns them, and how their opening requests were answered.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdSet;

use super::ClusterState;
use crate::command::{Applied, Change, Refusal, SessionChange, SessionUpdate};
use crate::node::NodeId;
use crate::session::{CallRecord, Epoch, OpeningKey, OpeningResult, SessionKey, SessionRecord};
use tandem_planted::{Bug, planted};

impl ClusterState {
    #[must_use]
    pub fn session(&self, key: &SessionKey) -> Option<&SessionRecord> {
        self.sessions.get(key).map(Arc::as_ref)
    }

    /// All sessions, in order of their keys.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = &SessionRecord> + '_ {
        self.sessions.values().map(Arc::as_ref)
    }

    /// The sessions that `node` owns, in order of their keys.
    pub fn sessions_of(&self, node: NodeId) -> impl Iterator<Item = &SessionRecord> + '_ {
        let keys = self.owned.get(&node).into_iter().flatten();
        keys.filter_map(|key| self.session(key))
    }

    #[must_use]
    pub fn session_count_of(&self, node: NodeId) -> usize {
        self.owned.get(&node).map_or(0, OrdSet::len)
    }

    #[must_use]
    pub fn owner_of(&self, key: &SessionKey) -> Option<NodeId> {
        let watcher = || self.watchers.get(key).map(|watcher| watcher.owner);
        self.sessions
            .get(key)
            .map(|session| session.owner)
            .or_else(watcher)
    }

    /// The exceptions to routing by To-tag: sessions and watchers whose owner is not the node that their tag names.
    pub fn moved_sessions(&self) -> impl Iterator<Item = (&SessionKey, NodeId)> + '_ {
        let sessions = self
            .sessions
            .values()
            .map(|session| (&session.key, session.owner));
        let watchers = self
            .watchers
            .values()
            .map(|watcher| (&watcher.key, watcher.owner));
        sessions
            .chain(watchers)
            .filter(|(key, owner)| key.issuer() != Some(*owner))
    }

    /// Only a live node may own a new session. A key that exists already is this very command applied again
    /// after its opening result was forgotten.
    pub(super) fn open_session(
        &mut self,
        opening: OpeningKey,
        record: Box<SessionRecord>,
        decided_at_ms: u64,
        changes: &mut Vec<Change>,
    ) -> Applied {
        if let Some(result) = self.openings.get(&opening) {
            return self.already_opened(result.session.clone());
        }
        if self.sessions.contains_key(&record.key) {
            return self.already_opened(record.key);
        }
        if !self.is_live(record.owner) {
            return Applied::Refused(Refusal::UnknownNode);
        }
        if self.sessions.len() >= self.limits.sessions_max
            || record.calls.len() > self.limits.calls_per_session_max
            || record.epoch > Epoch::MAX
        {
            return Applied::Refused(Refusal::LimitReached);
        }
        self.remember_opening(
            opening,
            OpeningResult {
                session: record.key.clone(),
                decided_at_ms,
            },
        );
        self.owned
            .entry(record.owner)
            .or_default()
            .insert(record.key.clone());
        changes.push(Change::Session(SessionChange::Opened(record.key.clone())));
        self.sessions.insert(record.key.clone(), record.into());
        Applied::Done
    }

    fn already_opened(&self, session: SessionKey) -> Applied {
        let record = self.session(&session).cloned().map(Box::new);
        Applied::AlreadyOpened { session, record }
    }

    fn remember_opening(&mut self, opening: OpeningKey, result: OpeningResult) {
        let opening = Arc::new(opening);
        self.openings_by_age
            .insert((result.decided_at_ms, opening.clone()));
        self.openings.insert(opening, result);
        while self.openings.len() > self.limits.opening_results_max
            && let Some((_, oldest)) = self.openings_by_age.remove_min()
        {
            self.openings.remove(&oldest);
        }
    }

    /// Drops the oldest that were decided before this time, so many at most, and says how many.
    pub(super) fn expire_openings(&mut self, before_ms: u64, most: usize) -> usize {
        let mut dropped = 0;
        while dropped < most
            && let Some((decided_at_ms, _)) = self.openings_by_age.get_min()
            && *decided_at_ms < before_ms
            && let Some((_, opening)) = self.openings_by_age.remove_min()
        {
            self.openings.remove(&opening);
            dropped += 1;
        }
        dropped
    }

    pub(super) fn update_session(
        &mut self,
        key: &SessionKey,
        epoch: Epoch,
        update: SessionUpdate,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let session = match self.session_at(key, epoch) {
            Ok(session) => session,
            Err(refusal) => return Applied::Refused(refusal),
        };
        let calls = calls_after(session, &update);
        if calls.len() > self.limits.calls_per_session_max {
            return Applied::Refused(Refusal::LimitReached);
        }
        if *calls == session.calls && !changes_fields(session, &update) {
            return Applied::Done;
        }
        // What nobody else shares is changed in place: copying a whole session would cost more than all the rest.
        let calls = calls.into_owned();
        if let Some(session) = self.sessions.get_mut(key) {
            write_update(Arc::make_mut(session), update, calls);
            changes.push(Change::Session(SessionChange::Updated(key.clone())));
        }
        Applied::Done
    }

    pub(super) fn close_session(
        &mut self,
        key: &SessionKey,
        epoch: Epoch,
        changes: &mut Vec<Change>,
    ) -> Applied {
        if let Err(refusal) = self.session_at(key, epoch) {
            return Applied::Refused(refusal);
        }
        self.remove_session(key, changes);
        Applied::Done
    }

    /// Its intents go with a session. Its opening result stays: the opening INVITE may still be repeated.
    pub(super) fn remove_session(&mut self, key: &SessionKey, changes: &mut Vec<Change>) {
        if let Some(session) = self.sessions.remove(key) {
            self.forget_owner(key, session.owner);
            self.forget_intents_of(key);
            changes.push(Change::Session(SessionChange::Closed {
                key: session.key.clone(),
                owner: session.owner,
            }));
        }
    }

    /// Changes nothing when the session has moved on since `from_epoch`, or is the adopter's already: the answer
    /// tells whose it is.
    pub(super) fn adopt(
        &mut self,
        key: &SessionKey,
        from_epoch: Epoch,
        to: NodeId,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let Some(session) = self.session(key) else {
            return Applied::Refused(Refusal::UnknownSession);
        };
        if session.epoch != from_epoch || session.owner == to {
            return Applied::Session(Box::new(session.clone()));
        }
        if !self.is_live(to) {
            return Applied::Refused(Refusal::UnknownNode);
        }
        if session.epoch >= Epoch::MAX {
            return Applied::Refused(Refusal::LimitReached);
        }
        match self.change_owner(key, to, changes) {
            Some(session) => Applied::Session(Box::new(session.clone())),
            None => Applied::Refused(Refusal::UnknownSession),
        }
    }

    /// The one place where an owner changes: the epoch rises with it. The owner may be the same node in a new incarnation.
    pub(super) fn change_owner(
        &mut self,
        key: &SessionKey,
        to: NodeId,
        changes: &mut Vec<Change>,
    ) -> Option<&SessionRecord> {
        let session = Arc::make_mut(self.sessions.get_mut(key)?);
        let from = std::mem::replace(&mut session.owner, to);
        if !planted(Bug::EpochStays) {
            session.epoch = session.epoch.next();
        }
        let epoch = session.epoch;
        self.forget_owner(key, from);
        self.owned.entry(to).or_default().insert(key.clone());
        changes.push(Change::Session(SessionChange::Moved {
            key: key.clone(),
            from,
            to,
            epoch,
        }));
        self.session(key)
    }

    fn forget_owner(&mut self, key: &SessionKey, owner: NodeId) {
        if let Some(keys) = self.owned.get_mut(&owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }

    /// The session, for someone who owns it at `epoch`.
    pub(super) fn session_at(&self, key: &SessionKey, epoch: Epoch) -> Result<&SessionRecord, Refusal> {
        let session = self.session(key).ok_or(Refusal::UnknownSession)?;
        if session.epoch == epoch || planted(Bug::EpochUnchecked) {
            Ok(session)
        } else {
            Err(Refusal::StaleEpoch)
        }
    }
}

/// Most updates concern no call.
fn calls_after<'a>(session: &'a SessionRecord, update: &SessionUpdate) -> Cow<'a, Calls> {
    let mut after = Cow::Borrowed(&session.calls);
    for (call_id, call) in &update.calls {
        let after = after.to_mut();
        match call {
            Some(call) => drop(after.insert(call_id.clone(), call.clone())),
            None => drop(after.remove(call_id)),
        }
    }
    after
}

fn changes_fields(session: &SessionRecord, update: &SessionUpdate) -> bool {
    let SessionUpdate {
        connection,
        remote_target,
        expires_at_ms,
        monitor_active,
        cti_connection,
        calls: _,
    } = update;
    let known_connection = (session.connection, session.client_address);
    connection.is_some_and(|connection| connection != known_connection)
        || remote_target
            .as_ref()
            .is_some_and(|target| *target != session.dialog.remote_target)
        || expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms != session.expires_at_ms)
        || monitor_active.is_some_and(|active| active != session.monitor.active)
        || (cti_connection.is_some() && *cti_connection != session.cti_connection)
}

fn write_update(session: &mut SessionRecord, update: SessionUpdate, calls_after: Calls) {
    let SessionUpdate {
        connection,
        remote_target,
        expires_at_ms,
        monitor_active,
        cti_connection,
        calls: _,
    } = update;
    if let Some((connection, client_address)) = connection {
        session.connection = connection;
        session.client_address = client_address;
    }
    if let Some(remote_target) = remote_target {
        Arc::make_mut(&mut session.dialog).remote_target = remote_target;
    }
    if let Some(expires_at_ms) = expires_at_ms {
        session.expires_at_ms = expires_at_ms;
    }
    if let Some(active) = monitor_active {
        session.monitor.active = active;
    }
    if let Some(address) = cti_connection {
        session.cti_connection = Some(address);
    }
    session.calls = calls_after;
}

type Calls = BTreeMap<String, CallRecord>;

#[cfg(test)]
mod tests {
    use super::super::test_support::{apply_all, cluster_of, key, lost, opened, opening, record, registered};
    use super::*;
    use crate::command::Command;
    use crate::session::{CallRecord, CallState};

    fn update(epoch: Epoch, update: SessionUpdate) -> Command {
        Command::SessionUpdated {
            key: key(1, 1),
            epoch,
            update,
        }
    }

    fn adopt(from_epoch: Epoch, to: u64) -> Command {
        Command::Adopt {
            key: key(1, 1),
            from_epoch,
            to: NodeId(to),
        }
    }

    fn call() -> CallRecord {
        let (calling, called) = ("4711".to_owned(), "4712".to_owned());
        CallRecord {
            pbx_call_id: "9".to_owned(),
            state: CallState::Connected,
            calling,
            called,
        }
    }

    #[test]
    fn a_repeated_opening_is_answered_with_the_session_it_opened() {
        let mut state = cluster_of(2);
        assert_eq!(
            state.apply(opened(1, 1)),
            (
                Applied::Done,
                vec![Change::Session(SessionChange::Opened(key(1, 1)))]
            )
        );
        let repeated = Command::SessionOpened {
            opening: opening(1),
            record: Box::new(record(2, 77)),
            decided_at_ms: 5,
        };
        let known = Applied::AlreadyOpened {
            session: key(1, 1),
            record: Some(Box::new(record(1, 1))),
        };
        assert_eq!(state.apply(repeated.clone()), (known, Vec::new()));
        apply_all(
            &mut state,
            [Command::SessionClosed {
                key: key(1, 1),
                epoch: Epoch::FIRST,
            }],
        );
        let ended = Applied::AlreadyOpened {
            session: key(1, 1),
            record: None,
        };
        assert_eq!(state.apply(repeated).0, ended, "the result outlives the session");
    }

    #[test]
    fn opening_results_expire_and_are_bounded_oldest_first() {
        let mut state = cluster_of(1);
        state.limits.opening_results_max = 3;
        apply_all(&mut state, (1..=5).map(|number| opened(1, number)));
        assert!(!state.openings.contains_key(&opening(2)));
        assert!(state.openings.contains_key(&opening(3)));
        apply_all(&mut state, [Command::Expire { before_ms: 5 }]);
        assert!(!state.openings.contains_key(&opening(4)));
        assert!(
            state.openings.contains_key(&opening(5)),
            "expires what was decided before, not at, the time"
        );
        let again = state.apply(opened(1, 1)).0;
        assert!(
            matches!(again, Applied::AlreadyOpened { .. }),
            "its key still stands: {again:?}"
        );
    }

    #[test]
    fn a_node_that_is_not_live_opens_nothing() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [lost(1, 1)]);
        assert_eq!(
            state.apply(opened(1, 1)).0,
            Applied::Refused(Refusal::UnknownNode)
        );
        assert!(!state.openings.contains_key(&opening(1)));
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let mut state = cluster_of(1);
        state.limits.sessions_max = 2;
        let outcomes: Vec<_> = (1..=3).map(|number| state.apply(opened(1, number)).0).collect();
        assert_eq!(
            outcomes,
            [
                Applied::Done,
                Applied::Done,
                Applied::Refused(Refusal::LimitReached)
            ]
        );
    }

    #[test]
    fn an_update_writes_what_it_names_and_leaves_the_rest() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [opened(1, 1)]);
        let written = SessionUpdate {
            cti_connection: Some("cti-2:4000".to_owned()),
            calls: vec![("c1".to_owned(), Some(call())), ("c2".to_owned(), Some(call()))],
            ..SessionUpdate::default()
        };
        let (applied, changes) = state.apply(update(Epoch::FIRST, written.clone()));
        assert_eq!(
            (applied, changes),
            (
                Applied::Done,
                vec![Change::Session(SessionChange::Updated(key(1, 1)))]
            )
        );
        assert_eq!(
            state.apply(update(Epoch::FIRST, written)),
            (Applied::Done, Vec::new()),
            "nothing new"
        );
        let removal = SessionUpdate {
            calls: vec![("c1".to_owned(), None)],
            ..SessionUpdate::default()
        };
        apply_all(&mut state, [update(Epoch::FIRST, removal)]);
        let session = state.session(&key(1, 1)).unwrap();
        assert_eq!(session.cti_connection.as_deref(), Some("cti-2:4000"));
        assert!(session.calls.keys().eq(["c2"]));
        assert_eq!(session.dialog, record(1, 1).dialog);
    }

    #[test]
    fn an_update_beyond_the_bound_of_calls_changes_nothing() {
        let mut state = cluster_of(1);
        apply_all(&mut state, [opened(1, 1)]);
        let calls = (0..4).map(|number| (number.to_string(), Some(call()))).collect();
        let expires_at_ms = Some(9);
        let many = SessionUpdate {
            calls,
            expires_at_ms,
            ..SessionUpdate::default()
        };
        let before = state.clone();
        let refused = (Applied::Refused(Refusal::LimitReached), Vec::new());
        assert_eq!(state.apply(update(Epoch::FIRST, many)), refused);
        assert_eq!(state, before);
    }

    #[test]
    fn a_former_owner_is_refused() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1), lost(1, 1)]);
        let stale = Applied::Refused(Refusal::StaleEpoch);
        assert_eq!(
            state.apply(update(Epoch::FIRST, SessionUpdate::default())).0,
            stale
        );
        let close = Command::SessionClosed {
            key: key(1, 1),
            epoch: Epoch::FIRST,
        };
        assert_eq!(state.apply(close).0, stale);
        let close = Command::SessionClosed {
            key: key(1, 1),
            epoch: Epoch(1),
        };
        let closed = Change::Session(SessionChange::Closed {
            key: key(1, 1),
            owner: NodeId(2),
        });
        assert_eq!(state.apply(close.clone()), (Applied::Done, vec![closed]));
        assert_eq!(state.apply(close).0, Applied::Refused(Refusal::UnknownSession));
    }

    #[test]
    fn of_two_nodes_that_adopt_at_once_the_first_wins_and_the_second_learns_it() {
        let mut state = cluster_of(3);
        apply_all(&mut state, [opened(1, 1)]);
        let (first, changes) = state.apply(adopt(Epoch::FIRST, 2));
        let Applied::Session(session) = first else {
            panic!("{first:?}");
        };
        assert_eq!((session.owner, session.epoch), (NodeId(2), Epoch(1)));
        let (from, to) = (NodeId(1), NodeId(2));
        assert_eq!(
            changes,
            [Change::Session(SessionChange::Moved {
                key: key(1, 1),
                from,
                to,
                epoch: Epoch(1)
            })]
        );
        assert_eq!(
            state.apply(adopt(Epoch::FIRST, 3)),
            (Applied::Session(session.clone()), Vec::new())
        );
        assert_eq!(
            state.apply(adopt(Epoch::FIRST, 2)),
            (Applied::Session(session.clone()), Vec::new())
        );
        assert_eq!(
            state.apply(adopt(Epoch(1), 2)),
            (Applied::Session(session), Vec::new()),
            "it has it"
        );
    }

    #[test]
    fn an_adopter_must_be_live() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1), lost(2, 1)]);
        assert_eq!(
            state.apply(adopt(Epoch::FIRST, 2)).0,
            Applied::Refused(Refusal::UnknownNode)
        );
        assert_eq!(
            state.apply(adopt(Epoch::FIRST, 9)).0,
            Applied::Refused(Refusal::UnknownNode)
        );
        let unknown = Command::Adopt {
            key: key(1, 9),
            from_epoch: Epoch::FIRST,
            to: NodeId(1),
        };
        assert_eq!(state.apply(unknown).0, Applied::Refused(Refusal::UnknownSession));
    }

    #[test]
    fn a_session_in_its_last_epoch_cannot_be_adopted() {
        let mut state = cluster_of(2);
        let mut last = record(1, 1);
        last.epoch = Epoch::MAX;
        let record = Box::new(last);
        apply_all(
            &mut state,
            [Command::SessionOpened {
                opening: opening(1),
                record,
                decided_at_ms: 1,
            }],
        );
        assert_eq!(
            state.apply(adopt(Epoch::MAX, 2)).0,
            Applied::Refused(Refusal::LimitReached)
        );
        assert_eq!(Epoch::MAX.cseq_block().1, i32::MAX as u32);
    }

    #[test]
    fn a_session_that_returned_to_its_issuer_is_no_exception_any_more() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [opened(1, 1), lost(1, 1), registered(1, 2)]);
        let moved: Vec<_> = state.moved_sessions().collect();
        assert_eq!(moved, [(&key(1, 1), NodeId(2))]);
        apply_all(&mut state, [adopt(Epoch(1), 1)]);
        assert_eq!(state.moved_sessions().count(), 0);
    }
}
