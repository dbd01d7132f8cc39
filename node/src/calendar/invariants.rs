//! What must hold between any two inputs, checked by the tests.

use super::Calendars;
use super::user::{Asking, LiveKind};

impl Calendars {
    pub(super) fn check_invariants(&self) {
        for lane in self.lane_ids() {
            let Some(lane_state) = self.lane(lane) else {
                continue;
            };
            let flights = self
                .requests
                .values()
                .filter(|flight| flight.lane == lane)
                .count();
            assert_eq!(flights, lane_state.in_flight, "requests in flight are counted");
        }
        if self.requests.len() % 64 == 63 {
            self.check_users();
        }
    }

    pub(super) fn check_users(&self) {
        let mut subscribed = vec![0; self.lanes.len()];
        for (key, user) in self.users.iter() {
            let Some(care) = &user.care else { continue };
            assert_eq!(
                care.deadline.is_some(),
                care.deadline
                    .is_some_and(|at| self.deadlines.contains(&(at, key)))
            );
            assert_eq!(care.deadline, care.next_deadline(), "{} {care:?}", user.id);
            if let Some(edge) = care.edge {
                assert!(self.edges.contains(&(edge.due_ms, key)));
            }
            let lane = user.placement.map(|placement| usize::from(placement.lane.0));
            if let Some(live) = &care.live {
                subscribed[lane.expect("who is subscribed has a gateway")] += 1;
                assert!(live.attempt <= care.attempt);
                if let LiveKind::Streaming { group } = live.kind {
                    let group = self.streams.get(group).expect("the user's group exists");
                    assert!(group.members.contains(&key));
                }
            }
            if let Some(lane) = lane {
                assert!(self.lanes[lane].members.contains(&key));
            }
            let is_pending = matches!(care.asking, Asking::Queued | Asking::Sent { .. } | Asking::Moving);
            assert!(!is_pending || lane.is_some());
        }
        assert_eq!(
            self.deadlines.len(),
            self.users
                .iter()
                .filter(|(_, user)| user.care.as_ref().is_some_and(|care| care.deadline.is_some()))
                .count()
        );
        for (lane, count) in self.lanes.iter().zip(subscribed) {
            assert_eq!(lane.subscribed, count);
        }
    }
}
