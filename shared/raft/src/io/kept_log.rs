//! What the log of a member holds, in memory.
//!
//! A decision alone, without clock or disk. What always holds: the entries follow each other without a gap, and begin behind
//! the last one that was purged.

use std::collections::BTreeMap;
use std::io;

use tandem_planted::{Bug, planted};

use super::record::Record;
use super::type_config::{Entry, LogId, VoteRecord};

/// What the log holds, without its files.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) vote: Option<VoteRecord>,
    pub(super) entries: BTreeMap<u64, Entry>,
    pub(super) purged: Option<LogId>,
    pub(super) committed: Option<LogId>,
}

impl Kept {
    pub(super) fn replay(records: Vec<Record>) -> io::Result<Self> {
        let mut kept = Self::default();
        for record in records {
            match record {
                Record::Entry(entry) => kept.enter(entry),
                Record::Vote(vote) => kept.vote = Some(vote),
                Record::TruncatedAfter(index) => {
                    let one_more = u64::from(planted(Bug::TruncatedEntryRecovered));
                    kept.truncate_after(index.map(|index| index + one_more));
                }
                Record::PurgedTo(id) => kept.purged = Some(id),
                Record::Committed(id) => kept.committed = Some(id),
            }
        }
        if let Some(purged) = kept.purged {
            drop(kept.purge(purged));
        }
        // The record of what is committed may have reached the disk before the entries did.
        kept.committed = kept.committed.min(kept.last_log_id());
        kept.without_gaps()
    }

    /// Where an entry comes, nothing stands any more: what stood there was cut off first.
    fn enter(&mut self, entry: Entry) {
        let index = entry.log_id.index();
        let is_taken = planted(Bug::TruncatedEntryRecovered) && self.entries.contains_key(&index);
        if !is_taken {
            self.entries.insert(index, entry);
        }
    }

    fn without_gaps(self) -> io::Result<Self> {
        let first = self.purged.map_or(0, |id| id.index() + 1);
        let expected = first..first + self.entries.len() as u64;
        if self.entries.keys().copied().eq(expected) {
            Ok(self)
        } else {
            Err(unusable("entries of the log are missing"))
        }
    }

    pub(super) fn check_snapshot(&self, snapshot: Option<LogId>) -> io::Result<()> {
        if self.purged > snapshot {
            return Err(unusable("the snapshot is missing or older than the log"));
        }
        Ok(())
    }

    pub(super) fn last_index(&self) -> u64 {
        self.last_log_id().map_or(0, |id| id.index())
    }

    pub(super) fn last_log_id(&self) -> Option<LogId> {
        let last = self.entries.last_key_value().map(|(_, entry)| entry.log_id);
        last.or(self.purged)
    }

    pub(super) fn truncate_after(&mut self, index: Option<u64>) {
        self.entries.split_off(&index.map_or(0, |index| index + 1));
    }

    /// What is not kept any more.
    pub(super) fn purge(&mut self, to: LogId) -> BTreeMap<u64, Entry> {
        self.purged = Some(to);
        let kept = self.entries.split_off(&(to.index() + 1));
        std::mem::replace(&mut self.entries, kept)
    }
}

fn unusable(why: &str) -> io::Error {
    let advice = "empty the data directory and run `tandem-node cluster replace`";
    io::Error::new(io::ErrorKind::InvalidData, format!("{why}; {advice}"))
}
