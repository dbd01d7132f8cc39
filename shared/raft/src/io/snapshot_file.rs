//! The bytes of a snapshot's file, and what they may say that this program cannot go on with. Pure.

use std::io;

use bytes::Bytes;

use tandem_cluster::{Format, MemberRecord};

use super::stored::Foreign;
use super::stored_snapshot;
use super::type_config::SnapshotMeta;

/// Why the snapshot on disk cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("{NAME} is damaged; empty the data directory and run `tandem-node cluster replace`")]
    Damaged,
    #[error(
        "{NAME} is written in {format}; this program reads up to {newest}: start the release that wrote it; \
         nothing was changed"
    )]
    Later { format: Format, newest: Format },
    #[error(
        "{NAME} is written in {format} and holds what this program, which reads up to {newest}, does not know: start \
         the release that wrote it; nothing was changed"
    )]
    NotUnderstood { format: Format, newest: Format },
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What the state is written behind: format, checksum, length of the description, description. The checksum covers what
/// comes after it and, from release 0.2 on, the format before it; so it can be checked whatever the format.
pub(super) struct Head {
    format: u8,
    /// Its length, and the description.
    description: Vec<u8>,
    checksum: crc32fast::Hasher,
    pub(super) state_bytes: u64,
}

impl Head {
    pub(super) fn new(meta: &SnapshotMeta, format: Format) -> io::Result<Self> {
        let described = stored_snapshot::encode_meta(meta, format).map_err(io::Error::other)?;
        let length = u32::try_from(described.len()).map_err(io::Error::other)?;
        let description = [&length.to_le_bytes()[..], &described].concat();
        let format = u8::try_from(format.0).map_err(io::Error::other)?;
        Ok(Self {
            format,
            checksum: checksum_of(format, &description),
            description,
            state_bytes: 0,
        })
    }

    /// These bytes of the state come next.
    pub(super) fn note(&mut self, state: &[u8]) {
        self.checksum.update(state);
        self.state_bytes += state.len() as u64;
    }

    /// With the checksum of what was noted.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let checksum = self.checksum.clone().finalize().to_le_bytes();
        [&[self.format][..], &checksum, &self.description].concat()
    }
}

pub(super) fn read(bytes: &[u8], newest: Format) -> Result<(SnapshotMeta, Bytes), SnapshotError> {
    let (number, rest) = bytes.split_first().ok_or(SnapshotError::Damaged)?;
    let (stored_checksum, rest) = rest.split_first_chunk().ok_or(SnapshotError::Damaged)?;
    if checksum_of(*number, rest).finalize() != u32::from_le_bytes(*stored_checksum) {
        return Err(SnapshotError::Damaged);
    }
    let format = Format((*number).into());
    let refused = |foreign| match foreign {
        Foreign::Format(format) => SnapshotError::Later { format, newest },
        Foreign::Content => SnapshotError::NotUnderstood { format, newest },
    };
    if format > newest || format < Format::RELEASE_0_1 {
        return Err(refused(Foreign::Format(format)));
    }
    let parts = || {
        let (length, rest) = rest.split_first_chunk()?;
        rest.split_at_checked(u32::from_le_bytes(*length) as usize)
    };
    let (description, state) = parts().ok_or_else(|| refused(Foreign::Content))?;
    let meta = stored_snapshot::decode_meta(description, newest).map_err(refused)?;
    Ok((meta, Bytes::copy_from_slice(state)))
}

fn checksum_of(format: u8, rest: &[u8]) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    if Format(format.into()) != Format::RELEASE_0_1 {
        hasher.update(&[format]);
    }
    hasher.update(rest);
    hasher
}

/// What a snapshot covers, for the wire. In the format of release 0.1 unless that cannot hold it; it says which.
pub(super) fn encode_meta(meta: &SnapshotMeta) -> io::Result<Vec<u8>> {
    let mut members = meta.last_membership.membership().nodes();
    let format = if members.all(|(_, record)| *record == MemberRecord::Undescribed) {
        Format::RELEASE_0_1
    } else {
        Format::RELEASE_0_2
    };
    stored_snapshot::encode_meta(meta, format).map_err(io::Error::other)
}

/// What [`encode_meta`] wrote; `None` when it is not understood.
pub(super) fn decode_meta(bytes: &[u8]) -> Option<SnapshotMeta> {
    stored_snapshot::decode_meta(bytes, Format::NEWEST).ok()
}

pub(super) const NAME: &str = "snapshot";

/// A whole snapshot, as it lies on the disk.
#[cfg(test)]
pub(super) fn write(meta: &SnapshotMeta, state: &[u8], format: Format) -> io::Result<Vec<u8>> {
    let mut head = Head::new(meta, format)?;
    head.note(state);
    Ok([head.bytes(), state.to_vec()].concat())
}

#[cfg(test)]
mod tests {
    use super::super::type_config::StoredMembership;
    use super::*;

    const FORMATS: [Format; 2] = [Format::RELEASE_0_1, Format::RELEASE_0_2];

    fn meta() -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: None,
            last_membership: StoredMembership::default(),
        }
    }

    #[test]
    fn a_damaged_snapshot_is_not_read() {
        for format in FORMATS {
            let bytes = write(&meta(), b"state", format).unwrap();
            let whole = (meta(), Bytes::from_static(b"state"));
            assert_eq!(read(&bytes, Format::NEWEST), Ok(whole));
            for position in 0..bytes.len() {
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[position] ^= 1 << bit;
                    let found = read(&damaged, Format::NEWEST);
                    assert_eq!(found, Err(SnapshotError::Damaged), "byte {position} of {format}");
                }
                let found = read(&bytes[..position], Format::NEWEST);
                assert_eq!(
                    found,
                    Err(SnapshotError::Damaged),
                    "length {position} of {format}"
                );
            }
        }
    }

    #[test]
    fn a_snapshot_of_another_release_is_called_that() {
        let newest = Format::RELEASE_0_1;
        let bytes = write(&meta(), b"state", Format::RELEASE_0_2).unwrap();
        let format = Format::RELEASE_0_2;
        assert_eq!(read(&bytes, newest), Err(SnapshotError::Later { format, newest }));

        let newest = Format::NEWEST;
        for number in [0, 3, 255] {
            let mut bytes = bytes.clone();
            bytes[0] = number;
            let right = checksum_of(number, &bytes[5..]).finalize();
            bytes[1..5].copy_from_slice(&right.to_le_bytes());
            let format = Format(number.into());
            assert_eq!(read(&bytes, newest), Err(SnapshotError::Later { format, newest }));
        }
    }

    #[test]
    fn a_description_with_something_left_over_is_not_understood() {
        for format in FORMATS {
            let mut bytes = write(&meta(), b"state", format).unwrap();
            // One byte of the state is counted as the description's.
            bytes[5] += 1;
            let right = checksum_of(bytes[0], &bytes[5..]).finalize();
            bytes[1..5].copy_from_slice(&right.to_le_bytes());
            let newest = Format::NEWEST;
            assert_eq!(
                read(&bytes, newest),
                Err(SnapshotError::NotUnderstood { format, newest })
            );
        }
    }
}
