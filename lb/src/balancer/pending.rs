//! Unanswered requests of one client connection, and for a while those that were answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_shared::cluster::NodeId;
use tandem_shared::sip::{RawMessage, TransactionKey};

use super::input::PairId;
use super::output::{Limit, MethodLabel};
use super::settings::ByteBudget;

/// A request's number within its client connection, in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// What a request is about, as far as finding a node for it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestKind {
    /// INVITE without a To-tag.
    Opening,
    /// Any other request without a To-tag.
    OutsideDialog,
    /// A request with a To-tag.
    InDialog { tag: Bytes },
    /// Follows its INVITE.
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
    /// Some node may have seen it.
    pub may_have_been_seen: bool,
    /// Nodes that had it, the last one last.
    pub tried: Vec<NodeId>,
    pub attempts: u32,
    /// The node that said last that the dialog is another's.
    pub disowned_by: Option<NodeId>,
    /// To-tag of a provisional answer that the client has seen (RFC 3261 §12.1: an early dialog).
    pub early_tag: Option<Bytes>,
    /// Answered 2xx: its ACK is a request in the dialog.
    pub accepted: bool,
    /// Later requests of its dialog wait for its answer.
    pub holds_dialog: bool,
    key: PendingKey,
    expires: Instant,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: waiting until it is known which node can have it.
    Waiting { until: Instant },
    /// Queued at or written to a node.
    At { pair: PairId, node: NodeId },
    /// Answered through a pair, to whose node the ACK belongs.
    Answered { pair: PairId, node: NodeId },
    /// Answered by the front end: an ACK ends here.
    AnsweredHere,
}

/// What is left to send again.
#[derive(Debug)]
pub enum Kept {
    Whole(RawMessage),
    /// Over a byte limit: only the 500 that the client gets should the node be lost.
    AnswerOnly(Bytes),
    /// Answered.
    Nothing,
}

impl Kept {
    /// The bytes that may be sent to a node.
    #[must_use]
    pub fn message(&self) -> Option<&RawMessage> {
        match self {
            Self::Whole(message) => Some(message),
            Self::AnswerOnly(_) | Self::Nothing => None,
        }
    }
}

/// The table. Bounded in entries and, with its share of the budget, in bytes.
#[derive(Debug)]
pub struct PendingTable {
    entries: BTreeMap<EntryId, Entry>,
    by_key: HashMap<PendingKey, Slot>,
    by_expiry: BTreeSet<(Instant, EntryId)>,
    waiting: BTreeSet<EntryId>,
    unanswered: usize,
    entries_max: usize,
    kept_bytes: usize,
    kept_bytes_max: usize,
    kept_in_all: Arc<ByteBudget>,
    next_id: u64,
}

/// One transaction; and since colliding clients exist, possibly two.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PendingKey {
    transaction: TransactionKey,
    method: Box<[u8]>,
}

#[derive(Debug)]
enum Slot {
    One(EntryId),
    Several(Vec<EntryId>),
}

impl Slot {
    fn ids(&self) -> &[EntryId] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Several(ids) => ids,
        }
    }
}

impl PendingTable {
    #[must_use]
    pub fn new(entries_max: usize, kept_bytes_max: usize, kept_in_all: Arc<ByteBudget>) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_key: HashMap::new(),
            by_expiry: BTreeSet::new(),
            waiting: BTreeSet::new(),
            unanswered: 0,
            entries_max,
            kept_bytes: 0,
            kept_bytes_max,
            kept_in_all,
            next_id: 0,
        }
    }

    /// Room for one more unanswered request. Answered ones make room, the one that would be forgotten next first.
    pub fn make_room(&mut self) -> bool {
        if self.entries.len() < self.entries_max {
            return true;
        }
        let answered = self
            .by_expiry
            .iter()
            .map(|&(_, id)| id)
            .find(|id| self.entries.get(id).is_some_and(|entry| !entry.is_unanswered()));
        answered.and_then(|id| self.remove(id)).is_some()
    }

    /// Adds a request that waits for its node.
    pub fn insert(
        &mut self,
        request: &RawMessage,
        kind: RequestKind,
        until: Instant,
        expires: Instant,
    ) -> EntryId {
        let id = EntryId(self.next_id);
        self.next_id += 1;
        let key = PendingKey::of(request, request.method().unwrap_or_default());
        self.index(&key, id);
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
            early_tag: None,
            accepted: false,
            holds_dialog: false,
            key,
            expires,
        };
        self.entries.insert(id, entry);
        self.waiting.insert(id);
        id
    }

    /// Keeps the request's bytes for sending again, or says which limit forbids it.
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

    /// All that is left of a request over the limits.
    pub fn keep_answer_only(&mut self, id: EntryId, answer: Bytes) {
        self.entry_mut(id).kept = Kept::AnswerOnly(answer);
    }

    /// The request has its final answer. Remembers it until `expires` if a late ACK or a second answer is to be
    /// expected, otherwise forgets it.
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
        entry.place = place;
        self.waiting.remove(&id);
        self.by_expiry.remove(&(entry.expires, id));
        entry.expires = expires;
        self.by_expiry.insert((expires, id));
    }

    /// An unanswered request goes to a node, or comes back from it to wait for another.
    pub fn set_place(&mut self, id: EntryId, place: Place) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        entry.place = place;
        match place {
            Place::Waiting { .. } => drop(self.waiting.insert(id)),
            Place::At { .. } | Place::Answered { .. } | Place::AnsweredHere => drop(self.waiting.remove(&id)),
        }
    }

    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        self.release_bytes(id);
        let entry = self.entries.remove(&id)?;
        if entry.is_unanswered() {
            self.unanswered -= 1;
        }
        self.by_expiry.remove(&(entry.expires, id));
        self.waiting.remove(&id);
        self.unindex(&entry.key, id);
        Some(entry)
    }

    #[must_use]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// The same request, byte for byte, unanswered: the client repeats itself.
    #[must_use]
    pub fn repeated(&self, request: &RawMessage) -> Option<EntryId> {
        let method = request.method()?;
        self.candidates(request, method).find(|id| {
            let entry = self.entries.get(id);
            let same = |message: &RawMessage| message.bytes() == request.bytes();
            entry.is_some_and(|entry| entry.is_unanswered() && entry.kept.message().is_some_and(same))
        })
    }

    /// The INVITE that an ACK or a CANCEL belongs to. Among colliding ones, an unanswered one for CANCEL, an
    /// answered one for ACK.
    #[must_use]
    pub fn invite_of(&self, request: &RawMessage) -> Option<EntryId> {
        let wants_unanswered = request.method() == Some(b"CANCEL");
        let mut candidates: Vec<EntryId> = self.candidates(request, b"INVITE").collect();
        candidates
            .sort_by_key(|id| self.entries.get(id).is_some_and(Entry::is_unanswered) != wants_unanswered);
        candidates.first().copied()
    }

    /// The request that a node's response answers: the one that went through that pair, in that dialog, if there
    /// is a choice.
    #[must_use]
    pub fn request_of(&self, response: &RawMessage, pair: PairId) -> Option<EntryId> {
        let mismatch = |id: &EntryId| {
            self.entries
                .get(id)
                .map(|entry| (entry.pair() != Some(pair), !entry.accepts_tag(response.to_tag())))
        };
        self.candidates(response, response.cseq_method())
            .min_by_key(mismatch)
    }

    /// Unanswered requests at a pair, in order of arrival.
    #[must_use]
    pub fn at(&self, pair: PairId) -> Vec<EntryId> {
        let is_there = |entry: &Entry| matches!(entry.place, Place::At { pair: at, .. } if at == pair);
        self.entries
            .iter()
            .filter(|(_, entry)| is_there(entry))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Requests that wait for a node, in order of arrival.
    pub fn waiting(&self) -> impl Iterator<Item = (EntryId, Instant)> {
        self.waiting
            .iter()
            .filter_map(|&id| match self.entries.get(&id)?.place {
                Place::Waiting { until } => Some((id, until)),
                Place::At { .. } | Place::Answered { .. } | Place::AnsweredHere => None,
            })
    }

    /// Everything, in order of arrival.
    #[must_use]
    pub fn ids(&self) -> Vec<EntryId> {
        self.entries.keys().copied().collect()
    }

    /// An entry whose time is over.
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

    /// Requests without a final answer.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    fn entry_mut(&mut self, id: EntryId) -> &mut Entry {
        self.entries
            .get_mut(&id)
            .expect("callers pass the id of an entry that they have just inserted")
    }

    fn candidates(&self, message: &RawMessage, method: &[u8]) -> impl Iterator<Item = EntryId> {
        let slot = self.by_key.get(&PendingKey::of(message, method));
        slot.map_or(&[][..], Slot::ids).iter().copied()
    }

    fn index(&mut self, key: &PendingKey, id: EntryId) {
        match self.by_key.get_mut(key) {
            None => drop(self.by_key.insert(key.clone(), Slot::One(id))),
            Some(Slot::Several(ids)) => ids.push(id),
            Some(slot) => *slot = Slot::Several(slot.ids().iter().copied().chain([id]).collect()),
        }
    }

    fn unindex(&mut self, key: &PendingKey, id: EntryId) {
        let Some(slot) = self.by_key.get_mut(key) else {
            return;
        };
        match slot {
            Slot::Several(ids) if ids.len() > 1 => ids.retain(|&other| other != id),
            Slot::One(_) | Slot::Several(_) => drop(self.by_key.remove(key)),
        }
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

    fn pair(&self) -> Option<PairId> {
        match self.place {
            Place::At { pair, .. } | Place::Answered { pair, .. } => Some(pair),
            Place::Waiting { .. } | Place::AnsweredHere => None,
        }
    }

    fn accepts_tag(&self, to_tag: Option<&[u8]>) -> bool {
        match &self.kind {
            RequestKind::InDialog { tag } => to_tag == Some(&tag[..]),
            RequestKind::Opening | RequestKind::OutsideDialog | RequestKind::Cancel { .. } => true,
        }
    }
}

impl PendingKey {
    fn of(message: &RawMessage, method: &[u8]) -> Self {
        Self {
            transaction: message.transaction_key(),
            method: method.into(),
        }
    }
}
