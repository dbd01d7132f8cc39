//! Whether a leader's entries agree with what is committed here: a decision alone, without network or disk.

use super::type_config::LogId;

/// An entry of a leader's, and the one that is committed here at the same index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) theirs: LogId,
    pub(super) ours: LogId,
}

/// The first of `theirs`, in order of their indexes, that differs from what this member holds up to the last `committed`
/// entry. What was purged here cannot be compared any more.
pub(super) fn first_conflict(
    committed: LogId,
    theirs: impl IntoIterator<Item = LogId>,
    ours_at: impl Fn(u64) -> Option<LogId>,
) -> Option<Conflict> {
    let within = |id: &LogId| id.index() <= committed.index();
    theirs.into_iter().take_while(within).find_map(|theirs| {
        let ours = match theirs.index() == committed.index() {
            true => committed,
            false => ours_at(theirs.index())?,
        };
        (ours != theirs).then_some(Conflict { theirs, ours })
    })
}

#[cfg(test)]
mod tests {
    use super::super::recovery_tests::log_id;
    use super::*;

    /// Here entries 3 to 7 are of term 1, the first two were purged, and 6 is committed.
    fn conflict(theirs: &[(u64, u64)]) -> Option<(u64, u64)> {
        let theirs = theirs.iter().map(|&(term, index)| log_id(term, index));
        let ours_at = |index| (3..=7).contains(&index).then(|| log_id(1, index));
        let found = first_conflict(log_id(1, 6), theirs, ours_at)?;
        assert_eq!(found.theirs.index(), found.ours.index());
        Some((found.theirs.committed_leader_id().term, found.theirs.index()))
    }

    #[test]
    fn what_is_committed_must_not_differ() {
        assert_eq!(conflict(&[(1, 3), (1, 4), (1, 5), (1, 6)]), None);
        assert_eq!(conflict(&[(1, 4), (2, 5), (2, 6)]), Some((2, 5)));
        assert_eq!(conflict(&[(2, 6)]), Some((2, 6)));
    }

    #[test]
    fn what_is_not_committed_or_was_purged_may_differ() {
        assert_eq!(conflict(&[(1, 6), (2, 7), (2, 8)]), None);
        assert_eq!(conflict(&[(2, 1), (2, 2)]), None);
        assert_eq!(conflict(&[]), None);
    }
}
