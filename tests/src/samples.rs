//! Durations that were taken, in order of size.

use std::time::Duration;

/// What a benchmark took, one duration a time.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    #[must_use]
    pub fn new(samples: impl IntoIterator<Item = Duration>) -> Self {
        let mut samples: Vec<_> = samples.into_iter().collect();
        samples.sort_unstable();
        Self(samples)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    #[must_use]
    pub fn p99(&self) -> Duration {
        self.quantile(0.99)
    }

    #[must_use]
    pub fn worst(&self) -> Duration {
        self.quantile(1.0)
    }

    /// The smallest sample that so large a part of all does not exceed; nothing of nothing.
    fn quantile(&self, part: f64) -> Duration {
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}
