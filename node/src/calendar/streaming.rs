//! Streaming connections: which users share one, and what happens to them when it ends (docs/spec/ews.md §1.4).

use std::time::Duration;

use super::membership::Parting;
use tandem_exchange::affinity::AffinityKey;

use super::output::{Output, Report, StreamId};
use super::streams::{Company, GroupId};
use super::user::{Live, UserKey};
use super::{Calendars, LaneId, Now, OneUser, StreamEnd};
use tandem_exchange::ews::{Failure, FailureClass, Mailbox, Notification, StreamPart, SubscriptionId};

impl OneUser<'_> {
    /// A place on a stream for a user who is about to be subscribed.
    pub(super) fn reserve_group(&mut self, lane: LaneId) -> GroupId {
        let company = match self.care.rejections >= REJECTIONS_MAX {
            true => Company::Alone,
            false => Company::Anybody {
                except: self.care.left_group,
            },
        };
        let group_max = self.settings.stream_group_max;
        let group = self.streams.reserve(lane, self.key, company, group_max);
        self.care.reserved = Some(group);
        group
    }

    /// A group that did not work for the user does not get them again.
    pub(super) fn avoid_group(&mut self) {
        let Some(live) = &self.care.live else {
            return;
        };
        let left = live.group().or(self.care.left_group);
        // A subscription that has worked does not point to the wrong group.
        if self.now.unix_ms.saturating_sub(live.since_ms) > STREAMED_WELL_MS {
            self.care.rejections = 0;
        }
        self.care.left_group = left;
        self.care.rejections = self.care.rejections.saturating_add(1);
    }

    /// The subscription was refused on its stream.
    fn rejected(&mut self, failure: &Failure) {
        let class = failure.class();
        self.avoid_group();
        let is_first = self.care.rejections <= REJECTIONS_MAX;
        if class == FailureClass::OtherOwner {
            let wait = self.jittered(OTHER_OWNER_WAIT);
            self.resubscribe(wait, Parting::Quiet);
        } else if is_first && self.shares_group() {
            // The group may be the reason: its mailbox server may be another one. The user gets a stream of their own first.
            let (user, cas, class) = (self.name(), self.cas(), Some(class));
            self.report(Report::SubscriptionLost { user, cas, class });
            self.resubscribe(Duration::ZERO, Parting::Quiet);
        } else {
            self.lost(Some(class));
        }
    }

    fn shares_group(&self) -> bool {
        let group = self.care.live.as_ref().and_then(Live::group);
        let group = group.and_then(|group| self.streams.get(group));
        group.is_some_and(|group| group.members.len() > 1)
    }

    /// Streaming needs Exchange 2010 SP1.
    fn cannot_stream(&mut self) {
        self.care.streaming_refused = true;
        self.resubscribe(REOPEN_WAIT, Parting::Unsubscribe);
    }
}

impl Calendars {
    pub(super) fn groups_due(&mut self, now: Now) {
        while let Some(group) = self.streams.due(now.instant) {
            self.open_group(group, now);
        }
    }

    fn open_group(&mut self, id: GroupId, now: Now) {
        let Some(lane) = self.streams.get(id).map(|group| group.lane) else {
            return;
        };
        let later = now.instant + self.jittered(HELD_UP_WAIT);
        if !self.may_open(lane, now) {
            self.streams.open_not_before(id, later);
            return;
        }
        let Some((subscriptions, anchor)) = self.subscriptions_of(id) else {
            self.streams.set_deadline(id, None);
            return;
        };
        // The present connection stays until the new one is up; otherwise what it is about to deliver would be lost.
        let stream = self.streams.opened(id);
        // Connections opened at the same time should not all end at the same time.
        let minutes = self.jittered(Duration::from_secs(CONNECTION_MINUTES)).as_secs();
        self.outputs.push(Output::OpenStream {
            stream,
            cas: self.cas_of(lane),
            subscriptions,
            anchor,
            affinity: AffinityKey::Group(id.0),
            connection_timeout: u8::try_from(minutes).unwrap_or(1).clamp(1, 30),
            read_timeout: READ_TIMEOUT,
        });
    }

    fn may_open(&self, id: LaneId, now: Now) -> bool {
        let is_free = self.lane(id).is_some_and(|lane| {
            lane.is_configured()
                && lane.refusal.is_none()
                && lane.breaker.is_closed()
                && lane.pace.back_off_until(now.instant).is_none()
        });
        self.may_start && self.credential.is_accepted() && is_free
    }

    /// The group's working subscriptions, and the mailbox that the connection is charged to: the first by address.
    fn subscriptions_of(&self, id: GroupId) -> Option<(Vec<SubscriptionId>, Mailbox)> {
        let members = self.streams.get(id)?.members.iter();
        let live: Vec<(SubscriptionId, Mailbox)> = members
            .filter_map(|key| {
                let user = self.users.get(*key)?;
                let live = user.care.as_ref()?.live.as_ref()?;
                (live.group() == Some(id)).then(|| (SubscriptionId(live.id.to_string()), user.mailbox()))
            })
            .collect();
        let anchor = live.iter().map(|(_, mailbox)| mailbox).min()?.clone();
        Some((live.into_iter().map(|(id, _)| id).collect(), anchor))
    }

    pub(super) fn stream_spoke(&mut self, stream: StreamId, part: StreamPart, now: Now) {
        let Some(id) = self.streams.by_stream(stream) else {
            return;
        };
        let Some(group) = self.streams.get_mut(id) else {
            return;
        };
        let is_current = group.stream == Some(stream);
        group.heard = Some(now.instant);
        match part {
            StreamPart::Notifications(notifications) => {
                for notification in &notifications {
                    self.stream_notified(id, notification, now);
                }
            }
            // A connection that is being replaced may end in any way.
            StreamPart::Opened | StreamPart::Rejected { .. } | StreamPart::Closed if !is_current => return,
            StreamPart::Opened => {}
            StreamPart::Rejected {
                subscriptions,
                failure,
            } => return self.stream_rejected(id, &subscriptions, &failure, now),
            StreamPart::Closed => {
                self.streams.closed(id);
                return self.reopen(id, Duration::ZERO, now);
            }
        }
        if is_current {
            self.stream_stands(id, now);
        }
    }

    fn stream_stands(&mut self, id: GroupId, now: Now) {
        let Some(group) = self.streams.get_mut(id) else {
            return;
        };
        group.failures = 0;
        let has_gap = std::mem::take(&mut group.has_gap);
        if let Some(stream) = group.former.take() {
            self.outputs.push(Output::CloseStream { stream });
        }
        if has_gap {
            self.each_of(&self.live_members(id), now, |user| user.read_after_gap());
        }
    }

    fn stream_notified(&mut self, id: GroupId, notification: &Notification, now: Now) {
        let member = self.member_with(id, &notification.subscription);
        if let Some(mut user) = member.and_then(|key| self.one_user(key, now)) {
            user.notified(notification);
        }
    }

    fn member_with(&self, id: GroupId, subscription: &SubscriptionId) -> Option<UserKey> {
        let members = self.streams.get(id)?.members.iter().copied();
        members.into_iter().find(|key| {
            let live = self.users.care(*key).and_then(|care| care.live.as_ref());
            live.is_some_and(|live| *live.id == *subscription.0)
        })
    }

    /// The good ones get nothing on this connection either, so it is opened again without the bad ones.
    fn stream_rejected(
        &mut self,
        id: GroupId,
        subscriptions: &[SubscriptionId],
        failure: &Failure,
        now: Now,
    ) {
        let bad: Vec<UserKey> = subscriptions
            .iter()
            .filter_map(|subscription| self.member_with(id, subscription))
            .collect();
        if bad.is_empty() {
            return self.stream_failed(id, failure, now);
        }
        if let Some(stream) = self.streams.closed(id) {
            self.outputs.push(Output::CloseStream { stream });
        }
        self.each_of(&bad, now, |user| user.rejected(failure));
        self.reopen(id, Duration::ZERO, now);
    }

    pub(super) fn stream_ended(&mut self, stream: StreamId, end: StreamEnd, now: Now) {
        let Some(id) = self.streams.ended(stream) else {
            return;
        };
        if let Some(group) = self.streams.get_mut(id) {
            group.has_gap |= end != StreamEnd::Closed;
        }
        match end {
            StreamEnd::Closed => self.reopen(id, Duration::ZERO, now),
            StreamEnd::Silent => self.stream_failed(id, &Failure::TimedOut, now),
            StreamEnd::Failed(failure) => {
                if let Some(lane) = self.streams.get(id).map(|group| group.lane) {
                    self.cas_failed(lane, "get_streaming_events", now.instant, &failure, now);
                }
                self.stream_failed(id, &failure, now);
            }
        }
    }

    /// Opens the stream again with the same subscriptions; after some failures they count as lost.
    fn stream_failed(&mut self, id: GroupId, failure: &Failure, now: Now) {
        if let Some(stream) = self.streams.closed(id) {
            self.outputs.push(Output::CloseStream { stream });
        }
        let Some(group) = self.streams.get_mut(id) else {
            return;
        };
        match failure.class() {
            FailureClass::Lost | FailureClass::OtherOwner => self.group_is_lost(id, failure, now),
            FailureClass::Version => self.group_is_too_old(id, now),
            FailureClass::Throttled | FailureClass::Credential => self.reopen(id, HELD_UP_WAIT, now),
            FailureClass::Moved
            | FailureClass::Gone
            | FailureClass::Identity
            | FailureClass::Transient
            | FailureClass::RightsOfServer
            | FailureClass::RightsOfUser
            | FailureClass::TooMuch
            | FailureClass::Request => {
                group.failures = group.failures.saturating_add(1);
                let failures = group.failures;
                let is_down = !self.is_closed_breaker(id);
                match failures < STREAM_TRIES_MAX || is_down {
                    true => self.reopen(id, REOPEN_WAIT * u32::from(failures.min(5) - 1), now),
                    false => self.group_is_lost(id, failure, now),
                }
            }
        }
    }

    fn is_closed_breaker(&self, id: GroupId) -> bool {
        let lane = self.streams.get(id).and_then(|group| self.lane(group.lane));
        lane.is_some_and(|lane| lane.breaker.is_closed())
    }

    fn group_is_lost(&mut self, id: GroupId, failure: &Failure, now: Now) {
        self.each_of(&self.live_members(id), now, |user| user.rejected(failure));
    }

    /// Those whose subscription works, so they are this node's.
    fn each_of(&mut self, members: &[UserKey], now: Now, work: impl Fn(&mut OneUser<'_>)) {
        for key in members {
            let user = self.one_user(*key, now);
            debug_assert!(user.is_some(), "a group's members are users of this node");
            if let Some(mut user) = user {
                work(&mut user);
            }
        }
    }

    fn group_is_too_old(&mut self, id: GroupId, now: Now) {
        self.each_of(&self.live_members(id), now, |user| user.cannot_stream());
    }

    fn live_members(&self, id: GroupId) -> Vec<UserKey> {
        let members = self.streams.get(id).into_iter().flat_map(|group| &group.members);
        members
            .copied()
            .filter(|key| {
                let live = self.users.care(*key).and_then(|care| care.live.as_ref());
                live.is_some_and(|live| live.group() == Some(id))
            })
            .collect()
    }

    fn reopen(&mut self, id: GroupId, wait: Duration, now: Now) {
        let wait = wait + self.jitter(REOPEN_JITTER);
        self.streams.open_not_before(id, now.instant + wait);
    }
}

impl Live {
    pub(super) fn group(&self) -> Option<GroupId> {
        match self.kind {
            super::user::LiveKind::Streaming { group } => Some(group),
            super::user::LiveKind::Push { .. } | super::user::LiveKind::Pull { .. } => None,
        }
    }
}

/// docs/spec/ews.md §1.4: status events come about every 45 s.
const READ_TIMEOUT: Duration = Duration::from_secs(90);

const CONNECTION_MINUTES: u64 = 30;
const REOPEN_JITTER: Duration = Duration::from_millis(500);
const REOPEN_WAIT: Duration = Duration::from_secs(2);
const STREAM_TRIES_MAX: u8 = 3;

/// The account, the CAS or the cluster does not permit opening a connection now.
const HELD_UP_WAIT: Duration = Duration::from_secs(5);

const OTHER_OWNER_WAIT: Duration = Duration::from_secs(10);

const STREAMED_WELL_MS: u64 = 10 * 60_000;

/// How many failures may be the fault of others.
const REJECTIONS_MAX: u8 = 2;
