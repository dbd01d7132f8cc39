//! The CTI managers as this node's sessions use them: a place at one of them, answers, and events.
//!
//! Owns the CTI connections and whose turn it is to get a session, the requests that are under way, and the monitors,
//! which the sessions of one line share. Does not own sessions, which it knows as keys: it says what there is to tell
//! them ([`News`], [`Notice`]), and the gateway tells them.
//!
//! What always holds: a request is handed to its connection in the step that asks for it; an answer is told to whoever
//! asked, once; a monitor that nobody watches is stopped. News is read one at a time, because what a session makes of
//! one may change what the next one means.

mod requests;
mod rotation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use tandem_cluster::SessionKey;

use crate::csta::{Event, MonitorRequest, Request, Response};
use crate::cti::monitor::MonitorFailure;
use crate::cti::{
    ConnectionStatus, Connections, CtiConnectionId, CtiFailure, CtiInput, CtiOutput, CtiSettings, CtiTimings,
    LinkFailure, MonitorInput, MonitorKey, MonitorLimits, MonitorOutput, MonitorPriority, Monitors,
    RequestToken,
};

use super::{Output, Report};

use requests::{Asked, Asker, Requests};
pub(super) use requests::{CtiPurpose, CtiWaiter};
use rotation::Rotation;

#[derive(Debug)]
pub(super) struct Monitoring {
    connections: Connections,
    rotation: Rotation,
    requests: Requests,
    monitors: Monitors,
    /// Monitors that are being stopped though they were never ours: their MonitorStart was given up, and carried
    /// out all the same.
    strays: BTreeSet<(CtiConnectionId, String)>,
    /// Of this step; read before it ends.
    said: VecDeque<Said>,
    /// As `said`.
    notices: VecDeque<MonitorOutput>,
}

/// What a CTI manager has said, or what has become of the way to it.
#[derive(Debug)]
enum Said {
    Answered {
        token: RequestToken,
        result: Result<Response, CtiFailure>,
    },
    Event {
        connection: CtiConnectionId,
        event: Box<Event>,
    },
    MonitorStopped {
        connection: CtiConnectionId,
        cross_ref_id: String,
    },
    InService {
        connection: CtiConnectionId,
    },
    OutOfService {
        connection: CtiConnectionId,
        reason: LinkFailure,
    },
}

/// What there is to tell sessions.
#[derive(Debug, PartialEq)]
pub(super) enum News {
    /// What a session has asked for is answered.
    Answered {
        token: RequestToken,
        waiter: CtiWaiter,
        result: Result<Response, CtiFailure>,
    },
    /// In the PBX's terms, for the sessions that watch the device.
    Event {
        event: Box<Event>,
        subscribers: Vec<SessionKey>,
    },
    /// No session watches the monitor, which is stopped.
    EventOfUnknownMonitor,
    /// Of monitors: [`Monitoring::next_notice`] tells.
    Notices,
    InService {
        connection: CtiConnectionId,
    },
    /// The monitors of the connection are gone; its sessions are told nothing else of it.
    OutOfService {
        connection: CtiConnectionId,
        reason: LinkFailure,
    },
}

/// What has become of the monitor that a session has asked for.
#[derive(Debug, PartialEq)]
pub(super) enum Notice {
    /// Events flow.
    Started { subscriber: SessionKey },
    /// Events flow already: what the monitor told before, it told to others.
    Joined { subscriber: SessionKey },
    /// There is none.
    Failed {
        subscriber: SessionKey,
        connection: CtiConnectionId,
        failure: MonitorFailure,
    },
    /// It is gone, or its connection is.
    Lost {
        subscriber: SessionKey,
        connection: CtiConnectionId,
    },
}

impl Monitoring {
    pub(super) fn new(settings: CtiSettings, limits: MonitorLimits) -> Self {
        Self {
            rotation: Rotation::new(settings.connections.len()),
            connections: Connections::new(settings),
            requests: Requests::default(),
            monitors: Monitors::new(limits),
            strays: BTreeSet::new(),
            said: VecDeque::new(),
            notices: VecDeque::new(),
        }
    }

    /// Takes in what happened to the links, and returns what to do with them.
    pub(super) fn take_in(&mut self, input: CtiInput, now: Instant) -> Vec<Output> {
        let outputs = self.connections.handle(input, now);
        self.sort_out(outputs)
    }

    /// As [`Self::take_in`], if a deadline of the links has come.
    pub(super) fn deadline_reached(&mut self, now: Instant) -> Vec<Output> {
        match self.next_deadline() {
            Some(at) if at <= now => self.take_in(CtiInput::DeadlineReached, now),
            Some(_) | None => Vec::new(),
        }
    }

    /// The links end, and nobody is told of requests that are still under way.
    pub(super) fn stop(&mut self, now: Instant) -> Vec<Output> {
        let mut outputs = self.take_in(CtiInput::DrainStarted, now);
        for said in self.said.drain(..) {
            if let Said::OutOfService { connection, reason } = said {
                outputs.push(Output::Report(Report::CtiOutOfService { connection, reason }));
            }
        }
        outputs
    }

    /// Hands what was asked for to its connections.
    pub(super) fn hand_over_requests(&mut self, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(asked) = self.requests.next_asked() {
            let Asked {
                connection,
                token,
                request,
            } = asked;
            let submitted = self.connections.submit(connection, token, request, now);
            outputs.extend(self.sort_out(submitted));
        }
        outputs
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.connections.next_deadline()
    }

    pub(super) fn change_timings(&mut self, timings: CtiTimings) {
        self.connections.change_timings(timings);
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = ConnectionStatus<'_>> {
        self.connections.statuses()
    }

    /// The connection whose turn it is to get a session. `None`: no one is in service.
    pub(super) fn next_in_service(&mut self) -> Option<CtiConnectionId> {
        self.rotation.next_in_service()
    }

    pub(super) fn is_in_service(&self, connection: CtiConnectionId) -> bool {
        self.rotation.is_in_service(connection)
    }

    /// Asks the CTI manager for something. [`News::Answered`] follows, unless the session gives the request up.
    pub(super) fn ask(&mut self, waiter: CtiWaiter, request: Request) -> RequestToken {
        self.requests
            .ask(waiter.connection, Asker::Session(waiter), request)
    }

    /// Nobody is told of the answer any more. `false`: somebody was.
    pub(super) fn give_up(&mut self, token: RequestToken) -> bool {
        self.requests.finished(token).is_some()
    }

    /// Asks for the monitor of a device. Said again it may raise the priority. What comes of it is a [`Notice`],
    /// perhaps at once.
    pub(super) fn watch(&mut self, subscriber: &SessionKey, key: MonitorKey, priority: MonitorPriority) {
        let subscriber = subscriber.clone();
        self.tell_monitors(MonitorInput::Subscribed {
            subscriber,
            key,
            priority,
        });
    }

    /// The last one who watches a device has its monitor stopped.
    pub(super) fn unwatch(&mut self, subscriber: &SessionKey) {
        let subscriber = subscriber.clone();
        let outputs = self.monitors.handle(MonitorInput::Unsubscribed { subscriber });
        for output in outputs {
            // Nobody else hears of it.
            if let MonitorOutput::Stop { key, cross_ref_id } = output {
                self.ask_monitor_stop(key, cross_ref_id);
            }
        }
    }

    /// What there is to tell sessions next; [`News::Notices`] is to be read before more is asked for.
    pub(super) fn next_news(&mut self) -> Option<News> {
        while let Some(said) = self.said.pop_front() {
            let news = match said {
                Said::Answered { token, result } => self.answered(token, result),
                Said::Event { connection, event } => Some(self.event(connection, event)),
                Said::MonitorStopped {
                    connection,
                    cross_ref_id,
                } => Some(self.monitor_stopped(connection, cross_ref_id)),
                Said::InService { connection } => {
                    self.rotation.set(connection, true);
                    Some(News::InService { connection })
                }
                Said::OutOfService { connection, reason } => {
                    self.rotation.set(connection, false);
                    self.forget_monitors_of(connection);
                    Some(News::OutOfService { connection, reason })
                }
            };
            if news.is_some() {
                return news;
            }
        }
        None
    }

    /// What there is to tell sessions of their monitors next. To be read after everything that may have changed one.
    pub(super) fn next_notice(&mut self) -> Option<Notice> {
        loop {
            match self.notices.pop_front()? {
                MonitorOutput::Start { key } => self.ask_monitor_start(key),
                MonitorOutput::Stop { key, cross_ref_id } => self.ask_monitor_stop(key, cross_ref_id),
                MonitorOutput::Started { subscriber, .. } => return Some(Notice::Started { subscriber }),
                MonitorOutput::Joined { subscriber, .. } => return Some(Notice::Joined { subscriber }),
                MonitorOutput::Failed {
                    subscriber,
                    key,
                    failure,
                } => {
                    return Some(Notice::Failed {
                        subscriber,
                        connection: key.connection,
                        failure,
                    });
                }
                MonitorOutput::Lost { subscriber, key } => {
                    let connection = key.connection;
                    return Some(Notice::Lost {
                        subscriber,
                        connection,
                    });
                }
            }
        }
    }

    pub(super) fn monitors(&self) -> &Monitors {
        &self.monitors
    }

    /// # Panics
    /// When something of this step is left lying.
    pub(super) fn check_invariants(&self) {
        assert!(
            self.requests.are_handed_over() && self.said.is_empty() && self.notices.is_empty(),
            "something for or of a CTI manager is left lying"
        );
    }

    /// What concerns a link goes out; the rest waits for its turn in this step.
    fn sort_out(&mut self, outputs: Vec<CtiOutput>) -> Vec<Output> {
        let mut for_links = Vec::new();
        for output in outputs {
            let said = match output {
                CtiOutput::Connect { link } => {
                    let address = self.connections.address(link.connection).map(ToOwned::to_owned);
                    for_links.extend(address.map(|address| Output::ConnectLink { link, address }));
                    continue;
                }
                CtiOutput::Write { link, bytes } => {
                    for_links.push(Output::WriteLink { link, bytes });
                    continue;
                }
                CtiOutput::Close { link } => {
                    for_links.push(Output::CloseLink { link });
                    continue;
                }
                CtiOutput::Answered { token, result } => Said::Answered { token, result },
                CtiOutput::Event { connection, event } => {
                    let event = Box::new(event);
                    Said::Event { connection, event }
                }
                CtiOutput::MonitorStopped {
                    connection,
                    cross_ref_id,
                } => Said::MonitorStopped {
                    connection,
                    cross_ref_id,
                },
                CtiOutput::ConnectionUp { connection } => Said::InService { connection },
                CtiOutput::ConnectionDown { connection, reason } => Said::OutOfService { connection, reason },
            };
            self.said.push_back(said);
        }
        for_links
    }

    /// What comes of it is read before what is still to be read: a session that is told of one monitor may ask for
    /// another, and hears of that first.
    fn tell_monitors(&mut self, input: MonitorInput) {
        for output in self.monitors.handle(input).into_iter().rev() {
            self.notices.push_front(output);
        }
    }

    fn ask_monitor_start(&mut self, key: MonitorKey) {
        let (connection, device) = (key.connection, key.device.clone());
        let start = Request::Monitor(MonitorRequest::Start { device });
        self.requests.ask(connection, Asker::MonitorStart(key), start);
    }

    fn ask_monitor_stop(&mut self, key: MonitorKey, cross_ref_id: String) {
        let connection = key.connection;
        let stop = Request::Monitor(MonitorRequest::Stop { cross_ref_id });
        self.requests.ask(connection, Asker::MonitorStop(key), stop);
    }

    fn answered(&mut self, token: RequestToken, result: Result<Response, CtiFailure>) -> Option<News> {
        match self.requests.finished(token)? {
            Asker::Session(waiter) => Some(News::Answered {
                token,
                waiter,
                result,
            }),
            Asker::MonitorStart(key) => {
                let result = result.and_then(cross_ref_id_of);
                self.tell_monitors(MonitorInput::StartAnswered { key, result });
                Some(News::Notices)
            }
            Asker::MonitorStop(key) => {
                self.tell_monitors(MonitorInput::StopAnswered { key });
                Some(News::Notices)
            }
            Asker::StrayStop {
                connection,
                cross_ref_id,
            } => {
                self.strays.remove(&(connection, cross_ref_id));
                None
            }
        }
    }

    fn event(&mut self, connection: CtiConnectionId, event: Box<Event>) -> News {
        let cross_ref_id = &event.monitor_cross_ref_id;
        if !self.monitors.knows(connection, cross_ref_id) {
            self.stop_stray(connection, cross_ref_id);
            return News::EventOfUnknownMonitor;
        }
        let subscribers = self.monitors.subscribers(connection, cross_ref_id);
        let subscribers = subscribers.cloned().collect();
        News::Event { event, subscribers }
    }

    /// Once for all the events that may come of it. While a MonitorStart is unanswered the monitor may turn out to
    /// be ours: the next event will tell.
    fn stop_stray(&mut self, connection: CtiConnectionId, cross_ref_id: &str) {
        if self.monitors.is_starting_any(connection) || self.strays.len() >= STRAYS_MAX {
            return;
        }
        let cross_ref_id = cross_ref_id.to_owned();
        if self.strays.insert((connection, cross_ref_id.clone())) {
            let stop = Request::Monitor(MonitorRequest::Stop {
                cross_ref_id: cross_ref_id.clone(),
            });
            let asker = Asker::StrayStop {
                connection,
                cross_ref_id,
            };
            self.requests.ask(connection, asker, stop);
        }
    }

    fn monitor_stopped(&mut self, connection: CtiConnectionId, cross_ref_id: String) -> News {
        self.tell_monitors(MonitorInput::StoppedByCtiManager {
            connection,
            cross_ref_id,
        });
        News::Notices
    }

    /// Monitors end with their connection. The sessions that watched there learn it from the news.
    fn forget_monitors_of(&mut self, connection: CtiConnectionId) {
        let _lost = self.monitors.handle(MonitorInput::ConnectionLost { connection });
        self.strays.retain(|(place, _)| *place != connection);
        self.requests.forget_monitors_of(connection);
    }
}

fn cross_ref_id_of(response: Response) -> Result<String, CtiFailure> {
    match response {
        Response::MonitorStart { cross_ref_id } => Ok(cross_ref_id),
        Response::RequestSystemStatus { .. }
        | Response::GetCstaFeatures(_)
        | Response::SnapshotDevice { .. }
        | Response::SnapshotCall { .. }
        | Response::NewCall { .. }
        | Response::Done(_) => Err(CtiFailure::WrongResponse),
    }
}

/// Monitors that no session watches and that are being stopped, at a time.
const STRAYS_MAX: usize = 1024;
