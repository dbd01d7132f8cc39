//! The monitors of this node: one per CTI connection and device, shared by every session that watches the device.

use std::collections::{BTreeMap, BTreeSet};

use tandem_cluster::SessionKey;
use tandem_planted::{Bug, planted};
use thiserror::Error;

use super::{CtiConnectionId, CtiFailure};

/// Which sessions watch which device, and the monitors that this takes. Needs no time: starts are paced by how many
/// are in flight, and the answer to each comes in time or is given up by the link.
#[derive(Debug)]
pub struct Monitors {
    limits: MonitorLimits,
    monitors: BTreeMap<MonitorKey, Monitor>,
    /// A session watches one device.
    subscriptions: BTreeMap<SessionKey, MonitorKey>,
    by_cross_ref: BTreeMap<(CtiConnectionId, String), MonitorKey>,
    starts: BTreeMap<CtiConnectionId, Starts>,
    next_turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorLimits {
    /// MonitorStarts without an answer per connection, so that restarting thousands leaves room for calls.
    pub starts_in_flight_max: usize,
    pub monitors_max: usize,
}

/// A device as the CTI managers name it, at one of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorKey {
    pub connection: CtiConnectionId,
    pub device: String,
}

/// Who goes first when monitors are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MonitorPriority {
    /// A user waits for it: a request came in, or a call is up.
    Traffic,
    Background,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorInput {
    /// A session wants the events of a device. Said again it may raise the priority; said of another device or
    /// connection it ends the session's former subscription.
    Subscribed {
        subscriber: SessionKey,
        key: MonitorKey,
        priority: MonitorPriority,
    },
    Unsubscribed {
        subscriber: SessionKey,
    },
    /// With the CTI manager's monitorCrossRefID.
    StartAnswered {
        key: MonitorKey,
        result: Result<String, CtiFailure>,
    },
    /// However it was answered.
    StopAnswered {
        key: MonitorKey,
    },
    StoppedByCtiManager {
        connection: CtiConnectionId,
        cross_ref_id: String,
    },
    ConnectionLost {
        connection: CtiConnectionId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorOutput {
    /// Send MonitorStart; its answer is awaited.
    Start { key: MonitorKey },
    /// Send MonitorStop; its answer is awaited.
    Stop { key: MonitorKey, cross_ref_id: String },
    /// Events flow.
    Started { subscriber: SessionKey, key: MonitorKey },
    /// Events flow already: what the monitor told before, it told to others.
    Joined { subscriber: SessionKey, key: MonitorKey },
    /// The subscription is over before it began.
    Failed {
        subscriber: SessionKey,
        key: MonitorKey,
        failure: MonitorFailure,
    },
    /// The subscription is over with its connection or monitor: subscribe anew, elsewhere if need be, and take a
    /// snapshot.
    Lost { subscriber: SessionKey, key: MonitorKey },
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MonitorFailure {
    #[error("too many monitors")]
    TooMany,
    #[error("the monitor could not be started")]
    NotStarted(#[source] CtiFailure),
}

#[derive(Debug)]
struct Monitor {
    state: MonitorState,
    subscribers: BTreeSet<SessionKey>,
}

#[derive(Debug, PartialEq, Eq)]
enum MonitorState {
    Queued(Turn),
    /// May have lost its last subscriber: then it is stopped as soon as its id is known.
    Starting,
    Active {
        cross_ref_id: String,
    },
    /// May have got a new subscriber: then it is started anew.
    Stopping {
        cross_ref_id: String,
    },
}

/// Priority first, then first come first served.
type Turn = (MonitorPriority, u64);

/// The MonitorStarts of one connection.
#[derive(Debug, Default)]
struct Starts {
    in_flight: usize,
    queue: BTreeMap<Turn, MonitorKey>,
}

impl Monitors {
    #[must_use]
    pub fn new(limits: MonitorLimits) -> Self {
        Self {
            limits,
            monitors: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            by_cross_ref: BTreeMap::new(),
            starts: BTreeMap::new(),
            next_turn: 0,
        }
    }

    #[must_use]
    pub fn handle(&mut self, input: MonitorInput) -> Vec<MonitorOutput> {
        let mut outputs = Vec::new();
        match input {
            MonitorInput::Subscribed {
                subscriber,
                key,
                priority,
            } => {
                self.subscribe(subscriber, key, priority, &mut outputs);
            }
            MonitorInput::Unsubscribed { subscriber } => self.unsubscribe(&subscriber, &mut outputs),
            MonitorInput::StartAnswered { key, result } => self.start_answered(&key, result, &mut outputs),
            MonitorInput::StopAnswered { key } => self.stop_answered(&key, &mut outputs),
            MonitorInput::StoppedByCtiManager {
                connection,
                cross_ref_id,
            } => {
                self.stopped(connection, cross_ref_id, &mut outputs);
            }
            MonitorInput::ConnectionLost { connection } => self.connection_lost(connection, &mut outputs),
        }
        outputs
    }

    /// The sessions that get the events of this monitor.
    pub fn subscribers(
        &self,
        connection: CtiConnectionId,
        cross_ref_id: &str,
    ) -> impl Iterator<Item = &SessionKey> {
        let key = self.by_cross_ref.get(&(connection, cross_ref_id.to_owned()));
        let monitor = key.and_then(|key| self.monitors.get(key));
        monitor
            .into_iter()
            .filter(|monitor| monitor.is_active())
            .flat_map(|monitor| &monitor.subscribers)
    }

    /// Whether the monitor is ours. One that is not (its MonitorStart was given up) is best stopped.
    #[must_use]
    pub fn knows(&self, connection: CtiConnectionId, cross_ref_id: &str) -> bool {
        self.by_cross_ref
            .contains_key(&(connection, cross_ref_id.to_owned()))
    }

    /// Whether a MonitorStart is unanswered: an id that is not known may be in its answer.
    #[must_use]
    pub fn is_starting_any(&self, connection: CtiConnectionId) -> bool {
        self.starts
            .get(&connection)
            .is_some_and(|starts| starts.in_flight > 0)
    }

    #[must_use]
    pub fn subscription(&self, subscriber: &SessionKey) -> Option<&MonitorKey> {
        self.subscriptions.get(subscriber)
    }

    /// Whether the session's events flow.
    #[must_use]
    pub fn is_active(&self, subscriber: &SessionKey) -> bool {
        let monitor = self
            .subscriptions
            .get(subscriber)
            .and_then(|key| self.monitors.get(key));
        monitor.is_some_and(Monitor::is_active)
    }

    /// How many sessions watch a device.
    #[must_use]
    pub fn subscribers_count(&self) -> usize {
        self.subscriptions.len()
    }

    /// How many monitors run or are about to.
    #[must_use]
    pub fn len(&self) -> usize {
        self.monitors.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.monitors.is_empty()
    }

    fn subscribe(
        &mut self,
        subscriber: SessionKey,
        key: MonitorKey,
        priority: MonitorPriority,
        outputs: &mut Vec<MonitorOutput>,
    ) {
        if self
            .subscriptions
            .get(&subscriber)
            .is_some_and(|present| *present != key)
        {
            self.unsubscribe(&subscriber, outputs);
        }
        if !self.monitors.contains_key(&key) && self.monitors.len() >= self.limits.monitors_max {
            outputs.push(MonitorOutput::Failed {
                subscriber,
                key,
                failure: MonitorFailure::TooMany,
            });
            return;
        }
        self.subscriptions.insert(subscriber.clone(), key.clone());
        match self.monitors.get_mut(&key) {
            Some(monitor) => {
                monitor.subscribers.insert(subscriber.clone());
                if monitor.is_active() {
                    outputs.push(MonitorOutput::Joined { subscriber, key });
                } else {
                    self.raise(&key, priority);
                }
            }
            None => self.enqueue(key, BTreeSet::from([subscriber]), priority, outputs),
        }
    }

    fn unsubscribe(&mut self, subscriber: &SessionKey, outputs: &mut Vec<MonitorOutput>) {
        let Some(key) = self.subscriptions.remove(subscriber) else {
            return;
        };
        let Some(monitor) = self.monitors.get_mut(&key) else {
            return;
        };
        monitor.subscribers.remove(subscriber);
        if monitor.subscribers.is_empty() || planted(Bug::SharedMonitorFreed) {
            self.release(&key, outputs);
        }
    }

    /// The last subscriber has gone.
    fn release(&mut self, key: &MonitorKey, outputs: &mut Vec<MonitorOutput>) {
        let Some(monitor) = self.monitors.get_mut(key) else {
            return;
        };
        match &monitor.state {
            MonitorState::Queued(turn) => {
                self.starts.entry(key.connection).or_default().queue.remove(turn);
                self.monitors.remove(key);
            }
            MonitorState::Active { cross_ref_id } => {
                let cross_ref_id = cross_ref_id.clone();
                monitor.state = MonitorState::Stopping {
                    cross_ref_id: cross_ref_id.clone(),
                };
                outputs.push(MonitorOutput::Stop {
                    key: key.clone(),
                    cross_ref_id,
                });
            }
            MonitorState::Starting | MonitorState::Stopping { .. } => {}
        }
    }

    fn enqueue(
        &mut self,
        key: MonitorKey,
        subscribers: BTreeSet<SessionKey>,
        priority: MonitorPriority,
        outputs: &mut Vec<MonitorOutput>,
    ) {
        let connection = key.connection;
        let turn = (priority, self.next_turn);
        self.next_turn += 1;
        self.starts
            .entry(connection)
            .or_default()
            .queue
            .insert(turn, key.clone());
        self.monitors.insert(
            key,
            Monitor {
                state: MonitorState::Queued(turn),
                subscribers,
            },
        );
        self.start_next(connection, outputs);
    }

    fn raise(&mut self, key: &MonitorKey, priority: MonitorPriority) {
        let Some(monitor) = self.monitors.get_mut(key) else {
            return;
        };
        let MonitorState::Queued(turn) = &mut monitor.state else {
            return;
        };
        if priority < turn.0 {
            let queue = &mut self.starts.entry(key.connection).or_default().queue;
            queue.remove(turn);
            turn.0 = priority;
            queue.insert(*turn, key.clone());
        }
    }

    fn start_next(&mut self, connection: CtiConnectionId, outputs: &mut Vec<MonitorOutput>) {
        let starts = self.starts.entry(connection).or_default();
        while starts.in_flight < self.limits.starts_in_flight_max.max(1) {
            let Some((_, key)) = starts.queue.pop_first() else {
                return;
            };
            starts.in_flight += 1;
            if let Some(monitor) = self.monitors.get_mut(&key) {
                monitor.state = MonitorState::Starting;
            }
            outputs.push(MonitorOutput::Start { key });
        }
    }

    fn start_answered(
        &mut self,
        key: &MonitorKey,
        result: Result<String, CtiFailure>,
        outputs: &mut Vec<MonitorOutput>,
    ) {
        let Some(monitor) = self.monitors.get_mut(key) else {
            return;
        };
        if monitor.state != MonitorState::Starting {
            return;
        }
        match result {
            Ok(cross_ref_id) => {
                self.by_cross_ref
                    .insert((key.connection, cross_ref_id.clone()), key.clone());
                monitor.state = MonitorState::Active { cross_ref_id };
                let started = |subscriber| MonitorOutput::Started {
                    subscriber,
                    key: key.clone(),
                };
                outputs.extend(monitor.subscribers.iter().cloned().map(started));
                if monitor.subscribers.is_empty() {
                    self.release(key, outputs);
                }
            }
            Err(failure) => self.not_started(key, &failure, outputs),
        }
        let starts = self.starts.entry(key.connection).or_default();
        starts.in_flight = starts.in_flight.saturating_sub(1);
        self.start_next(key.connection, outputs);
    }

    fn not_started(&mut self, key: &MonitorKey, failure: &CtiFailure, outputs: &mut Vec<MonitorOutput>) {
        for subscriber in self.remove(key) {
            let key = key.clone();
            // The connection's fault, not the device's: another one may do.
            outputs.push(
                if matches!(failure, CtiFailure::LinkLost | CtiFailure::NotInService) {
                    MonitorOutput::Lost { subscriber, key }
                } else {
                    let failure = MonitorFailure::NotStarted(failure.clone());
                    MonitorOutput::Failed {
                        subscriber,
                        key,
                        failure,
                    }
                },
            );
        }
    }

    fn stop_answered(&mut self, key: &MonitorKey, outputs: &mut Vec<MonitorOutput>) {
        let Some(Monitor {
            state: MonitorState::Stopping { .. },
            ..
        }) = self.monitors.get(key)
        else {
            return;
        };
        let Some(monitor) = self.take(key) else { return };
        if !monitor.subscribers.is_empty() {
            self.enqueue(
                key.clone(),
                monitor.subscribers,
                MonitorPriority::Traffic,
                outputs,
            );
        }
    }

    fn stopped(
        &mut self,
        connection: CtiConnectionId,
        cross_ref_id: String,
        outputs: &mut Vec<MonitorOutput>,
    ) {
        let Some(key) = self.by_cross_ref.get(&(connection, cross_ref_id)).cloned() else {
            return;
        };
        let subscribers = self.remove(&key);
        outputs.extend(subscribers.into_iter().map(|subscriber| MonitorOutput::Lost {
            subscriber,
            key: key.clone(),
        }));
    }

    fn connection_lost(&mut self, connection: CtiConnectionId, outputs: &mut Vec<MonitorOutput>) {
        self.starts.remove(&connection);
        let first = MonitorKey {
            connection,
            device: String::new(),
        };
        let keys = self.monitors.range(first..).map(|(key, _)| key);
        let keys: Vec<MonitorKey> = keys
            .take_while(|key| key.connection == connection)
            .cloned()
            .collect();
        for key in keys {
            let lost = |subscriber| MonitorOutput::Lost {
                subscriber,
                key: key.clone(),
            };
            outputs.extend(self.remove(&key).into_iter().map(lost));
        }
    }

    /// Forgets a monitor and the subscriptions to it.
    fn remove(&mut self, key: &MonitorKey) -> BTreeSet<SessionKey> {
        let subscribers = self
            .take(key)
            .map(|monitor| monitor.subscribers)
            .unwrap_or_default();
        subscribers.iter().for_each(|subscriber| {
            self.subscriptions.remove(subscriber);
        });
        subscribers
    }

    /// Forgets a monitor, but not the subscriptions to it.
    fn take(&mut self, key: &MonitorKey) -> Option<Monitor> {
        let monitor = self.monitors.remove(key)?;
        if let MonitorState::Active { cross_ref_id } | MonitorState::Stopping { cross_ref_id } =
            &monitor.state
        {
            self.by_cross_ref.remove(&(key.connection, cross_ref_id.clone()));
        }
        Some(monitor)
    }
}

impl Monitor {
    fn is_active(&self) -> bool {
        matches!(self.state, MonitorState::Active { .. })
    }
}
