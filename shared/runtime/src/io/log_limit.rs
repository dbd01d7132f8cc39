//! What is said once in a while, however often it happens: for log lines that others can cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Says of each subject once in a period whether it is to be said, and how often it was not.
#[derive(Debug)]
pub struct LogLimit<K> {
    period: Duration,
    subjects_max: usize,
    subjects: Mutex<BTreeMap<K, Said>>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    /// Times since then.
    unsaid: u64,
}

impl<K: Ord> LogLimit<K> {
    /// Of more than `subjects_max` subjects in one `period` nothing is said.
    #[must_use]
    pub fn new(period: Duration, subjects_max: usize) -> Self {
        Self {
            period,
            subjects_max,
            subjects: Mutex::default(),
        }
    }

    /// A line a minute for each of up to 256 subjects.
    #[must_use]
    pub fn once_a_minute() -> Self {
        Self::new(Duration::from_secs(60), 256)
    }

    /// Whether this is to be said now; if so, how often it has happened unsaid since it was said last.
    pub fn is_due(&self, subject: K) -> Option<u64> {
        let now = Instant::now();
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(said) = subjects.get_mut(&subject) {
            if now < said.at + self.period {
                said.unsaid += 1;
                return None;
            }
            let unsaid = std::mem::take(&mut said.unsaid);
            said.at = now;
            return Some(unsaid);
        }
        if subjects.len() >= self.subjects_max {
            // One that could be said again with a number is worth less than room for another.
            subjects.retain(|_, said| now < said.at + self.period);
        }
        if subjects.len() >= self.subjects_max {
            return None;
        }
        subjects.insert(subject, Said { at: now, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_subject_is_said_once_in_a_period_with_the_number_of_times_it_was_not() {
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
