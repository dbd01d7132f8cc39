//! What the files of a log say when a member starts. Pure: the files are read and changed in [`super::segments`].
//!
//! A batch is one write followed by one sync, and never spans two files; the next is not begun before the sync
//! returned. So damage behind which a later batch stands cannot come from a crash: the member refuses to start,
//! for it may have promised what it cannot read any more. Only an unfinished last batch is cut off.
//!
//! A record that is complete and not understood was written by another release. It is never taken for an unfinished one,
//! wherever it lies: the member refuses to start, and nothing is changed.
//!
//! A file is begun when everything before it is on the disk. One without records was begun and not written to, and
//! says nothing: it goes when it is the last, and is passed over when the records behind it follow on those before it.

use std::collections::VecDeque;

use tandem_cluster::Format;

use super::log_scan::{Scan, used_length};
use super::record::{EncodedRecord, ForeignRecord, KIND_COMMITTED, KIND_PURGED_TO, KIND_VOTE, Record};
use super::stored::Foreign;

/// Reads the files of a log, one after the other.
pub(super) struct Recovery {
    newest: Format,
    records: Vec<Record>,
    head: Head,
    /// Up to the last one with records, or with a batch that was begun.
    segments: VecDeque<Segment>,
    /// Behind those.
    empty: Vec<Segment>,
    next_sequence: Option<u64>,
    tail: Option<Tail>,
    /// The first thing that is wrong. What comes behind is still looked at: a record of another release explains more.
    wrong: Option<RecoverError>,
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
        "{file}: record {sequence} is written in {format}; this program reads up to {newest}: start the release that \
         wrote it; nothing was changed"
    )]
    Later {
        file: String,
        sequence: u64,
        format: Format,
        newest: Format,
    },
    #[error(
        "{file}: record {sequence} is written in {format} and holds what this program, which reads up to {newest}, \
         does not know: start the release that wrote it; nothing was changed"
    )]
    NotUnderstood {
        file: String,
        sequence: u64,
        format: Format,
        newest: Format,
    },
    #[error(
        "{file} is damaged at byte {offset}, before records that were complete: this member may have promised \
         what it cannot read any more; empty the data directory and run `tandem-node cluster replace`"
    )]
    Damaged { file: String, offset: usize },
    #[error(
        "{file} begins with record {found}, and record {expected} is missing: this member may have promised what it \
         cannot read any more; empty the data directory and run `tandem-node cluster replace`"
    )]
    Gap { file: String, found: u64, expected: u64 },
    #[error(
        "{file} of the log is missing; restore it, or empty the data directory and run `tandem-node cluster replace`"
    )]
    Missing { file: String },
}

impl From<RecoverError> for std::io::Error {
    fn from(error: RecoverError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

impl Recovery {
    /// For a program that reads formats up to `newest`.
    pub(super) fn up_to(newest: Format) -> Self {
        Self {
            newest,
            records: Vec::new(),
            head: Head::default(),
            segments: VecDeque::new(),
            empty: Vec::new(),
            next_sequence: None,
            tail: None,
            wrong: None,
        }
    }

    /// Takes the next file, in the order of their numbers. Fails at once only for what another release wrote.
    pub(super) fn add(&mut self, number: u64, bytes: &[u8]) -> Result<(), RecoverError> {
        match self.take(number, bytes) {
            Err(error @ (RecoverError::Later { .. } | RecoverError::NotUnderstood { .. })) => Err(error),
            Err(error) => {
                self.wrong.get_or_insert(error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn take(&mut self, number: u64, bytes: &[u8]) -> Result<(), RecoverError> {
        let expected = self.expected_in(number);
        let scan = Scan::of(number, bytes, expected, self.newest)?;
        if let Some(previous) = self.last_number()
            && previous + 1 != number
        {
            let file = name_of(previous + 1);
            return Err(RecoverError::Missing { file });
        }
        self.check_end_of_last()?;
        scan.check(number, expected)?;
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
        for found in scan.found {
            if let Record::Entry(entry) = &found.record {
                segment.index_max = segment.index_max.max(Some(entry.log_id.index()));
            }
            if let Some(encoded) = &found.encoded {
                self.head.remember(encoded);
            }
            self.records.push(found.record);
        }
        self.segments.extend(self.empty.drain(..));
        self.segments.push_back(segment);
        self.next_sequence = scan.next_sequence;
        self.tail = Some(Tail { end: scan.end, used });
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Recovered, RecoverError> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
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

    fn expected_in(&self, number: u64) -> Option<u64> {
        self.next_sequence
            .or_else(|| (number == FIRST_NUMBER).then_some(0))
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

impl RecoverError {
    pub(super) fn of(record: &ForeignRecord, newest: Format) -> Self {
        let file = name_of(record.place.segment);
        let sequence = record.place.sequence;
        match record.foreign {
            Foreign::Format(format) => Self::Later {
                file,
                sequence,
                format,
                newest,
            },
            Foreign::Content => Self::NotUnderstood {
                file,
                sequence,
                format: record.format,
                newest,
            },
        }
    }
}

pub(super) fn name_of(number: u64) -> String {
    format!("log-{number:012}")
}

/// Of a name that [`name_of`] gives.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("log-")?.parse().ok()?;
    (name_of(number) == name).then_some(number)
}

/// Of a new log's first file, which begins with record 0.
pub(super) const FIRST_NUMBER: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_log_is_known_by_its_whole_name() {
        assert_eq!(number_of(&name_of(7)), Some(7));
        assert_eq!(number_of(&name_of(u64::MAX)), Some(u64::MAX));
        for name in [
            "log-7",
            "log-000000000007.new",
            "log-+00000000007",
            "log-",
            "log-0000000000007",
            "member",
        ] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
