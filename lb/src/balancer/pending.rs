//! The unanswered and recently answered requests of one client connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_cluster::NodeId;
use tandem_planted::{Bug, planted};
use tandem_sip::{RawMessage, TransactionKey};

use super::input::PairId;
use super::output::{Limit, MethodLabel};
use super::settings::ByteBudget;

/// The number of a request within its client connection, in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// The kind of a request, which decides how its node is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKind {
    /// INVITE without a To-tag.
    Opening,
    /// Any other request without a To-tag.
    OutsideDialog,
    /// A request with a To-tag.
    InDialog { tag: Bytes },
    /// A CANCEL, which follows its INVITE.
    Cancel { invite: EntryId },
}

/// One request.
#[derive(Debug)]
pub struct Entry {
    pub kind: RequestKind,
    pub method: MethodLabel,
    pub is_invite: bool,
    pub kept: Kept,
    pub place: Place,
    /// A node may have seen it already.
    pub may_have_been_seen: bool,
    /// Nodes that it was sent to, in order.
    pub tried: Vec<NodeId>,
    pub attempts: u32,
    /// The node that last said that it does not own the dialog.
    pub disowned_by: Option<NodeId>,
    /// The latest report on the owner of the dialog when the request was last sent.
    pub sent_at_report: u64,
    /// The To-tag of a provisional answer sent to the client, which made an early dialog (RFC 3261 §12.1).
    pub early_tag: Option<Bytes>,
    /// Answered 2xx: its ACK is a request in the dialog.
    pub accepted: bool,
    /// Later requests of the dialog wait for its answer.
    pub holds_dialog: bool,
    key: PendingKey,
    expires: Instant,
}

/// The place of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Waiting until it is known which node can take it.
    Waiting { until: Instant },
    /// Queued at or written to a node.
    At { pair: PairId, node: NodeId },
    /// Answered through a pair; the ACK goes to its node.
    Answered { pair: PairId, node: NodeId },
    /// Answered by the front end; the ACK ends here.
    AnsweredHere,
}

/// What is kept of a request for sending it again.
#[derive(Debug)]
pub enum Kept {
    Whole(RawMessage),
    /// Over a byte limit: only the 500 that the client gets if the node is lost.
    AnswerOnly(Bytes),
    /// Answered.
    Nothing,
}

impl Kept {
    /// The message, if it can be sent again.
    #[must_use]
    pub fn message(&self) -> Option<&RawMessage> {
        match self {
            Self::Whole(message) => Some(message),
            Self::AnswerOnly(_) | Self::Nothing => None,
        }
    }
}

/// The requests of one client connection, bounded in number and in kept bytes.
#[derive(Debug)]
pub struct PendingTable {
    entries: BTreeMap<EntryId, Entry>,
    by_key: HashMap<PendingKey, EntryId>,
    by_expiry: BTreeSet<(Instant, EntryId)>,
    /// The answered ones of `by_expiry`, which can be dropped to make room.
    answered: BTreeSet<(Instant, EntryId)>,
    /// The requests waiting for a node, by when they have waited for too long.
    waiting: BTreeSet<(Instant, EntryId)>,
    unanswered: usize,
    entries_max: usize,
    kept_bytes: usize,
    kept_bytes_max: usize,
    kept_in_all: Arc<ByteBudget>,
    next_id: u64,
}

/// The key of a transaction. In a dialog it includes the To-tag, because forked dialogs share everything else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PendingKey {
    transaction: TransactionKey,
    method: Box<[u8]>,
    to_tag: Option<Box<[u8]>>,
}

impl PendingTable {
    #[must_use]
    pub fn new(entries_max: usize, kept_bytes_max: usize, kept_in_all: Arc<ByteBudget>) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_key: HashMap::new(),
            by_expiry: BTreeSet::new(),
            answered: BTreeSet::new(),
            waiting: BTreeSet::new(),
            unanswered: 0,
            entries_max,
            kept_bytes: 0,
            kept_bytes_max,
            kept_in_all,
            next_id: 0,
        }
    }

    /// Makes room for one more unanswered request, by forgetting the answered one that expires next if need be; `false` when
    /// there is no room.
    pub fn make_room(&mut self) -> bool {
        if self.entries.len() < self.entries_max {
            return true;
        }
        let answered = self.answered.first().map(|&(_, id)| id);
        answered.and_then(|id| self.remove(id)).is_some()
    }

    /// Whether as many requests are unanswered as permitted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unanswered >= self.entries_max
    }

    /// Adds a request that waits for its node, replacing an answered one with the same key.
    pub fn insert(
        &mut self,
        request: &RawMessage,
        kind: RequestKind,
        until: Instant,
        expires: Instant,
    ) -> EntryId {
        let id = EntryId(self.next_id);
        self.next_id += 1;
        let key = PendingKey::of(request, request.method().unwrap_or_default(), request.to_tag());
        if let Some(before) = self.by_key.get(&key).copied() {
            self.remove(before);
        }
        self.by_key.insert(key.clone(), id);
        self.by_expiry.insert((expires, id));
        self.unanswered += 1;
        let entry = Entry {
            kind,
            method: MethodLabel::of(request.method().unwrap_or_default()),
            is_invite: request.method() == Some(b"INVITE"),
            kept: Kept::Nothing,
            place: Place::Waiting { until },
            may_have_been_seen: false,
            tried: Vec::new(),
            attempts: 0,
            disowned_by: None,
            sent_at_report: 0,
            early_tag: None,
            accepted: false,
            holds_dialog: false,
            key,
            expires,
        };
        self.entries.insert(id, entry);
        self.waiting.insert((until, id));
        id
    }

    /// Keeps the request's bytes for sending again, or returns the limit that forbids it.
    pub fn keep(&mut self, id: EntryId, request: &RawMessage) -> Result<(), Limit> {
        let length = request.bytes().len();
        if self.kept_bytes + length > self.kept_bytes_max {
            return Err(Limit::KeptBytes);
        }
        if !self.kept_in_all.take(length) {
            return Err(Limit::KeptBytesInAll);
        }
        self.kept_bytes += length;
        self.entry_mut(id).kept = Kept::Whole(request.clone());
        Ok(())
    }

    /// Keeps only the answer for a request over the byte limits.
    pub fn keep_answer_only(&mut self, id: EntryId, answer: Bytes) {
        self.entry_mut(id).kept = Kept::AnswerOnly(answer);
    }

    /// Marks a request as finally answered. It is remembered until `remember_until`, for a late ACK or a second answer, or
    /// forgotten at once.
    pub fn answered(&mut self, id: EntryId, place: Place, remember_until: Option<Instant>) {
        self.release_bytes(id);
        let Some(expires) = remember_until else {
            drop(self.remove(id));
            return;
        };
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if entry.is_unanswered() {
            self.unanswered -= 1;
        }
        let before = std::mem::replace(&mut entry.expires, expires);
        for ordered in [&mut self.by_expiry, &mut self.answered] {
            ordered.remove(&(before, id));
            ordered.insert((expires, id));
        }
        self.set_place(id, place);
    }

    /// Records that an unanswered request is at a node, or waits for one again.
    pub fn set_place(&mut self, id: EntryId, place: Place) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut entry.place, place);
        if let Place::Waiting { until } = before {
            self.waiting.remove(&(until, id));
        }
        if let Place::Waiting { until } = place {
            self.waiting.insert((until, id));
        }
    }

    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        self.release_bytes(id);
        let entry = self.entries.remove(&id)?;
        if entry.is_unanswered() {
            self.unanswered -= 1;
        }
        for ordered in [&mut self.by_expiry, &mut self.answered] {
            ordered.remove(&(entry.expires, id));
        }
        if let Place::Waiting { until } = entry.place {
            self.waiting.remove(&(until, id));
        }
        self.by_key.remove(&entry.key);
        Some(entry)
    }

    #[must_use]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Whether an unanswered request is of the same transaction (RFC 3261 §17.2.3), whatever else differs.
    #[must_use]
    pub fn is_of_unanswered_transaction(&self, request: &RawMessage) -> bool {
        let method = request.method().unwrap_or_default();
        let id = self.find(request, method, request.to_tag());
        id.and_then(|id| self.entries.get(&id))
            .is_some_and(Entry::is_unanswered)
    }

    /// The INVITE that an ACK or a CANCEL belongs to. An ACK has the To-tag of the answer, which the INVITE has only in an
    /// existing dialog.
    #[must_use]
    pub fn invite_of(&self, request: &RawMessage) -> Option<EntryId> {
        self.find_in_or_before_dialog(request, b"INVITE")
    }

    /// The request that a node's response answers.
    #[must_use]
    pub fn request_of(&self, response: &RawMessage) -> Option<EntryId> {
        if planted(Bug::AnswerToAnotherTransaction) {
            let method = MethodLabel::of(response.cseq_method());
            return self
                .iter()
                .filter(|(_, entry)| entry.method == method)
                .map(|(id, _)| id)
                .last();
        }
        self.find_in_or_before_dialog(response, response.cseq_method())
    }

    /// The unanswered requests at a pair, in order of arrival.
    #[must_use]
    pub fn at(&self, pair: PairId) -> Vec<EntryId> {
        let is_there = |entry: &Entry| matches!(entry.place, Place::At { pair: at, .. } if at == pair);
        self.entries
            .iter()
            .filter(|(_, entry)| is_there(entry))
            .map(|(&id, _)| id)
            .collect()
    }

    /// The requests waiting for a node, in order of arrival.
    #[must_use]
    pub fn waiting(&self) -> Vec<EntryId> {
        let mut waiting: Vec<EntryId> = self.waiting.iter().map(|&(_, id)| id).collect();
        waiting.sort_unstable();
        waiting
    }

    /// A request that has waited for a node for too long.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Option<EntryId> {
        let first = self.waiting.first();
        first.filter(|&&(until, _)| until <= now).map(|&(_, id)| id)
    }

    /// When the next request will have waited for a node for too long.
    #[must_use]
    pub fn next_overdue(&self) -> Option<Instant> {
        self.waiting.first().map(|&(until, _)| until)
    }

    /// All requests, in order of arrival.
    #[must_use]
    pub fn ids(&self) -> Vec<EntryId> {
        self.entries.keys().copied().collect()
    }

    /// An entry whose lifetime has ended.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Option<EntryId> {
        self.by_expiry
            .first()
            .filter(|&&(expires, _)| expires <= now)
            .map(|&(_, id)| id)
    }

    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.by_expiry.first().map(|&(expires, _)| expires)
    }

    /// The number of requests without a final answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The number of requests, answered ones included.
    #[must_use]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All requests, in order of arrival.
    pub(super) fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.entries.iter().map(|(&id, entry)| (id, entry))
    }

    /// Checks indexes, sums and limits.
    ///
    /// # Panics
    /// When an index or a sum disagrees with the entries, or a limit is exceeded.
    pub(super) fn check_invariants(&self) {
        let mut kept_bytes = 0;
        let mut unanswered = 0;
        let mut waiting = 0;
        for (id, entry) in self.iter() {
            kept_bytes += entry.kept.message().map_or(0, |message| message.bytes().len());
            unanswered += usize::from(entry.is_unanswered());
            assert!(id.0 < self.next_id, "{id:?} would be reused");
            assert_eq!(
                self.by_key.get(&entry.key),
                Some(&id),
                "{id:?} is not found by its key"
            );
            let at = (entry.expires, id);
            assert!(self.by_expiry.contains(&at), "{id:?} never expires");
            assert_ne!(
                self.answered.contains(&at),
                entry.is_unanswered(),
                "{id:?} makes room wrongly"
            );
            if let Place::Waiting { until } = entry.place {
                assert!(self.waiting.contains(&(until, id)), "{id:?} waits unseen");
                waiting += 1;
            }
        }
        let entries = self.entries.len();
        assert_eq!(self.by_key.len(), entries, "a key leads to no request");
        assert_eq!(self.by_expiry.len(), entries, "nothing expires");
        assert_eq!(self.unanswered, unanswered, "unanswered requests are miscounted");
        assert_eq!(self.answered.len(), entries - unanswered, "nothing makes room");
        assert_eq!(self.waiting.len(), waiting, "nothing waits");
        assert_eq!(self.kept_bytes, kept_bytes, "kept bytes are miscounted");
        assert!(entries <= self.entries_max, "too many requests");
        assert!(kept_bytes <= self.kept_bytes_max, "too many bytes are kept");
        assert!(
            kept_bytes <= self.kept_in_all.used(),
            "the common budget misses some bytes"
        );
    }

    fn entry_mut(&mut self, id: EntryId) -> &mut Entry {
        self.entries
            .get_mut(&id)
            .expect("callers pass the id of an entry that they have just inserted")
    }

    fn find_in_or_before_dialog(&self, message: &RawMessage, method: &[u8]) -> Option<EntryId> {
        let in_dialog = message
            .to_tag()
            .and_then(|tag| self.find(message, method, Some(tag)));
        in_dialog.or_else(|| self.find(message, method, None))
    }

    fn find(&self, message: &RawMessage, method: &[u8], to_tag: Option<&[u8]>) -> Option<EntryId> {
        self.by_key.get(&PendingKey::of(message, method, to_tag)).copied()
    }

    fn release_bytes(&mut self, id: EntryId) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if let Kept::Whole(message) = std::mem::replace(&mut entry.kept, Kept::Nothing) {
            self.kept_bytes -= message.bytes().len();
            self.kept_in_all.give_back(message.bytes().len());
        }
    }
}

impl Drop for PendingTable {
    fn drop(&mut self) {
        self.kept_in_all.give_back(self.kept_bytes);
    }
}

impl Entry {
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        matches!(self.place, Place::Waiting { .. } | Place::At { .. })
    }
}

impl PendingKey {
    fn of(message: &RawMessage, method: &[u8], to_tag: Option<&[u8]>) -> Self {
        Self {
            transaction: message.transaction_key(),
            method: method.into(),
            to_tag: to_tag.map(Into::into),
        }
    }
}
