//! A model of Exchange: CAS over one store of mailboxes, with everything that can go wrong with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tandem_cluster::CasId;

use super::super::StreamId;
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::ews::{
    Answer, CalendarItem, ChangeStamp, Event, EventKind, Failure, Mailbox, Notification, Operation,
    ResponseCode, SubscriptionId, TimeWindow,
};

#[derive(Debug, Default)]
pub(super) struct Exchange {
    pub cas_list: BTreeMap<CasId, Cas>,
    pub mailboxes: BTreeMap<String, MailboxState>,
    pub subscriptions: BTreeMap<String, Subscription>,
    next_subscription: u64,
    pub password_is_wrong: bool,
    /// Requests that came with a wrong password.
    pub refusals: usize,
    pub push_is_blocked: bool,
    /// Every operation that was asked, by CAS and label.
    pub asked: BTreeMap<(CasId, &'static str), usize>,
}

#[derive(Debug)]
pub(super) struct Cas {
    pub state: CasState,
    pub latency: Duration,
    pub refuses_account: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CasState {
    Up,
    /// Nobody listens.
    Dead,
    /// Nothing comes back.
    Silent,
    Busy {
        back_off: Duration,
    },
}

#[derive(Debug, Default)]
pub(super) struct MailboxState {
    pub items: Vec<CalendarItem>,
    pub version: u64,
    /// What the next operations of a kind fail with, at any CAS.
    pub failures: BTreeMap<&'static str, VecDeque<Failure>>,
    /// What all operations fail with, at any CAS or at one.
    pub broken: Option<(Option<CasId>, Failure)>,
    pub primary: Option<String>,
    /// FindItem returns no more than this many items.
    pub items_max: Option<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub cas: CasId,
    pub mailbox: String,
    pub delivery: Delivery,
    pub is_deaf: bool,
    pub watermark: u64,
    /// Streaming and pull: what nobody has fetched yet.
    pub pending: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Delivery {
    Push { user: String, attempt: u64 },
    Stream { open: Option<(u64, StreamId)> },
    Pull,
}

/// What Exchange sends by itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    Callback {
        user: String,
        attempt: u64,
        notification: Notification,
    },
    Stream {
        node: u64,
        stream: StreamId,
        notification: Notification,
    },
}

impl Exchange {
    pub(super) fn with(cas_list: &[&str]) -> Self {
        let cas = || Cas {
            state: CasState::Up,
            latency: Duration::from_millis(40),
            refuses_account: false,
        };
        Self {
            cas_list: cas_list
                .iter()
                .map(|name| (CasId((*name).to_owned()), cas()))
                .collect(),
            ..Self::default()
        }
    }

    pub(super) fn cas(&mut self, name: &str) -> &mut Cas {
        self.cas_list.get_mut(&CasId(name.to_owned())).unwrap()
    }

    pub(super) fn mailbox(&mut self, address: &str) -> &mut MailboxState {
        self.mailboxes.entry(address.to_owned()).or_default()
    }

    pub(super) fn fail_next(&mut self, address: &str, operation: &'static str, failure: Failure) {
        let failures = &mut self.mailbox(address).failures;
        failures.entry(operation).or_default().push_back(failure);
    }

    /// The answer, and how long it takes.
    pub(super) fn perform(
        &mut self,
        cas: &CasId,
        operation: &Operation,
        impersonate: Option<&Mailbox>,
        push: Option<(String, u64)>,
        timeout: Duration,
    ) -> (Result<Answer, Failure>, Duration) {
        *self.asked.entry((cas.clone(), operation.label())).or_default() += 1;
        let Some(state) = self.cas_list.get(cas) else {
            return (
                Err(Failure::Unreachable("no such host".to_owned())),
                Duration::ZERO,
            );
        };
        let latency = state.latency;
        match &state.state {
            CasState::Dead => {
                let refused = Failure::Unreachable("connection refused".to_owned());
                return (Err(refused), Duration::from_millis(1));
            }
            CasState::Silent => return (Err(Failure::TimedOut), timeout),
            CasState::Busy { back_off } => return (Err(busy(*back_off)), latency),
            CasState::Up => {}
        }
        if self.password_is_wrong || state.refuses_account {
            self.refusals += 1;
            return (Err(Failure::Unauthorized("wrong password".to_owned())), latency);
        }
        (self.answer(cas, operation, impersonate, push), latency)
    }

    fn answer(
        &mut self,
        cas: &CasId,
        operation: &Operation,
        impersonate: Option<&Mailbox>,
        push: Option<(String, u64)>,
    ) -> Result<Answer, Failure> {
        if let Operation::GetUserAvailability { mailboxes, window } = operation {
            assert!(mailboxes.len() <= 100);
            let free_busy = |mailbox: &Mailbox| self.free_busy(mailbox, *window);
            return Ok(Answer::Availability(mailboxes.iter().map(free_busy).collect()));
        }
        let address = impersonate.unwrap().0.clone();
        self.refuse(cas, &address, operation.label())?;
        match operation {
            Operation::SubscribePush { .. } => {
                let (user, attempt) = push.unwrap();
                Ok(self.subscribe(cas, address, Delivery::Push { user, attempt }))
            }
            Operation::SubscribeStreaming => {
                Ok(self.subscribe(cas, address, Delivery::Stream { open: None }))
            }
            Operation::SubscribePull { .. } => Ok(self.subscribe(cas, address, Delivery::Pull)),
            Operation::GetEvents { subscription, .. } => self.events_of(subscription),
            Operation::Unsubscribe { subscription } => {
                let known = self.subscriptions.remove(&subscription.0);
                known
                    .map(|_| Answer::Unsubscribed)
                    .ok_or_else(|| code("ErrorSubscriptionNotFound"))
            }
            Operation::FindCalendarItems { window, .. } => Ok(self.items_of(&address, *window)),
            Operation::GetChangeStamp => Ok(Answer::ChangeStamp(ChangeStamp {
                local_commit_time_max: Some(self.mailbox(&address).version.to_string()),
                deleted_count_total: None,
            })),
            Operation::GetStreamingEvents { .. } | Operation::GetUserAvailability { .. } => unreachable!(),
        }
    }

    fn refuse(&mut self, cas: &CasId, address: &str, operation: &'static str) -> Result<(), Failure> {
        let mailbox = self.mailbox(address);
        if let Some((at, failure)) = &mailbox.broken
            && at.as_ref().is_none_or(|at| at == cas)
        {
            return Err(failure.clone());
        }
        if let Some(failure) = mailbox.failures.get_mut(operation).and_then(VecDeque::pop_front) {
            return Err(failure);
        }
        match mailbox.primary.clone() {
            Some(primary) => Err(Failure::Response {
                code: ResponseCode("ErrorNonPrimarySmtpAddress".to_owned()),
                message: String::new(),
                back_off: None,
                primary_address: Some(primary),
                inner: None,
            }),
            None => Ok(()),
        }
    }

    fn free_busy(&mut self, mailbox: &Mailbox, window: TimeWindow) -> Result<Vec<CalendarItem>, Failure> {
        let state = self.mailbox(&mailbox.0);
        if let Some(failure) = state
            .failures
            .get_mut("get_user_availability")
            .and_then(VecDeque::pop_front)
        {
            return Err(failure);
        }
        Ok(within(&state.items, window))
    }

    fn items_of(&mut self, address: &str, window: TimeWindow) -> Answer {
        let mailbox = self.mailbox(address);
        let mut items = within(&mailbox.items, window);
        items.sort_by_key(|item| item.start);
        let most = mailbox.items_max.unwrap_or(usize::MAX);
        let complete = items.len() <= most;
        items.truncate(most);
        Answer::Items { items, complete }
    }

    fn subscribe(&mut self, cas: &CasId, mailbox: String, delivery: Delivery) -> Answer {
        self.next_subscription += 1;
        let id = format!("S{}", self.next_subscription);
        let watermark = match delivery {
            Delivery::Stream { .. } => None,
            Delivery::Push { .. } | Delivery::Pull => Some("W0".to_owned()),
        };
        self.subscriptions.insert(
            id.clone(),
            Subscription {
                cas: cas.clone(),
                mailbox,
                delivery,
                is_deaf: false,
                watermark: 0,
                pending: 0,
            },
        );
        Answer::Subscribed {
            subscription: SubscriptionId(id),
            watermark,
        }
    }

    fn events_of(&mut self, id: &SubscriptionId) -> Result<Answer, Failure> {
        let subscription = self.subscriptions.get_mut(&id.0);
        let subscription = subscription.ok_or_else(|| code("ErrorSubscriptionNotFound"))?;
        let kind = match std::mem::take(&mut subscription.pending) {
            0 => EventKind::Status,
            _ => EventKind::Modified,
        };
        Ok(Answer::Events(subscription.notification(id, kind)))
    }

    /// A meeting was moved: whoever is subscribed hears of it.
    pub(super) fn change(&mut self, address: &str, items: Vec<CalendarItem>) -> Vec<Told> {
        let mailbox = self.mailbox(address);
        mailbox.items = items;
        mailbox.version += 1;
        let cas_list = &self.cas_list;
        let mut told = Vec::new();
        for (id, subscription) in &mut self.subscriptions {
            let is_up = cas_list[&subscription.cas].state == CasState::Up;
            if subscription.mailbox == address && !subscription.is_deaf && is_up {
                told.extend(subscription.tell(id, EventKind::Modified));
            }
        }
        told
    }

    /// What a push subscription sends when nothing happens.
    pub(super) fn status_event(&mut self, id: &str) -> Option<Told> {
        let is_blocked = self.push_is_blocked;
        let subscription = self.subscriptions.get_mut(id)?;
        let is_up = self.cas_list[&subscription.cas].state == CasState::Up;
        match is_up && !is_blocked {
            true => subscription.tell(id, EventKind::Status),
            false => None,
        }
    }

    /// Opens the stream, or says which ids are not good. What was pending is told at once.
    pub(super) fn open_stream(
        &mut self,
        node: u64,
        stream: StreamId,
        ids: &[SubscriptionId],
        _affinity: &AffinityKey,
    ) -> Result<Vec<Told>, Vec<SubscriptionId>> {
        let bad = ids.iter().filter(|id| !self.subscriptions.contains_key(&id.0));
        let bad: Vec<SubscriptionId> = bad.cloned().collect();
        if !bad.is_empty() {
            return Err(bad);
        }
        let mut told = Vec::new();
        for id in ids {
            let subscription = self.subscriptions.get_mut(&id.0).unwrap();
            subscription.delivery = Delivery::Stream {
                open: Some((node, stream)),
            };
            if std::mem::take(&mut subscription.pending) > 0 {
                told.extend(subscription.tell(&id.0, EventKind::Modified));
            }
        }
        Ok(told)
    }

    pub(super) fn close_stream(&mut self, stream: StreamId) {
        for subscription in self.subscriptions.values_mut() {
            if let Delivery::Stream { open } = &mut subscription.delivery
                && open.is_some_and(|(_, known)| known == stream)
            {
                *open = None;
            }
        }
    }

    /// The CAS was restarted: it knows no subscription any more.
    pub(super) fn forget_subscriptions(&mut self, cas: &str) {
        self.subscriptions
            .retain(|_, subscription| subscription.cas.0 != cas);
    }

    pub(super) fn subscribed_mailboxes(&self) -> BTreeSet<&str> {
        self.subscriptions
            .values()
            .map(|subscription| subscription.mailbox.as_str())
            .collect()
    }

    pub(super) fn count(&self, operation: &str) -> usize {
        let counts = self.asked.iter().filter(|((_, label), _)| *label == operation);
        counts.map(|(_, count)| count).sum()
    }

    pub(super) fn asked_at(&self, cas: &str) -> usize {
        let counts = self.asked.iter().filter(|((asked, _), _)| asked.0 == cas);
        counts.map(|(_, count)| count).sum()
    }
}

impl Subscription {
    fn tell(&mut self, id: &str, kind: EventKind) -> Option<Told> {
        let id = SubscriptionId(id.to_owned());
        match self.delivery.clone() {
            Delivery::Push { user, attempt } => Some(Told::Callback {
                user,
                attempt,
                notification: self.notification(&id, kind),
            }),
            Delivery::Stream {
                open: Some((node, stream)),
            } => Some(Told::Stream {
                node,
                stream,
                notification: self.notification(&id, kind),
            }),
            Delivery::Stream { open: None } | Delivery::Pull => {
                self.pending += 1;
                None
            }
        }
    }

    fn notification(&mut self, id: &SubscriptionId, kind: EventKind) -> Notification {
        let is_stream = matches!(self.delivery, Delivery::Stream { .. });
        let mark = |number: u64| (!is_stream).then(|| format!("W{number}"));
        let previous_watermark = mark(self.watermark);
        self.watermark += 1;
        Notification {
            subscription: id.clone(),
            previous_watermark,
            more_events: false,
            events: vec![Event {
                kind,
                watermark: mark(self.watermark),
            }],
        }
    }
}

fn within(items: &[CalendarItem], window: TimeWindow) -> Vec<CalendarItem> {
    let overlaps = |item: &&CalendarItem| item.end > window.from && item.start < window.until;
    items.iter().filter(overlaps).copied().collect()
}

pub(super) fn code(name: &str) -> Failure {
    Failure::Response {
        code: ResponseCode(name.to_owned()),
        message: String::new(),
        back_off: None,
        primary_address: None,
        inner: None,
    }
}

pub(super) fn busy(back_off: Duration) -> Failure {
    Failure::Response {
        code: ResponseCode("ErrorServerBusy".to_owned()),
        message: String::new(),
        back_off: Some(back_off),
        primary_address: None,
        inner: None,
    }
}
