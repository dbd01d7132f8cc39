//! When something was wrong, for those who judge how soon something had to be done: pure.

/// One thing that was wrong.
#[derive(Debug, Clone, Copy)]
struct Disturbance {
    /// Unix milliseconds.
    from_ms: i64,
    /// `None`: it still is.
    until_ms: Option<i64>,
    /// The Client Access Server that could not be used, counted from 0.
    cas: Option<usize>,
}

/// Everything that was wrong so far.
#[derive(Debug, Default)]
pub(super) struct Disturbances {
    all: Vec<Disturbance>,
    /// When everything was seen to have recovered, last time.
    recovered_ms: Option<i64>,
}

impl Disturbances {
    /// Something is wrong from now on; the number ends it.
    pub(super) fn begin(&mut self, now_ms: i64, cas: Option<usize>) -> usize {
        self.all.push(Disturbance {
            from_ms: now_ms,
            until_ms: None,
            cas,
        });
        self.all.len() - 1
    }

    pub(super) fn end(&mut self, number: usize, now_ms: i64) {
        self.all[number].until_ms = Some(now_ms);
    }

    /// Nothing is wrong, and nothing is left of what was: from now on nobody needs time to recover from it.
    pub(super) fn recovered(&mut self, now_ms: i64) {
        self.recovered_ms = Some(now_ms);
    }

    /// When something has to be done that is due at `due_ms` if all is well: who was disturbed gets `recovery_ms` from the
    /// end of it. `None`: not yet.
    pub(super) fn put_off(&self, due_ms: i64, recovery_ms: i64) -> Option<i64> {
        let mut due = due_ms;
        loop {
            let standing = self.all.iter().filter(|disturbance| disturbance.from_ms <= due);
            let ends: Option<Vec<i64>> = standing.map(|disturbance| disturbance.until_ms).collect();
            let settled = ends?.into_iter().map(|end| self.settled(end, recovery_ms)).max();
            match settled.filter(|settled| *settled > due) {
                Some(later) => due = later,
                None => return Some(due),
            }
        }
    }

    fn settled(&self, end_ms: i64, recovery_ms: i64) -> i64 {
        let seen = self.recovered_ms.filter(|recovered| *recovered >= end_ms);
        (end_ms + recovery_ms).min(seen.unwrap_or(i64::MAX))
    }

    /// Whether that server could not be used at some moment from then on.
    pub(super) fn failed(&self, cas: usize, since_ms: i64, until_ms: i64) -> bool {
        self.all.iter().any(|disturbance| {
            disturbance.cas == Some(cas)
                && disturbance.from_ms <= until_ms
                && disturbance.until_ms.is_none_or(|end| end >= since_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_waits_for_the_end_of_all_that_is_wrong() {
        let mut disturbances = Disturbances::default();
        let first = disturbances.begin(1000, None);
        assert_eq!(disturbances.put_off(500, 100), Some(500));
        assert_eq!(disturbances.put_off(1500, 100), None);
        disturbances.end(first, 2000);
        assert_eq!(disturbances.put_off(1500, 100), Some(2100));
        let second = disturbances.begin(2050, Some(3));
        assert_eq!(disturbances.put_off(1500, 100), None, "the next begins too soon");
        disturbances.end(second, 4000);
        assert_eq!(disturbances.put_off(1500, 100), Some(4100));
        assert_eq!(disturbances.put_off(5000, 100), Some(5000));
    }

    #[test]
    fn nobody_needs_more_time_once_everything_is_seen_to_have_recovered() {
        let mut disturbances = Disturbances::default();
        let number = disturbances.begin(1000, None);
        disturbances.end(number, 2000);
        assert_eq!(disturbances.put_off(1500, 5000), Some(7000));
        disturbances.recovered(3000);
        assert_eq!(disturbances.put_off(1500, 5000), Some(3000));
        assert_eq!(disturbances.put_off(3500, 5000), Some(3500));
    }

    #[test]
    fn a_server_that_failed_is_remembered_for_its_time() {
        let mut disturbances = Disturbances::default();
        let number = disturbances.begin(1000, Some(1));
        assert!(disturbances.failed(1, 5000, 6000));
        disturbances.end(number, 2000);
        assert!(disturbances.failed(1, 2000, 3000) && !disturbances.failed(1, 2001, 3000));
        assert!(!disturbances.failed(0, 0, 9000) && !disturbances.failed(1, 0, 999));
    }
}
