//! The files of the log: recovery at the start, batches afterwards.
//!
//! A batch is one write followed by one sync, and never spans two files; the next is not begun before the sync
//! returned. So damage behind which a later batch stands cannot come from a crash: the member refuses to start,
//! for it may have promised what it cannot read any more. Only an unfinished last batch is cut off.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::files::{File, Files};
use super::record::{
    EncodedRecord, FoundRecord, KIND_COMMITTED, KIND_PURGED_TO, KIND_VOTE, Place, Record, read,
};

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
}

struct Segment {
    number: u64,
    bytes: u64,
    index_max: Option<u64>,
}

/// What every new segment begins with, so that the ones before it can go.
#[derive(Default)]
struct Head {
    vote: Option<EncodedRecord>,
    purged: Option<EncodedRecord>,
    committed: Option<EncodedRecord>,
}

impl Head {
    fn remember(&mut self, record: &EncodedRecord) {
        match record.kind {
            KIND_VOTE => self.vote = Some(record.clone()),
            KIND_PURGED_TO => self.purged = Some(record.clone()),
            KIND_COMMITTED => self.committed = Some(record.clone()),
            _ => {}
        }
    }

    fn records(&self) -> Vec<EncodedRecord> {
        [&self.vote, &self.purged, &self.committed]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// Why the log on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(
        "{file} is damaged at byte {offset}, before records that were complete: this member may have promised \
         what it cannot read any more; give the machine a new member id and an empty data directory"
    )]
    Damaged { file: String, offset: usize },
    #[error(
        "{file} of the log is missing; restore it, or give the machine a new member id and an empty data directory"
    )]
    Missing { file: String },
}

impl From<RecoverError> for io::Error {
    fn from(error: RecoverError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl Segments {
    /// Reads everything there is, cuts off an unfinished last batch, and makes what is left durable.
    pub(super) async fn recover(
        files: Arc<dyn Files>,
        segment_bytes: u64,
    ) -> io::Result<(Self, Vec<Record>)> {
        let mut log = Self {
            files,
            segment_bytes,
            segments: VecDeque::new(),
            current: None,
            offset: 0,
            next_sequence: 0,
            head: Head::default(),
        };
        let numbers: Vec<u64> = log
            .files
            .list()?
            .iter()
            .filter_map(|name| number_of(name))
            .collect();
        let mut records = Vec::new();
        for (position, &number) in numbers.iter().enumerate() {
            if position > 0 && numbers[position - 1] + 1 != number {
                let file = name_of(numbers[position - 1] + 1);
                return Err(RecoverError::Missing { file }.into());
            }
            let is_first = position == 0;
            let is_last = position + 1 == numbers.len();
            log.recover_segment(number, is_first, is_last, &mut records)
                .await?;
        }
        Ok((log, records))
    }

    async fn recover_segment(
        &mut self,
        number: u64,
        is_first: bool,
        is_last: bool,
        records: &mut Vec<Record>,
    ) -> io::Result<()> {
        let name = name_of(number);
        let bytes = self.files.read(&name)?.unwrap_or_default();
        let expected = (!is_first).then_some(self.next_sequence);
        let scan = scan(number, &bytes, expected);
        if let Some(offset) = scan.damaged_at(&bytes, is_last) {
            return Err(RecoverError::Damaged { file: name, offset }.into());
        }
        let mut segment = Segment {
            number,
            bytes: bytes.len() as u64,
            index_max: None,
        };
        for found in scan.found {
            self.next_sequence = found.place.sequence + 1;
            if let Some(encoded) = head_record(&found.record)? {
                self.head.remember(&encoded);
            }
            if let Record::Entry(entry) = &found.record {
                segment.index_max = segment.index_max.max(Some(entry.log_id.index()));
            }
            records.push(found.record);
        }
        self.segments.push_back(segment);
        if is_last {
            let mut file = self.files.open(&name)?;
            let end = scan.end;
            let used = used_length(&bytes);
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
            self.files.sync_directory()?;
            self.offset = end as u64;
            self.current = Some(file);
        }
        Ok(())
    }

    /// Writes a batch; it is durable when this returns. After an error nothing may be written any more: what the
    /// disk holds is unknown.
    pub(super) async fn append(&mut self, batch: &[EncodedRecord], index_max: Option<u64>) -> io::Result<()> {
        let length: usize = batch.iter().map(EncodedRecord::length).sum();
        let mut bytes = Vec::with_capacity(length);
        let first = self.next_sequence;
        if !self.has_room(length as u64) {
            let head = self.head.records();
            let head_length: usize = head.iter().map(EncodedRecord::length).sum();
            self.begin_segment((head_length + length) as u64).await?;
            self.write_records(&head, first, &mut bytes);
        }
        self.write_records(batch, first, &mut bytes);
        let Some(file) = &mut self.current else {
            return Err(io::Error::other("the log has no file"));
        };
        file.write_at(self.offset, &bytes)?;
        file.sync().await?;
        self.offset += bytes.len() as u64;
        for record in batch {
            self.head.remember(record);
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.index_max = segment.index_max.max(index_max);
        }
        Ok(())
    }

    /// Removes the oldest files as long as they hold nothing but entries up to `index`.
    pub(super) fn purge(&mut self, index: u64) -> io::Result<()> {
        let mut removed = false;
        while self.segments.len() > 1
            && self
                .segments
                .front()
                .is_some_and(|oldest| oldest.index_max <= Some(index))
            && let Some(oldest) = self.segments.pop_front()
        {
            self.files.remove(&name_of(oldest.number))?;
            removed = true;
        }
        if removed {
            self.files.sync_directory()
        } else {
            Ok(())
        }
    }

    fn has_room(&self, length: u64) -> bool {
        let capacity = self.segments.back().map_or(0, |segment| segment.bytes);
        self.current.is_some() && self.offset + length <= capacity
    }

    async fn begin_segment(&mut self, needed: u64) -> io::Result<()> {
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        let bytes = needed.max(self.segment_bytes);
        let mut file = self.files.create(&name_of(number), bytes)?;
        file.sync().await?;
        self.files.sync_directory()?;
        self.current = Some(file);
        self.offset = 0;
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

/// The readable beginning of one segment.
struct Scan {
    found: Vec<FoundRecord>,
    /// Behind the last readable record.
    end: usize,
    next_sequence: Option<u64>,
    segment: u64,
}

fn scan(segment: u64, bytes: &[u8], expected: Option<u64>) -> Scan {
    let mut scan = Scan {
        found: Vec::new(),
        end: 0,
        next_sequence: expected,
        segment,
    };
    while let Some(found) = read(segment, &bytes[scan.end..]) {
        if scan
            .next_sequence
            .is_some_and(|expected| expected != found.place.sequence)
        {
            break;
        }
        scan.next_sequence = Some(found.place.sequence + 1);
        scan.end += found.length;
        scan.found.push(found);
    }
    scan
}

impl Scan {
    /// Where damage lies that no crash explains.
    fn damaged_at(&self, bytes: &[u8], is_last: bool) -> Option<usize> {
        let rest = &bytes[self.end..];
        if !is_last {
            // The next file was begun after everything in this one was on the disk.
            let clean = !self.found.is_empty() && used_length(rest) == 0;
            return (!clean).then_some(self.end);
        }
        let lost = self.next_sequence.unwrap_or(0);
        let later = (0..used_length(rest)).filter_map(|offset| read(self.segment, &rest[offset..]));
        let synced_later = later
            .into_iter()
            .any(|found| found.place.sequence >= lost && found.place.batch > lost);
        synced_later.then_some(self.end)
    }
}

/// Bytes up to the last one that is not zero.
fn used_length(bytes: &[u8]) -> usize {
    const BLOCK: usize = 4096;
    let mut end = bytes.len();
    while end >= BLOCK && bytes[end - BLOCK..end] == [0; BLOCK] {
        end -= BLOCK;
    }
    bytes[..end]
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

fn head_record(record: &Record) -> io::Result<Option<EncodedRecord>> {
    let encoded = match record {
        Record::Vote(vote) => EncodedRecord::vote(vote),
        Record::PurgedTo(id) => EncodedRecord::purged_to(*id),
        Record::Committed(id) => EncodedRecord::committed(*id),
        Record::Entry(_) | Record::TruncatedAfter(_) => return Ok(None),
    };
    encoded.map(Some).map_err(io::Error::other)
}

fn name_of(number: u64) -> String {
    format!("log-{number:012}")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.parse().ok()
}
