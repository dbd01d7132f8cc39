//! The sessions' places at the CTI connections: chosen in turn, kept, and made again somewhere else when a connection
//! goes out of service (RCC-4, RCC-5).

use std::collections::BTreeMap;

use tandem_cluster::SessionKey;

use crate::csta::{ConnectionIdentifier, Request, Response, SnapshotRequest};
use crate::cti::{CtiConnectionId, CtiFailure};

use super::monitoring::CtiPurpose;
use super::one_session::OneSession;
use super::session::{CallParties, Found, Link, Progress, Session};
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
            self.known_session(&key, now).fail_request();
            self.relink(&key, now);
        }
    }

    pub(super) fn relink(&mut self, key: &SessionKey, now: Now) {
        self.known_session(key, now).relink();
        self.take_notices(now);
    }

    /// Those with traffic first.
    fn sessions_linked_to(&self, connection: Option<CtiConnectionId>) -> Vec<SessionKey> {
        let sessions = self.sessions.values();
        let mut linked: Vec<&Session> = sessions
            .filter(|session| session.link.connection() == connection)
            .collect();
        linked.sort_by_key(|session| session.priority());
        linked.into_iter().map(|session| session.key().clone()).collect()
    }
}

impl OneSession<'_> {
    /// Whoever waits for an answer of the session's CTI connection gets none.
    fn fail_request(&mut self) {
        if let Some(token) = self.session.progress.cti_request()
            && self.monitoring.give_up(token)
        {
            self.service_answered(token, Err(CtiFailure::LinkLost));
        }
    }

    /// Gives the session a connection in service, and the monitor of its device there, if the client has one.
    pub(super) fn relink(&mut self) {
        self.leave_connection();
        let Some(connection) = self.monitoring.next_in_service() else {
            return;
        };
        let name = self.config.cti_connections.get(connection.0).cloned();
        self.session.record.cti_connection.clone_from(&name);
        self.session.link = if self.session.record.monitor.active {
            Link::StartingMonitor { connection }
        } else {
            Link::Up { connection }
        };
        self.update(|update| update.cti_connection = name);
        let key = self.session.key().clone();
        self.report(Report::SessionRelinked { key, connection });
        self.watch();
    }

    /// Whatever waits for the session's monitor waits for its next place.
    fn leave_connection(&mut self) {
        self.monitoring.unwatch(self.session.key());
        self.session.link = Link::Down;
        if self.session.progress.is_waiting_for_monitor() {
            self.session.progress = Progress::WaitingForLink;
        }
    }

    /// The CTI manager has told of the device's calls. It may be too late: the session has left the connection.
    pub(super) fn snapshot_resumed(
        &mut self,
        connection: CtiConnectionId,
        result: Result<Response, CtiFailure>,
    ) {
        let known = self.session.known_calls();
        let Some(found) = self.session.link.reading_at(connection) else {
            return;
        };
        let Ok(Response::SnapshotDevice { connections }) = result else {
            return self.snapshot_failed(connection);
        };
        let call_ids = connections.iter().map(|call| call.connection.call_id.clone());
        *found = Some(Found {
            nameless: call_ids.filter(|call_id| !known.contains(call_id)).collect(),
            connections,
            parties: BTreeMap::new(),
        });
        self.ask_for_parties(connection);
    }

    /// A client that has only now asked for events can do without: it knows of no call yet.
    fn snapshot_failed(&mut self, connection: CtiConnectionId) {
        if self.session.progress.is_waiting_for_monitor() {
            self.resumed();
        } else {
            self.resumption_failed(connection);
        }
    }

    /// A CTI manager that does not offer the service leaves the parties unknown. It may be too late, as with
    /// [`Self::snapshot_resumed`].
    pub(super) fn parties_told(&mut self, connection: CtiConnectionId, result: Result<Response, CtiFailure>) {
        let Some(Some(found)) = self.session.link.reading_at(connection) else {
            return;
        };
        if let (Some(call_id), Ok(Response::SnapshotCall { calling, called })) =
            (found.nameless.pop(), result)
        {
            found.parties.insert(call_id, CallParties { calling, called });
        }
        self.ask_for_parties(connection);
    }

    /// Who calls? A snapshot of the device does not say it of calls that began meanwhile.
    fn ask_for_parties(&mut self, connection: CtiConnectionId) {
        let device = self.session.record.device.clone();
        let found = self.session.link.reading_at(connection);
        let nameless = found.and_then(|found| found.as_ref()?.nameless.last().cloned());
        let Some(call_id) = nameless else {
            return self.resumed();
        };
        let call = ConnectionIdentifier::new(call_id, device);
        let request = Request::Snapshot(SnapshotRequest::Call { call });
        self.ask(connection, CtiPurpose::ResumeParties, request);
    }

    /// All is known: what was missed is told, and then what happened meanwhile.
    fn resumed(&mut self) {
        let (found, meanwhile) = self.session.link.snapshot_read();
        let asked = self.session.progress.is_waiting_for_monitor();
        if let Some(found) = found {
            self.compare_with_snapshot(&found);
        }
        for event in meanwhile {
            self.take_event(event);
        }
        if asked {
            self.client_monitor_started();
        }
    }

    /// The CTI manager would not, though its connection stands: another one may, and after a round of them the session
    /// stays without until one comes into service.
    pub(super) fn resumption_failed(&mut self, connection: CtiConnectionId) {
        self.leave_connection();
        let still_there = self.monitoring.is_in_service(connection);
        self.session.resumptions_failed += 1;
        let give_up = still_there
            && self
                .session
                .resumptions_failed
                .is_multiple_of(RESUMPTION_ATTEMPTS);
        if !give_up {
            self.relink();
        }
    }
}

/// Failed attempts in a row after which a session waits for a change of service.
const RESUMPTION_ATTEMPTS: u32 = 8;
