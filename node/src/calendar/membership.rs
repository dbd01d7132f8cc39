//! Which users this node follows: enabled, owned by this node given the live nodes, and assigned to a CAS.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::{Assignment, CasGateway, CasId, NodeId, successor_of_user};

use super::input::CalendarUser;
use super::job::Farewell;
use super::lane::{Lane, LaneId};
use tandem_exchange::affinity::AffinityKey;

use super::output::{Output, Report};
use super::streams::GroupId;
use super::user::{Asking, Live, LiveKind, Placement, Source, Task, User, UserKey};
use super::{Calendars, Now, OneUser};

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
            self.remove_user(key, now);
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
                self.drop_care(key, Parting::Unsubscribe, now);
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

    fn remove_user(&mut self, key: UserKey, now: Now) {
        let name = self.name_of(key);
        let was_ours = self.drop_care(key, Parting::Unsubscribe, now);
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
                (false, true) => drop(self.drop_care(key, Parting::Quiet, now)),
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
        let user = self.one_user(key, now);
        debug_assert!(user.is_some(), "this node follows the user from now on");
        if let Some(mut user) = user {
            user.settle();
        }
    }

    /// `true`: this node owned the user.
    fn drop_care(&mut self, key: UserKey, parting: Parting, now: Now) -> bool {
        if let Some(mut user) = self.one_user(key, now) {
            user.leave_lane(parting);
        }
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
    fn place(&mut self, key: UserKey, placement: Option<Placement>, now: Now) {
        let former = self.users.get(key).and_then(|user| user.placement);
        if former == placement {
            return;
        }
        if let Some(mut user) = self.one_user(key, now) {
            let parting = user.parting_at_move();
            user.leave_lane(parting);
        }
        if let Some(user) = self.users.get_mut(key) {
            user.placement = placement;
        }
        // Otherwise another node follows the user.
        if let Some(mut user) = self.one_user(key, now) {
            user.placed();
        }
    }
}

impl OneUser<'_> {
    /// A working CAS is told; one that is down is not.
    fn parting_at_move(&self) -> Parting {
        let lane = self.lane.as_deref();
        match lane.is_some_and(|lane| lane.is_configured() && lane.breaker.is_closed()) {
            true => Parting::Unsubscribe,
            false => Parting::Quiet,
        }
    }

    fn placed(&mut self) {
        let trouble = &mut self.care.trouble;
        trouble.tries = 0;
        trouble.store_failures = 0;
        trouble.throttled = 0;
        self.care.rejections = 0;
        self.care.left_group = None;
        self.proposals.assigns.remove(&self.key);
        self.settle();
    }

    /// From now on the user is read at their CAS; without one, they need one.
    fn settle(&mut self) {
        let Some(lane) = &mut self.lane else {
            self.proposals.assigns.insert(self.key);
            return;
        };
        lane.members.insert(self.key);
        if self.care.known.source == Source::Nothing {
            lane.bulk.first.insert(self.key);
        }
        if !lane.is_configured() {
            self.proposals.assigns.insert(self.key);
        }
        let wait = self.care.trouble.wait_after_move(self.now.instant);
        match wait.is_zero() {
            true => self.want_subscription(),
            false => self.subscribe_at(self.now.instant + wait),
        }
    }

    fn leave_lane(&mut self, parting: Parting) {
        self.release(parting);
        self.give_up_reservation();
        self.care.asking = Asking::Idle;
        // A read that waits in the lane's queue will find the user gone; the next lane must not wait for it.
        if self.care.reading.task == Task::Queued {
            self.care.reading.task = Task::Idle;
        }
        if let Some(lane) = &mut self.lane {
            lane.members.remove(&self.key);
            lane.bulk.first.remove(&self.key);
            lane.bulk.settled.remove(&self.key);
        }
    }

    pub(super) fn give_up_reservation(&mut self) {
        if let Some(group) = self.care.reserved.take() {
            self.leave_group(group);
        }
    }

    /// Gives up the current subscription.
    pub(super) fn release(&mut self, parting: Parting) {
        let Some(live) = self.care.live.take() else {
            return;
        };
        debug_assert!(self.lane.is_some(), "who is subscribed has a CAS");
        if let Some(lane) = &mut self.lane {
            lane.subscribed = lane.subscribed.saturating_sub(1);
        }
        if let LiveKind::Streaming { group } = live.kind {
            self.leave_group(group);
        }
        if parting == Parting::Unsubscribe {
            self.say_farewell(live);
        }
    }

    /// Push subscriptions end by the answer to their next callback.
    fn say_farewell(&mut self, live: Live) {
        let affinity = match live.kind {
            LiveKind::Push { .. } => return,
            LiveKind::Streaming { group } => AffinityKey::Group(group.0),
            LiveKind::Pull { .. } => AffinityKey::User(self.name()),
        };
        let farewell = Farewell {
            subscription: live.id,
            mailbox: self.mailbox(),
            affinity,
            tries: 0,
        };
        if let Some(lane) = &mut self.lane {
            lane.queue_farewell(farewell, self.settings.queue_max);
        }
    }

    fn leave_group(&mut self, group: GroupId) {
        for stream in self.streams.leave(group, self.key) {
            self.outputs.push(Output::CloseStream { stream });
        }
    }
}

/// Takes the log's assignments at the start.
const ASSIGNMENTS_COME_WITHIN: Duration = Duration::from_secs(2);
