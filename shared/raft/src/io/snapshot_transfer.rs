//! The snapshot that is arriving: what of it is there, and which piece comes next. Outlives the connection on which it comes.
//!
//! A decision alone, without clock or network. What always holds: the pieces that were taken in follow each other without a
//! gap, and belong to one snapshot of one leader.

use std::io;

use bytes::Bytes;

use super::messages::{SNAPSHOT_BYTES_MAX, SnapshotChunk};

/// The pieces of one snapshot that have arrived.
#[derive(Debug, Default)]
pub(super) struct SnapshotTransfer {
    /// Vote and description, as its leader encoded them, and the bytes that it will have.
    snapshot: Option<(Vec<u8>, Vec<u8>, u64)>,
    data: Vec<u8>,
}

/// What to tell the sender.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The piece that begins there comes next.
    GoOnAt(u64),
    /// It was the last one.
    Whole(Bytes),
}

impl SnapshotTransfer {
    /// A piece that does not follow the ones before is left out. An empty one only asks.
    pub(super) fn take(&mut self, chunk: &SnapshotChunk) -> io::Result<Taken> {
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if end > chunk.total || chunk.total > SNAPSHOT_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a piece of a snapshot is larger than it says, or than a snapshot may be",
            ));
        }
        let is_another = self.snapshot.as_ref().is_none_or(|(vote, meta, total)| {
            (vote, meta, *total) != (&chunk.vote, &chunk.meta, chunk.total)
        });
        if is_another {
            self.data.clear();
            self.snapshot = Some((chunk.vote.clone(), chunk.meta.clone(), chunk.total));
        }
        let here = self.data.len() as u64;
        if chunk.offset == here {
            self.data.extend_from_slice(&chunk.data);
        }
        let here = self.data.len() as u64;
        if here < chunk.total {
            return Ok(Taken::GoOnAt(here));
        }
        let whole = std::mem::take(self);
        Ok(Taken::Whole(whole.data.into()))
    }

    /// Bytes that have arrived, and bytes that there will be; `None`: nothing is arriving.
    pub(super) fn progress(&self) -> Option<(u64, u64)> {
        let (_, _, total) = self.snapshot.as_ref()?;
        Some((self.data.len() as u64, *total))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot() -> Vec<u8> {
        (0..100).collect()
    }

    fn piece(snapshot: &[u8], of: u8, start: usize, end: usize) -> SnapshotChunk {
        SnapshotChunk {
            offset: start as u64,
            total: snapshot.len() as u64,
            vote: vec![1],
            meta: vec![of],
            data: Bytes::copy_from_slice(&snapshot[start..end]),
        }
    }

    #[test]
    fn a_transfer_goes_on_where_it_was_broken_off() {
        let (mut transfer, all) = (SnapshotTransfer::default(), snapshot());
        assert_eq!(transfer.take(&piece(&all, 7, 0, 0)).unwrap(), Taken::GoOnAt(0));
        assert_eq!(transfer.take(&piece(&all, 7, 0, 60)).unwrap(), Taken::GoOnAt(60));
        // Another connection: the sender asks.
        assert_eq!(transfer.take(&piece(&all, 7, 0, 0)).unwrap(), Taken::GoOnAt(60));
        assert_eq!(transfer.progress(), Some((60, 100)));
        let taken = transfer.take(&piece(&all, 7, 60, 100)).unwrap();
        assert_eq!(taken, Taken::Whole(all.into()));
        assert_eq!(transfer.progress(), None);
    }

    #[test]
    fn a_piece_of_another_snapshot_starts_over() {
        let (mut transfer, all) = (SnapshotTransfer::default(), snapshot());
        assert_eq!(transfer.take(&piece(&all, 7, 0, 60)).unwrap(), Taken::GoOnAt(60));
        assert_eq!(transfer.take(&piece(&all, 8, 60, 70)).unwrap(), Taken::GoOnAt(0));
        assert_eq!(transfer.take(&piece(&all, 8, 0, 10)).unwrap(), Taken::GoOnAt(10));
        assert_eq!(transfer.take(&piece(&all, 7, 60, 100)).unwrap(), Taken::GoOnAt(0));
    }

    #[test]
    fn what_is_larger_than_it_says_or_than_allowed_is_refused() {
        let (mut transfer, all) = (SnapshotTransfer::default(), snapshot());
        let mut too_long = piece(&all, 7, 0, 60);
        too_long.total = 59;
        transfer.take(&too_long).unwrap_err();
        let mut too_large = piece(&all, 7, 0, 60);
        too_large.total = SNAPSHOT_BYTES_MAX + 1;
        transfer.take(&too_large).unwrap_err();
        let mut overflows = piece(&all, 7, 0, 60);
        overflows.offset = u64::MAX;
        transfer.take(&overflows).unwrap_err();
        assert_eq!(transfer.progress(), None);
    }

    #[test]
    fn a_snapshot_of_a_million_sessions_is_taken() {
        let mut transfer = SnapshotTransfer::default();
        let mut first = piece(&snapshot(), 7, 0, 60);
        first.total = 820_000_000;
        assert_eq!(transfer.take(&first).unwrap(), Taken::GoOnAt(60));
    }

    proptest! {
        /// Whatever comes, in whatever order: what is whole is the snapshot.
        #[test]
        fn what_is_whole_is_what_was_sent(
            pieces in prop::collection::vec((0_u8..2, 0_usize..100, 0_usize..60), 0..60),
        ) {
            let (mut transfer, first) = (SnapshotTransfer::default(), snapshot());
            let second: Vec<u8> = first.iter().rev().copied().collect();
            for (of, start, length) in pieces {
                let sent = if of == 0 { &first } else { &second };
                let end = sent.len().min(start + length);
                match transfer.take(&piece(sent, of, start, end)).unwrap() {
                    Taken::Whole(whole) => prop_assert_eq!(&whole[..], &sent[..]),
                    Taken::GoOnAt(offset) => prop_assert!(offset < sent.len() as u64),
                }
            }
        }
    }
}
