//! To-tags and Retry-After values of the front end's own answers, pseudo-random from a seed.

/// A SplitMix64 generator: good enough for tags, which need to be unique but not secret.
#[derive(Debug, Clone)]
pub(super) struct TagSource {
    state: u64,
}

impl TagSource {
    #[must_use]
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next To-tag, by which the ACK to the front end's own answer is recognised.
    pub(super) fn next_tag(&mut self) -> String {
        format!("{OWN_TAG_PREFIX}{:016x}", self.next())
    }

    /// A Retry-After of 2 to 5 seconds, so that clients do not return all at once.
    pub(super) fn retry_after_secs(&mut self) -> u64 {
        2 + self.next() % 4
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Whether a To-tag was issued by a front end.
#[must_use]
pub(super) fn is_own_tag(tag: &[u8]) -> bool {
    tag.starts_with(OWN_TAG_PREFIX.as_bytes())
}

const OWN_TAG_PREFIX: &str = "lb-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_differ_and_are_known_again() {
        let mut tags = TagSource::new(1);
        let (first, second) = (tags.next_tag(), tags.next_tag());
        assert_ne!(first, second);
        assert!(is_own_tag(first.as_bytes()) && !is_own_tag(b"n1-0"));
    }

    #[test]
    fn retry_after_stays_within_two_and_five_seconds() {
        let mut tags = TagSource::new(7);
        assert!((0..100).all(|_| (2..=5).contains(&tags.retry_after_secs())));
    }
}
