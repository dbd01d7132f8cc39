//! What the files of a log say when a member starts. Pure: the files are read and changed in [`super::segments`].
//!
//! A batch is one write followed by one sync, and never spans two files; the next is not begun before the sync
//! returned. So damage behind which a later batch stands cannot come from a crash: the member refuses to start,
//! for it may have promised what it cannot read any more. Only an unfinished last batch is cut off.
//!
//! A file is begun when everything before it is on the disk. One without records was begun and not written to, and
//! says nothing: it goes when it is the last, and is passed over when the records behind it follow on those before it.

use std::collections::VecDeque;

use super::record::{EncodedRecord, FoundRecord, KIND_COMMITTED, KIND_PURGED_TO, KIND_VOTE, Record, read};

/// Reads the files of a log, one after the other.
#[derive(Default)]
pub(super) struct Recovery {
    records: Vec<Record>,
    head: Head,
    /// Up to the last one with records, or with a batch that was begun.
    segments: VecDeque<Segment>,
    /// Behind those.
    empty: Vec<Segment>,
    next_sequence: Option<u64>,
    tail: Option<Tail>,
}

/// What a log holds, and what must be done before it may be written to.
pub(super) struct Recovered {
    pub(super) records: Vec<Record>,
    pub(super) head: Head,
    /// Oldest first; the last one is written to.
    pub(super) segments: VecDeque<Segment>,
    pub(super) next_sequence: u64,
    /// Of the last segment.
    pub(super) tail: Tail,
    /// Files without records behind the last segment: they must go.
    pub(super) empty: Vec<u64>,
}

/// One file of the log.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) index_max: Option<u64>,
}

/// What every new segment begins with, so that the ones before it can go.
#[derive(Default)]
pub(super) struct Head {
    vote: Option<EncodedRecord>,
    purged: Option<EncodedRecord>,
    committed: Option<EncodedRecord>,
}

impl Head {
    pub(super) fn remember(&mut self, record: &EncodedRecord) {
        match record.kind {
            KIND_VOTE => self.vote = Some(record.clone()),
            KIND_PURGED_TO => self.purged = Some(record.clone()),
            KIND_COMMITTED => self.committed = Some(record.clone()),
            _ => {}
        }
    }

    pub(super) fn records(&self) -> Vec<EncodedRecord> {
        [&self.vote, &self.purged, &self.committed]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// The end of a segment: `end` is behind the last record, and an unfinished batch, if any, reaches up to `used`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tail {
    pub(super) end: usize,
    pub(super) used: usize,
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
        "{file} begins with record {found}, and record {expected} is missing: this member may have promised what it \
         cannot read any more; give the machine a new member id and an empty data directory"
    )]
    Gap { file: String, found: u64, expected: u64 },
    #[error(
        "{file} of the log is missing; restore it, or give the machine a new member id and an empty data directory"
    )]
    Missing { file: String },
}

impl From<RecoverError> for std::io::Error {
    fn from(error: RecoverError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

impl Recovery {
    /// Takes the next file, in the order of their numbers.
    pub(super) fn add(&mut self, number: u64, bytes: &[u8]) -> Result<(), RecoverError> {
        if let Some(previous) = self.last_number()
            && previous + 1 != number
        {
            let file = name_of(previous + 1);
            return Err(RecoverError::Missing { file });
        }
        self.check_end_of_last()?;
        let mut segment = Segment {
            number,
            bytes: bytes.len() as u64,
            index_max: None,
        };
        let used = used_length(bytes);
        if used == 0 {
            self.empty.push(segment);
            return Ok(());
        }
        let expected = self
            .next_sequence
            .or_else(|| (number == FIRST_NUMBER).then_some(0));
        let scan = Scan::of(number, bytes, expected)?;
        for found in scan.found {
            if let Record::Entry(entry) = &found.record {
                segment.index_max = segment.index_max.max(Some(entry.log_id.index()));
            }
            self.head.remember(&found.encoded);
            self.records.push(found.record);
        }
        self.segments.extend(self.empty.drain(..));
        self.segments.push_back(segment);
        self.next_sequence = scan.next_sequence;
        self.tail = Some(Tail { end: scan.end, used });
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Recovered, RecoverError> {
        let first = self.segments.front().or_else(|| self.empty.first());
        if self.next_sequence.is_none()
            && let Some(first) = first
            && first.number != FIRST_NUMBER
        {
            // An older file goes only after this one has got records.
            let file = name_of(first.number - 1);
            return Err(RecoverError::Missing { file });
        }
        Ok(Recovered {
            records: self.records,
            head: self.head,
            segments: self.segments,
            next_sequence: self.next_sequence.unwrap_or(0),
            tail: self.tail.unwrap_or_default(),
            empty: self.empty.iter().map(|segment| segment.number).collect(),
        })
    }

    fn last_number(&self) -> Option<u64> {
        let last = self.empty.last().or_else(|| self.segments.back());
        last.map(|segment| segment.number)
    }

    /// The next file was begun after everything in this one was on the disk.
    fn check_end_of_last(&self) -> Result<(), RecoverError> {
        match (self.segments.back(), self.tail) {
            (Some(segment), Some(tail)) if tail.used > tail.end => Err(RecoverError::Damaged {
                file: name_of(segment.number),
                offset: tail.end,
            }),
            _ => Ok(()),
        }
    }
}

/// The readable beginning of one segment.
struct Scan {
    found: Vec<FoundRecord>,
    /// Behind the last readable record.
    end: usize,
    next_sequence: Option<u64>,
}

impl Scan {
    fn of(segment: u64, bytes: &[u8], expected: Option<u64>) -> Result<Self, RecoverError> {
        let mut scan = Self {
            found: Vec::new(),
            end: 0,
            next_sequence: expected,
        };
        while let Some(found) = read(segment, &bytes[scan.end..]) {
            let sequence = found.place.sequence;
            if let Some(expected) = scan.next_sequence
                && expected != sequence
            {
                if scan.found.is_empty() && sequence > expected {
                    let (file, found) = (name_of(segment), sequence);
                    return Err(RecoverError::Gap {
                        file,
                        found,
                        expected,
                    });
                }
                break;
            }
            scan.next_sequence = Some(sequence + 1);
            scan.end += found.length;
            scan.found.push(found);
        }
        scan.check_rest(segment, &bytes[scan.end..])?;
        Ok(scan)
    }

    /// Damage behind which a later batch stands: no crash explains it.
    fn check_rest(&self, segment: u64, rest: &[u8]) -> Result<(), RecoverError> {
        let lost = self.next_sequence.unwrap_or(0);
        let mut later = (0..used_length(rest)).filter_map(|offset| read(segment, &rest[offset..]));
        if later.any(|found| found.place.sequence >= lost && found.place.batch > lost) {
            let (file, offset) = (name_of(segment), self.end);
            return Err(RecoverError::Damaged { file, offset });
        }
        Ok(())
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

pub(super) fn name_of(number: u64) -> String {
    format!("log-{number:012}")
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.parse().ok()
}

/// Of a new log's first file, which begins with record 0.
pub(super) const FIRST_NUMBER: u64 = 1;
