//! The sessions' places at the CTI connections: chosen in turn, kept, and made again somewhere else when a connection
//! goes out of service (RCC-4, RCC-5).

use std::collections::BTreeMap;

use tandem_cluster::SessionKey;

use crate::csta::{ConnectionIdentifier, Request, Response, SnapshotRequest};
use crate::cti::{CtiConnectionId, CtiFailure, RequestToken};

use super::monitoring::{CtiPurpose, CtiWaiter};
use super::session::{CallParties, Found, Link, Progress, Session};
use super::watching::priority_of;
use super::{Gateway, Now, Report};

impl Gateway {
    /// A connection is in service again: sessions without one get it.
    pub(super) fn cti_in_service(&mut self, now: Now) {
        for key in self.sessions_linked_to(None) {
            self.relink(&key, now);
        }
    }

    /// Requests on the connection get their error; its sessions go on at another one.
    pub(super) fn cti_out_of_service(&mut self, connection: CtiConnectionId, now: Now) {
        for key in self.sessions_linked_to(Some(connection)) {
            self.fail_requests_on(&key, now);
            self.relink(&key, now);
        }
    }

    /// Those with traffic first.
    fn sessions_linked_to(&self, connection: Option<CtiConnectionId>) -> Vec<SessionKey> {
        let sessions = self.sessions.values();
        let mut linked: Vec<&Session> = sessions
            .filter(|session| session.link.connection() == connection)
            .collect();
        linked.sort_by_key(|session| priority_of(session));
        linked.into_iter().map(|session| session.key().clone()).collect()
    }

    fn fail_requests_on(&mut self, key: &SessionKey, now: Now) {
        let outstanding = self
            .sessions
            .get(key)
            .and_then(|session| session.progress.cti_request());
        if let Some(token) = outstanding
            && self.monitoring.give_up(token)
        {
            self.service_answered(token, key, Err(CtiFailure::LinkLost), now);
        }
    }

    /// Gives the session a connection in service, and the monitor of its device there, if the client has one.
    pub(super) fn relink(&mut self, key: &SessionKey, now: Now) {
        self.leave_connection(key);
        let connection = self.monitoring.next_in_service();
        let name = connection.and_then(|connection| self.config.cti_connections.get(connection.0).cloned());
        let Some(connection) = connection else {
            return;
        };
        let session = self.known_mut(key);
        let epoch = session.epoch();
        session.record.cti_connection.clone_from(&name);
        session.link = if session.record.monitor.active {
            Link::StartingMonitor { connection }
        } else {
            Link::Up { connection }
        };
        self.proposals
            .update(key, epoch, now.instant, |update| update.cti_connection = name);
        self.report(Report::SessionRelinked {
            key: key.clone(),
            connection,
        });
        self.watch(key, now);
    }

    /// Whatever waits for the session's monitor waits for its next place.
    fn leave_connection(&mut self, key: &SessionKey) {
        self.monitoring.unwatch(key);
        let session = self.known_mut(key);
        session.link = Link::Down;
        if session.progress.is_waiting_for_monitor() {
            session.progress = Progress::WaitingForLink;
        }
    }

    pub(super) fn ask(
        &mut self,
        key: &SessionKey,
        connection: CtiConnectionId,
        purpose: CtiPurpose,
        request: Request,
    ) -> RequestToken {
        let waiter = CtiWaiter {
            session: key.clone(),
            connection,
            purpose,
        };
        self.monitoring.ask(waiter, request)
    }

    pub(super) fn session_answered(
        &mut self,
        token: RequestToken,
        waiter: &CtiWaiter,
        result: Result<Response, CtiFailure>,
        now: Now,
    ) {
        match waiter.purpose {
            CtiPurpose::Service => self.service_answered(token, &waiter.session, result, now),
            CtiPurpose::ResumeSnapshot => self.snapshot_resumed(waiter, result, now),
            CtiPurpose::ResumeParties => self.parties_told(waiter, result, now),
        }
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
            return self.snapshot_failed(key, waiter.connection, now);
        };
        let call_ids = connections.iter().map(|call| call.connection.call_id.clone());
        *found = Some(Found {
            nameless: call_ids.filter(|call_id| !known.contains(call_id)).collect(),
            connections,
            parties: BTreeMap::new(),
        });
        self.ask_for_parties(key, waiter.connection, now);
    }

    /// A client that has only now asked for events can do without: it knows of no call yet.
    fn snapshot_failed(&mut self, key: &SessionKey, connection: CtiConnectionId, now: Now) {
        let progress = self.sessions.get(key).map(|session| &session.progress);
        if progress.is_some_and(Progress::is_waiting_for_monitor) {
            self.resumed(key, now);
        } else {
            self.resumption_failed(key, connection, now);
        }
    }

    /// Who calls? A snapshot of the device does not say it of calls that began meanwhile.
    fn ask_for_parties(&mut self, key: &SessionKey, connection: CtiConnectionId, now: Now) {
        let session = self.known_mut(key);
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
                    Request::Snapshot(SnapshotRequest::Call { call }),
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
    fn resumed(&mut self, key: &SessionKey, now: Now) {
        let session = self.known_mut(key);
        let Link::ReadingSnapshot {
            connection,
            meanwhile,
            found,
        } = std::mem::replace(&mut session.link, Link::Down)
        else {
            return;
        };
        session.link = Link::Up { connection };
        let asked = session.progress.is_waiting_for_monitor();
        if let Some(found) = found {
            self.compare_with_snapshot(key, &found);
        }
        for event in meanwhile {
            self.take_event(key, event);
        }
        if asked {
            self.client_monitor_started(key, now);
        }
    }

    /// The CTI manager would not, though its connection stands: another one may, and after a round of them the session
    /// stays without until one comes into service.
    pub(super) fn resumption_failed(&mut self, key: &SessionKey, connection: CtiConnectionId, now: Now) {
        self.leave_connection(key);
        let still_there = self.monitoring.is_in_service(connection);
        let session = self.known_mut(key);
        session.resumptions_failed += 1;
        let give_up = still_there && session.resumptions_failed.is_multiple_of(RESUMPTION_ATTEMPTS);
        if !give_up {
            self.relink(key, now);
        }
    }
}

/// Failed attempts in a row after which a session waits for a change of service.
const RESUMPTION_ATTEMPTS: u32 = 8;
