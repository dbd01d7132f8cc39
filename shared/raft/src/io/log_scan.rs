//! What one file of the log says. Pure.

use tandem_cluster::Format;

use super::record::{ForeignRecord, FoundRecord, Reading, read, read_later};
use super::recovery::{RecoverError, name_of};

/// One segment.
pub(super) struct Scan {
    /// Its readable beginning.
    pub(super) found: Vec<FoundRecord>,
    /// Behind the last readable record.
    pub(super) end: usize,
    pub(super) next_sequence: Option<u64>,
    /// A complete record at `end` that does not follow on the last one.
    other: Option<u64>,
    /// Damage behind which a later batch stands: no crash explains it.
    is_damaged: bool,
}

impl Scan {
    pub(super) fn of(
        segment: u64,
        bytes: &[u8],
        expected: Option<u64>,
        newest: Format,
    ) -> Result<Self, RecoverError> {
        let refuse = |record: ForeignRecord| RecoverError::of(&record, newest);
        let mut scan = Self {
            found: Vec::new(),
            end: 0,
            next_sequence: expected,
            other: None,
            is_damaged: false,
        };
        loop {
            let found = match read(segment, &bytes[scan.end..], newest) {
                Reading::Whole(found) => found,
                Reading::Foreign(record) => return Err(refuse(record)),
                Reading::Torn => break,
            };
            let sequence = found.place.sequence;
            if scan.next_sequence.is_some_and(|expected| expected != sequence) {
                scan.other = Some(sequence);
                break;
            }
            scan.next_sequence = Some(sequence.saturating_add(1));
            scan.end += found.length;
            scan.found.push(*found);
        }
        let rest = &bytes[scan.end..];
        let lost = scan.next_sequence.unwrap_or(0);
        for offset in 0..used_length(rest) {
            match read_later(segment, &rest[offset..], lost, newest) {
                Reading::Whole(found) => scan.is_damaged |= found.place.batch > lost,
                Reading::Foreign(record) => return Err(refuse(record)),
                Reading::Torn => {}
            }
        }
        Ok(scan)
    }

    pub(super) fn check(&self, segment: u64, expected: Option<u64>) -> Result<(), RecoverError> {
        let file = || name_of(segment);
        match (self.other, expected) {
            (Some(found), Some(expected)) if self.found.is_empty() && found > expected => {
                let file = file();
                Err(RecoverError::Gap {
                    file,
                    found,
                    expected,
                })
            }
            _ if self.is_damaged => {
                let (file, offset) = (file(), self.end);
                Err(RecoverError::Damaged { file, offset })
            }
            _ => Ok(()),
        }
    }
}

/// Bytes up to the last one that is not zero.
pub(super) fn used_length(bytes: &[u8]) -> usize {
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
