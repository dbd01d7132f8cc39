//! The sessions' places at the CTI connections: chosen in turn, kept, and made again somewhere else when a connection
//! goes out of service (RCC-4, RCC-5).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use tandem_shared::cluster::SessionKey;

use crate::csta::{ConnectionIdentifier, Event, Request, Response};
use crate::cti::{CtiConnectionId, CtiFailure, RequestToken};

use super::session::{CallParties, Found, Link};
use super::{Gateway, Now, Output, Report};

/// Which connections are in service, whose monitor is whose, and who waits for his turn.
#[derive(Debug)]
pub(super) struct Links {
    in_service: Vec<bool>,
    /// Where the round robin looks next.
    next: usize,
    /// Sessions to resume whose client has a request waiting.
    pressing: VecDeque<SessionKey>,
    others: VecDeque<SessionKey>,
    /// Sessions whose monitor is being started again.
    pub(super) resuming: BTreeSet<SessionKey>,
    pub(super) monitors: HashMap<(CtiConnectionId, String), SessionKey>,
}

/// Who asked a CTI manager for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CtiWaiter {
    pub(super) session: SessionKey,
    pub(super) connection: CtiConnectionId,
    pub(super) purpose: CtiPurpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CtiPurpose {
    /// The first request of the session's queue.
    Service,
    ResumeMonitor,
    ResumeSnapshot,
    ResumeParties,
}

impl Links {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            in_service: vec![false; connections],
            next: 0,
            pressing: VecDeque::new(),
            others: VecDeque::new(),
            resuming: BTreeSet::new(),
            monitors: HashMap::new(),
        }
    }

    /// The next connection in service, in configured order.
    pub(super) fn next_in_service(&mut self) -> Option<CtiConnectionId> {
        let count = self.in_service.len();
        let chosen = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|&index| self.in_service[index])?;
        self.next = (chosen + 1) % count;
        Some(CtiConnectionId(chosen))
    }

    fn set(&mut self, connection: CtiConnectionId, in_service: bool) {
        if let Some(flag) = self.in_service.get_mut(connection.0) {
            *flag = in_service;
        }
    }

    fn next_to_resume(&mut self) -> Option<SessionKey> {
        self.pressing.pop_front().or_else(|| self.others.pop_front())
    }
}

impl Gateway {
    pub(super) fn cti_in_service(&mut self, connection: CtiConnectionId, now: Now) {
        self.links.set(connection, true);
        let down: Vec<SessionKey> = self
            .sessions
            .values()
            .filter(|session| session.link == Link::Down)
            .map(|session| session.key().clone())
            .collect();
        for key in down {
            self.relink(&key, now);
        }
    }

    /// Requests on the connection get their error; its sessions go on at another one.
    pub(super) fn cti_out_of_service(&mut self, connection: CtiConnectionId, now: Now) {
        self.links.set(connection, false);
        self.links.monitors.retain(|(place, _), _| *place != connection);
        let affected: Vec<SessionKey> = self
            .sessions
            .values()
            .filter(|session| session.link.connection() == Some(connection))
            .map(|session| session.key().clone())
            .collect();
        for key in affected {
            self.fail_requests_on(&key, now);
            self.relink(&key, now);
        }
    }

    fn fail_requests_on(&mut self, key: &SessionKey, now: Now) {
        let outstanding = self
            .sessions
            .get(key)
            .and_then(|session| session.progress.cti_request());
        if let Some(token) = outstanding {
            self.cti_answered(token, Err(CtiFailure::LinkLost), now);
        }
    }

    /// Gives the session a connection in service; its monitor, if the client has one, starts there in its turn.
    pub(super) fn relink(&mut self, key: &SessionKey, now: Now) {
        self.links.resuming.remove(key);
        let connection = self.links.next_in_service();
        let name = connection.and_then(|connection| self.config.cti_connections.get(connection.0).cloned());
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let Some(connection) = connection else {
            session.link = Link::Down;
            return;
        };
        let epoch = session.epoch();
        session.record.cti_connection.clone_from(&name);
        let monitored = session.record.monitor.active;
        session.link = if monitored {
            Link::Queued { connection }
        } else {
            Link::Up {
                connection,
                cross_ref_id: None,
            }
        };
        let presses = !session.requests.is_empty();
        if monitored && presses {
            self.links.pressing.push_back(key.clone());
        } else if monitored {
            self.links.others.push_back(key.clone());
        }
        self.proposals
            .update(key, epoch, now.instant, |update| update.cti_connection = name);
        self.report(Report::SessionRelinked {
            key: key.clone(),
            connection,
        });
    }

    /// A client waits: its session is resumed before those whose clients do not.
    pub(super) fn hasten_resumption(&mut self, key: &SessionKey) {
        if let Some(Link::Queued { .. }) = self.sessions.get(key).map(|session| &session.link) {
            self.links.pressing.push_back(key.clone());
        }
    }

    /// Starts as many monitors as may be starting at a time.
    pub(super) fn start_resumptions(&mut self, now: Now) {
        while self.links.resuming.len() < self.config.resumptions_in_flight_max {
            let Some(key) = self.links.next_to_resume() else {
                return;
            };
            self.start_resumption(&key, now);
        }
    }

    fn start_resumption(&mut self, key: &SessionKey, _now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        // It stands in both queues when its client began to wait, and one place is enough.
        let Link::Queued { connection } = session.link else {
            return;
        };
        session.link = Link::StartingMonitor { connection };
        let device = session.record.device.clone();
        self.links.resuming.insert(key.clone());
        self.ask(
            key,
            connection,
            CtiPurpose::ResumeMonitor,
            Request::MonitorStart { device },
        );
    }

    pub(super) fn ask(
        &mut self,
        key: &SessionKey,
        connection: CtiConnectionId,
        purpose: CtiPurpose,
        request: Request,
    ) -> RequestToken {
        let token = RequestToken(self.next_cti_request);
        self.next_cti_request += 1;
        let waiter = CtiWaiter {
            session: key.clone(),
            connection,
            purpose,
        };
        self.cti_requests.insert(token, waiter);
        self.outputs.push(Output::CtiRequest {
            connection,
            token,
            request,
        });
        token
    }

    pub(super) fn cti_answered(
        &mut self,
        token: RequestToken,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        let Some(waiter) = self.cti_requests.remove(&token) else {
            return;
        };
        match waiter.purpose {
            CtiPurpose::Service => self.service_answered(token, &waiter, result, now),
            CtiPurpose::ResumeMonitor => self.monitor_resumed(&waiter, result, now),
            CtiPurpose::ResumeSnapshot => self.snapshot_resumed(&waiter, result, now),
            CtiPurpose::ResumeParties => self.parties_told(&waiter, result, now),
        }
    }

    fn monitor_resumed(&mut self, waiter: &CtiWaiter, result: Result<Response, CtiFailure>, now: Now) {
        let key = &waiter.session;
        let expected = Link::StartingMonitor {
            connection: waiter.connection,
        };
        let waits = self
            .sessions
            .get(key)
            .is_some_and(|session| session.link == expected);
        let Ok(Response::MonitorStart { cross_ref_id }) = result else {
            if waits {
                self.resumption_failed(key, waiter.connection, now);
            }
            return;
        };
        if !waits {
            return self.stop_monitor_at(waiter.connection, cross_ref_id);
        }
        self.links
            .monitors
            .insert((waiter.connection, cross_ref_id.clone()), key.clone());
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let device = session.record.device.clone();
        session.link = Link::ReadingSnapshot {
            connection: waiter.connection,
            cross_ref_id,
            meanwhile: VecDeque::new(),
            found: None,
        };
        let request = Request::SnapshotDevice { device };
        self.ask(key, waiter.connection, CtiPurpose::ResumeSnapshot, request);
    }

    fn snapshot_resumed(&mut self, waiter: &CtiWaiter, result: Result<Response, CtiFailure>, now: Now) {
        let key = &waiter.session;
        let Some(session) = self.session_mut(key) else {
            return;
        };
        if session.link.connection() != Some(waiter.connection) {
            return;
        }
        let known = session.known_calls();
        let Link::ReadingSnapshot { found, .. } = &mut session.link else {
            return;
        };
        let Ok(Response::SnapshotDevice { connections }) = result else {
            let link = std::mem::replace(&mut session.link, Link::Down);
            self.stop_monitor(&link);
            return self.resumption_failed(key, waiter.connection, now);
        };
        let call_ids = connections.iter().map(|call| call.connection.call_id.clone());
        *found = Some(Found {
            nameless: call_ids.filter(|call_id| !known.contains(call_id)).collect(),
            connections,
            parties: BTreeMap::new(),
        });
        self.ask_for_parties(key, waiter.connection, now);
    }

    /// Who calls? A snapshot of the device does not say it of calls that began meanwhile.
    fn ask_for_parties(&mut self, key: &SessionKey, connection: CtiConnectionId, now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let device = session.record.device.clone();
        let Link::ReadingSnapshot {
            found: Some(found), ..
        } = &session.link
        else {
            return;
        };
        match found.nameless.last() {
            Some(call_id) => {
                let call = ConnectionIdentifier::new(call_id.clone(), device);
                self.ask(
                    key,
                    connection,
                    CtiPurpose::ResumeParties,
                    Request::SnapshotCall { call },
                );
            }
            None => self.resumed(key, now),
        }
    }

    /// A CTI manager that does not offer the service leaves the parties unknown.
    fn parties_told(&mut self, waiter: &CtiWaiter, result: Result<Response, CtiFailure>, now: Now) {
        let key = &waiter.session;
        let Some(session) = self.session_mut(key) else {
            return;
        };
        if session.link.connection() != Some(waiter.connection) {
            return;
        }
        let Link::ReadingSnapshot {
            found: Some(found), ..
        } = &mut session.link
        else {
            return;
        };
        if let (Some(call_id), Ok(Response::SnapshotCall { calling, called })) =
            (found.nameless.pop(), result)
        {
            found.parties.insert(call_id, CallParties { calling, called });
        }
        self.ask_for_parties(key, waiter.connection, now);
    }

    /// All is known: what was missed is told, and then what happened meanwhile.
    fn resumed(&mut self, key: &SessionKey, _now: Now) {
        let Some(session) = self.session_mut(key) else {
            return;
        };
        let Link::ReadingSnapshot {
            connection,
            cross_ref_id,
            meanwhile,
            found: Some(found),
        } = std::mem::replace(&mut session.link, Link::Down)
        else {
            return;
        };
        session.link = Link::Up {
            connection,
            cross_ref_id: Some(cross_ref_id),
        };
        self.links.resuming.remove(key);
        self.compare_with_snapshot(key, &found);
        for event in meanwhile {
            self.take_event(key, event);
        }
    }

    /// The CTI manager would not, though its connection stands: another one may, and after a round of them the session
    /// stays without until one comes into service.
    fn resumption_failed(&mut self, key: &SessionKey, connection: CtiConnectionId, now: Now) {
        self.links.resuming.remove(key);
        let still_there = self.links.in_service.get(connection.0).copied().unwrap_or(false);
        let Some(session) = self.session_mut(key) else {
            return;
        };
        session.resumptions_failed += 1;
        let give_up = still_there && session.resumptions_failed % RESUMPTION_ATTEMPTS == 0;
        session.link = Link::Down;
        if !give_up {
            self.relink(key, now);
        }
    }

    pub(super) fn cti_event(&mut self, connection: CtiConnectionId, event: Event, _now: Now) {
        let place = (connection, event.monitor_cross_ref_id.clone());
        let Some(key) = self.links.monitors.get(&place).cloned() else {
            return;
        };
        let events_max = self.config.events_per_session_max;
        let Some(session) = self.session_mut(&key) else {
            return;
        };
        if let Link::ReadingSnapshot { meanwhile, .. } = &mut session.link {
            if meanwhile.len() < events_max {
                meanwhile.push_back(event);
            } else {
                self.report(Report::EventDropped);
            }
            return;
        }
        self.take_event(&key, event);
    }

    pub(super) fn cti_monitor_stopped(&mut self, connection: CtiConnectionId, cross_ref_id: &str, now: Now) {
        let place = (connection, cross_ref_id.to_owned());
        if let Some(key) = self.links.monitors.remove(&place) {
            self.relink(&key, now);
        }
    }

    /// The session goes: its monitor with it, and whatever answers are still to come.
    pub(super) fn stop_monitor(&mut self, link: &Link) {
        if let Some((connection, cross_ref_id)) = link.monitor() {
            let cross_ref_id = cross_ref_id.to_owned();
            self.links.monitors.remove(&(connection, cross_ref_id.clone()));
            self.stop_monitor_at(connection, cross_ref_id);
        }
    }

    pub(super) fn unlink(&mut self, key: &SessionKey) {
        self.links.resuming.remove(key);
    }

    /// Nobody waits for the answer.
    fn stop_monitor_at(&mut self, connection: CtiConnectionId, cross_ref_id: String) {
        let token = RequestToken(self.next_cti_request);
        self.next_cti_request += 1;
        self.outputs.push(Output::CtiRequest {
            connection,
            token,
            request: Request::MonitorStop { cross_ref_id },
        });
    }
}

/// Failed attempts in a row after which a session waits for a change of service.
const RESUMPTION_ATTEMPTS: u32 = 8;
