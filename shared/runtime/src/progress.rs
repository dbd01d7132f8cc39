//! Which parts of a process have stopped making progress: a decision alone, without clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What was seen of each part: how often it had come round, and since when it has not come round again.
#[derive(Debug, Clone)]
pub struct Progress {
    patience: Duration,
    seen: BTreeMap<&'static str, (u64, Instant)>,
}

impl Progress {
    /// A part hangs when it has not come round for longer than `patience`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            seen: BTreeMap::new(),
        }
    }

    /// How often each part has come round by now. Returns those that hang.
    #[must_use]
    pub fn look(
        &mut self,
        rounds: impl IntoIterator<Item = (&'static str, u64)>,
        now: Instant,
    ) -> Vec<&'static str> {
        let mut hanging = Vec::new();
        for (part, count) in rounds {
            let (seen, since) = self.seen.entry(part).or_insert((count, now));
            if *seen != count {
                (*seen, *since) = (count, now);
            }
            if now > *since + self.patience {
                hanging.push(part);
            }
        }
        hanging
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    #[test]
    fn a_part_hangs_once_it_has_not_come_round_for_too_long() {
        let second = Duration::from_secs(1);
        let (start, mut progress) = (Instant::now(), Progress::new(second * 10));
        assert!(progress.look([("driver", 1), ("prober", 1)], start).is_empty());
        assert!(
            progress
                .look([("driver", 1), ("prober", 2)], start + second * 10)
                .is_empty()
        );
        let at = start + second * 11;
        assert_eq!(progress.look([("driver", 1), ("prober", 2)], at), ["driver"]);
        let at = start + second * 21;
        assert_eq!(
            progress.look([("driver", 2), ("prober", 2)], at),
            ["prober"],
            "the driver goes on"
        );
    }
}
