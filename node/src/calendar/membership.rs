//! Which users this node follows: enabled, owned by this node given the live nodes, and assigned to a CAS.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::{Assignment, CasGateway, CasId, NodeId, successor_of_user};

use super::input::CalendarUser;
use super::job::{Farewell, Job, Urgency};
use super::lane::{Lane, LaneId};
use tandem_exchange::affinity::AffinityKey;

use super::output::{Output, Report};
use super::user::{Asking, Live, LiveKind, Placement, Source, Task, User, UserKey};
use super::{Calendars, Now};
use tandem_exchange::ews::Mailbox;

/// Whether Exchange is told that a subscription is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// It is no longer wanted.
    Unsubscribe,
    /// The next owner makes its own, or the CAS cannot be reached.
    Quiet,
}

impl Calendars {
    pub(super) fn users_listed(&mut self, mut listed: Vec<CalendarUser>, now: Now) {
        if listed.len() > self.config.users_max {
            let count = listed.len() - self.config.users_max;
            self.report(Report::UsersLeftOut { count });
            listed.truncate(self.config.users_max);
        }
        if !self.users_known {
            self.users_known = true;
            self.assign_at = Some(now.instant + ASSIGNMENTS_COME_WITHIN);
        }
        let kept: HashSet<UserKey> = listed
            .into_iter()
            .map(|user| self.user_listed(user, now))
            .collect();
        let gone: Vec<UserKey> = self.users.keys().filter(|key| !kept.contains(key)).collect();
        for key in gone {
            self.remove_user(key);
        }
        self.give_up_strays();
    }

    fn user_listed(&mut self, listed: CalendarUser, now: Now) -> UserKey {
        let known = self.users.find(&listed.id);
        let placement = match known.and_then(|key| Some((key, self.users.get(key)?))) {
            Some((key, user)) if *user.configured_address == *listed.mailbox.0 => return key,
            // Another mailbox is another calendar.
            Some((key, user)) => {
                let placement = user.placement;
                self.drop_care(key, Parting::Unsubscribe);
                if let Some(key) = self.users.find(&listed.id) {
                    self.users.remove(key);
                }
                placement
            }
            None => self.strays.remove(&listed.id),
        };
        self.proposals.departed.remove(&listed.id);
        let key = self.users.insert(User {
            id: Arc::from(listed.id),
            configured_address: listed.mailbox.0.into_boxed_str(),
            primary_address: None,
            placement,
            care: None,
        });
        if self.is_ours(key) {
            self.take_care(key, now);
        }
        key
    }

    fn remove_user(&mut self, key: UserKey) {
        let name = self.name_of(key);
        let was_ours = self.drop_care(key, Parting::Unsubscribe);
        let Some(user) = self.users.find(&name).and_then(|key| self.users.remove(key)) else {
            return;
        };
        if let Some(placement) = user.placement {
            self.strays.insert(name.clone(), placement);
        }
        if was_ours {
            self.proposals.departed.insert(name.clone());
            self.report(Report::Unsubscribed { user: name });
        }
    }

    /// Assignments of users who are not enabled are withdrawn by the nodes that would own them.
    fn give_up_strays(&mut self) {
        if !self.users_known {
            return;
        }
        let (node, live) = (self.config.node, &self.live_nodes);
        let ours = self
            .strays
            .keys()
            .filter(|user| successor_of_user(user, live.iter().copied()) == Some(node));
        self.proposals.departed.extend(ours.cloned());
    }

    pub(super) fn live_nodes_changed(&mut self, mut nodes: Vec<NodeId>, now: Now) {
        nodes.sort_unstable();
        nodes.dedup();
        if nodes == self.live_nodes {
            return;
        }
        self.live_nodes = nodes;
        let keys: Vec<UserKey> = self.users.keys().collect();
        for key in keys {
            match (self.is_ours(key), self.users.care(key).is_some()) {
                (true, false) => self.take_care(key, now),
                (false, true) => drop(self.drop_care(key, Parting::Quiet)),
                (true, true) | (false, false) => {}
            }
        }
        self.give_up_strays();
    }

    fn is_ours(&self, key: UserKey) -> bool {
        let user = self.users.get(key);
        let owner = user.and_then(|user| successor_of_user(&user.id, self.live_nodes.iter().copied()));
        owner == Some(self.config.node)
    }

    fn take_care(&mut self, key: UserKey, now: Now) {
        self.users.begin_care(key);
        match self.lane_of(key) {
            Some(lane) => self.settle_at(key, lane, now),
            None => drop(self.proposals.assigns.insert(key)),
        }
        self.touch(key);
    }

    /// From now on the user is read there.
    fn settle_at(&mut self, key: UserKey, lane: LaneId, now: Now) {
        let knows_nothing = self
            .users
            .care(key)
            .is_some_and(|care| care.known.source == Source::Nothing);
        let Some(lane) = self.lane_mut(lane) else {
            return;
        };
        lane.members.insert(key);
        if knows_nothing {
            lane.bulk.first.insert(key);
        }
        if !lane.is_configured() {
            self.proposals.assigns.insert(key);
        }
        let wait = self
            .users
            .care(key)
            .map_or(Duration::ZERO, |care| care.trouble.wait_after_move(now.instant));
        match wait.is_zero() {
            true => self.want_subscription(key, now),
            false => self.subscribe_at(key, now.instant + wait),
        }
    }

    /// `true`: this node owned the user.
    fn drop_care(&mut self, key: UserKey, parting: Parting) -> bool {
        self.leave_lane(key, parting);
        let Some(care) = self.users.end_care(key) else {
            return false;
        };
        if let Some(deadline) = care.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        if let Some(edge) = care.edge {
            self.edges.remove(&(edge.due_ms, key));
        }
        self.proposals.assigns.remove(&key);
        true
    }

    fn leave_lane(&mut self, key: UserKey, parting: Parting) {
        self.release(key, parting);
        self.give_up_reservation(key);
        if let Some(care) = self.users.care_mut(key) {
            care.asking = Asking::Idle;
            // A read that waits in the lane's queue will find the user gone; the next lane must not wait for it.
            if care.reading.task == Task::Queued {
                care.reading.task = Task::Idle;
            }
        }
        if let Some(lane) = self.lane_of(key).and_then(|lane| self.lane_mut(lane)) {
            lane.members.remove(&key);
            lane.bulk.first.remove(&key);
            lane.bulk.settled.remove(&key);
        }
    }

    pub(super) fn give_up_reservation(&mut self, key: UserKey) {
        let reserved = self.users.care_mut(key).and_then(|care| care.reserved.take());
        if let Some(group) = reserved {
            self.leave_group(group, key);
        }
    }

    /// Gives up the current subscription.
    pub(super) fn release(&mut self, key: UserKey, parting: Parting) {
        let lane = self.lane_of(key);
        let Some(live) = self.users.care_mut(key).and_then(|care| care.live.take()) else {
            return;
        };
        if let Some(lane) = lane.and_then(|lane| self.lane_mut(lane)) {
            lane.subscribed = lane.subscribed.saturating_sub(1);
        }
        if let LiveKind::Streaming { group } = live.kind {
            self.leave_group(group, key);
        }
        if let (Parting::Unsubscribe, Some(lane)) = (parting, lane) {
            self.say_farewell(key, lane, live);
        }
        self.touch(key);
    }

    /// Push subscriptions end by the answer to their next callback.
    fn say_farewell(&mut self, key: UserKey, lane: LaneId, live: Live) {
        let Some(user) = self.users.get(key) else {
            return;
        };
        let (mailbox, name) = (user.mailbox(), user.id.to_string());
        let affinity = match live.kind {
            LiveKind::Push { .. } => return,
            LiveKind::Streaming { group } => AffinityKey::Group(group.0),
            LiveKind::Pull { .. } => AffinityKey::User(name),
        };
        self.queue_farewell(lane, live.id, mailbox, affinity);
    }

    pub(super) fn queue_farewell(
        &mut self,
        lane: LaneId,
        subscription: Box<str>,
        mailbox: Mailbox,
        affinity: AffinityKey,
    ) {
        let farewell = Farewell {
            subscription,
            mailbox,
            affinity,
            tries: 0,
        };
        let queue_max = self.settings.queue_max;
        if let Some(lane) = self.lane_mut(lane) {
            // If the queue is full, the subscription ends by itself, because its events are not fetched.
            drop(lane.enqueue(Job::Unsubscribe(Box::new(farewell)), Urgency::Farewell, queue_max));
        }
    }

    pub(super) fn leave_group(&mut self, group: super::streams::GroupId, key: UserKey) {
        for stream in self.streams.leave(group, key) {
            self.outputs.push(Output::CloseStream { stream });
        }
    }

    pub(super) fn cas_changed(&mut self, cas_list: Vec<CasGateway>, now: Now) {
        let listed: BTreeSet<&CasId> = cas_list.iter().map(|cas| &cas.id).collect();
        for lane in &mut self.lanes {
            if !listed.contains(&lane.id) {
                lane.cas = None;
                self.proposals.assigns.extend(&lane.members);
            }
        }
        self.lanes_in_order.clear();
        for cas in cas_list {
            let lane = self.lane_named(&cas.id);
            self.lanes_in_order.push(lane);
            if let Some(lane) = self.lane_mut(lane) {
                lane.configure(cas, now.instant);
            }
        }
        self.plan_evacuations(now);
    }

    fn lane_named(&mut self, id: &CasId) -> LaneId {
        if let Some(lane) = self.lanes_by_name.get(id) {
            return *lane;
        }
        let new = Lane::new(id.clone(), &self.settings);
        let vacant = self
            .lane_ids()
            .find(|lane| self.lane(*lane).is_some_and(Lane::is_vacant) && !self.is_named_by_anybody(*lane));
        let lane = match vacant {
            Some(lane) => lane,
            None => LaneId(u16::try_from(self.lanes.len()).unwrap_or(u16::MAX)),
        };
        match self.lane_mut(lane) {
            Some(former) => {
                let former = std::mem::replace(former, new);
                self.lanes_by_name.remove(&former.id);
            }
            None => self.lanes.push(new),
        }
        self.lanes_by_name.insert(id.clone(), lane);
        lane
    }

    /// Users of other nodes are not among a lane's members.
    fn is_named_by_anybody(&self, lane: LaneId) -> bool {
        let named = |placement: Option<Placement>| placement.is_some_and(|placement| placement.lane == lane);
        self.users.iter().any(|(_, user)| named(user.placement))
            || self.strays.values().any(|placement| named(Some(*placement)))
    }

    pub(super) fn assignments_changed(&mut self, changed: Vec<(String, Option<Assignment>)>, now: Now) {
        self.assign_at = self.assign_at.and(Some(now.instant));
        for (name, assignment) in changed {
            let placement = assignment.map(|assignment| Placement {
                lane: self.lane_named(&assignment.cas),
                epoch: assignment.epoch,
                since_ms: assignment.since_ms,
                reason: assignment.reason,
            });
            match (self.users.find(&name), placement) {
                (Some(key), placement) => self.place(key, placement, now),
                (None, Some(placement)) if self.strays.len() < self.config.users_max => {
                    self.strays.insert(name.clone(), placement);
                    let live = self.live_nodes.iter().copied();
                    if self.users_known && successor_of_user(&name, live) == Some(self.config.node) {
                        self.proposals.departed.insert(name);
                    }
                }
                (None, Some(_)) => {}
                (None, None) => drop(self.strays.remove(&name)),
            }
        }
    }

    /// The log assigned a CAS, another CAS or none to the user.
    pub(super) fn place(&mut self, key: UserKey, placement: Option<Placement>, now: Now) {
        let Some(user) = self.users.get(key) else {
            return;
        };
        if user.placement == placement {
            return;
        }
        self.leave_lane(key, self.parting_at_move(key));
        if let Some(user) = self.users.get_mut(key) {
            user.placement = placement;
        }
        let Some(care) = self.users.care_mut(key) else {
            return;
        };
        care.trouble.tries = 0;
        care.trouble.store_failures = 0;
        care.trouble.throttled = 0;
        care.rejections = 0;
        care.left_group = None;
        match placement {
            Some(placement) => {
                self.proposals.assigns.remove(&key);
                self.settle_at(key, placement.lane, now);
            }
            None => drop(self.proposals.assigns.insert(key)),
        }
        self.touch(key);
    }

    /// A working CAS is told; one that is down is not.
    fn parting_at_move(&self, key: UserKey) -> Parting {
        let lane = self.lane_of(key).and_then(|lane| self.lane(lane));
        match lane.is_some_and(|lane| lane.is_configured() && lane.breaker.is_closed()) {
            true => Parting::Unsubscribe,
            false => Parting::Quiet,
        }
    }
}

/// Takes the log's assignments at the start.
const ASSIGNMENTS_COME_WITHIN: Duration = Duration::from_secs(2);
