//! The log as openraft reads and writes it.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use tandem_planted::{Bug, planted};

use super::kept_log::Kept;
use super::log_store::LogStore;
use super::log_writer::{Done, Job};
use super::record::{EncodedRecord, PAYLOAD_BYTES_MAX};
use super::type_config::{Entry, LogId, TypeConfig, VoteRecord};

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.read(|kept| {
            kept.entries
                .range(range)
                .map(|(_, entry)| entry.clone())
                .collect()
        }))
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteRecord>> {
        Ok(self.read(|kept| kept.vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(self.read(|kept| LogState {
            last_purged_log_id: kept.purged,
            last_log_id: kept.last_log_id(),
        }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteRecord) -> io::Result<()> {
        let record = EncodedRecord::vote(vote, self.formats.written()).map_err(io::Error::other)?;
        if !planted(Bug::VoteNotPersisted) {
            self.store(record).await?;
        }
        self.change(|kept| kept.vote = Some(*vote));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.change(|kept| kept.committed = Some(committed));
        let record = EncodedRecord::committed(committed, self.formats.written()).map_err(io::Error::other)?;
        self.enqueue(Job {
            records: vec![record],
            index_max: None,
            purge_to: None,
            ends_at: None,
            done: Done::Whenever,
        })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.read(|kept| kept.committed))
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut appended = Vec::new();
        for entry in entries {
            let written = self.formats.written();
            let record = EncodedRecord::entry(&entry, written).map_err(io::Error::other)?;
            if record.format > self.formats.newest() {
                // The next start could not read it.
                return Err(io::Error::other(format!(
                    "an entry needs {}; this program writes up to {}",
                    record.format,
                    self.formats.newest()
                )));
            }
            if record.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(io::Error::other("an entry is larger than the log takes"));
            }
            records.push(record);
            appended.push(entry);
        }
        let index_max = appended.last().map(RaftEntry::index);
        self.change(|kept| {
            kept.entries
                .extend(appended.into_iter().map(|entry| (entry.index(), entry)));
        });
        let done = match planted(Bug::AppendBeforeSync) {
            true => {
                done.io_completed(Ok(()));
                Done::Stored(oneshot::channel().0)
            }
            false => Done::Appended(done),
        };
        self.enqueue(Job {
            records,
            index_max,
            purge_to: None,
            ends_at: index_max,
            done,
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let index = last.map(|id| id.index());
        // openraft asserts this in debug builds alone.
        if let Some(committed) = self
            .committed()
            .filter(|committed| Some(committed.index()) > index)
        {
            let text = format!("refusing to cut the log off after {index:?}: {committed} is committed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.change(|kept| kept.truncate_after(index));
        let record =
            EncodedRecord::truncated_after(index, self.formats.written()).map_err(io::Error::other)?;
        self.store_as(|done| Job {
            records: vec![record],
            index_max: None,
            purge_to: None,
            ends_at: Some(index.unwrap_or(0)),
            done,
        })
        .await
    }

    async fn purge(&mut self, to: LogId) -> io::Result<()> {
        let purged = self.change(|kept| kept.purge(to));
        // openraft does nothing else while this runs, and to give up many large entries takes a while. Where no thread can
        // be had they are given up here.
        let give_up = Box::pin(async move { drop(purged) });
        drop(self.files.spawn("raft-log-purged", give_up));
        let record = EncodedRecord::purged_to(to, self.formats.written()).map_err(io::Error::other)?;
        let ends_at = self.read(Kept::last_index);
        self.store_as(|done| Job {
            records: vec![record],
            index_max: None,
            purge_to: Some(to.index()),
            // Without entries behind it, the snapshot's end is the log's.
            ends_at: (ends_at == to.index()).then_some(ends_at),
            done,
        })
        .await
    }
}
