//! Watchers of presence: subscriptions to the event package `presence` (RFC 6665, RFC 3856), and what they are told.
//!
//! Owns the subscriptions of this node, when each of them is notified, and the requests that it holds for watchers that
//! are about to become its own. Does not own presence: it asks for it, composed, and is told when it has changed. Does
//! not own the way to a client either, which watchers share with sessions.
//!
//! What always holds: a watcher has one NOTIFY under way at most; of changes that come within five seconds the last
//! one is told; a NOTIFY follows every SUBSCRIBE that was accepted; a watcher who has moved away is left without a
//! word. A record is written after the 200 and not waited for: a watcher that loses its subscription with the node subscribes
//! again when a refresh is refused, as RFC 6665 has it.

mod handover;
mod notify;
mod presentity;
mod subscribe;
mod table;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tandem_cluster::Authority;
use tandem_cluster::{Command, SessionKey, WatcherRecord};
use tandem_sip::TransactionKey;

use crate::presence::Composed;
use crate::presence::pidf::Profile;

use super::ownership::Ownership;
use super::pairs::PairId;
use super::session::QueuedRequest;
use super::{Gateway, ISOLATED_GRACE, Now, Report, View};

pub(super) use subscribe::PIDF;
use table::WatcherTable;

/// Limits and choices for watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatcherSettings {
    pub who_may_watch: WhoMayWatch,
    /// Watchers of this node.
    pub watchers_max: usize,
    /// Watchers of one user, at this node.
    pub watchers_per_presentity_max: usize,
    pub profile: Profile,
}

/// Whose SUBSCRIBE is accepted. The communications server has authenticated the From.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhoMayWatch {
    /// Users of the directory.
    Users,
    Anyone,
}

impl Default for WatcherSettings {
    fn default() -> Self {
        Self {
            who_may_watch: WhoMayWatch::Users,
            watchers_max: 50_000,
            watchers_per_presentity_max: 1_000,
            profile: Profile::Standard,
        }
    }
}

/// Everything about watchers that the gateway holds.
#[derive(Debug)]
pub(super) struct Watchers {
    table: WatcherTable,
    ownership: Ownership,
    pace: Pace,
}

/// One subscription as its owner holds it.
#[derive(Debug)]
struct Watcher {
    record: WatcherRecord,
    /// The cluster has been told of it, or is being told.
    is_written: bool,
    /// The SUBSCRIBE that began it, which a front end may send again.
    opening: Option<TransactionKey>,
    /// The last CSeq number used towards the watcher.
    cseq: u32,
    expires_at: Instant,
    due: Due,
    told: Option<Composed>,
    /// RFC 3856 §6.10: no change is told before.
    not_before: Instant,
    under_way: Option<UnderWay>,
    ending: Option<EndOfSubscription>,
    /// How often the front end's fence has turned a NOTIFY away in a row.
    fenced: u32,
}

/// Whether the watcher is to be told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// A change, five seconds after the last one.
    Change,
    /// The NOTIFY that a SUBSCRIBE asks for, the first one of a new owner, or the last one of all.
    AtOnce,
}

/// A NOTIFY without an answer yet.
#[derive(Debug, Clone)]
struct UnderWay {
    branch: String,
    pair: PairId,
    /// RFC 3261 §17.1.2.2, timer F.
    until: Instant,
}

/// Why a subscription ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndOfSubscription {
    /// By the watcher; a single look ends like this as well.
    Unsubscribed,
    Expired,
    /// The user is no more in the directory.
    NoSuchUser,
    /// The watcher does not know the subscription any more, or answers nothing.
    Refused,
}

impl EndOfSubscription {
    pub const ALL: [Self; 4] = [Self::Unsubscribed, Self::Expired, Self::NoSuchUser, Self::Refused];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unsubscribed => "unsubscribed",
            Self::Expired => "expired",
            Self::NoSuchUser => "no_such_user",
            Self::Refused => "refused",
        }
    }

    /// RFC 6665 §4.1.3: what a watcher makes of it.
    fn reason(self) -> &'static str {
        match self {
            Self::Unsubscribed | Self::Expired | Self::Refused => "timeout",
            Self::NoSuchUser => "noresource",
        }
    }
}

/// What is worth a count about watchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatcherReport {
    Started,
    Ended {
        reason: EndOfSubscription,
    },
    /// Taken over by this node.
    MovedHere,
    /// Left to another one.
    MovedAway,
    NotifySent,
    NotifyAnswered {
        status: u16,
    },
    NotifyUnanswered,
    /// A change that a watcher was not told of, because the next one came within five seconds.
    NotifySuppressed,
}

/// Many watchers at once, after a take-over or when one user has hundreds, are told in portions.
#[derive(Debug, Default)]
struct Pace {
    /// This portion ends here, and the next one begins.
    portion_ends_at: Option<Instant>,
    sent: usize,
    waiting: BTreeSet<SessionKey>,
}

impl Pace {
    /// `false`: not now; the watcher is called up again.
    fn admits(&mut self, key: &SessionKey, now: Instant) -> bool {
        if self.portion_ends_at.is_none_or(|at| at <= now) {
            self.portion_ends_at = Some(now + PORTION_SPAN);
            self.sent = 0;
        }
        if self.sent >= PORTION_NOTIFIES_MAX {
            self.waiting.insert(key.clone());
            return false;
        }
        self.sent += 1;
        true
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.portion_ends_at.filter(|_| !self.waiting.is_empty())
    }

    /// Those whose turn it is.
    fn called_up(&mut self, now: Instant) -> Vec<SessionKey> {
        if self.next_deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let portion = std::iter::from_fn(|| self.waiting.pop_first());
        portion.take(PORTION_NOTIFIES_MAX).collect()
    }
}

impl Watchers {
    pub(super) fn new(ownership: Ownership) -> Self {
        Self {
            table: WatcherTable::default(),
            ownership,
            pace: Pace::default(),
        }
    }

    /// Requests that were held for long enough.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<QueuedRequest> {
        self.ownership.take_overdue(now)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let held = self.ownership.next_deadline();
        [self.table.next_deadline(), held, self.pace.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn presentities(&self) -> usize {
        self.table.presentities().count()
    }

    #[cfg(test)]
    pub(super) fn epochs(&self) -> impl Iterator<Item = (SessionKey, tandem_cluster::Epoch)> + '_ {
        let watchers = self.table.iter();
        watchers.map(|(key, watcher)| (key.clone(), watcher.record.epoch))
    }

    /// # Panics
    /// When the tables contradict each other.
    pub(super) fn check_invariants(&self) {
        self.table.check_invariants();
        self.ownership.check_invariants();
    }
}

impl Watcher {
    fn new(record: WatcherRecord, now: Now) -> Self {
        let (first, _) = record.epoch.cseq_block();
        let remaining = Duration::from_millis(record.expires_at_ms.saturating_sub(now.cluster_ms));
        Self {
            record,
            is_written: false,
            opening: None,
            cseq: first.saturating_sub(1),
            expires_at: now.instant + remaining,
            due: Due::AtOnce,
            told: None,
            not_before: now.instant,
            under_way: None,
            ending: None,
            fenced: 0,
        }
    }

    /// RFC 3261 §12.2.1.1. One who uses up the million numbers of an epoch stays at its end.
    fn next_cseq(&mut self) -> u32 {
        let (_, last) = self.record.epoch.cseq_block();
        self.cseq = (self.cseq + 1).min(last);
        self.cseq
    }

    /// Something is to be told, and nothing of the watcher's own stands against it.
    fn may_be_told(&self, now: Instant) -> bool {
        let due = match self.due {
            Due::Nothing => false,
            Due::Change => self.not_before <= now,
            Due::AtOnce => true,
        };
        due && self.under_way.is_none()
    }

    /// A change that could go and does not waits for something else than time.
    fn next_deadline(&self, now: Instant) -> Instant {
        let answer = self.under_way.as_ref().map(|under_way| under_way.until);
        let waits = self.due == Due::Change && self.under_way.is_none() && self.not_before > now;
        let change = waits.then_some(self.not_before);
        [answer, change]
            .into_iter()
            .flatten()
            .fold(self.expires_at, Instant::min)
    }

    /// The last NOTIFY is due. Whom it does not reach in time is forgotten without it.
    fn end(&mut self, reason: EndOfSubscription, now: Instant) {
        self.ending = Some(reason);
        self.due = Due::AtOnce;
        self.expires_at = now + TRANSACTION_TIMEOUT;
    }

    /// `true` when a change that was to be told is told no more: a later one has overtaken it.
    fn take_in(&mut self, composed: Composed) -> bool {
        let overtakes = self.due == Due::Change;
        if self.due == Due::AtOnce {
            return false;
        }
        self.due = if self.told == Some(composed) {
            Due::Nothing
        } else {
            Due::Change
        };
        overtakes
    }
}

impl Gateway {
    /// The watcher, who is looked at again before this step ends.
    fn watcher_mut(&mut self, key: &SessionKey) -> Option<&mut Watcher> {
        let watcher = self.watchers.table.get_mut(key)?;
        self.touched.insert(key.clone());
        Some(watcher)
    }

    /// As [`WatcherTable::known_mut`]; the watcher is looked at again before this step ends.
    fn known_watcher(&mut self, key: &SessionKey) -> &mut Watcher {
        self.touched.insert(key.clone());
        self.watchers.table.known_mut(key)
    }

    /// Lets a watcher that this step has touched go on as far as it can.
    pub(super) fn attend_watcher(&mut self, key: &SessionKey, view: View<'_>, now: Now) {
        self.notify(key, view, now);
        self.watchers.table.index_deadline(key, now.instant);
    }

    pub(super) fn touch_watchers(&mut self) {
        let keys = self.watchers.table.iter().map(|(key, _)| key.clone());
        self.touched.extend(keys);
    }

    pub(super) fn watchers_deadline(&mut self, now: Now) {
        for key in self.watchers.table.due_watchers(now.instant) {
            self.watcher_deadline(&key, now);
            self.touched.insert(key);
        }
        let called_up = self.watchers.pace.called_up(now.instant);
        self.touched.extend(called_up);
    }

    fn watcher_deadline(&mut self, key: &SessionKey, now: Now) {
        let isolated = self.authority == Authority::Isolated;
        let watcher = self.watchers.table.known_mut(key);
        // RFC 6665 §4.2.2: a NOTIFY that nobody answers ends the subscription.
        if watcher
            .under_way
            .as_ref()
            .is_some_and(|under_way| under_way.until <= now.instant)
        {
            watcher.under_way = None;
            self.report(Report::Watcher(WatcherReport::NotifyUnanswered));
            return self.end_subscription(key, EndOfSubscription::Refused, now);
        }
        if watcher.expires_at > now.instant {
            return;
        }
        match watcher.ending {
            // Another node may own it by now.
            _ if isolated => watcher.expires_at = now.instant + ISOLATED_GRACE,
            Some(reason) => self.end_subscription(key, reason, now),
            None => watcher.end(EndOfSubscription::Expired, now.instant),
        }
    }

    /// The subscription is over, and this node says so to the cluster.
    fn end_subscription(&mut self, key: &SessionKey, reason: EndOfSubscription, now: Now) {
        let watcher = self.forget_watcher(key);
        let watcher = watcher.expect("a subscription ends once");
        if watcher.is_written {
            let removed = Command::WatcherRemoved {
                key: key.clone(),
                epoch: watcher.record.epoch,
            };
            self.proposals.watcher(key, removed, now.instant);
        }
        self.report(Report::Watcher(WatcherReport::Ended { reason }));
    }

    fn forget_watcher(&mut self, key: &SessionKey) -> Option<Watcher> {
        let watcher = self.watchers.table.remove(key)?;
        self.watchers.pace.waiting.remove(key);
        self.pathless.remove(key);
        self.proposals.forget_watcher(key);
        Some(watcher)
    }

    /// What a watcher's record says now, for the node that takes it over.
    fn write_watcher(&mut self, key: &SessionKey, now: Now) {
        let watcher = self.watchers.table.known_mut(key);
        watcher.is_written = true;
        let record = Box::new(watcher.record.clone());
        self.proposals
            .watcher(key, Command::WatcherSet { record }, now.instant);
    }
}

/// RFC 3261 §17.1.2.2: timer F, 64 × T1.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(32);
/// NOTIFYs in one portion, and its length: some thousands in a second.
const PORTION_NOTIFIES_MAX: usize = 64;
const PORTION_SPAN: Duration = Duration::from_millis(20);
