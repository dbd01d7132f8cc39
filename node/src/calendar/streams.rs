//! Groups of subscriptions that share a streaming connection: of bounded size, all at one CAS, opened and reopened
//! together (docs/spec/ews.md §1.4, §1.10).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::lane::LaneId;
use super::output::StreamId;
use super::user::UserKey;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupId(pub u32);

#[derive(Debug, Default)]
pub(super) struct Streams {
    groups: BTreeMap<GroupId, Group>,
    /// Until the end of each connection is reported.
    by_stream: BTreeMap<StreamId, GroupId>,
    /// Groups that can take more users.
    roomy: BTreeSet<(LaneId, GroupId)>,
    deadlines: BTreeSet<(Instant, GroupId)>,
    next_group: u32,
    next_stream: u64,
}

#[derive(Debug)]
pub(super) struct Group {
    pub lane: LaneId,
    /// Includes users who are being subscribed for it.
    pub members: BTreeSet<UserKey>,
    /// The connection that is open or being opened.
    pub stream: Option<StreamId>,
    /// The connection that it replaces: what it still delivers counts, and it is closed when the new one is up.
    pub former: Option<StreamId>,
    /// The last connection did not end normally: events sent into it may be lost.
    pub has_gap: bool,
    pub heard: Option<Instant>,
    /// When it is opened, or opened again with new users.
    open_at: Option<Instant>,
    /// Connections in a row that failed.
    pub failures: u8,
    /// For one member alone.
    is_solo: bool,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.by_stream.len()
    }

    pub(super) fn count_at(&self, lane: LaneId) -> usize {
        self.groups
            .values()
            .filter(|group| group.lane == lane && group.stream.is_some())
            .count()
    }

    pub(super) fn get(&self, id: GroupId) -> Option<&Group> {
        self.groups.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.get_mut(&id)
    }

    pub(super) fn by_stream(&self, stream: StreamId) -> Option<GroupId> {
        self.by_stream.get(&stream).copied()
    }

    /// Reserves a place for a user who is about to be subscribed: in a group with room, or alone.
    pub(super) fn reserve(
        &mut self,
        lane: LaneId,
        user: UserKey,
        company: Company,
        group_max: usize,
    ) -> GroupId {
        let found = match company {
            Company::Alone => None,
            Company::Anybody { except } => self
                .roomy
                .range((lane, GroupId(0))..=(lane, GroupId(u32::MAX)))
                .map(|(_, id)| *id)
                .find(|id| Some(*id) != except),
        };
        let id = found.unwrap_or_else(|| self.create(lane, company));
        if let Some(group) = self.groups.get_mut(&id) {
            group.members.insert(user);
            if group.is_solo || group.members.len() >= group_max {
                self.roomy.remove(&(lane, id));
            }
        }
        id
    }

    fn create(&mut self, lane: LaneId, company: Company) -> GroupId {
        self.next_group = self.next_group.wrapping_add(1);
        let id = GroupId(self.next_group);
        let group = Group {
            lane,
            members: BTreeSet::new(),
            stream: None,
            former: None,
            has_gap: false,
            heard: None,
            open_at: None,
            failures: 0,
            is_solo: company == Company::Alone,
        };
        self.groups.insert(id, group);
        self.roomy.insert((lane, id));
        id
    }

    /// Connections that are to be closed, because the group is empty now.
    pub(super) fn leave(&mut self, id: GroupId, user: UserKey) -> Vec<StreamId> {
        let Some(group) = self.groups.get_mut(&id) else {
            return Vec::new();
        };
        if !group.members.remove(&user) {
            return Vec::new();
        }
        let lane = group.lane;
        if !group.members.is_empty() {
            if !group.is_solo {
                self.roomy.insert((lane, id));
            }
            return Vec::new();
        }
        self.set_deadline(id, None);
        self.roomy.remove(&(lane, id));
        let group = self.groups.remove(&id);
        let streams = group.map(|group| [group.stream, group.former]);
        streams.into_iter().flatten().flatten().collect()
    }

    /// Opens the group then, or earlier if that is planned.
    fn open_by(&mut self, id: GroupId, at: Instant) {
        let planned = self.groups.get(&id).and_then(|group| group.open_at);
        self.set_deadline(id, Some(planned.map_or(at, |planned| planned.min(at))));
    }

    /// A user was added: the connection is opened, or opened again with the new user, once some more have joined.
    pub(super) fn gather(&mut self, id: GroupId, now: Instant) {
        let group = self.groups.get(&id);
        let is_open = group.is_some_and(|group| group.stream.is_some());
        let wait = if is_open { GATHER_WHILE_OPEN } else { GATHER };
        self.open_by(id, now + wait);
    }

    pub(super) fn open_not_before(&mut self, id: GroupId, at: Instant) {
        self.set_deadline(id, Some(at));
    }

    pub(super) fn due(&self, now: Instant) -> Option<GroupId> {
        let (at, id) = self.deadlines.first()?;
        (*at <= now).then_some(*id)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A number for the connection that is being opened.
    pub(super) fn opened(&mut self, id: GroupId) -> StreamId {
        self.set_deadline(id, None);
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        if let Some(group) = self.groups.get_mut(&id) {
            group.former = group.stream.replace(stream).or(group.former);
            self.by_stream.insert(stream, id);
        }
        stream
    }

    /// The connection has ended, or is to end.
    pub(super) fn closed(&mut self, id: GroupId) -> Option<StreamId> {
        self.groups.get_mut(&id)?.stream.take()
    }

    /// Nothing more comes from this one. `Some`: its group is without a connection now.
    pub(super) fn ended(&mut self, stream: StreamId) -> Option<GroupId> {
        let id = self.by_stream.remove(&stream)?;
        let group = self.groups.get_mut(&id)?;
        if group.former == Some(stream) {
            group.former = None;
        }
        (group.stream == Some(stream)).then(|| {
            group.stream = None;
            id
        })
    }

    pub(super) fn set_deadline(&mut self, id: GroupId, at: Option<Instant>) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some(former) = std::mem::replace(&mut group.open_at, at) {
            self.deadlines.remove(&(former, id));
        }
        self.deadlines.extend(at.map(|at| (at, id)));
    }
}

/// The users that a user may share a connection with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Anybody {
        /// The group that did not work for the user.
        except: Option<GroupId>,
    },
    Alone,
}

/// Users who are subscribed one after the other join the connection together.
const GATHER: Duration = Duration::from_secs(2);
const GATHER_WHILE_OPEN: Duration = Duration::from_secs(5);
