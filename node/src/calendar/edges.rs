//! When presence changes: at the edges of meetings, at each user's own second of the minute, and at once when something
//! new is learned (CAL-4).

use std::time::Duration;

use tandem_cluster::{CalendarPresence, CalendarState, ClusterState};
use tandem_planted::{Bug, planted};

use super::output::{Output, Report};
use super::timeline::edge_offset;
use super::user::{Care, Edge, Known, UserKey};
use super::{Calendars, Now, OneUser};

impl Calendars {
    /// Publishes again what the log does not hold as it was published.
    pub(super) fn publish_again(&mut self, state: &ClusterState) {
        for (_, user) in self.users.iter() {
            let published = user.care.as_deref().and_then(|care| care.published);
            let Some(presence) = published else {
                continue;
            };
            let recorded = state.presence(&user.id).and_then(|record| record.calendar);
            if recorded.is_none_or(|recorded| !is_same(&recorded, &presence)) {
                let user = user.id.to_string();
                self.outputs.push(Output::Publish { user, presence });
            }
        }
    }

    pub(super) fn publish_due_edges(&mut self, now: Now) {
        while let Some((due_ms, key)) = self.edges.first().copied() {
            if due_ms > now.unix_ms {
                return;
            }
            self.edges.remove(&(due_ms, key));
            let user = self.one_user(key, now);
            debug_assert!(user.is_some(), "an edge is a user's of this node");
            if let Some(mut user) = user {
                user.publish_edge(due_ms);
            }
        }
    }

    /// The spread changed: every pending edge gets its new second.
    pub(super) fn reschedule_edges(&mut self, now: Now) {
        let pending: Vec<UserKey> = self.edges.iter().map(|(_, key)| *key).collect();
        for key in pending {
            if let Some(mut user) = self.one_user(key, now)
                && let Some(edge) = user.care.edge
            {
                user.schedule_edge(edge.at_ms.saturating_sub(1));
            }
        }
    }

    /// The clock was set back: what was published may belong to the future.
    pub(super) fn rederive_edges(&mut self, now: Now) {
        let keys: Vec<UserKey> = self.users.keys().collect();
        for key in keys {
            if let Some(mut user) = self.one_user(key, now)
                && user.care.published.is_some()
            {
                user.publish(user.care.known.at(now.unix_ms));
                user.schedule_edge(now.unix_ms);
            }
        }
    }
}

impl OneUser<'_> {
    /// Takes a new timeline. What it changes about the present is published at once; a change that is only waiting for its
    /// second is not moved.
    pub(super) fn calendar_changed(&mut self, former: &Known) {
        let now_ms = self.now.unix_ms;
        let presence = self.care.known.at(now_ms);
        let is_pending =
            self.care.edge.is_some_and(|edge| edge.at_ms <= now_ms) && is_same(&presence, &former.at(now_ms));
        if !is_pending {
            self.publish(presence);
            self.schedule_edge(now_ms);
        }
    }

    /// It is no longer among those that wait.
    fn publish_edge(&mut self, due_ms: u64) {
        let published_ms = self.now.unix_ms;
        self.care.edge = None;
        if self.publish(self.care.known.at(published_ms)) {
            self.tally.edges_published += 1;
            if published_ms.saturating_sub(due_ms) > LATE_MS {
                self.tally.edges_late += 1;
            }
            self.report(Report::Edge { due_ms, published_ms });
        }
        self.schedule_edge(published_ms);
    }

    /// `true`: it changed.
    fn publish(&mut self, presence: CalendarPresence) -> bool {
        let published = &mut self.care.published;
        if published.is_some_and(|published| is_same(&published, &presence)) {
            return false;
        }
        *published = Some(presence);
        let user = self.name();
        self.outputs.push(Output::Publish { user, presence });
        true
    }

    /// The next one after a time up to which everything has been published.
    fn schedule_edge(&mut self, after_ms: u64) {
        let offset = edge_offset(self.id, self.settings.spread_secs);
        if let Some(former) = self.care.edge.take() {
            self.edges.remove(&(former.due_ms, self.key));
        }
        if let Some(at_ms) = self.care.known.next_edge_after(after_ms) {
            let east_ms = if planted(Bug::EdgeInLocalTime) {
                3_600_000
            } else {
                0
            };
            let due_ms = due_ms(at_ms + east_ms, offset);
            self.care.edge = Some(Edge { at_ms, due_ms });
            self.edges.insert((due_ms, self.key));
        }
    }
}

impl Known {
    /// Beyond the window nothing is known.
    fn at(&self, unix_ms: u64) -> CalendarPresence {
        if unix_ms < self.until_ms {
            return self.timeline.at(unix_ms);
        }
        CalendarPresence {
            state: CalendarState::Unknown,
            from_ms: self.until_ms,
            until_ms: None,
        }
    }

    fn next_edge_after(&self, unix_ms: u64) -> Option<u64> {
        if unix_ms >= self.until_ms {
            return None;
        }
        let edge = self.timeline.next_edge_after(unix_ms);
        Some(edge.map_or(self.until_ms, |edge| edge.min(self.until_ms)))
    }
}

impl Care {
    pub(super) fn next_publication_ms(&self) -> Option<u64> {
        self.edge.map(|edge| edge.due_ms)
    }
}

/// Where a state began depends on how far back the calendar was read, so a different start alone is no change.
fn is_same(left: &CalendarPresence, right: &CalendarPresence) -> bool {
    left.state == right.state && left.until_ms == right.until_ms
}

/// The user's own second after the top of the edge's minute, and never before the edge.
fn due_ms(edge_ms: u64, offset: Duration) -> u64 {
    let minute = edge_ms - edge_ms % 60_000;
    let offset_ms = u64::try_from(offset.as_millis()).unwrap_or(0);
    edge_ms.max(minute.saturating_add(offset_ms))
}

const LATE_MS: u64 = 1000;
