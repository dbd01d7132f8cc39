//! What the gateway wants written to the log: one batch in flight, everything in order.
//!
//! A single lane keeps the order of every session's commands without any bookkeeping, and groups commits by itself:
//! while one batch is on its way to the majority, the next one gathers. Two kinds of writes share it: those somebody
//! waits for, each with a deadline of its own, and the coalesced updates that nobody waits for.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tandem_cluster::command::SessionUpdate;
use tandem_cluster::{Applied, Command, Epoch, Refusal, SessionKey};

/// Somebody who waits for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Waiter {
    /// The opening INVITE of this session.
    Opening(SessionKey),
    /// Nobody waits, but this session was opened without a quorum.
    Merge(SessionKey),
    /// A request of this session: the one that goes by this number.
    Request(SessionKey, RequestNumber),
    /// Requests for a session that another node owns, or owned.
    Adoption(SessionKey),
    /// Requests for a watcher that another node owns, or owned.
    WatcherAdoption(SessionKey),
    /// A session that this node gives away.
    HandOver(SessionKey),
    Nobody,
}

/// Tells the requests apart for which commands were proposed: what comes of one late is not the next one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestNumber(u64);

/// What came of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Applied(Applied),
    /// The deadline passed; whether the command was committed is not known.
    TimedOut,
}

impl Outcome {
    /// An adoption has been decided. Refused to a node that is not live, or because the epochs are used up, it would
    /// be refused again at once: the requests wait until the node is live, or for their deadline.
    pub(super) fn says_who_owns(&self) -> bool {
        match self {
            Self::Applied(Applied::Refused(refusal)) => *refusal == Refusal::UnknownSession,
            Self::Applied(_) => true,
            Self::TimedOut => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    waiter: Waiter,
    command: Command,
    deadline: Instant,
}

#[derive(Debug)]
pub(super) struct Proposals {
    waiting: VecDeque<Entry>,
    in_flight: Vec<Entry>,
    in_flight_id: Option<u64>,
    next_id: u64,
    next_request: u64,
    updates: BTreeMap<SessionKey, (Epoch, SessionUpdate)>,
    updates_in_flight: BTreeMap<SessionKey, (Epoch, SessionUpdate)>,
    /// Sessions whose end is not on a majority yet, and the epoch in which they ended.
    closing: BTreeMap<SessionKey, Epoch>,
    /// The last that is to be said of each watcher.
    watchers: BTreeMap<SessionKey, Command>,
    watchers_in_flight: BTreeMap<SessionKey, Command>,
    flush_at: Option<Instant>,
    entries_max: usize,
}

/// One batch for the shell to propose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) id: u64,
    pub(super) command: Command,
}

impl Proposals {
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: Vec::new(),
            in_flight_id: None,
            next_id: 0,
            next_request: 0,
            updates: BTreeMap::new(),
            updates_in_flight: BTreeMap::new(),
            closing: BTreeMap::new(),
            watchers: BTreeMap::new(),
            watchers_in_flight: BTreeMap::new(),
            flush_at: None,
            entries_max,
        }
    }

    /// `false` when the queue is full: nothing was taken.
    #[must_use]
    pub(super) fn push(&mut self, waiter: Waiter, command: Command, deadline: Instant) -> bool {
        if self.waiting.len() >= self.entries_max {
            return false;
        }
        if let Command::SessionClosed { key, epoch } = &command {
            self.closing.insert(key.clone(), *epoch);
        }
        self.waiting.push_back(Entry {
            waiter,
            command,
            deadline,
        });
        true
    }

    /// For a request that waits from here on.
    pub(super) fn request_number(&mut self) -> RequestNumber {
        self.next_request += 1;
        RequestNumber(self.next_request)
    }

    /// Merges what nobody waits for; it leaves within [`FLUSH_DELAY`].
    pub(super) fn update(
        &mut self,
        key: &SessionKey,
        epoch: Epoch,
        now: Instant,
        change: impl FnOnce(&mut SessionUpdate),
    ) {
        let entry = self
            .updates
            .entry(key.clone())
            .or_insert_with(|| (epoch, SessionUpdate::default()));
        if entry.0 != epoch {
            *entry = (epoch, SessionUpdate::default());
        }
        change(&mut entry.1);
        self.flush_at.get_or_insert(now + FLUSH_DELAY);
    }

    /// A session is gone: what was to be written of it is not worth writing, nor worth another attempt.
    pub(super) fn forget(&mut self, key: &SessionKey) {
        self.updates.remove(key);
        self.updates_in_flight.remove(key);
    }

    /// What is to be written of a watcher, in place of what was to be written before.
    pub(super) fn watcher(&mut self, key: &SessionKey, command: Command, now: Instant) {
        self.watchers.insert(key.clone(), command);
        self.flush_at.get_or_insert(now + FLUSH_DELAY);
    }

    pub(super) fn forget_watcher(&mut self, key: &SessionKey) {
        self.watchers.remove(key);
    }

    /// Something of the watcher's is not on a majority yet.
    pub(super) fn has_watcher(&self, key: &SessionKey) -> bool {
        self.watchers.contains_key(key) || self.watchers_in_flight.contains_key(key)
    }

    /// The next batch, when nothing is in flight and there is something to say.
    pub(super) fn next_batch(&mut self, now: Instant) -> Option<Batch> {
        if self.in_flight_id.is_some() {
            return None;
        }
        let updates_due = self.flush_at.is_some_and(|at| at <= now);
        if self.waiting.is_empty() && !updates_due {
            return None;
        }
        let taken = self.waiting.len().min(BATCH_COMMANDS_MAX);
        self.in_flight = self.waiting.drain(..taken).collect();
        while self.in_flight.len() + self.updates_in_flight.len() < BATCH_COMMANDS_MAX {
            let Some((key, update)) = self.updates.pop_first() else {
                break;
            };
            self.updates_in_flight.insert(key, update);
        }
        while self.in_flight.len() + self.updates_in_flight.len() + self.watchers_in_flight.len()
            < BATCH_COMMANDS_MAX
        {
            let Some((key, command)) = self.watchers.pop_first() else {
                break;
            };
            self.watchers_in_flight.insert(key, command);
        }
        let is_left = !self.updates.is_empty() || !self.watchers.is_empty();
        self.flush_at = is_left.then_some(now);
        if self.in_flight.is_empty()
            && self.updates_in_flight.is_empty()
            && self.watchers_in_flight.is_empty()
        {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.in_flight_id = Some(id);
        Some(Batch {
            id,
            command: self.in_flight_command(),
        })
    }

    /// The batch was committed, or it was not. Returns what to tell those who wait.
    pub(super) fn finished(
        &mut self,
        id: u64,
        applied: Option<Applied>,
        now: Instant,
    ) -> Vec<(Waiter, Outcome)> {
        if self.in_flight_id != Some(id) {
            return Vec::new();
        }
        self.in_flight_id = None;
        match applied {
            Some(applied) => self.committed(applied),
            None => self.failed(now),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let is_left = !self.updates.is_empty() || !self.watchers.is_empty();
        self.flush_at.filter(|_| is_left && self.in_flight_id.is_none())
    }

    /// The end of the session, as it was in `epoch`, is not on a majority yet.
    pub(super) fn closes(&self, key: &SessionKey, epoch: Epoch) -> bool {
        self.closing.get(key).is_some_and(|closing| *closing >= epoch)
    }

    /// What was learned of the session is not on a majority yet.
    pub(super) fn has_update(&self, key: &SessionKey) -> bool {
        self.updates.contains_key(key) || self.updates_in_flight.contains_key(key)
    }

    pub(super) fn entries(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Nothing is to be said that somebody waits for, nor of a watcher.
    pub(super) fn is_idle(&self) -> bool {
        self.entries() == 0 && self.watchers.is_empty() && self.watchers_in_flight.is_empty()
    }

    pub(super) fn entries_max(&self) -> usize {
        self.entries_max + BATCH_COMMANDS_MAX
    }

    fn in_flight_command(&self) -> Command {
        let waited_for = self.in_flight.iter().map(|entry| entry.command.clone());
        let updates = self
            .updates_in_flight
            .iter()
            .map(|(key, (epoch, update))| Command::SessionUpdated {
                key: key.clone(),
                epoch: *epoch,
                update: update.clone(),
            });
        let watchers = self.watchers_in_flight.values().cloned();
        Command::Batch(waited_for.chain(updates).chain(watchers).collect())
    }

    fn committed(&mut self, applied: Applied) -> Vec<(Waiter, Outcome)> {
        self.updates_in_flight.clear();
        self.watchers_in_flight.clear();
        let results = if let Applied::Batch(results) = applied {
            results
        } else {
            Vec::new()
        };
        let entries = std::mem::take(&mut self.in_flight);
        self.forget_closing(&entries);
        let mut results = results.into_iter();
        entries
            .into_iter()
            .map(|entry| {
                let outcome = results.next().map_or(Outcome::TimedOut, Outcome::Applied);
                (entry.waiter, outcome)
            })
            .collect()
    }

    /// Every command may be applied twice, so what still has time simply goes again, in the same order.
    fn failed(&mut self, now: Instant) -> Vec<(Waiter, Outcome)> {
        for (key, (epoch, older)) in std::mem::take(&mut self.updates_in_flight) {
            match self.updates.get_mut(&key) {
                Some((newer_epoch, newer)) if *newer_epoch == epoch => merge_beneath(newer, older),
                Some(_) => {}
                None => {
                    self.updates.insert(key, (epoch, older));
                }
            }
        }
        for (key, older) in std::mem::take(&mut self.watchers_in_flight) {
            self.watchers.entry(key).or_insert(older);
        }
        if !self.updates.is_empty() || !self.watchers.is_empty() {
            self.flush_at = Some(now + RETRY_DELAY);
        }
        let entries = std::mem::take(&mut self.in_flight);
        let (again, late): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.deadline > now);
        for entry in again.into_iter().rev() {
            self.waiting.push_front(entry);
        }
        self.forget_closing(&late);
        late.into_iter()
            .map(|entry| (entry.waiter, Outcome::TimedOut))
            .collect()
    }

    fn forget_closing(&mut self, finished: &[Entry]) {
        for entry in finished {
            if let Command::SessionClosed { key, .. } = &entry.command {
                self.closing.remove(key);
            }
        }
    }
}

/// Puts what an older update said under a newer one.
fn merge_beneath(newer: &mut SessionUpdate, older: SessionUpdate) {
    newer.connection = newer.connection.or(older.connection);
    newer.remote_target = newer.remote_target.take().or(older.remote_target);
    newer.expires_at_ms = newer.expires_at_ms.or(older.expires_at_ms);
    newer.monitor_active = newer.monitor_active.or(older.monitor_active);
    newer.cti_connection = newer.cti_connection.take().or(older.cti_connection);
    for (call_id, call) in older.calls {
        if newer.calls.iter().all(|(known, _)| *known != call_id) {
            newer.calls.push((call_id, call));
        }
    }
}

/// Commands in one entry of the log. Some hundred kilobytes at most: far below what a frame between members may hold.
const BATCH_COMMANDS_MAX: usize = 64;
/// How long updates that nobody waits for gather.
const FLUSH_DELAY: Duration = Duration::from_millis(3);
/// How long the updates of a failed batch wait.
const RETRY_DELAY: Duration = Duration::from_millis(100);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    fn close(tag: &str) -> Command {
        Command::SessionClosed {
            key: SessionKey::new(tag),
            epoch: Epoch::FIRST,
        }
    }

    #[test]
    fn one_batch_is_in_flight_and_the_next_gathers_in_order() {
        let now = Instant::now();
        let mut proposals = Proposals::new(8);
        assert!(proposals.push(Waiter::Nobody, close("n1-a"), now + Duration::from_secs(1)));
        let first = proposals.next_batch(now).unwrap();
        assert!(proposals.push(Waiter::Nobody, close("n1-b"), now + Duration::from_secs(1)));
        assert!(proposals.push(Waiter::Nobody, close("n1-c"), now + Duration::from_secs(1)));
        assert_eq!(proposals.next_batch(now), None);
        let told = proposals.finished(first.id, Some(Applied::Batch(vec![Applied::Done])), now);
        assert_eq!(told, vec![(Waiter::Nobody, Outcome::Applied(Applied::Done))]);
        let second = proposals.next_batch(now).unwrap();
        assert_eq!(second.command, Command::Batch(vec![close("n1-b"), close("n1-c")]));
    }

    #[test]
    fn a_failed_batch_goes_again_until_its_deadline() {
        let now = Instant::now();
        let mut proposals = Proposals::new(8);
        let key = SessionKey::new("n1-a");
        assert!(proposals.push(
            Waiter::Request(key.clone(), RequestNumber(1)),
            close("n1-a"),
            now + Duration::from_secs(2)
        ));
        let first = proposals.next_batch(now).unwrap();
        assert_eq!(
            proposals.finished(first.id, None, now + Duration::from_secs(1)),
            vec![]
        );
        let again = proposals.next_batch(now + Duration::from_secs(1)).unwrap();
        assert_eq!(again.command, first.command);
        let told = proposals.finished(again.id, None, now + Duration::from_secs(2));
        assert_eq!(
            told,
            vec![(Waiter::Request(key, RequestNumber(1)), Outcome::TimedOut)]
        );
    }

    #[test]
    fn nothing_is_due_of_a_session_that_is_gone() {
        let now = Instant::now();
        let mut proposals = Proposals::new(8);
        let key = SessionKey::new("n1-a");
        let expire = |update: &mut SessionUpdate| update.expires_at_ms = Some(1);
        proposals.update(&key, Epoch::FIRST, now, expire);
        proposals.forget(&key);
        assert_eq!(proposals.next_deadline(), None);
        proposals.update(&key, Epoch::FIRST, now, expire);
        let first = proposals.next_batch(now + FLUSH_DELAY).unwrap();
        proposals.forget(&key);
        assert_eq!(proposals.finished(first.id, None, now), vec![]);
        assert_eq!(proposals.next_deadline(), None);
    }

    #[test]
    fn updates_are_merged_and_a_newer_value_wins_over_one_that_failed() {
        let now = Instant::now();
        let mut proposals = Proposals::new(8);
        let key = SessionKey::new("n1-a");
        proposals.update(&key, Epoch::FIRST, now, |update| {
            update.expires_at_ms = Some(1);
            update.cti_connection = Some("one".into());
        });
        assert_eq!(proposals.next_batch(now), None);
        let later = proposals.next_deadline().unwrap();
        let first = proposals.next_batch(later).unwrap();
        proposals.update(&key, Epoch::FIRST, later, |update| update.expires_at_ms = Some(2));
        proposals.finished(first.id, None, later);
        let again = proposals.next_batch(later + RETRY_DELAY).unwrap();
        let expected = SessionUpdate {
            expires_at_ms: Some(2),
            cti_connection: Some("one".into()),
            ..SessionUpdate::default()
        };
        assert_eq!(
            again.command,
            Command::Batch(vec![Command::SessionUpdated {
                key,
                epoch: Epoch::FIRST,
                update: expected
            }])
        );
    }

    #[test]
    fn a_full_queue_takes_nothing_more() {
        let now = Instant::now();
        let mut proposals = Proposals::new(1);
        assert!(proposals.push(Waiter::Nobody, close("n1-a"), now));
        assert!(!proposals.push(Waiter::Nobody, close("n1-b"), now));
    }
}
