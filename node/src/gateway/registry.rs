//! The sessions of this node: by key, by line, by client, by the request that opens them, and by their next deadline.
//!
//! What always holds: every index names sessions that are there, and each session stands in the indexes it belongs to.
//! Whoever changes what a deadline depends on has it indexed anew.

use std::collections::btree_map::{Keys, Values};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use tandem_cluster::{OpeningKey, SessionKey, SessionRecord};
use tandem_sip::TransactionKey;

use crate::sip::dialog;

use super::session::{Session, Stage};

/// What tells a client's installation from others: From URI and endpoint id.
type ClientKey = (String, String);

#[derive(Debug, Default)]
pub(super) struct Registry {
    sessions: BTreeMap<SessionKey, Session>,
    /// Opening requests without a final answer.
    openings: BTreeMap<OpeningKey, SessionKey>,
    by_client: HashMap<ClientKey, SessionKey>,
    /// By user and line.
    by_line: BTreeMap<(String, String), BTreeSet<SessionKey>>,
    deadlines: BTreeSet<(Instant, SessionKey)>,
    indexed_deadlines: HashMap<SessionKey, Instant>,
}

impl Registry {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    pub(super) fn contains(&self, key: &SessionKey) -> bool {
        self.sessions.contains_key(key)
    }

    pub(super) fn get(&self, key: &SessionKey) -> Option<&Session> {
        self.sessions.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &SessionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key)
    }

    /// The session, which the caller has found before in the same step.
    ///
    /// # Panics
    /// When it is not there: the gateway has lost track of what it owns.
    pub(super) fn known(&self, key: &SessionKey) -> &Session {
        let session = self.sessions.get(key);
        session.expect("a handler is called only for a session of this node")
    }

    /// As [`Self::known`].
    pub(super) fn known_mut(&mut self, key: &SessionKey) -> &mut Session {
        let session = self.sessions.get_mut(key);
        session.expect("a handler is called only for a session of this node")
    }

    pub(super) fn keys(&self) -> Keys<'_, SessionKey, Session> {
        self.sessions.keys()
    }

    pub(super) fn values(&self) -> Values<'_, SessionKey, Session> {
        self.sessions.values()
    }

    /// The session becomes its client's only when it says so ([`Self::claim_client`]).
    pub(super) fn insert(&mut self, session: Session) {
        let key = session.key().clone();
        if let Stage::Opening(opening) = &session.stage {
            self.openings.insert(opening.key.clone(), key.clone());
        }
        self.by_line
            .entry(line_key(&session))
            .or_default()
            .insert(key.clone());
        self.sessions.insert(key, session);
    }

    /// Takes the session out of every index, its deadline included.
    pub(super) fn remove(&mut self, key: &SessionKey) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        if let Stage::Opening(opening) = &session.stage {
            self.openings.remove(&opening.key);
        }
        if let Some(client) = client_key(&session.record)
            && self.by_client.get(&client) == Some(key)
        {
            self.by_client.remove(&client);
        }
        let line = line_key(&session);
        if let Some(keys) = self.by_line.get_mut(&line) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_line.remove(&line);
            }
        }
        self.forget_deadline(key);
        Some(session)
    }

    /// The session that this request is opening.
    pub(super) fn opened_by(&self, opening: &OpeningKey) -> Option<&SessionKey> {
        self.openings.get(opening)
    }

    /// The session that a request of this transaction is opening.
    pub(super) fn opened_in(&self, transaction: &TransactionKey) -> Option<SessionKey> {
        let is_opened = |session: &Session| match &session.stage {
            Stage::Opening(opening) => opening.request.raw.transaction_key() == *transaction,
            Stage::Established => false,
        };
        let mut openings = self.openings.values();
        openings
            .find(|key| self.sessions.get(*key).is_some_and(is_opened))
            .cloned()
    }

    /// The opening request of the session is answered.
    pub(super) fn opening_answered(&mut self, opening: &OpeningKey) {
        self.openings.remove(opening);
    }

    /// The session is its client's from now on. Returns another one that was.
    pub(super) fn claim_client(&mut self, key: &SessionKey) -> Option<SessionKey> {
        let client = self
            .sessions
            .get(key)
            .and_then(|session| client_key(&session.record))?;
        let before = self.by_client.insert(client, key.clone());
        before.filter(|before| before != key)
    }

    /// The session is its client's, unless another one is.
    pub(super) fn claim_unclaimed_client(&mut self, key: &SessionKey) {
        if let Some(client) = self
            .sessions
            .get(key)
            .and_then(|session| client_key(&session.record))
        {
            self.by_client.entry(client).or_insert_with(|| key.clone());
        }
    }

    /// The session of the client whose session the record is.
    pub(super) fn of_client_of(&self, record: &SessionRecord) -> Option<&SessionKey> {
        self.by_client.get(&client_key(record)?)
    }

    /// The sessions of the user on the line of the session `key`, which is one of them.
    pub(super) fn on_the_line_of(&self, key: &SessionKey) -> Vec<&Session> {
        let line = self.sessions.get(key).map(line_key);
        let keys = line.and_then(|line| self.by_line.get(&line));
        let sessions = keys.into_iter().flatten();
        sessions.filter_map(|key| self.sessions.get(key)).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A session whose time has come; its deadline is to be indexed anew.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<SessionKey> {
        if self.deadlines.first().is_none_or(|(at, _)| *at > now) {
            return None;
        }
        let (_, key) = self.deadlines.pop_first()?;
        self.indexed_deadlines.remove(&key);
        Some(key)
    }

    /// A request that cannot go on waits for `request_wait`.
    pub(super) fn index_deadline(&mut self, key: &SessionKey, request_wait: Duration) {
        let wanted = self
            .sessions
            .get(key)
            .map(|session| session.next_deadline(request_wait));
        if self.indexed_deadlines.get(key) == wanted.as_ref() {
            return;
        }
        self.forget_deadline(key);
        if let Some(at) = wanted {
            self.deadlines.insert((at, key.clone()));
            self.indexed_deadlines.insert(key.clone(), at);
        }
    }

    fn forget_deadline(&mut self, key: &SessionKey) {
        if let Some(at) = self.indexed_deadlines.remove(key) {
            self.deadlines.remove(&(at, key.clone()));
        }
    }

    /// # Panics
    /// When an index disagrees with the sessions.
    pub(super) fn check_invariants(&self) {
        assert_eq!(
            self.deadlines.len(),
            self.indexed_deadlines.len(),
            "deadlines and their index disagree"
        );
        for key in self.openings.values() {
            let is_opening = self
                .sessions
                .get(key)
                .is_some_and(|session| !session.is_established());
            assert!(is_opening, "{key} is said to be opening");
        }
        #[cfg(test)]
        self.check_each();
    }

    /// Every session, one by one: for tests, whose sessions are few.
    #[cfg(test)]
    fn check_each(&self) {
        for (key, session) in &self.sessions {
            assert_eq!(key, session.key(), "a session under another's key");
            assert!(self.indexed_deadlines.contains_key(key), "{key} has no deadline");
            let on_its_line = self.by_line.get(&line_key(session));
            assert!(
                on_its_line.is_some_and(|keys| keys.contains(key)),
                "{key} is on no line"
            );
        }
        let on_lines: usize = self.by_line.values().map(BTreeSet::len).sum();
        assert_eq!(on_lines, self.sessions.len(), "sessions and lines disagree");
        let clients = self.by_client.values();
        assert!(
            clients.clone().all(|key| self.contains(key)),
            "a client's session is gone"
        );
    }
}

fn client_key(record: &SessionRecord) -> Option<ClientKey> {
    let caller = dialog::Caller::of(&record.dialog.remote_identity).ok()?;
    Some((caller.uri, caller.endpoint_id?))
}

fn line_key(session: &Session) -> (String, String) {
    (session.record.user.clone(), session.record.line.clone())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use std::sync::Arc;

    use tandem_cluster::NodeId;

    use super::super::session::Link;
    use super::*;
    use crate::session_sample;

    const WAIT: Duration = Duration::from_secs(5);

    /// Of `user` on line 4711, from a client that goes by `epid`. It expires after so many seconds.
    fn session(key: &str, user: &str, epid: &str, expires_secs: u64, now: Instant) -> Session {
        let mut record = session_sample::session(key, NodeId(1), user);
        let remote = format!("<{}>;tag=1;epid={epid}", record.dialog.remote_uri);
        Arc::make_mut(&mut record.dialog).remote_identity = remote;
        record.expires_at_ms = expires_secs * 1000;
        Session::new(record, Stage::Established, Link::Down, now, 0)
    }

    fn insert(registry: &mut Registry, session: Session) -> SessionKey {
        let key = session.key().clone();
        registry.insert(session);
        registry.index_deadline(&key, WAIT);
        registry.check_invariants();
        key
    }

    fn on_the_line_of<'a>(registry: &'a Registry, key: &SessionKey) -> Vec<&'a str> {
        let sessions = registry.on_the_line_of(key).into_iter();
        sessions.map(|session| session.key().as_str()).collect()
    }

    #[test]
    fn sessions_of_one_user_on_one_line_are_found_together_and_leave_no_trace() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let one = insert(&mut registry, session("n1-a", "user1", "e1", 9, now));
        let two = insert(&mut registry, session("n1-b", "user1", "e2", 9, now));
        let other = insert(&mut registry, session("n1-c", "user2", "e3", 9, now));
        assert_eq!(on_the_line_of(&registry, &one), ["n1-a", "n1-b"]);
        assert_eq!(on_the_line_of(&registry, &other), ["n1-c"]);
        for key in [&one, &two, &other] {
            assert!(registry.remove(key).is_some() && registry.remove(key).is_none());
            registry.check_invariants();
        }
        assert!(registry.is_empty() && registry.by_line.is_empty() && registry.deadlines.is_empty());
    }

    #[test]
    fn a_client_has_the_session_that_claims_it_last() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let first = insert(&mut registry, session("n1-a", "user1", "e1", 9, now));
        let second = insert(&mut registry, session("n1-b", "user1", "e1", 9, now));
        assert_eq!(registry.claim_client(&first), None);
        registry.claim_unclaimed_client(&second);
        assert_eq!(registry.claim_client(&first), None, "it has been its client's");
        assert_eq!(registry.claim_client(&second), Some(first.clone()));
        registry.remove(&first);
        let removed = registry.remove(&second).unwrap();
        assert_eq!(registry.of_client_of(&removed.record), None);
    }

    #[test]
    fn a_session_is_due_once_and_by_its_latest_deadline() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let key = insert(&mut registry, session("n1-a", "user1", "e1", 9, now));
        let expires_at = now + Duration::from_secs(9);
        assert_eq!(registry.next_deadline(), Some(expires_at));
        let later = expires_at + Duration::from_secs(1);
        registry.known_mut(&key).expires_at = later;
        registry.index_deadline(&key, WAIT);
        assert_eq!(registry.next_due(expires_at), None);
        assert_eq!(registry.next_due(later), Some(key));
        assert_eq!(registry.next_due(later), None);
    }
}
