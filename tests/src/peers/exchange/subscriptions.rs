//! The subscriptions of one Client Access Server: push, streaming and pull, each with its own way to be lost.
//!
//! Pure: what is to be said is an [`Output`], time is an argument. A subscription hears of its mailbox as long as
//! the mailbox lives where the subscription was made; after a move it is deaf, and nobody is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::mail_store::{Change, EventKind};
use super::request::Wanted;

pub use super::notification::{CallbackAnswer, Event, Notification, Output, StreamNumber, Timing};

/// For judges: one that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    pub subscription: String,
    pub mailbox: String,
    pub kind: Kind,
    /// A stream is open for it, or its last callback was answered.
    pub is_heard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Push,
    Streaming,
    Pull,
}

#[derive(Debug)]
struct Subscription {
    mailbox: String,
    /// The mailbox server that it lives on.
    host: String,
    events: BTreeSet<EventKind>,
    delivery: Delivery,
    waiting: Vec<Event>,
    /// The newest watermark that was delivered.
    watermark: u64,
    due: Option<Instant>,
}

#[derive(Debug)]
enum Delivery {
    Push(Push),
    Streaming(Option<StreamNumber>),
    Pull { timeout: Duration },
}

#[derive(Debug)]
struct Push {
    url: String,
    status_frequency: Duration,
    /// On its way; nothing else goes out meanwhile, so that the order is kept.
    calling: Option<Vec<Event>>,
    failing_since: Option<Instant>,
    retry: Duration,
    has_been_answered: bool,
}

#[derive(Debug)]
struct Stream {
    subscriptions: Vec<String>,
    heartbeat_at: Instant,
    ends_at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Subscription(String),
    Stream(StreamNumber),
}

/// Everything that one server knows of subscriptions; a restart forgets all of it.
#[derive(Debug)]
pub struct SubscriptionTable {
    name: String,
    timing: Timing,
    subscriptions: BTreeMap<String, Subscription>,
    by_mailbox: BTreeMap<String, BTreeSet<String>>,
    streams: BTreeMap<StreamNumber, Stream>,
    deadlines: BTreeSet<(Instant, Due)>,
    last_id: u64,
    outputs: Vec<Output>,
    /// Push subscriptions that were dropped because nobody answered.
    given_up: usize,
}

impl SubscriptionTable {
    /// `boots`: how often the server was started before; no id comes twice.
    #[must_use]
    pub fn new(name: &str, timing: Timing, boots: u64) -> Self {
        Self {
            name: name.to_owned(),
            timing,
            subscriptions: BTreeMap::new(),
            by_mailbox: BTreeMap::new(),
            streams: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            last_id: boots << 32,
            outputs: Vec::new(),
            given_up: 0,
        }
    }

    /// Takes a subscription; its id.
    pub fn subscribe(
        &mut self,
        mailbox: &str,
        host: &str,
        wanted: &Wanted,
        events: BTreeSet<EventKind>,
        watermark: u64,
        now: Instant,
    ) -> String {
        self.last_id += 1;
        let id = format!("{}-{}-{:08x}", self.name, host, self.last_id);
        let delivery = self.delivery(wanted);
        let due = match &delivery {
            Delivery::Push(_) => now + self.timing.first_call,
            Delivery::Streaming(_) => now + self.timing.idle_expiry,
            Delivery::Pull { timeout } => now + *timeout,
        };
        let subscription = Subscription {
            mailbox: mailbox.to_owned(),
            host: host.to_owned(),
            events,
            delivery,
            waiting: Vec::new(),
            watermark,
            due: None,
        };
        self.subscriptions.insert(id.clone(), subscription);
        self.by_mailbox
            .entry(mailbox.to_owned())
            .or_default()
            .insert(id.clone());
        self.wake(&id, Some(due));
        id
    }

    /// A calendar has changed. `host` is where the mailbox lives now.
    pub fn changed(&mut self, change: &Change, host: &str) {
        let ids = self.by_mailbox.get(&change.mailbox).cloned().unwrap_or_default();
        for id in ids {
            let Some(subscription) = self.subscriptions.get_mut(&id) else {
                continue;
            };
            if subscription.host != host || !subscription.events.contains(&change.kind) {
                continue;
            }
            subscription.waiting.push(Event {
                kind: change.kind,
                item: change.item,
                change_key: change.change_key,
                number: change.number,
                at_ms: change.at_ms,
            });
            self.deliver(&id);
        }
    }

    /// What a client has acknowledged is forgotten, the rest is told.
    pub fn get_events(
        &mut self,
        id: &str,
        watermark: &str,
        now: Instant,
    ) -> Result<Notification, &'static str> {
        let subscription = self
            .subscriptions
            .get_mut(id)
            .ok_or("ErrorSubscriptionNotFound")?;
        let Delivery::Pull { timeout } = &subscription.delivery else {
            return Err("ErrorInvalidPullSubscriptionId");
        };
        let due = now + *timeout;
        let seen = read_watermark(watermark).ok_or("ErrorInvalidWatermark")?;
        subscription.waiting.retain(|event| event.number > seen);
        let notification = Notification {
            subscription: id.to_owned(),
            previous: Some(seen),
            more: false,
            events: subscription.waiting.clone(),
        };
        self.wake(id, Some(due));
        Ok(notification)
    }

    /// Opens a stream, or names the ids that are not good here. `host`: the mailbox server that it reaches.
    pub fn open_stream(
        &mut self,
        ids: &[String],
        host: Option<&str>,
        minutes: u32,
        now: Instant,
    ) -> Result<StreamNumber, Vec<String>> {
        let bad: Vec<_> = ids.iter().filter(|id| !self.is_good(id, host)).cloned().collect();
        if !bad.is_empty() {
            return Err(bad);
        }
        self.supersede(ids, now);
        self.last_id += 1;
        let number = StreamNumber(self.last_id);
        let stream = Stream {
            subscriptions: ids.to_vec(),
            heartbeat_at: now + self.timing.heartbeat,
            ends_at: now + self.timing.minute * minutes,
        };
        self.deadlines
            .insert((stream.heartbeat_at.min(stream.ends_at), Due::Stream(number)));
        self.streams.insert(number, stream);
        for id in ids {
            if let Some(subscription) = self.subscriptions.get_mut(id) {
                subscription.delivery = Delivery::Streaming(Some(number));
            }
            self.wake(id, None);
            self.deliver(id);
        }
        Ok(number)
    }

    /// The client has closed the connection.
    pub fn stream_lost(&mut self, number: StreamNumber, now: Instant) {
        let Some(stream) = self.streams.remove(&number) else {
            return;
        };
        self.deadlines.retain(|(_, due)| *due != Due::Stream(number));
        for id in stream.subscriptions {
            let expires = now + self.timing.idle_expiry;
            let released = self.subscriptions.get_mut(&id).is_some_and(|subscription| {
                let is_its_own =
                    matches!(subscription.delivery, Delivery::Streaming(Some(own)) if own == number);
                if is_its_own {
                    subscription.delivery = Delivery::Streaming(None);
                }
                is_its_own
            });
            if released {
                self.wake(&id, Some(expires));
            }
        }
    }

    /// Ends a pull or streaming subscription.
    pub fn unsubscribe(&mut self, id: &str) -> Result<(), &'static str> {
        let subscription = self.subscriptions.get(id).ok_or("ErrorSubscriptionNotFound")?;
        if matches!(subscription.delivery, Delivery::Push(_)) {
            return Err("ErrorInvalidPullSubscriptionId");
        }
        self.remove(id);
        Ok(())
    }

    /// What came of an [`Output::Call`].
    pub fn callback_answered(&mut self, id: &str, answer: &CallbackAnswer, now: Instant) {
        let first_retry = self.timing.first_retry;
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        let Delivery::Push(push) = &mut subscription.delivery else {
            return;
        };
        let Some(told) = push.calling.take() else {
            return;
        };
        match answer {
            CallbackAnswer::Ok => {
                push.failing_since = None;
                push.retry = first_retry;
                push.has_been_answered = true;
                let next = now + push.status_frequency;
                if let Some(last) = told.last() {
                    subscription.watermark = last.number;
                }
                self.wake(id, Some(next));
                self.deliver(id);
            }
            CallbackAnswer::Unsubscribe => self.remove(id),
            CallbackAnswer::Failed(_) => self.callback_failed(id, told, now),
        }
    }

    /// Ends a subscription without a word, as servers do.
    pub fn lose(&mut self, id: &str) {
        self.remove(id);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        while let Some((at, due)) = self.deadlines.first().cloned() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            match due {
                Due::Subscription(id) => self.subscription_due(&id),
                Due::Stream(number) => self.stream_due(number, now),
            }
        }
    }

    #[must_use]
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Every subscription that lives.
    pub fn active(&self) -> impl Iterator<Item = Active> + '_ {
        self.subscriptions.iter().map(|(id, subscription)| {
            let (kind, is_heard) = match &subscription.delivery {
                Delivery::Push(push) => (Kind::Push, push.has_been_answered && push.failing_since.is_none()),
                Delivery::Streaming(stream) => (Kind::Streaming, stream.is_some()),
                Delivery::Pull { .. } => (Kind::Pull, true),
            };
            Active {
                subscription: id.clone(),
                mailbox: subscription.mailbox.clone(),
                kind,
                is_heard,
            }
        })
    }

    /// Open streams and the subscriptions of each.
    #[must_use]
    pub fn streams(&self) -> Vec<usize> {
        self.streams
            .values()
            .map(|stream| stream.subscriptions.len())
            .collect()
    }

    #[must_use]
    pub fn given_up(&self) -> usize {
        self.given_up
    }

    fn delivery(&self, wanted: &Wanted) -> Delivery {
        match wanted {
            Wanted::Push {
                status_frequency_minutes,
                url,
            } => Delivery::Push(Push {
                url: url.clone(),
                status_frequency: self.timing.minute * *status_frequency_minutes,
                calling: None,
                failing_since: None,
                retry: self.timing.first_retry,
                has_been_answered: false,
            }),
            Wanted::Streaming => Delivery::Streaming(None),
            Wanted::Pull { timeout_minutes } => Delivery::Pull {
                timeout: self.timing.minute * *timeout_minutes,
            },
        }
    }

    fn is_good(&self, id: &str, host: Option<&str>) -> bool {
        self.subscriptions.get(id).is_some_and(|subscription| {
            matches!(subscription.delivery, Delivery::Streaming(_))
                && host.is_none_or(|host| host == subscription.host)
        })
    }

    /// Streams that hold one of these ids end; their other ids wait for the next stream.
    fn supersede(&mut self, ids: &[String], now: Instant) {
        let old: BTreeSet<_> = ids.iter().filter_map(|id| self.stream_of(id)).collect();
        for number in old {
            let stream = self.streams.get(&number);
            let taken = stream.map_or(&[][..], |stream| &stream.subscriptions);
            let subscriptions = taken.iter().filter(|id| ids.contains(id)).cloned().collect();
            self.outputs.push(Output::Supersede {
                stream: number,
                subscriptions,
            });
            self.stream_lost(number, now);
        }
    }

    fn stream_of(&self, id: &str) -> Option<StreamNumber> {
        match self.subscriptions.get(id)?.delivery {
            Delivery::Streaming(stream) => stream,
            Delivery::Push(_) | Delivery::Pull { .. } => None,
        }
    }

    /// Sends what waits, where that is possible now.
    fn deliver(&mut self, id: &str) {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        if subscription.waiting.is_empty() {
            return;
        }
        match &subscription.delivery {
            Delivery::Push(push) => {
                if push.calling.is_none() && push.failing_since.is_none() {
                    self.call(id);
                }
            }
            Delivery::Streaming(Some(stream)) => {
                let notification = Notification {
                    subscription: id.to_owned(),
                    previous: None,
                    more: false,
                    events: std::mem::take(&mut subscription.waiting),
                };
                let stream = *stream;
                self.outputs.push(Output::Say {
                    stream,
                    notifications: vec![notification],
                });
            }
            Delivery::Streaming(None) | Delivery::Pull { .. } => {}
        }
    }

    fn call(&mut self, id: &str) {
        self.wake(id, None);
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        let Delivery::Push(push) = &mut subscription.delivery else {
            return;
        };
        let told: Vec<_> = subscription
            .waiting
            .drain(..subscription.waiting.len().min(EVENTS_MAX))
            .collect();
        let notification = Notification {
            subscription: id.to_owned(),
            previous: Some(subscription.watermark),
            more: !subscription.waiting.is_empty(),
            events: told.clone(),
        };
        push.calling = Some(told);
        self.outputs.push(Output::Call {
            url: push.url.clone(),
            notification,
        });
    }

    /// Again after 30 s, 60 s, 120 s … until StatusFrequency is over; then it is dropped.
    fn callback_failed(&mut self, id: &str, told: Vec<Event>, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        let Delivery::Push(push) = &mut subscription.delivery else {
            return;
        };
        let since = *push.failing_since.get_or_insert(now);
        let next = now + push.retry;
        push.retry *= 2;
        if next.duration_since(since) > push.status_frequency {
            self.given_up += 1;
            return self.remove(id);
        }
        subscription.waiting.splice(0..0, told);
        self.wake(id, Some(next));
    }

    fn subscription_due(&mut self, id: &str) {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        subscription.due = None;
        match &subscription.delivery {
            Delivery::Push(_) => self.call(id),
            Delivery::Streaming(_) | Delivery::Pull { .. } => self.remove(id),
        }
    }

    fn stream_due(&mut self, number: StreamNumber, now: Instant) {
        let heartbeat = self.timing.heartbeat;
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        if stream.ends_at <= now {
            self.outputs.push(Output::Close { stream: number });
            return self.stream_lost(number, now);
        }
        stream.heartbeat_at = now + heartbeat;
        let next = stream.heartbeat_at.min(stream.ends_at);
        let notifications = stream.subscriptions.iter().map(|id| Notification {
            subscription: id.clone(),
            previous: None,
            more: false,
            events: Vec::new(),
        });
        let notifications = notifications.collect();
        self.outputs.push(Output::Say {
            stream: number,
            notifications,
        });
        self.deadlines.insert((next, Due::Stream(number)));
    }

    fn wake(&mut self, id: &str, at: Option<Instant>) {
        let Some(subscription) = self.subscriptions.get_mut(id) else {
            return;
        };
        if let Some(old) = subscription.due {
            self.deadlines.remove(&(old, Due::Subscription(id.to_owned())));
        }
        subscription.due = at;
        if let Some(at) = at {
            self.deadlines.insert((at, Due::Subscription(id.to_owned())));
        }
    }

    fn remove(&mut self, id: &str) {
        self.wake(id, None);
        if let Some(subscription) = self.subscriptions.remove(id)
            && let Some(ids) = self.by_mailbox.get_mut(&subscription.mailbox)
        {
            ids.remove(id);
        }
    }
}

/// Opaque to clients.
#[must_use]
pub fn write_watermark(number: u64) -> String {
    format!("AQAAAB{number:016X}AAAA")
}

fn read_watermark(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("AQAAAB")?.strip_suffix("AAAA")?;
    u64::from_str_radix(digits, 16).ok()
}

/// In one notification.
const EVENTS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::super::mail_store::ItemId;
    use super::*;

    const ANA: &str = "ana@lab.test";
    const HOST: &str = "mbx1";

    struct Lab {
        table: SubscriptionTable,
        start: Instant,
        changes: u64,
    }

    impl Lab {
        fn new() -> Self {
            Self {
                table: SubscriptionTable::new("cas1", Timing::default(), 0),
                start: Instant::now(),
                changes: 100,
            }
        }

        fn at(&self, secs: u64) -> Instant {
            self.start + Duration::from_secs(secs)
        }

        fn subscribe(&mut self, wanted: &Wanted) -> String {
            let events = [EventKind::Created].into();
            self.table.subscribe(ANA, HOST, wanted, events, 100, self.start)
        }

        fn push(&mut self) -> String {
            self.subscribe(&Wanted::Push {
                status_frequency_minutes: 5,
                url: "http://127.0.0.1:1/".to_owned(),
            })
        }

        fn change(&mut self, kind: EventKind, host: &str) {
            self.changes += 1;
            let change = Change {
                mailbox: ANA.to_owned(),
                kind,
                item: ItemId(1),
                change_key: 1,
                number: self.changes,
                at_ms: 0,
            };
            self.table.changed(&change, host);
        }

        /// Number of events in each notification that goes out until then.
        fn told(&mut self, secs: u64) -> Vec<usize> {
            self.table.tick(self.at(secs));
            let outputs = self.table.take_outputs().into_iter();
            outputs
                .flat_map(|output| match output {
                    Output::Call { notification, .. } => vec![notification.events.len()],
                    Output::Say { notifications, .. } => notifications
                        .iter()
                        .map(|notification| notification.events.len())
                        .collect(),
                    Output::Close { .. } | Output::Supersede { .. } => vec![999],
                })
                .collect()
        }
    }

    #[test]
    fn push_calls_at_once_then_on_events_then_when_status_is_due() {
        let mut lab = Lab::new();
        let id = lab.push();
        assert_eq!(lab.told(1), [0]);
        lab.table.callback_answered(&id, &CallbackAnswer::Ok, lab.at(1));
        lab.change(EventKind::Created, HOST);
        lab.change(EventKind::Created, HOST);
        lab.change(EventKind::Moved, HOST);
        assert_eq!(
            lab.told(11),
            [1],
            "one call at a time, and only what was asked for"
        );
        lab.table.callback_answered(&id, &CallbackAnswer::Ok, lab.at(11));
        assert_eq!(lab.told(11), [1]);
        lab.table.callback_answered(&id, &CallbackAnswer::Ok, lab.at(11));
        assert_eq!(lab.told(310), [0; 0]);
        assert_eq!(lab.told(311), [0]);
    }

    #[test]
    fn a_callback_that_fails_is_tried_again_at_doubling_distance_and_then_given_up() {
        let mut lab = Lab::new();
        let id = lab.push();
        let mut calls = Vec::new();
        for secs in 0..1000 {
            if !lab.told(secs).is_empty() {
                calls.push(secs);
                let failed = CallbackAnswer::Failed("refused".to_owned());
                lab.table.callback_answered(&id, &failed, lab.at(secs));
            }
        }
        // The first at 1 s, then 30, 60, 120 s later; 240 s would be beyond the five minutes.
        assert_eq!(calls, [1, 31, 91, 211]);
        assert_eq!((lab.table.active().count(), lab.table.given_up()), (0, 1));
    }

    #[test]
    fn an_event_during_a_failure_waits_for_the_retry_and_is_not_lost() {
        let mut lab = Lab::new();
        let id = lab.push();
        assert_eq!(lab.told(1), [0]);
        lab.table
            .callback_answered(&id, &CallbackAnswer::Failed(String::new()), lab.at(1));
        lab.change(EventKind::Created, HOST);
        assert_eq!(lab.told(30), [0; 0]);
        assert_eq!(lab.told(31), [1]);
    }

    #[test]
    fn unsubscribe_ends_push_by_the_answer_and_never_by_the_operation() {
        let mut lab = Lab::new();
        let id = lab.push();
        assert_eq!(lab.table.unsubscribe(&id), Err("ErrorInvalidPullSubscriptionId"));
        assert_eq!(lab.told(1), [0]);
        lab.table
            .callback_answered(&id, &CallbackAnswer::Unsubscribe, lab.at(1));
        assert_eq!(lab.table.active().count(), 0);
    }

    #[test]
    fn after_a_move_of_the_mailbox_a_subscription_is_deaf_but_goes_on_saying_that_it_lives() {
        let mut lab = Lab::new();
        let id = lab.subscribe(&Wanted::Streaming);
        lab.table.open_stream(&[id], Some(HOST), 30, lab.start).unwrap();
        lab.change(EventKind::Created, "mbx2");
        assert_eq!(lab.told(44), [0; 0]);
        assert_eq!(lab.told(45), [0]);
    }

    #[test]
    fn a_stream_tells_what_waited_beats_and_ends_in_time() {
        let mut lab = Lab::new();
        let id = lab.subscribe(&Wanted::Streaming);
        lab.change(EventKind::Created, HOST);
        assert_eq!(lab.told(1), [0; 0]);
        lab.table
            .open_stream(std::slice::from_ref(&id), None, 1, lab.at(2))
            .unwrap();
        assert_eq!(lab.told(2), [1]);
        assert_eq!(lab.told(47), [0]);
        assert_eq!(lab.told(62), [999]);
        assert_eq!(lab.table.active().count(), 1, "it outlives its connection");
        assert_eq!(lab.told(62 + 300), [0; 0]);
        assert_eq!(lab.table.active().count(), 0, "but not for ever");
    }

    #[test]
    fn a_second_stream_ends_the_first() {
        let mut lab = Lab::new();
        let (one, two) = (
            lab.subscribe(&Wanted::Streaming),
            lab.subscribe(&Wanted::Streaming),
        );
        let first = lab
            .table
            .open_stream(&[one.clone(), two], None, 30, lab.start)
            .unwrap();
        lab.table
            .open_stream(std::slice::from_ref(&one), None, 30, lab.start)
            .unwrap();
        let superseded = Output::Supersede {
            stream: first,
            subscriptions: vec![one],
        };
        assert_eq!(lab.table.take_outputs(), [superseded]);
        assert_eq!(lab.table.streams(), [1]);
    }

    #[test]
    fn a_stream_with_one_bad_id_names_it_and_is_not_opened() {
        let mut lab = Lab::new();
        let (good, push) = (lab.subscribe(&Wanted::Streaming), lab.push());
        let ids = [good, push.clone(), "nobody's".to_owned()];
        let bad = lab.table.open_stream(&ids, None, 30, lab.start).unwrap_err();
        assert_eq!(bad, [push, "nobody's".to_owned()]);
    }

    #[test]
    fn pull_tells_again_what_was_not_acknowledged() {
        let mut lab = Lab::new();
        let id = lab.subscribe(&Wanted::Pull { timeout_minutes: 1 });
        lab.change(EventKind::Created, HOST);
        let mut get = |watermark: &str| {
            let now = lab.start;
            lab.table
                .get_events(&id, watermark, now)
                .map(|told| told.events.len())
        };
        assert_eq!(get(&write_watermark(100)), Ok(1));
        assert_eq!(get(&write_watermark(100)), Ok(1));
        assert_eq!(get(&write_watermark(101)), Ok(0));
        assert_eq!(get("guess"), Err("ErrorInvalidWatermark"));
        lab.table.tick(lab.at(60));
        assert_eq!(
            lab.table.get_events(&id, &write_watermark(101), lab.start),
            Err("ErrorSubscriptionNotFound")
        );
    }
}
