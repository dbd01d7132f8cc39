//! PUBLISH (RFC 3903): publishes the presence of users whose calendars this node owns to another server.
//!
//! One publication per user: begun without an entity-tag, refreshed and changed under the server's latest one, and
//! withdrawn when the user is gone. A user has at most one PUBLISH under way, and the latest state wins. Owns no
//! connection and writes no SIP: it says what to publish, and is told the result.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tandem_cluster::stable_hash::stable_hash;

use super::Composed;

/// How publications are maintained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublisherSettings {
    /// Requested at first; the server may require more, or grant less.
    pub expires_secs: u32,
    pub in_flight_max: usize,
    pub users_max: usize,
}

impl Default for PublisherSettings {
    fn default() -> Self {
        Self {
            expires_secs: 3600,
            in_flight_max: 16,
            users_max: 100_000,
        }
    }
}

/// A PUBLISH without an answer yet, numbered by the publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishId(pub u64);

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublisherInput {
    /// The user's current presence; `address` is the user's, including `sip:`.
    Composed {
        user: String,
        address: String,
        composed: Composed,
    },
    /// The user is gone, or nothing is known of them any more.
    Withdrawn {
        user: String,
    },
    /// Another node owns the user now, and publishes for them.
    LeftToAnother {
        user: String,
    },
    /// The server can be reached.
    Connected,
    ConnectionLost,
    Answered {
        id: PublishId,
        answer: PublishAnswer,
    },
    DeadlineReached,
}

/// The relevant parts of a final response to a PUBLISH.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishAnswer {
    pub status: u16,
    /// SIP-ETag.
    pub entity_tag: Option<String>,
    pub expires_secs: Option<u32>,
    pub min_expires_secs: Option<u32>,
    pub retry_after_secs: Option<u32>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublisherOutput {
    /// There is something to publish, and no connection.
    Connect,
    Publish(PublishRequest),
    Report(PublishOutcome),
}

/// One PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    pub id: PublishId,
    pub user: String,
    pub address: String,
    /// SIP-If-Match; without it a new publication begins.
    pub entity_tag: Option<String>,
    /// 0 withdraws the publication.
    pub expires_secs: u32,
    /// `None`: a refresh, or a withdrawal, which have no body.
    pub composed: Option<Composed>,
}

/// The outcome of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublishOutcome {
    Accepted,
    /// The server has forgotten the publication; it begins again.
    Forgotten,
    /// The server requires a longer expiry.
    TooBrief,
    Refused,
    Unanswered,
    /// The limit of users is reached: nothing was sent for this one.
    NoRoom,
}

impl PublishOutcome {
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Forgotten,
        Self::TooBrief,
        Self::Refused,
        Self::Unanswered,
        Self::NoRoom,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Forgotten => "forgotten",
            Self::TooBrief => "too_brief",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::NoRoom => "no_room",
        }
    }
}

/// The publications of one node.
#[derive(Debug)]
pub struct Publisher {
    settings: PublisherSettings,
    is_connected: bool,
    /// When a connection is requested again.
    connect_at: Option<Instant>,
    publications: BTreeMap<String, Publication>,
    under_way: BTreeMap<PublishId, String>,
    last_id: u64,
    /// Users with something to publish, in turn.
    ready: BTreeSet<String>,
    deadlines: BTreeSet<(Instant, String)>,
    outputs: Vec<PublisherOutput>,
}

#[derive(Debug, Clone)]
struct Publication {
    address: String,
    /// `None`: it is to be withdrawn.
    wanted: Option<Composed>,
    /// What the server knows, as far as we know.
    told: Option<Composed>,
    entity_tag: Option<String>,
    expires_secs: u32,
    refresh_at: Option<Instant>,
    under_way: Option<UnderWay>,
    not_before: Option<Instant>,
    failures: u32,
    deadline: Option<Instant>,
}

#[derive(Debug, Clone)]
struct UnderWay {
    id: PublishId,
    composed: Option<Composed>,
    withdraws: bool,
    /// RFC 3261 §17.1.2.2, timer F.
    until: Instant,
}

impl Publisher {
    #[must_use]
    pub fn new(settings: PublisherSettings) -> Self {
        Self {
            settings,
            is_connected: false,
            connect_at: None,
            publications: BTreeMap::new(),
            under_way: BTreeMap::new(),
            last_id: 0,
            ready: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            outputs: Vec::new(),
        }
    }

    #[must_use]
    pub fn handle(&mut self, input: PublisherInput, now: Instant) -> Vec<PublisherOutput> {
        match input {
            PublisherInput::Composed {
                user,
                address,
                composed,
            } => self.composed(user, address, composed),
            PublisherInput::Withdrawn { user } => {
                if let Some(publication) = self.publications.get_mut(&user) {
                    publication.wanted = None;
                    self.ready.insert(user);
                }
            }
            PublisherInput::LeftToAnother { user } => self.forget(&user),
            PublisherInput::Connected => {
                self.is_connected = true;
                self.connect_at = None;
            }
            PublisherInput::ConnectionLost => self.connection_lost(now),
            PublisherInput::Answered { id, answer } => self.answered(id, answer, now),
            PublisherInput::DeadlineReached => self.deadline_reached(now),
        }
        self.publish_ready(now);
        std::mem::take(&mut self.outputs)
    }

    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let user = self.deadlines.first().map(|(at, _)| *at);
        [user, self.connect_at].into_iter().flatten().min()
    }

    pub fn users(&self) -> impl Iterator<Item = &String> {
        self.publications.keys()
    }

    fn composed(&mut self, user: String, address: String, composed: Composed) {
        let has_room = self.publications.len() < self.settings.users_max;
        let expires_secs = self.settings.expires_secs;
        if !has_room && !self.publications.contains_key(&user) {
            return self.outputs.push(PublisherOutput::Report(PublishOutcome::NoRoom));
        }
        let publication = self
            .publications
            .entry(user.clone())
            .or_insert_with(|| Publication::new(address, expires_secs));
        publication.wanted = Some(composed);
        self.ready.insert(user);
    }

    fn forget(&mut self, user: &str) {
        self.ready.remove(user);
        let Some(publication) = self.publications.remove(user) else {
            return;
        };
        if let Some(at) = publication.deadline {
            self.deadlines.remove(&(at, user.to_owned()));
        }
        if let Some(under_way) = publication.under_way {
            self.under_way.remove(&under_way.id);
        }
    }

    /// Whether it arrived is unknown, so it is published again.
    fn connection_lost(&mut self, now: Instant) {
        self.is_connected = false;
        self.connect_at = Some(now + RECONNECT_WAIT);
        for (_, user) in std::mem::take(&mut self.under_way) {
            if let Some(publication) = self.publications.get_mut(&user) {
                publication.under_way = None;
                publication.told = None;
                self.ready.insert(user);
            }
        }
    }

    fn deadline_reached(&mut self, now: Instant) {
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect_at = None;
        }
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, user)) = self.deadlines.pop_first()
        {
            let Some(publication) = self.publications.get_mut(&user) else {
                continue;
            };
            publication.deadline = None;
            let overdue = publication.under_way.take_if(|under_way| under_way.until <= now);
            if let Some(overdue) = overdue {
                self.under_way.remove(&overdue.id);
                publication.failed(&user, None, now);
                self.outputs
                    .push(PublisherOutput::Report(PublishOutcome::Unanswered));
            }
            self.ready.insert(user);
        }
    }

    /// Sends what is due, in turn, up to the limit of requests under way.
    fn publish_ready(&mut self, now: Instant) {
        while self.is_connected
            && self.under_way.len() < self.settings.in_flight_max
            && let Some(user) = self.ready.pop_first()
        {
            self.publish(&user, now);
            self.index_deadline(&user, now);
        }
        if !self.ready.is_empty() && !self.is_connected && self.connect_at.is_none() {
            self.connect_at = Some(now + RECONNECT_WAIT);
            self.outputs.push(PublisherOutput::Connect);
        }
    }

    fn publish(&mut self, user: &str, now: Instant) {
        let Some(publication) = self.publications.get(user) else {
            return;
        };
        if publication.is_over() {
            return self.forget(user);
        }
        if !publication.is_due(now) {
            return;
        }
        self.last_id += 1;
        let id = PublishId(self.last_id);
        if let Some(publication) = self.publications.get_mut(user) {
            let request = publication.begin(id, user, now);
            self.under_way.insert(id, user.to_owned());
            self.outputs.push(PublisherOutput::Publish(request));
        }
    }

    fn answered(&mut self, id: PublishId, answer: PublishAnswer, now: Instant) {
        if answer.status < 200 {
            return;
        }
        let Some(user) = self.under_way.remove(&id) else {
            return;
        };
        if let Some(publication) = self.publications.get_mut(&user) {
            let outcome = publication.answered(&user, answer, now);
            self.outputs.push(PublisherOutput::Report(outcome));
        }
        self.ready.insert(user);
    }

    fn index_deadline(&mut self, user: &str, now: Instant) {
        let Some(publication) = self.publications.get_mut(user) else {
            return;
        };
        let wanted = publication.next_deadline().filter(|at| *at > now);
        if publication.deadline == wanted {
            return;
        }
        if let Some(at) = std::mem::replace(&mut publication.deadline, wanted) {
            self.deadlines.remove(&(at, user.to_owned()));
        }
        self.deadlines.extend(wanted.map(|at| (at, user.to_owned())));
    }
}

impl Publication {
    fn new(address: String, expires_secs: u32) -> Self {
        Self {
            address,
            wanted: None,
            told: None,
            entity_tag: None,
            expires_secs,
            refresh_at: None,
            under_way: None,
            not_before: None,
            failures: 0,
            deadline: None,
        }
    }

    /// There is nothing to publish, and the server holds nothing.
    fn is_over(&self) -> bool {
        self.wanted.is_none() && self.entity_tag.is_none() && self.under_way.is_none()
    }

    fn is_due(&self, now: Instant) -> bool {
        let is_news = self.wanted != self.told;
        let is_old = self.refresh_at.is_some_and(|at| at <= now);
        let may = self.not_before.is_none_or(|at| at <= now);
        may && self.under_way.is_none() && (is_news || is_old)
    }

    fn begin(&mut self, id: PublishId, user: &str, now: Instant) -> PublishRequest {
        // Without an entity-tag only a whole document begins a publication (RFC 3903 §4.1).
        let refreshes = self.entity_tag.is_some() && self.wanted == self.told;
        let composed = self.wanted.filter(|_| !refreshes);
        let withdraws = self.wanted.is_none();
        self.not_before = None;
        self.under_way = Some(UnderWay {
            id,
            composed: self.wanted,
            withdraws,
            until: now + TRANSACTION_TIMEOUT,
        });
        PublishRequest {
            id,
            user: user.to_owned(),
            address: self.address.clone(),
            entity_tag: self.entity_tag.clone(),
            expires_secs: if withdraws { 0 } else { self.expires_secs },
            composed,
        }
    }

    fn answered(&mut self, user: &str, answer: PublishAnswer, now: Instant) -> PublishOutcome {
        let Some(under_way) = self.under_way.take() else {
            return PublishOutcome::Unanswered;
        };
        match answer.status {
            ..300 => {
                self.accepted(user, &under_way, &answer, now);
                PublishOutcome::Accepted
            }
            // RFC 3903 §4.1, §6: the server has lost it, or let it expire.
            412 if self.entity_tag.is_some() => {
                self.entity_tag = None;
                self.told = None;
                self.refresh_at = None;
                PublishOutcome::Forgotten
            }
            423 if answer
                .min_expires_secs
                .is_some_and(|secs| secs > self.expires_secs) =>
            {
                let wanted = answer.min_expires_secs.unwrap_or(self.expires_secs);
                self.expires_secs = wanted.min(EXPIRES_SECS_MAX);
                // What cannot be sent is not tried again at once.
                if wanted > EXPIRES_SECS_MAX {
                    self.failed(user, None, now);
                }
                PublishOutcome::TooBrief
            }
            _ => {
                self.failed(user, answer.retry_after_secs, now);
                PublishOutcome::Refused
            }
        }
    }

    fn accepted(&mut self, user: &str, under_way: &UnderWay, answer: &PublishAnswer, now: Instant) {
        self.failures = 0;
        self.told = under_way.composed;
        if under_way.withdraws {
            self.entity_tag = None;
            self.refresh_at = None;
            return;
        }
        self.entity_tag.clone_from(&answer.entity_tag);
        let granted = answer.expires_secs.filter(|secs| *secs > 0);
        let granted = Duration::from_secs(granted.unwrap_or(self.expires_secs).into());
        self.refresh_at = Some(now + granted * refresh_percent(user) / 100);
    }

    /// A withdrawal gets one attempt: the publication expires by itself.
    fn failed(&mut self, user: &str, retry_after_secs: Option<u32>, now: Instant) {
        if self.wanted.is_none() {
            self.entity_tag = None;
            self.told = None;
            return;
        }
        let doubled = BACK_OFF_MIN * 2_u32.saturating_pow(self.failures.min(DOUBLINGS_MAX));
        self.failures = self.failures.saturating_add(1);
        let wait = match retry_after_secs {
            Some(secs) => Duration::from_secs(secs.into()).clamp(BACK_OFF_MIN, RETRY_AFTER_MAX),
            None => doubled.min(BACK_OFF_MAX),
        };
        // Spread, so that what failed together does not come back together.
        self.not_before = Some(now + wait * (100 + spread(user)) / 100);
        // A refresh that failed may have succeeded: the whole document goes next.
        self.told = None;
    }

    fn next_deadline(&self) -> Option<Instant> {
        match (&self.under_way, self.not_before) {
            (Some(under_way), _) => Some(under_way.until),
            (None, Some(not_before)) => Some(not_before),
            (None, None) => self.refresh_at,
        }
    }
}

/// About four fifths of what was granted (RFC 3903 §4.1 leaves it open), slightly different for every user.
fn refresh_percent(user: &str) -> u32 {
    75 + spread(user) / 2
}

/// 0 to 19, the same for a user on every node.
fn spread(user: &str) -> u32 {
    u32::try_from(stable_hash(user.bytes()) % 20).unwrap_or(0)
}

/// RFC 3261 §17.1.2.2: timer F, 64 × T1.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(32);
const RECONNECT_WAIT: Duration = Duration::from_secs(1);
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// A server that asks for a longer pause is nevertheless asked now and then.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
const DOUBLINGS_MAX: u32 = 9;
const EXPIRES_SECS_MAX: u32 = 86_400;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use super::*;
    use crate::presence::{Availability, Source};

    fn is(availability: Availability) -> Composed {
        Composed {
            availability,
            source: Source::Manual,
            ..Composed::UNKNOWN
        }
    }

    struct Bench {
        publisher: Publisher,
        now: Instant,
    }

    impl Bench {
        fn new(in_flight_max: usize) -> Self {
            let settings = PublisherSettings {
                in_flight_max,
                users_max: 10,
                ..PublisherSettings::default()
            };
            let mut bench = Self {
                publisher: Publisher::new(settings),
                now: Instant::now(),
            };
            assert_eq!(bench.input(PublisherInput::Connected), []);
            bench
        }

        fn input(&mut self, input: PublisherInput) -> Vec<PublishRequest> {
            let outputs = self.publisher.handle(input, self.now).into_iter();
            outputs
                .filter_map(|output| match output {
                    PublisherOutput::Publish(request) => Some(request),
                    PublisherOutput::Connect | PublisherOutput::Report(_) => None,
                })
                .collect()
        }

        fn composed(&mut self, user: &str, availability: Availability) -> Vec<PublishRequest> {
            self.input(PublisherInput::Composed {
                user: user.to_owned(),
                address: format!("sip:{user}@lab.test"),
                composed: is(availability),
            })
        }

        fn answer(&mut self, id: PublishId, status: u16, tag: Option<&str>) -> Vec<PublishRequest> {
            let entity_tag = tag.map(str::to_owned);
            let answer = PublishAnswer {
                status,
                entity_tag,
                ..PublishAnswer::default()
            };
            self.input(PublisherInput::Answered { id, answer })
        }

        fn pass(&mut self, span: Duration) -> Vec<PublishRequest> {
            self.now += span;
            self.input(PublisherInput::DeadlineReached)
        }

        /// Ana is published as busy, under the entity-tag `t1`.
        fn publish_ana(&mut self) {
            let sent = self.composed("ana", Availability::Busy);
            assert_eq!(self.answer(sent[0].id, 200, Some("t1")), []);
        }
    }

    #[test]
    fn a_publication_begins_changes_and_is_refreshed_under_the_last_entity_tag() {
        let mut bench = Bench::new(4);
        let sent = bench.composed("ana", Availability::Busy);
        let first = &sent[0];
        assert_eq!((&first.entity_tag, first.expires_secs), (&None, 3600));
        assert_eq!(first.composed, Some(is(Availability::Busy)));
        assert_eq!(bench.composed("ana", Availability::Away), [], "one at a time");
        assert_eq!(bench.composed("ana", Availability::Available), []);
        let sent = bench.answer(first.id, 200, Some("t1"));
        let change = &sent[0];
        assert_eq!(change.entity_tag.as_deref(), Some("t1"));
        assert_eq!(
            change.composed,
            Some(is(Availability::Available)),
            "the latest wins"
        );
        assert_eq!(bench.answer(change.id, 200, Some("t2")), []);
        assert_eq!(bench.pass(Duration::from_secs(3600 * 74 / 100)), []);
        let sent = bench.pass(Duration::from_secs(3600 * 12 / 100));
        assert_eq!(
            (sent[0].entity_tag.as_deref(), &sent[0].composed),
            (Some("t2"), &None)
        );
        assert_eq!(sent[0].expires_secs, 3600);
    }

    #[test]
    fn what_the_server_has_forgotten_begins_anew() {
        let mut bench = Bench::new(4);
        bench.publish_ana();
        let sent = bench.composed("ana", Availability::Away);
        let sent = bench.answer(sent[0].id, 412, None);
        assert_eq!(
            (&sent[0].entity_tag, sent[0].composed),
            (&None, Some(is(Availability::Away)))
        );
        assert_eq!(
            bench.answer(sent[0].id, 412, None),
            [],
            "a server that says so of a new one is left alone for a moment"
        );
        assert_eq!(bench.pass(Duration::from_secs(2)).len(), 1);
    }

    #[test]
    fn a_longer_life_is_asked_for_when_the_server_wants_it() {
        let mut bench = Bench::new(4);
        let sent = bench.composed("ana", Availability::Busy);
        let answer = PublishAnswer {
            status: 423,
            min_expires_secs: Some(7200),
            ..PublishAnswer::default()
        };
        let id = sent[0].id;
        let sent = bench.input(PublisherInput::Answered { id, answer });
        assert_eq!(sent[0].expires_secs, 7200);
    }

    #[test]
    fn failures_back_off_and_a_wait_that_the_server_asks_for_is_kept() {
        let mut bench = Bench::new(4);
        let mut sent = bench.composed("ana", Availability::Busy);
        for wait in [1_u32, 2, 4, 8] {
            assert_eq!(bench.answer(sent[0].id, 500, None), []);
            assert_eq!(bench.pass(Duration::from_millis(u64::from(wait) * 999)), []);
            sent = bench.pass(Duration::from_millis(u64::from(wait) * 200 + 10));
            assert_eq!(sent.len(), 1, "{wait}");
        }
        let answer = PublishAnswer {
            status: 503,
            retry_after_secs: Some(100),
            ..PublishAnswer::default()
        };
        let id = sent[0].id;
        assert_eq!(bench.input(PublisherInput::Answered { id, answer }), []);
        assert_eq!(bench.pass(Duration::from_secs(99)), []);
        assert_eq!(bench.pass(Duration::from_secs(22)).len(), 1);
        assert_eq!(
            bench.pass(Duration::from_secs(32)),
            [],
            "and one without an answer"
        );
        assert_eq!(bench.pass(Duration::from_secs(40)).len(), 1);
    }

    #[test]
    fn a_user_who_is_gone_is_taken_back_and_forgotten() {
        let mut bench = Bench::new(4);
        bench.publish_ana();
        let user = "ana".to_owned();
        let sent = bench.input(PublisherInput::Withdrawn { user });
        assert_eq!(
            (sent[0].expires_secs, sent[0].entity_tag.as_deref()),
            (0, Some("t1"))
        );
        assert_eq!(bench.answer(sent[0].id, 200, None), []);
        assert_eq!(bench.publisher.users().count(), 0);
        assert_eq!(bench.publisher.next_deadline(), None);
    }

    #[test]
    fn a_user_of_another_node_is_forgotten_without_a_word() {
        let mut bench = Bench::new(4);
        bench.publish_ana();
        let user = "ana".to_owned();
        assert_eq!(bench.input(PublisherInput::LeftToAnother { user }), []);
        assert_eq!(bench.publisher.next_deadline(), None);
    }

    #[test]
    fn so_many_are_under_way_and_no_more() {
        let mut bench = Bench::new(2);
        let mut sent = Vec::new();
        for number in 0..12 {
            sent.extend(bench.composed(&format!("user{number}"), Availability::Busy));
        }
        assert_eq!(sent.len(), 2);
        let mut seen = 2;
        while let Some(request) = sent.pop() {
            let more = bench.answer(request.id, 200, Some("t"));
            seen += more.len();
            sent.extend(more);
        }
        assert_eq!(seen, 10, "beyond the bound users are left out");
    }

    #[test]
    fn without_a_connection_one_is_asked_for_and_what_was_under_way_goes_again() {
        let mut bench = Bench::new(4);
        bench.composed("ana", Availability::Busy);
        assert_eq!(bench.input(PublisherInput::ConnectionLost), []);
        bench.now += RECONNECT_WAIT;
        let outputs = bench.publisher.handle(PublisherInput::DeadlineReached, bench.now);
        assert_eq!(outputs, [PublisherOutput::Connect]);
        assert_eq!(bench.input(PublisherInput::Connected).len(), 1);
    }
}
