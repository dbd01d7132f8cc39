//! Sessions: who owns them, and how their opening requests were answered.

use super::ClusterState;
use crate::cluster::command::{Applied, Change, Refusal, SessionUpdate};
use crate::cluster::node::NodeId;
use crate::cluster::session::{Epoch, OpeningKey, OpeningResult, SessionKey, SessionRecord};

impl ClusterState {
    #[must_use]
    pub fn session(&self, key: &SessionKey) -> Option<&SessionRecord> {
        self.sessions.get(key)
    }

    /// All sessions, in order of their keys.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = &SessionRecord> + '_ {
        self.sessions.values()
    }

    /// The sessions that `node` owns, in order of their keys.
    pub fn sessions_of(&self, node: NodeId) -> impl Iterator<Item = &SessionRecord> + '_ {
        let keys = self.owned.get(&node).into_iter().flatten();
        keys.filter_map(|key| self.sessions.get(key))
    }

    #[must_use]
    pub fn session_count_of(&self, node: NodeId) -> usize {
        self.owned.get(&node).map_or(0, std::collections::BTreeSet::len)
    }

    #[must_use]
    pub fn owner_of(&self, key: &SessionKey) -> Option<NodeId> {
        self.sessions.get(key).map(|session| session.owner)
    }

    /// The exceptions to routing by To-tag: sessions whose owner is not the node that their tag names.
    pub fn moved_sessions(&self) -> impl Iterator<Item = (&SessionKey, NodeId)> + '_ {
        let moved = self
            .sessions
            .values()
            .filter(|session| session.key.issuer() != Some(session.owner));
        moved.map(|session| (&session.key, session.owner))
    }

    #[must_use]
    pub fn opening(&self, key: &OpeningKey) -> Option<&OpeningResult> {
        self.openings.get(key)
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
        changes.push(Change::SessionOpened(record.key.clone()));
        self.sessions.insert(record.key.clone(), *record);
        Applied::Done
    }

    fn already_opened(&self, session: SessionKey) -> Applied {
        let record = self.sessions.get(&session).cloned().map(Box::new);
        Applied::AlreadyOpened { session, record }
    }

    fn remember_opening(&mut self, opening: OpeningKey, result: OpeningResult) {
        self.openings_by_age
            .insert((result.decided_at_ms, opening.clone()));
        self.openings.insert(opening, result);
        while self.openings.len() > self.limits.opening_results_max
            && let Some((_, oldest)) = self.openings_by_age.pop_first()
        {
            self.openings.remove(&oldest);
        }
    }

    pub(super) fn expire_openings(&mut self, before_ms: u64) {
        while let Some((decided_at_ms, _)) = self.openings_by_age.first()
            && *decided_at_ms < before_ms
            && let Some((_, opening)) = self.openings_by_age.pop_first()
        {
            self.openings.remove(&opening);
        }
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
        let mut updated = session.clone();
        write_update(&mut updated, update);
        if updated.calls.len() > self.limits.calls_per_session_max {
            return Applied::Refused(Refusal::LimitReached);
        }
        if *session != updated {
            self.sessions.insert(key.clone(), updated);
            changes.push(Change::SessionUpdated(key.clone()));
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
            changes.push(Change::SessionClosed {
                key: session.key,
                owner: session.owner,
            });
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
        let Some(session) = self.sessions.get(key) else {
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

    /// The one place where an owner changes: the epoch rises with it. The owner may be the same node in a new life.
    pub(super) fn change_owner(
        &mut self,
        key: &SessionKey,
        to: NodeId,
        changes: &mut Vec<Change>,
    ) -> Option<&SessionRecord> {
        let session = self.sessions.get_mut(key)?;
        let from = std::mem::replace(&mut session.owner, to);
        session.epoch = session.epoch.next();
        let epoch = session.epoch;
        self.forget_owner(key, from);
        self.owned.entry(to).or_default().insert(key.clone());
        changes.push(Change::SessionMoved {
            key: key.clone(),
            from,
            to,
            epoch,
        });
        self.sessions.get(key)
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
        let session = self.sessions.get(key).ok_or(Refusal::UnknownSession)?;
        if session.epoch == epoch {
            Ok(session)
        } else {
            Err(Refusal::StaleEpoch)
        }
    }
}

fn write_update(session: &mut SessionRecord, update: SessionUpdate) {
    let SessionUpdate {
        connection,
        remote_target,
        expires_at_ms,
        monitor_active,
        cti_connection,
        calls,
    } = update;
    if let Some((connection, client_address)) = connection {
        session.connection = connection;
        session.client_address = client_address;
    }
    if let Some(remote_target) = remote_target {
        session.dialog.remote_target = remote_target;
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
    for (call_id, call) in calls {
        match call {
            Some(call) => drop(session.calls.insert(call_id, call)),
            None => drop(session.calls.remove(&call_id)),
        }
    }
}
