//! How large the next piece of a snapshot is: a decision alone.
//!
//! A fast path takes few large pieces, a slow one many small ones, each answered long before anybody loses patience.

use std::time::Duration;

/// The size of the pieces of one transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SnapshotPace {
    bytes: usize,
}

impl SnapshotPace {
    pub(super) fn new() -> Self {
        Self { bytes: BYTES_FIRST }
    }

    pub(super) fn bytes(self) -> usize {
        self.bytes
    }

    /// The last piece was answered after this time.
    pub(super) fn answered(&mut self, after: Duration) {
        if after < QUICK {
            self.bytes = BYTES_MAX.min(self.bytes * 2);
        } else if after > SLOW {
            self.bytes = BYTES_MIN.max(self.bytes / 2);
        }
    }
}

/// With these, a path of 4 kB/s carries a piece within a quarter of [`PIECE_TIMEOUT`].
const BYTES_FIRST: usize = 64 << 10;
const BYTES_MIN: usize = 16 << 10;
const BYTES_MAX: usize = 1 << 20;
const QUICK: Duration = Duration::from_millis(200);
const SLOW: Duration = Duration::from_secs(1);
/// An answer to one piece, or the transfer has failed.
pub(super) const PIECE_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a snapshot takes over a path of so many bytes in a second, or `None` when a piece takes too long.
    fn transfer(total: usize, bytes_per_second: f64) -> Option<Duration> {
        let mut pace = SnapshotPace::new();
        let (mut sent, mut time) = (0, Duration::ZERO);
        while sent < total {
            let bytes = pace.bytes().min(total - sent);
            let took = Duration::from_secs_f64(bytes as f64 / bytes_per_second);
            if took > PIECE_TIMEOUT {
                return None;
            }
            pace.answered(took);
            sent += bytes;
            time += took;
        }
        Some(time)
    }

    #[test]
    fn five_megabytes_arrive_over_slow_and_fast_paths() {
        for bytes_per_second in [4e3, 28e3, 280e3, 10e6, 1e9] {
            let time = transfer(5 << 20, bytes_per_second);
            assert!(time.is_some(), "{bytes_per_second} bytes a second");
        }
        assert_eq!(transfer(5 << 20, 1e3), None);
    }

    #[test]
    fn pieces_stay_within_their_bounds() {
        let mut pace = SnapshotPace::new();
        (0..20).for_each(|_| pace.answered(Duration::ZERO));
        assert_eq!(pace.bytes(), BYTES_MAX);
        pace.answered(Duration::from_millis(500));
        assert_eq!(pace.bytes(), BYTES_MAX, "neither quick nor slow");
        (0..20).for_each(|_| pace.answered(Duration::from_secs(5)));
        assert_eq!(pace.bytes(), BYTES_MIN);
    }
}
