//! All Client Access Servers over one mail store, without their sockets.
//!
//! Owns the subscriptions and the faults of each server, what each has seen, and the account. Does not own sockets
//! or the clock: a request comes with its time and leaves as a [`Reply`], and what is to be said unasked is an
//! [`Output`]. What a client does wrong stands in the violations and is never repaired.

mod answering;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::peers::exchange::account::Account;
use crate::peers::exchange::answer;
use crate::peers::exchange::faults::{Effect, Fault, Faults};
use crate::peers::exchange::mail_store::{Appointment, Change, EventKind, ItemId, MailStore};
use crate::peers::exchange::request::{OperationName, Refusal, Request, Version};
use crate::peers::exchange::subscriptions::{
    self, Active, CallbackAnswer, Kind, StreamNumber, SubscriptionTable, Timing,
};

/// What HTTP said around a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    pub authorization: Option<String>,
    pub accept_encoding: Option<String>,
    /// `X-AnchorMailbox`.
    pub anchor: Option<String>,
    /// The value of the cookie `X-BackEndOverrideCookie`.
    pub back_end: Option<String>,
    /// Where the connection comes from, if that is still known.
    pub client: Option<IpAddr>,
}

/// What a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
        /// How late.
        after: Duration,
    },
    /// Documents follow until it is closed; this is the first.
    Stream { stream: StreamNumber, first: String },
    /// Nothing, ever.
    Hang,
    /// Half of this, then the connection is cut.
    CutOff { body: String },
}

/// What a server says unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `callback_answered` follows in any case.
    Call {
        cas: usize,
        subscription: String,
        url: String,
        body: String,
    },
    Say {
        cas: usize,
        stream: StreamNumber,
        document: String,
        /// The connection ends with it.
        is_last: bool,
    },
}

/// Whether a server runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Accepts connections and never answers.
    Frozen,
    Down,
}

/// What one server has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub requests: BTreeMap<OperationName, usize>,
    /// Requests that could not be read, and those without a good password, are not in `requests`.
    pub refused: usize,
    pub unauthenticated: usize,
    /// At the same time, streams left out.
    pub concurrency_max: usize,
    /// Came although the server had asked for patience.
    pub during_back_off: usize,
    pub callbacks: BTreeMap<&'static str, usize>,
}

/// One Subscribe that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub at: Instant,
    pub cas: usize,
    pub mailbox: String,
    pub kind: Kind,
}

/// One Client Access Server.
#[derive(Debug)]
pub struct Cas {
    pub name: String,
    pub newest: Version,
    pub health: Health,
    pub faults: Faults,
    /// A firewall stands between this server and its clients.
    pub callbacks_blocked: bool,
    /// More requests than that at once get ErrorServerBusy.
    pub concurrency_limit: Option<usize>,
    table: SubscriptionTable,
    record: Record,
    in_flight: usize,
    back_off_until: Option<Instant>,
    boots: u64,
}

/// The servers, the store behind them, and the account in front.
#[derive(Debug)]
pub struct Servers {
    pub account: Account,
    timing: Timing,
    store: MailStore,
    cas: Vec<Cas>,
    granted: Vec<Granted>,
    /// Impersonated mailbox → who has acted for it, and when last.
    acted: BTreeMap<String, BTreeMap<IpAddr, Instant>>,
    /// Mailboxes that nobody hears any more because a callback was answered so, and since when.
    given_up: Vec<(Instant, String)>,
    violations: Vec<String>,
    outputs: Vec<Output>,
}

impl Servers {
    #[must_use]
    pub fn new(names: &[String], timing: Timing, account: Account) -> Self {
        let cas = names.iter().map(|name| Cas {
            name: name.clone(),
            newest: Version::Exchange2013Sp1,
            health: Health::Up,
            faults: Faults::default(),
            callbacks_blocked: false,
            concurrency_limit: None,
            table: SubscriptionTable::new(name, timing, 0),
            record: Record::default(),
            in_flight: 0,
            back_off_until: None,
            boots: 0,
        });
        Self {
            account,
            timing,
            store: MailStore::default(),
            cas: cas.collect(),
            granted: Vec::new(),
            acted: BTreeMap::new(),
            given_up: Vec::new(),
            violations: Vec::new(),
            outputs: Vec::new(),
        }
    }

    #[must_use]
    pub fn store(&self) -> &MailStore {
        &self.store
    }

    /// For what subscriptions do not hear of: new mailboxes, moves, conditions.
    pub fn store_mut(&mut self) -> &mut MailStore {
        &mut self.store
    }

    #[must_use]
    pub fn all(&self) -> &[Cas] {
        &self.cas
    }

    /// Counted from 0.
    pub fn cas_mut(&mut self, cas: usize) -> &mut Cas {
        &mut self.cas[cas]
    }

    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Something that the shell has seen.
    pub fn violation(&mut self, what: String) {
        // A client that does one thing wrong does it a thousand times.
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// Every Subscribe so far, oldest first.
    #[must_use]
    pub fn granted(&self) -> &[Granted] {
        &self.granted
    }

    /// The clients that have acted for each mailbox since then.
    #[must_use]
    pub fn clients_since(&self, then: Instant) -> BTreeMap<String, BTreeSet<IpAddr>> {
        let since = |clients: &BTreeMap<IpAddr, Instant>| {
            let recent = clients.iter().filter(|(_, last)| **last >= then);
            recent.map(|(client, _)| *client).collect()
        };
        self.acted
            .iter()
            .map(|(mailbox, clients)| (mailbox.clone(), since(clients)))
            .collect()
    }

    /// The mailboxes whose last subscription clients have ended since then, by the answer to a callback.
    #[must_use]
    pub fn given_up_since(&self, then: Instant) -> Vec<String> {
        let recent = self.given_up.iter().filter(|(at, _)| *at >= then);
        recent.map(|(_, mailbox)| mailbox.clone()).collect()
    }

    /// Mailbox → the servers at which it has a subscription that is heard.
    #[must_use]
    pub fn heard(&self) -> BTreeMap<String, BTreeSet<usize>> {
        let mut heard: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (number, cas) in self.cas.iter().enumerate() {
            for active in cas.active().filter(|active| active.is_heard) {
                heard.entry(active.mailbox).or_default().insert(number);
            }
        }
        heard
    }

    /// How many mailboxes each server is heard for.
    #[must_use]
    pub fn users_per_cas(&self) -> Vec<usize> {
        let mailboxes = |cas: &Cas| -> HashSet<String> {
            let heard = cas.active().filter(|active| active.is_heard);
            heard.map(|active| active.mailbox).collect()
        };
        self.cas.iter().map(|cas| mailboxes(cas).len()).collect()
    }

    /// Puts an entry into a calendar and tells subscriptions.
    pub fn create(
        &mut self,
        address: &str,
        appointment: Appointment,
        now: Instant,
        at_ms: i64,
    ) -> Option<ItemId> {
        let (item, change) = self.store.create(address, appointment, at_ms)?;
        self.tell(&change, now);
        Some(item)
    }

    /// `false` when there is no such entry.
    pub fn modify(
        &mut self,
        address: &str,
        item: ItemId,
        now: Instant,
        at_ms: i64,
        edit: impl FnOnce(&mut Appointment),
    ) -> bool {
        let change = self.store.modify(address, item, at_ms, edit);
        change.as_ref().inspect(|change| self.tell(change, now)).is_some()
    }

    /// As a user deletes: into Deleted Items. `false` when there is no such entry.
    pub fn delete(&mut self, address: &str, item: ItemId, now: Instant, at_ms: i64) -> bool {
        let change = self.store.delete(address, item, EventKind::Moved, at_ms);
        change.as_ref().inspect(|change| self.tell(change, now)).is_some()
    }

    /// The process has died: nobody remembers a subscription.
    pub fn died(&mut self, cas: usize) {
        let server = &mut self.cas[cas];
        server.health = Health::Down;
        server.boots += 1;
        server.table = SubscriptionTable::new(&server.name, self.timing, server.boots);
        server.in_flight = 0;
        server.back_off_until = None;
    }

    /// Ends every subscription of a mailbox without a word.
    pub fn lose_subscriptions_of(&mut self, address: &str) {
        for server in &mut self.cas {
            let lost: Vec<_> = server
                .active()
                .filter(|active| active.mailbox.eq_ignore_ascii_case(address))
                .map(|active| active.subscription)
                .collect();
            lost.iter().for_each(|id| server.table.lose(id));
        }
    }

    /// One request, read by the shell. The shell says [`Self::finished`] when the answer is out.
    pub fn request(
        &mut self,
        cas: usize,
        head: &Head,
        request: &Result<Request, Refusal>,
        now: Instant,
    ) -> Reply {
        self.cas[cas].begin(now);
        if let Some(reply) = self.unauthorized(cas, head) {
            return reply;
        }
        let request = match request {
            Ok(request) => request,
            Err(refusal) => return self.refuse(cas, refusal),
        };
        if request.version > self.cas[cas].newest {
            let text = "The specified server version is invalid.";
            return self.fault(cas, "ErrorInvalidServerVersion", text, &[]);
        }
        self.cas[cas].count(request.operation.name());
        let mailbox = request.impersonation.as_ref().map(|who| who.address().to_owned());
        if let (Some(mailbox), Some(client)) = (&mailbox, head.client) {
            let clients = self.acted.entry(mailbox.to_ascii_lowercase()).or_default();
            clients.insert(client, now);
        }
        let effect = self.cas[cas].next_effect(request.operation.name(), mailbox.as_deref());
        match effect {
            None => self.answer(cas, head, request, now),
            Some(Effect::Slow(delay)) => answering::delayed(self.answer(cas, head, request, now), delay),
            Some(effect) => self.spoilt(cas, request.operation.name(), effect, now),
        }
    }

    /// The answer to a request is out, or its connection is gone.
    pub fn finished(&mut self, cas: usize) {
        let server = &mut self.cas[cas];
        server.in_flight = server.in_flight.saturating_sub(1);
    }

    pub fn stream_lost(&mut self, cas: usize, stream: StreamNumber, now: Instant) {
        self.cas[cas].table.stream_lost(stream, now);
    }

    pub fn callback_answered(
        &mut self,
        cas: usize,
        subscription: &str,
        answer: &CallbackAnswer,
        now: Instant,
    ) {
        let server = &mut self.cas[cas];
        if server.health != Health::Up {
            return;
        }
        let name = match answer {
            CallbackAnswer::Ok => "ok",
            CallbackAnswer::Unsubscribe => "unsubscribe",
            CallbackAnswer::Failed(_) => "failed",
        };
        *server.record.callbacks.entry(name).or_default() += 1;
        if *answer == CallbackAnswer::Unsubscribe {
            self.given_up
                .extend(self.only_subscription(subscription).map(|mailbox| (now, mailbox)));
        }
        let server = &mut self.cas[cas];
        server.table.callback_answered(subscription, answer, now);
        self.collect(cas, now);
    }

    /// The mailbox that has this subscription and no other.
    fn only_subscription(&self, subscription: &str) -> Option<String> {
        let all = || self.cas.iter().flat_map(Cas::active);
        let mailbox = all().find(|active| active.subscription == subscription)?.mailbox;
        let count = all().filter(|active| active.mailbox == mailbox).count();
        (count == 1).then_some(mailbox)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        for cas in 0..self.cas.len() {
            if self.cas[cas].health == Health::Up {
                self.cas[cas].table.tick(now);
                self.collect(cas, now);
            }
        }
    }

    #[must_use]
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    fn tell(&mut self, change: &Change, now: Instant) {
        let Some(host) = self
            .store
            .get(&change.mailbox)
            .map(|mailbox| mailbox.server.clone())
        else {
            return;
        };
        for cas in 0..self.cas.len() {
            self.cas[cas].table.changed(change, &host);
            if self.cas[cas].health == Health::Up {
                self.collect(cas, now);
            }
        }
    }

    /// Writes what a table wants said.
    fn collect(&mut self, cas: usize, now: Instant) {
        // A callback that is blocked fails at once, and that may want something again.
        loop {
            let outputs = self.cas[cas].table.take_outputs();
            if outputs.is_empty() {
                return;
            }
            for output in outputs {
                self.say(cas, output, now);
            }
        }
    }

    fn say(&mut self, cas: usize, output: subscriptions::Output, now: Instant) {
        let newest = self.cas[cas].newest;
        let say = |stream, document, is_last| Output::Say {
            cas,
            stream,
            document,
            is_last,
        };
        let output = match output {
            subscriptions::Output::Call { url, notification } if self.cas[cas].callbacks_blocked => {
                let failed = CallbackAnswer::Failed(format!("{url} is behind a firewall"));
                let server = &mut self.cas[cas];
                *server.record.callbacks.entry("blocked").or_default() += 1;
                return server
                    .table
                    .callback_answered(&notification.subscription, &failed, now);
            }
            subscriptions::Output::Call { url, notification } => Output::Call {
                cas,
                body: answer::callback(newest, &notification),
                subscription: notification.subscription,
                url,
            },
            subscriptions::Output::Say {
                stream,
                notifications,
            } => say(stream, answer::stream_events(newest, &notifications), false),
            subscriptions::Output::Close { stream } => say(stream, answer::stream_closed(newest), true),
            subscriptions::Output::Supersede {
                stream,
                subscriptions,
            } => say(
                stream,
                answer::stream_refused(newest, "ErrorNewEventStreamConnectionOpened", &subscriptions),
                true,
            ),
        };
        self.outputs.push(output);
    }
}

impl Cas {
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Every subscription that lives here.
    pub fn active(&self) -> impl Iterator<Item = Active> + '_ {
        self.table.active()
    }

    /// The number of subscriptions on each open stream.
    #[must_use]
    pub fn streams(&self) -> Vec<usize> {
        self.table.streams()
    }

    pub fn fail(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    fn begin(&mut self, now: Instant) {
        self.in_flight += 1;
        self.record.concurrency_max = self.record.concurrency_max.max(self.in_flight);
        if self.back_off_until.is_some_and(|until| now < until) {
            self.record.during_back_off += 1;
        }
    }

    fn count(&mut self, operation: OperationName) {
        *self.record.requests.entry(operation).or_default() += 1;
    }

    fn next_effect(&mut self, operation: OperationName, mailbox: Option<&str>) -> Option<Effect> {
        self.faults.next(Some(operation), mailbox)
    }

    /// Requests that are under way already are forgiven.
    fn back_off(&mut self, now: Instant, for_: Duration) {
        if for_ > UNDER_WAY {
            self.back_off_until = Some(now + for_);
        }
    }

    fn is_over_its_limit(&self) -> bool {
        self.concurrency_limit.is_some_and(|limit| self.in_flight > limit)
    }
}

const VIOLATIONS_MAX: usize = 1000;
/// A shorter back-off cannot be told from what was on the wire already.
const UNDER_WAY: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
