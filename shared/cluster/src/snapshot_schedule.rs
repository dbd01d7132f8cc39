//! When a member makes its next snapshot: a decision alone, without clock or network.
//!
//! A snapshot costs what the whole state costs, so the log may grow as large as the snapshot before another one is worth it.
//! Members take turns: while one of them writes, those that are not in need wait.

/// What a member sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Entries in the state that the last snapshot does not cover.
    pub entries_since: u64,
    /// About how many bytes of the log they take.
    pub bytes_since: u64,
    /// What the last snapshot takes; 0: there is none.
    pub snapshot_bytes: u64,
    /// Another member is writing one.
    pub others_write: bool,
}

/// Whether a snapshot is due. `entries_min`: as configured.
#[must_use]
pub fn is_due(view: View, entries_min: u64) -> bool {
    let View {
        entries_since,
        bytes_since,
        snapshot_bytes,
        others_write,
    } = view;
    let is_large = |times: u64| {
        entries_since >= entries_min.saturating_mul(times)
            && bytes_since >= snapshot_bytes.saturating_mul(times)
    };
    let is_urgent = is_large(2) || entries_since >= entries_between_max(entries_min);
    is_urgent || is_large(1) && !others_write
}

/// No more entries than these lie between two snapshots, but for those that come while one is made.
#[must_use]
pub fn entries_between_max(entries_min: u64) -> u64 {
    entries_min.saturating_mul(ENTRIES_TIMES_MAX)
}

const ENTRIES_TIMES_MAX: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u64 = 20_000;

    fn view(entries_since: u64, bytes_since: u64, snapshot_bytes: u64) -> View {
        View {
            entries_since,
            bytes_since,
            snapshot_bytes,
            others_write: false,
        }
    }

    #[test]
    fn a_snapshot_is_due_when_the_log_since_the_last_is_as_large() {
        for (entries, bytes, snapshot, due) in [
            (MIN - 1, 900, 0, false),
            (MIN, 900, 0, true),
            (MIN, 900, 901, false),
            (MIN * 3, 900, 901, false),
            (MIN * 3, 901, 901, true),
            (MIN * 10 - 1, 0, u64::MAX, false),
            (MIN * 10, 0, u64::MAX, true),
        ] {
            let view = view(entries, bytes, snapshot);
            assert_eq!(is_due(view, MIN), due, "{view:?}");
        }
    }

    #[test]
    fn a_member_waits_for_others_unless_its_log_has_grown_twice_as_large() {
        for (entries, bytes, due) in [
            (MIN, 1_000, false),
            (MIN * 2 - 1, 2_000, false),
            (MIN * 2, 1_999, false),
            (MIN * 2, 2_000, true),
            (MIN * 10, 0, true),
        ] {
            let view = View {
                others_write: true,
                ..view(entries, bytes, 1_000)
            };
            assert_eq!(is_due(view, MIN), due, "{view:?}");
        }
    }
}
