//! The files of the log: read and put in order at the start, batches afterwards.
//!
//! A file gets its name when it is whole: it is created under another name, filled with zeros and synced, then renamed,
//! and the name synced. So a disk that fills up, or a crash, leaves nothing that a later start could take for a part of
//! the log. The next file is filled while the present one is written to, so that nobody waits for that. What else the files may look like, and what that means, is decided in [`super::recovery`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use tokio::sync::oneshot;

use tandem_cluster::Format;
use tandem_planted::{Bug, planted};

use tandem_runtime::io::environment::files::{File, Files};

use super::record::{EncodedRecord, Place};
use super::recovery::{FIRST_NUMBER, Head, Recovered, Recovery, Segment, Tail, name_of, number_of};
use super::whole_file::UNFINISHED;
use super::{snapshot_file, whole_file};

/// Writes the log. Owned by one task.
pub(super) struct Segments {
    files: Arc<dyn Files>,
    segment_bytes: u64,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    current: Option<Box<dyn File>>,
    /// Where the next batch goes in the current segment.
    offset: u64,
    next_sequence: u64,
    head: Head,
    /// The file after the current one, being filled.
    next: Option<Prepared>,
    /// The next batch takes the head along: at the start of a file, and after a start of the process, when the batch
    /// that was cut off may have been the one with the head of the current file.
    head_is_due: bool,
}

/// A file under its unfinished name, filled with zeros and synced once this resolves.
type Prepared = oneshot::Receiver<io::Result<Box<dyn File>>>;

/// Reads what there is, in formats up to `newest`, and changes nothing.
pub(super) fn read(files: &dyn Files, newest: Format) -> io::Result<Recovered> {
    let mut recovery = Recovery::up_to(newest);
    for name in files.list()? {
        if let Some(number) = number_of(&name) {
            let bytes = files.read(&name)?.unwrap_or_default();
            recovery.add(number, &bytes)?;
        }
    }
    Ok(recovery.finish()?)
}

impl Segments {
    /// Puts the files in order, so that batches may follow what was found.
    pub(super) async fn resume(
        files: Arc<dyn Files>,
        segment_bytes: u64,
        found: Recovered,
    ) -> io::Result<Self> {
        let mut log = Self {
            files,
            segment_bytes,
            segments: found.segments,
            current: None,
            offset: found.tail.end as u64,
            next_sequence: found.next_sequence,
            head: found.head,
            next: None,
            head_is_due: true,
        };
        log.remove_what_was_not_finished(&found.empty)?;
        log.open_last(found.tail).await?;
        Ok(log)
    }

    fn remove_what_was_not_finished(&self, empty: &[u64]) -> io::Result<()> {
        let empty = empty.iter().map(|number| name_of(*number));
        let names = self.files.list()?.into_iter();
        for name in names.filter(|name| is_unfinished(name)).chain(empty) {
            tracing::info!(file = name, "removing an unfinished file");
            self.files.remove(&name)?;
        }
        self.files.sync_directory()
    }

    async fn open_last(&mut self, tail: Tail) -> io::Result<()> {
        let Some(last) = self.segments.back() else {
            return Ok(());
        };
        let name = name_of(last.number);
        let mut file = self.files.open(&name)?;
        let Tail { end, used } = tail;
        if used > end {
            tracing::warn!(
                file = name,
                from = end,
                to = used,
                "cutting off an unfinished batch of the log"
            );
            file.write_at(end as u64, &vec![0; used - end])?;
        }
        // What was read may have been in the kernel's memory only.
        file.sync().await?;
        self.current = Some(file);
        Ok(())
    }

    /// Writes a batch; it is durable when this returns. After an error nothing may be written any more: what the
    /// disk holds is unknown.
    pub(super) async fn append(&mut self, batch: &[EncodedRecord], index_max: Option<u64>) -> io::Result<()> {
        let head = self.head.records();
        let head_length = bytes_of(&head);
        let length = bytes_of(batch);
        let first = self.next_sequence;
        let due = if self.head_is_due { head_length } else { 0 };
        if !self.has_room(due + length) {
            self.begin_segment(head_length + length).await?;
        }
        let mut bytes = Vec::new();
        if self.head_is_due {
            self.write_records(&head, first, &mut bytes);
        }
        self.write_records(batch, first, &mut bytes);
        let Some(file) = &mut self.current else {
            return Err(io::Error::other("the log has no file"));
        };
        file.write_at(self.offset, &bytes)?;
        file.sync().await?;
        self.offset += bytes.len() as u64;
        self.head_is_due = false;
        for record in batch {
            self.head.remember(record);
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.index_max = segment.index_max.max(index_max);
            if self.next.is_none() && self.offset > segment.bytes / 2 {
                let unfinished = unfinished_name(segment.number + 1);
                self.next = prepare(&*self.files, &unfinished, self.segment_bytes);
            }
        }
        Ok(())
    }

    /// Removes the oldest files as long as they hold nothing but entries up to `index`.
    pub(super) fn purge(&mut self, index: u64) -> io::Result<()> {
        while self.segments.len() > 1
            && self
                .segments
                .front()
                .is_some_and(|oldest| oldest.index_max <= Some(index))
            && let Some(oldest) = self.segments.pop_front()
        {
            self.files.remove(&name_of(oldest.number))?;
            // One by one: a crash must not bring back an older file than one that is gone.
            self.files.sync_directory()?;
        }
        Ok(())
    }

    fn has_room(&self, length: u64) -> bool {
        let capacity = self.segments.back().map_or(0, |segment| segment.bytes);
        self.current.is_some() && self.offset + length <= capacity
    }

    async fn begin_segment(&mut self, needed: u64) -> io::Result<()> {
        let last = self.segments.back();
        let number = last.map_or(FIRST_NUMBER, |segment| segment.number + 1);
        let bytes = needed.max(self.segment_bytes);
        let unfinished = unfinished_name(number);
        let prepared = match self.next.take() {
            Some(next) => next.await.ok().and_then(Result::ok),
            None => None,
        };
        let file = match prepared.filter(|_| bytes == self.segment_bytes) {
            Some(file) => file,
            None => {
                let mut file = self.files.create(&unfinished, bytes)?;
                file.sync().await?;
                file
            }
        };
        self.files.rename(&unfinished, &name_of(number))?;
        if !planted(Bug::DirectoryNotSynced) {
            self.files.sync_directory()?;
        }
        self.current = Some(file);
        self.offset = 0;
        self.head_is_due = true;
        self.segments.push_back(Segment {
            number,
            bytes,
            index_max: None,
        });
        Ok(())
    }

    fn write_records(&mut self, records: &[EncodedRecord], batch: u64, to: &mut Vec<u8>) {
        let segment = self.segments.back().map_or(0, |segment| segment.number);
        for record in records {
            let sequence = self.next_sequence;
            record.write(
                Place {
                    segment,
                    sequence,
                    batch,
                },
                to,
            );
            self.next_sequence += 1;
        }
    }
}

fn unfinished_name(number: u64) -> String {
    format!("{}{UNFINISHED}", name_of(number))
}

/// Begins to fill a file, piece by piece: the batches that somebody waits for have the same disk. Whatever fails is tried
/// again when the file is needed. Only the handle is used apart: a later process of the member may use the name again.
fn prepare(files: &dyn Files, name: &str, bytes: u64) -> Option<Prepared> {
    let file = files.create(name, 0).ok()?;
    whole_file::begin_apart(files, "raft-log-next", fill(file, bytes)).ok()
}

async fn fill(mut file: Box<dyn File>, bytes: u64) -> io::Result<Box<dyn File>> {
    let zeros = vec![0; PIECE_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).map_or(PIECE_BYTES, |rest| rest.min(PIECE_BYTES));
        file.write_at(offset, &zeros[..length])?;
        file.sync().await?;
        offset += length as u64;
    }
    Ok(file)
}

const PIECE_BYTES: usize = 1 << 20;

fn bytes_of(records: &[EncodedRecord]) -> u64 {
    records.iter().map(|record| record.length() as u64).sum()
}

/// Left over from a file of the log or a snapshot that never got its name.
fn is_unfinished(name: &str) -> bool {
    let whole = name.strip_suffix(UNFINISHED);
    whole.is_some_and(|whole| number_of(whole).is_some() || whole == snapshot_file::NAME)
}
