//! When a member's disk counts as nearly full. Pure; who leads, and what is refused meanwhile, is decided elsewhere.

/// The bounds between which a disk stays what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpaceLimits {
    /// Below this many free bytes the disk is nearly full.
    pub nearly_full_below_bytes: u64,
    /// From this many free bytes on it has room again; never less than the other bound.
    pub ample_from_bytes: u64,
}

impl DiskSpaceLimits {
    /// For a log of files of this size: `nearly_full_below_bytes` as configured, but at least what the next two files and
    /// two snapshots of the same size take, and half as much again until the disk counts as having room.
    #[must_use]
    pub fn new(nearly_full_below_bytes: u64, log_segment_bytes: u64) -> Self {
        let least = log_segment_bytes.saturating_mul(NEEDED_FILES);
        let nearly_full_below_bytes = nearly_full_below_bytes.max(least);
        Self {
            nearly_full_below_bytes,
            ample_from_bytes: nearly_full_below_bytes.saturating_add(nearly_full_below_bytes / 2),
        }
    }
}

/// How much room a member's disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskSpace {
    #[default]
    Ample,
    /// The member hands its lead over, and as long as nobody else can take it, refuses what adds to the state.
    NearlyFull,
}

impl DiskSpace {
    /// What the disk counts as, now that it has `free_bytes`. Between the two bounds it stays what it was, so a disk at
    /// the edge does not change its mind with every file that comes and goes.
    #[must_use]
    pub fn after(self, free_bytes: u64, limits: DiskSpaceLimits) -> Self {
        let bound = match self {
            Self::Ample => limits.nearly_full_below_bytes,
            Self::NearlyFull => limits.ample_from_bytes.max(limits.nearly_full_below_bytes),
        };
        if free_bytes < bound {
            Self::NearlyFull
        } else {
            Self::Ample
        }
    }
}

/// Two files of the log, and a snapshot beside the one it replaces.
const NEEDED_FILES: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DiskSpaceLimits = DiskSpaceLimits {
        nearly_full_below_bytes: 100,
        ample_from_bytes: 150,
    };

    fn after(free_bytes: &[u64]) -> Vec<DiskSpace> {
        let mut space = DiskSpace::default();
        let spaces = free_bytes.iter().map(|free| {
            space = space.after(*free, LIMITS);
            space
        });
        spaces.collect()
    }

    #[test]
    fn a_disk_between_the_bounds_stays_what_it_was() {
        use DiskSpace::{Ample, NearlyFull};
        assert_eq!(
            after(&[1000, 100, 99, 100, 149, 150, 149, 100, 0]),
            [
                Ample, Ample, NearlyFull, NearlyFull, NearlyFull, Ample, Ample, Ample, NearlyFull
            ]
        );
    }

    #[test]
    fn bounds_that_are_the_wrong_way_round_do_not_make_a_disk_flap() {
        let limits = DiskSpaceLimits {
            nearly_full_below_bytes: 100,
            ample_from_bytes: 50,
        };
        assert_eq!(DiskSpace::NearlyFull.after(70, limits), DiskSpace::NearlyFull);
        assert_eq!(DiskSpace::NearlyFull.after(100, limits), DiskSpace::Ample);
        assert_eq!(DiskSpace::Ample.after(70, limits), DiskSpace::NearlyFull);
    }

    #[test]
    fn the_bound_leaves_room_for_what_the_log_takes_next() {
        let limits = DiskSpaceLimits::new(0, 16 << 20);
        assert_eq!(limits.nearly_full_below_bytes, 64 << 20);
        assert_eq!(limits.ample_from_bytes, 96 << 20);
        let limits = DiskSpaceLimits::new(1 << 30, 16 << 20);
        assert_eq!(limits.nearly_full_below_bytes, 1 << 30);
        let limits = DiskSpaceLimits::new(u64::MAX, u64::MAX);
        assert_eq!(limits.ample_from_bytes, u64::MAX);
    }
}
