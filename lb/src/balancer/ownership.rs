//! The owners of sessions that have moved, from the replicated state.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tandem_cluster::{NodeId, SessionKey};

use crate::membership::Moved;

type Overrides = HashMap<Box<[u8]>, Override>;
type Lookup = Box<dyn Fn(&SessionKey) -> Option<NodeId> + Send + Sync>;

/// The owner of a moved session, and the report that told of it.
#[derive(Debug, Clone, Copy)]
struct Override {
    owner: NodeId,
    report: u64,
}

/// The table of moved sessions. Every connection reads it for every request inside a dialog, and only the witness writes it:
/// readers take no lock, and a writer copies one shard.
pub struct Ownership {
    shards: Box<[ArcSwap<Overrides>]>,
    hasher: RandomState,
    size: AtomicUsize,
    /// The number of the latest report.
    reports: AtomicU64,
    /// The number of the latest report that replaced the whole table.
    replaced: AtomicU64,
    lookup: OnceLock<Lookup>,
}

impl Default for Ownership {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            hasher: RandomState::new(),
            size: AtomicUsize::new(0),
            reports: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            lookup: OnceLock::new(),
        }
    }
}

impl Ownership {
    /// The owner of a session that has moved; `None` for a session still owned by the node that issued the tag, and for an
    /// unknown tag.
    #[must_use]
    pub fn moved_to(&self, tag: &[u8]) -> Option<NodeId> {
        self.shard(tag).load().get(tag).map(|moved| moved.owner)
    }

    /// The number of the latest report that may have told of the session. It changes with each move of the session that is told
    /// here, even when the owner is the same again.
    #[must_use]
    pub fn latest_report_on(&self, tag: &[u8]) -> u64 {
        let replaced = self.replaced.load(Ordering::Relaxed);
        let moved = self.shard(tag).load().get(tag).copied();
        moved.map_or(replaced, |moved| moved.report.max(replaced))
    }

    /// The owner according to the whole replicated state. Slower than [`Self::moved_to`]: for rare cases only.
    #[must_use]
    pub fn look_up(&self, tag: &[u8]) -> Option<NodeId> {
        let key = SessionKey::new(std::str::from_utf8(tag).ok()?);
        self.lookup.get().and_then(|lookup| lookup(&key))
    }

    /// Sets the function that [`Self::look_up`] calls, once the replicated state exists. Only the first call has an effect.
    pub fn set_lookup(&self, lookup: impl Fn(&SessionKey) -> Option<NodeId> + Send + Sync + 'static) {
        drop(self.lookup.set(Box::new(lookup)));
    }

    /// Applies a report of moved sessions.
    pub fn apply(&self, moved: Moved) {
        match moved {
            Moved::All(moved) => self.replace(moved.into_iter()),
            Moved::Some(moved) => self.update(moved.into_iter()),
        }
    }

    /// Replaces the whole table.
    pub fn replace(&self, moved: impl Iterator<Item = (SessionKey, NodeId)>) {
        let report = self.next_report();
        let mut shards: Vec<Overrides> = (0..SHARDS).map(|_| Overrides::new()).collect();
        for (key, owner) in moved {
            let tag = key.as_str().as_bytes();
            shards[self.shard_index(tag)].insert(tag.into(), Override { owner, report });
        }
        self.size
            .store(shards.iter().map(HashMap::len).sum(), Ordering::Relaxed);
        for (shard, overrides) in self.shards.iter().zip(shards) {
            shard.store(Arc::new(overrides));
        }
        self.replaced.store(report, Ordering::Relaxed);
    }

    /// Applies changes in order; `None` removes a session. Each shard is copied at most once.
    pub fn update(&self, changes: impl Iterator<Item = (SessionKey, Option<NodeId>)>) {
        let report = self.next_report();
        let mut touched: HashMap<usize, Overrides> = HashMap::new();
        for (key, owner) in changes {
            let tag = key.as_str().as_bytes();
            let index = self.shard_index(tag);
            if owner.is_none()
                && !touched.contains_key(&index)
                && !self.shards[index].load().contains_key(tag)
            {
                continue;
            }
            let shard = touched
                .entry(index)
                .or_insert_with(|| Overrides::clone(&self.shards[index].load()));
            match owner {
                Some(owner) => drop(shard.insert(tag.into(), Override { owner, report })),
                None => drop(shard.remove(tag)),
            }
        }
        for (index, overrides) in touched {
            self.shards[index].store(Arc::new(overrides));
        }
        self.size.store(
            self.shards.iter().map(|shard| shard.load().len()).sum(),
            Ordering::Relaxed,
        );
    }

    /// The number of sessions in the table.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    fn next_report(&self) -> u64 {
        self.reports.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn shard(&self, tag: &[u8]) -> &ArcSwap<Overrides> {
        &self.shards[self.shard_index(tag)]
    }

    fn shard_index(&self, tag: &[u8]) -> usize {
        (self.hasher.hash_one(tag) % SHARDS as u64) as usize
    }
}

impl std::fmt::Debug for Ownership {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ownership")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tag: &str) -> SessionKey {
        SessionKey::new(tag)
    }

    #[test]
    fn a_moved_session_is_found_until_it_closes() {
        let ownership = Ownership::default();
        ownership.update([(key("n1-a"), Some(NodeId(2))), (key("n1-b"), Some(NodeId(3)))].into_iter());
        assert_eq!(ownership.moved_to(b"n1-a"), Some(NodeId(2)));
        ownership.update([(key("n1-a"), None), (key("n1-unknown"), None)].into_iter());
        assert_eq!(ownership.moved_to(b"n1-a"), None);
        assert_eq!(ownership.size(), 1);
    }

    #[test]
    fn a_snapshot_replaces_what_was_known() {
        let ownership = Ownership::default();
        ownership.update([(key("n1-a"), Some(NodeId(2)))].into_iter());
        ownership.replace([(key("n1-b"), NodeId(2))].into_iter());
        assert_eq!(
            (ownership.moved_to(b"n1-a"), ownership.moved_to(b"n1-b")),
            (None, Some(NodeId(2)))
        );
    }

    #[test]
    fn a_report_is_noticed_even_if_the_owner_is_the_same_again() {
        let ownership = Ownership::default();
        let mut reports = vec![ownership.latest_report_on(b"n1-a")];
        ownership.update([(key("n1-a"), Some(NodeId(2)))].into_iter());
        reports.push(ownership.latest_report_on(b"n1-a"));
        ownership.update([(key("n1-a"), Some(NodeId(2)))].into_iter());
        reports.push(ownership.latest_report_on(b"n1-a"));
        ownership.update([(key("n1-b"), Some(NodeId(2)))].into_iter());
        assert_eq!(reports.last(), Some(&ownership.latest_report_on(b"n1-a")));
        ownership.replace([].into_iter());
        reports.push(ownership.latest_report_on(b"n1-a"));
        assert!(reports.is_sorted_by(|a, b| a < b), "{reports:?}");
    }

    #[test]
    fn the_whole_state_is_asked_only_when_it_is_there() {
        let ownership = Ownership::default();
        assert_eq!(ownership.look_up(b"n7-a"), None);
        ownership.set_lookup(|key| (key.as_str() == "n7-a").then_some(NodeId(1)));
        assert_eq!(ownership.look_up(b"n7-a"), Some(NodeId(1)));
        assert_eq!(ownership.look_up(b"\xff"), None);
    }
}
