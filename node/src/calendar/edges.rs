//! When presence changes: at the edges of meetings, at each user's own second of the minute, and at once when something
//! new is learned (CAL-4).

use std::time::Duration;

use tandem_cluster::{CalendarPresence, CalendarState, ClusterState};
use tandem_planted::{Bug, planted};

use super::output::{Output, Report};
use super::timeline::edge_offset;
use super::user::{Care, Edge, Known, UserKey};
use super::{Calendars, Now};

impl Calendars {
    /// Takes a new timeline. What it changes about the present is published at once; a change that is only waiting for its
    /// second is not moved.
    pub(super) fn calendar_changed(&mut self, key: UserKey, former: &Known, now: Now) {
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        let presence = care.known.at(now.unix_ms);
        let is_pending = care.edge.is_some_and(|edge| edge.at_ms <= now.unix_ms)
            && is_same(&presence, &former.at(now.unix_ms));
        if is_pending {
            return;
        }
        self.publish(key, presence);
        self.schedule_edge(key, now.unix_ms);
    }

    /// `true`: it changed.
    fn publish(&mut self, key: UserKey, presence: CalendarPresence) -> bool {
        let Some(user) = self.users.get_mut(key) else {
            return false;
        };
        let Some(care) = user.care.as_deref_mut() else {
            return false;
        };
        if care
            .published
            .is_some_and(|published| is_same(&published, &presence))
        {
            return false;
        }
        care.published = Some(presence);
        let user = user.id.to_string();
        self.outputs.push(Output::Publish { user, presence });
        true
    }

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
            let Some(care) = self.users.care_mut(key) else {
                continue;
            };
            care.edge = None;
            let presence = care.known.at(now.unix_ms);
            if self.publish(key, presence) {
                self.count_edge(due_ms, now.unix_ms);
            }
            self.schedule_edge(key, now.unix_ms);
        }
    }

    fn count_edge(&mut self, due_ms: u64, published_ms: u64) {
        self.tally.edges_published += 1;
        if published_ms.saturating_sub(due_ms) > LATE_MS {
            self.tally.edges_late += 1;
        }
        self.report(Report::Edge { due_ms, published_ms });
    }

    /// The next one after a time up to which everything has been published.
    fn schedule_edge(&mut self, key: UserKey, after_ms: u64) {
        let spread_secs = self.settings.spread_secs;
        let Some(user) = self.users.get_mut(key) else {
            return;
        };
        let offset = edge_offset(&user.id, spread_secs);
        let Some(care) = user.care.as_deref_mut() else {
            return;
        };
        if let Some(former) = care.edge.take() {
            self.edges.remove(&(former.due_ms, key));
        }
        if let Some(at_ms) = care.known.next_edge_after(after_ms) {
            let east_ms = if planted(Bug::EdgeInLocalTime) {
                3_600_000
            } else {
                0
            };
            let due_ms = due_ms(at_ms + east_ms, offset);
            care.edge = Some(Edge { at_ms, due_ms });
            self.edges.insert((due_ms, key));
        }
    }

    /// The spread changed: every pending edge gets its new second.
    pub(super) fn reschedule_edges(&mut self) {
        let pending: Vec<UserKey> = self.edges.iter().map(|(_, key)| *key).collect();
        for key in pending {
            let edge = self.users.care(key).and_then(|care| care.edge);
            if let Some(edge) = edge {
                self.schedule_edge(key, edge.at_ms.saturating_sub(1));
            }
        }
    }

    /// The clock was set back: what was published may belong to the future.
    pub(super) fn rederive_edges(&mut self, now: Now) {
        let keys: Vec<UserKey> = self.users.keys().collect();
        for key in keys {
            let published = self.users.care(key).filter(|care| care.published.is_some());
            if let Some(presence) = published.map(|care| care.known.at(now.unix_ms)) {
                self.publish(key, presence);
                self.schedule_edge(key, now.unix_ms);
            }
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
