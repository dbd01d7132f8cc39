//! The records of the log: bytes on disk ↔ what openraft wrote. Pure.
//!
//! ```text
//! length u32 | crc32 u32 | format u8 | kind u8 | sequence u64 | batch u64 | payload (postcard)
//! ```
//! The checksum covers the segment's number, the header after it and the payload. `sequence` counts all records
//! without a gap; `batch` is the sequence of the first record that went to the disk in the same write, so
//! everything before `batch` was known to be on the disk when this record was written.
//!
//! All formats have this header and this checksum, and no payload is longer than [`PAYLOAD_BYTES_MAX`]. So a record of
//! a later format is known for what it is: complete, and not for this program to read, to drop or to write over.

use serde::Serialize;

use tandem_cluster::Format;

use super::stored::{Foreign, StoredLogId, StoredVote, decode_all, decode_entry, encode_entry, format_of};
use super::type_config::{Entry, LogId, VoteRecord};

/// What the log remembers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    Entry(Entry),
    Vote(VoteRecord),
    /// Entries above this index are void; all of them for `None`.
    TruncatedAfter(Option<u64>),
    PurgedTo(LogId),
    /// Everything up to here may be applied at the next start. Written with the next batch, never waited for.
    Committed(LogId),
}

/// A record before it has its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncodedRecord {
    pub(super) format: Format,
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// Where a record lies: what its checksum and its header say besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) batch: u64,
}

/// What lies at a place on the disk.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    Whole(Box<FoundRecord>),
    /// Complete and its checksum right, but this program does not understand it.
    Foreign(ForeignRecord),
    /// No record, or a part of one.
    Torn,
}

/// A record found on disk.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FoundRecord {
    pub(super) place: Place,
    pub(super) record: Record,
    /// For what every file begins with: the same as it lies there.
    pub(super) encoded: Option<EncodedRecord>,
    /// Bytes it takes, header and all.
    pub(super) length: usize,
}

/// A record that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForeignRecord {
    pub(super) place: Place,
    pub(super) format: Format,
    pub(super) foreign: Foreign,
}

impl EncodedRecord {
    /// In the usual format, or in the later one that the entry needs.
    pub(super) fn entry(entry: &Entry, written: Format) -> Result<Self, postcard::Error> {
        let format = format_of(entry, written);
        Ok(Self {
            format,
            kind: KIND_ENTRY,
            payload: encode_entry(entry, format)?,
        })
    }

    pub(super) fn vote(vote: &VoteRecord, format: Format) -> Result<Self, postcard::Error> {
        Self::new(KIND_VOTE, &StoredVote::from(vote), format)
    }

    pub(super) fn truncated_after(index: Option<u64>, format: Format) -> Result<Self, postcard::Error> {
        Self::new(KIND_TRUNCATED_AFTER, &index, format)
    }

    pub(super) fn purged_to(id: LogId, format: Format) -> Result<Self, postcard::Error> {
        Self::new(KIND_PURGED_TO, &StoredLogId::from(id), format)
    }

    pub(super) fn committed(id: LogId, format: Format) -> Result<Self, postcard::Error> {
        Self::new(KIND_COMMITTED, &StoredLogId::from(id), format)
    }

    fn new(kind: u8, content: &impl Serialize, format: Format) -> Result<Self, postcard::Error> {
        Ok(Self {
            format,
            kind,
            payload: postcard::to_stdvec(content)?,
        })
    }

    /// Bytes this record takes on disk.
    pub(super) fn length(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    pub(super) fn write(&self, place: Place, to: &mut Vec<u8>) {
        let start = to.len();
        // `append` refuses entries that would not fit in 32 bits.
        let length = u32::try_from(self.payload.len()).expect("payloads are bounded by PAYLOAD_BYTES_MAX");
        let format = u8::try_from(self.format.0).expect("there is one format to a release");
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(&[0; 4]);
        to.extend_from_slice(&[format, self.kind]);
        to.extend_from_slice(&place.sequence.to_le_bytes());
        to.extend_from_slice(&place.batch.to_le_bytes());
        to.extend_from_slice(&self.payload);
        let checksum = checksum(place.segment, length, &to[start + 8..]);
        to[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The record at the start of `bytes`, as far as this program, which reads formats up to `newest`, understands it.
pub(super) fn read(segment: u64, bytes: &[u8], newest: Format) -> Reading {
    Header::read(segment, bytes).map_or(Reading::Torn, |header| header.reading(bytes, newest))
}

/// As [`read`], for a place where anything may lie, and only if the record was written after record `lost` was, in
/// another batch or the same.
pub(super) fn read_later(segment: u64, bytes: &[u8], lost: u64, newest: Format) -> Reading {
    match Header::read(segment, bytes) {
        Some(header) if header.is_later_than(lost) && header.checksum_is_right(bytes) => {
            header.reading(bytes, newest)
        }
        Some(_) | None => Reading::Torn,
    }
}

struct Header {
    place: Place,
    length: u32,
    checksum: u32,
    format: Format,
    kind: u8,
}

impl Header {
    fn read(segment: u64, bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let length = u32::from_le_bytes(header[..4].try_into().ok()?);
        // Where nothing was written there are zeros, and their checksum must not be asked.
        let written = header.iter().any(|byte| *byte != 0);
        (written && length as usize <= PAYLOAD_BYTES_MAX).then_some(Self {
            place: Place {
                segment,
                sequence: u64::from_le_bytes(header[10..18].try_into().ok()?),
                batch: u64::from_le_bytes(header[18..26].try_into().ok()?),
            },
            length,
            checksum: u32::from_le_bytes(header[4..8].try_into().ok()?),
            format: Format(header[8].into()),
            kind: header[9],
        })
    }

    /// Cheap, and false for nearly everything that is no header.
    fn is_later_than(&self, lost: u64) -> bool {
        let Place { sequence, batch, .. } = self.place;
        sequence >= lost && sequence - lost < RECORDS_PER_SEGMENT_MAX && batch <= sequence
    }

    fn end(&self) -> usize {
        HEADER_BYTES + self.length as usize
    }

    fn checksum_is_right(&self, bytes: &[u8]) -> bool {
        let body = bytes.get(8..self.end());
        body.is_some_and(|body| checksum(self.place.segment, self.length, body) == self.checksum)
    }

    fn reading(self, bytes: &[u8], newest: Format) -> Reading {
        if !self.checksum_is_right(bytes) {
            return Reading::Torn;
        }
        let payload = &bytes[HEADER_BYTES..self.end()];
        match self.decode(payload, newest) {
            Ok(record) => Reading::Whole(Box::new(FoundRecord {
                place: self.place,
                encoded: HEAD_KINDS.contains(&self.kind).then(|| EncodedRecord {
                    format: self.format,
                    kind: self.kind,
                    payload: payload.to_vec(),
                }),
                record,
                length: self.end(),
            })),
            Err(foreign) => Reading::Foreign(ForeignRecord {
                place: self.place,
                format: self.format,
                foreign,
            }),
        }
    }

    fn decode(&self, payload: &[u8], newest: Format) -> Result<Record, Foreign> {
        if self.format > newest || self.format < Format::RELEASE_0_1 {
            return Err(Foreign::Format(self.format));
        }
        Ok(match self.kind {
            KIND_ENTRY => Record::Entry(decode_entry(payload, self.format, newest)?),
            KIND_VOTE => Record::Vote(decode_all::<StoredVote>(payload)?.into()),
            KIND_TRUNCATED_AFTER => Record::TruncatedAfter(decode_all(payload)?),
            KIND_PURGED_TO => Record::PurgedTo(decode_all::<StoredLogId>(payload)?.into()),
            KIND_COMMITTED => Record::Committed(decode_all::<StoredLogId>(payload)?.into()),
            _ => return Err(Foreign::Content),
        })
    }
}

fn checksum(segment: u64, length: u32, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&length.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

pub(super) const HEADER_BYTES: usize = 26;
/// A command is far smaller; a length beyond this is no length.
pub(super) const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Far more than fit into a file.
const RECORDS_PER_SEGMENT_MAX: u64 = 1 << 32;

const KIND_ENTRY: u8 = 1;
pub(super) const KIND_VOTE: u8 = 2;
const KIND_TRUNCATED_AFTER: u8 = 3;
pub(super) const KIND_PURGED_TO: u8 = 4;
pub(super) const KIND_COMMITTED: u8 = 5;
const HEAD_KINDS: [u8; 3] = [KIND_VOTE, KIND_PURGED_TO, KIND_COMMITTED];
