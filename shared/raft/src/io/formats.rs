//! Which formats this member reads and writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tandem_cluster::Format;

/// The newest format that is read, and the one that is written, which rises when the log says so. Clones share both.
#[derive(Debug, Clone)]
pub(super) struct Formats {
    newest: Format,
    written: Arc<AtomicU16>,
}

impl Formats {
    /// Writes the format of release 0.1 until it is told of a later one.
    pub(super) fn up_to(newest: Format) -> Self {
        Self {
            newest,
            written: Arc::new(AtomicU16::new(Format::RELEASE_0_1.0)),
        }
    }

    pub(super) fn newest(&self) -> Format {
        self.newest
    }

    pub(super) fn written(&self) -> Format {
        Format(self.written.load(Ordering::Acquire))
    }

    /// It never falls, and nothing is written that this member could not read.
    pub(super) fn raise(&self, to: Format) {
        self.written.fetch_max(to.min(self.newest).0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_format_rises_to_the_newest_and_never_falls() {
        let formats = Formats::up_to(Format(2));
        let same = formats.clone();
        for (told, written) in [(1, 1), (2, 2), (1, 2), (3, 2)] {
            formats.raise(Format(told));
            assert_eq!(same.written(), Format(written));
        }
    }
}
