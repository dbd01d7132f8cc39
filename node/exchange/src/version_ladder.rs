//! Finds the newest schema version that a CAS supports, by trying (docs/spec/ews.md §1.1).

use std::time::{Duration, Instant};

use super::ews::SchemaVersion;

/// The ladder of one CAS: the newest version until it is refused, then the one that was found, for a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionLadder {
    found: Option<(SchemaVersion, Instant)>,
}

impl VersionLadder {
    /// The version to request next. A CAS may have been upgraded, so once a day the ladder begins at the top again.
    pub fn version(&mut self, now: Instant) -> SchemaVersion {
        self.found = self
            .found
            .filter(|(_, since)| now.saturating_duration_since(*since) < REMEMBERED);
        let [newest, ..] = SchemaVersion::LADDER;
        self.found.map_or(newest, |(version, _)| version)
    }

    /// The CAS answered `ErrorInvalidServerVersion`: the version to try instead, `None` at the bottom of the ladder. Several
    /// requests that were refused together go down one step, not one each.
    pub fn refused(&mut self, version: SchemaVersion, now: Instant) -> Option<SchemaVersion> {
        let known = self.version(now);
        if known < version {
            return Some(known);
        }
        let older = version.next_older()?;
        self.found = Some((older, now));
        Some(older)
    }
}

const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_leads_one_step_down_and_is_remembered() {
        let now = Instant::now();
        let mut ladder = VersionLadder::default();
        assert_eq!(ladder.version(now), SchemaVersion::Exchange2013);
        let older = ladder.refused(SchemaVersion::Exchange2013, now);
        assert_eq!(older, Some(SchemaVersion::Exchange2010Sp2));
        assert_eq!(ladder.version(now), SchemaVersion::Exchange2010Sp2);
    }

    #[test]
    fn requests_that_are_refused_together_take_one_step() {
        let now = Instant::now();
        let mut ladder = VersionLadder::default();
        for _ in 0..8 {
            let older = ladder.refused(SchemaVersion::Exchange2013, now);
            assert_eq!(older, Some(SchemaVersion::Exchange2010Sp2));
        }
    }

    #[test]
    fn the_foot_of_the_ladder_is_the_end() {
        let now = Instant::now();
        let mut ladder = VersionLadder::default();
        for version in SchemaVersion::LADDER {
            assert_eq!(ladder.refused(version, now), version.next_older());
        }
        assert_eq!(ladder.version(now), SchemaVersion::Exchange2007Sp1);
    }

    #[test]
    fn after_a_day_the_newest_is_tried_again() {
        let now = Instant::now();
        let mut ladder = VersionLadder::default();
        let _ = ladder.refused(SchemaVersion::Exchange2013, now);
        assert_eq!(
            ladder.version(now + REMEMBERED - Duration::from_secs(1)),
            SchemaVersion::Exchange2010Sp2
        );
        assert_eq!(ladder.version(now + REMEMBERED), SchemaVersion::Exchange2013);
    }
}
