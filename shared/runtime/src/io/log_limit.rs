//! Rate limits for log lines that a client or a stranger can cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Allows one log line per subject and period, and counts the ones in between that it suppressed.
#[derive(Debug)]
pub struct LogLimit<K> {
    period: Duration,
    subjects_max: usize,
    subjects: Mutex<BTreeMap<K, Logged>>,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    /// Lines suppressed since then.
    suppressed: u64,
}

impl<K: Ord> LogLimit<K> {
    /// One line per subject and `period`, for up to `subjects_max` subjects; lines about any further subject are suppressed
    /// and not counted.
    #[must_use]
    pub fn new(period: Duration, subjects_max: usize) -> Self {
        Self {
            period,
            subjects_max,
            subjects: Mutex::default(),
        }
    }

    /// One line a minute for each of up to 256 subjects.
    #[must_use]
    pub fn once_a_minute() -> Self {
        Self::new(Duration::from_secs(60), 256)
    }

    /// The number of lines suppressed since the last one about this subject, when one may be logged now; `None` when it is
    /// to be suppressed.
    pub fn is_due(&self, subject: K) -> Option<u64> {
        let now = Instant::now();
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(logged) = subjects.get_mut(&subject) {
            if now < logged.at + self.period {
                logged.suppressed += 1;
                return None;
            }
            let suppressed = std::mem::take(&mut logged.suppressed);
            logged.at = now;
            return Some(suppressed);
        }
        if subjects.len() >= self.subjects_max {
            // The counts of subjects that are due again are lost: room for new subjects is worth more.
            subjects.retain(|_, logged| now < logged.at + self.period);
        }
        if subjects.len() >= self.subjects_max {
            return None;
        }
        let logged = Logged {
            at: now,
            suppressed: 0,
        };
        subjects.insert(subject, logged);
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_subject_is_logged_once_per_period_with_the_number_of_suppressed_lines() {
        let limit = LogLimit::new(Duration::from_secs(60), 2);
        assert_eq!(limit.is_due("a"), Some(0));
        assert_eq!([limit.is_due("a"), limit.is_due("a")], [None, None]);
        assert_eq!(limit.is_due("b"), Some(0));
        assert_eq!(limit.is_due("c"), None, "no room");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(limit.is_due("a"), Some(2));
        assert_eq!(limit.is_due("c"), Some(0), "b makes room");
    }
}
