//! Sessions that this node has given to another one, for as long as a front end may not have heard of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tandem_cluster::SessionKey;

/// Each was a session of this node a moment ago, which is what bounds the table.
#[derive(Debug, Default)]
pub(super) struct Departed {
    until: BTreeMap<SessionKey, Instant>,
    in_order: VecDeque<(Instant, SessionKey)>,
}

impl Departed {
    pub(super) fn left(&mut self, key: &SessionKey, now: Instant) {
        self.forget_old(now);
        let until = now + REMEMBERED;
        self.until.insert(key.clone(), until);
        self.in_order.push_back((until, key.clone()));
    }

    pub(super) fn has_left(&self, key: &SessionKey, now: Instant) -> bool {
        self.until.get(key).is_some_and(|until| *until > now)
    }

    /// A session that has come back has not left.
    pub(super) fn came_back(&mut self, key: &SessionKey) {
        self.until.remove(key);
    }

    fn forget_old(&mut self, now: Instant) {
        while self.in_order.front().is_some_and(|(until, _)| *until <= now)
            && let Some((until, key)) = self.in_order.pop_front()
        {
            if self.until.get(&key) == Some(&until) {
                self.until.remove(&key);
            }
        }
    }
}

/// Far longer than a front end lags behind, unless it is cut off.
const REMEMBERED: Duration = Duration::from_secs(10);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_left_is_remembered_for_a_while_and_forgotten_when_it_comes_back() {
        let (mut departed, now) = (Departed::default(), Instant::now());
        let (one, two) = (SessionKey::new("n1-a"), SessionKey::new("n1-b"));
        departed.left(&one, now);
        departed.left(&two, now);
        departed.came_back(&two);
        assert!(departed.has_left(&one, now) && !departed.has_left(&two, now));
        assert!(!departed.has_left(&one, now + REMEMBERED));
        departed.left(&two, now + REMEMBERED);
        assert_eq!((departed.until.len(), departed.in_order.len()), (1, 1));
    }
}
