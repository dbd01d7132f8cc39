//! From the PBX's events to INFOs in the client's dialog: one at a time, in order, whether it answers or not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::Authority;
use tandem_cluster::{CallRecord, CallState, ConnectionId, SessionKey};
use tandem_planted::{Bug, planted};
use tandem_sip::{Method, RawMessage, Uri};

use crate::csta::{self, Device, Event, EventKind, LocalConnectionState};
use crate::sip::dialog;

use super::one_session::OneSession;
use super::session::{ClientEvent, Found, Session, UnansweredEvent};
use super::snapshot::{missed_events, rank};
use super::translation::{client_device, directory_number};
use super::{
    EndReason, Farewell, Gateway, Now, OutboundTarget, Output, PairId, Report, View, new_branch, via,
};

impl Gateway {
    /// Sends the next event, if there is one and nothing forbids it.
    pub(super) fn send_events(&mut self, key: &SessionKey, now: Now) {
        // An owner that may have been replaced starts nothing.
        if self.authority == Authority::Isolated {
            return;
        }
        let session = self.sessions.get_mut(key);
        let Some(place) = session.and_then(|session| session.event_to_send(now.instant)) else {
            return;
        };
        match self.path_to(key) {
            Some(pair) => self.known_session(key, now).send_event(place, pair),
            None => {
                self.pathless.insert(key.clone());
            }
        }
    }

    /// An answer to a request of ours: its From-tag is the session.
    pub(super) fn response_arrived(&mut self, raw: &RawMessage, status: u16, view: View<'_>, now: Now) {
        if status < 200 {
            return;
        }
        match raw.cseq_method() {
            b"INFO" => self.event_answered(raw, status, view, now),
            b"NOTIFY" => self.notify_answered(raw, status, view, now),
            b"PUBLISH" => self.publish_answered(raw, status, now),
            _ => {}
        }
    }

    fn event_answered(&mut self, raw: &RawMessage, status: u16, view: View<'_>, now: Now) {
        let key = SessionKey::new(String::from_utf8_lossy(raw.from_tag().unwrap_or_default()));
        if status == 481 {
            return self.dialog_unknown(&key, raw, view, now);
        }
        if let Some(one) = self.one_session(&key, now) {
            one.session.event_answered(raw.via_branch().unwrap_or_default());
        }
    }

    fn dialog_unknown(&mut self, key: &SessionKey, raw: &RawMessage, view: View<'_>, now: Now) {
        let Some(mut one) = self.one_session(key, now) else {
            return;
        };
        if is_from_front_end(raw) {
            one.event_fenced();
            self.look_up_session(key, view, now);
        } else {
            self.end_session(key, EndReason::UnknownToClient, Farewell::Silent, now);
        }
    }

    fn path_to(&mut self, key: &SessionKey) -> Option<PairId> {
        let record = &self.sessions.known(key).record;
        let (connection, address) = (record.connection, record.client_address);
        let next_hop = dialog::next_hop(&record.dialog);
        self.path_along(connection, address, &next_hop)
    }

    /// The pair of that connection, another one of the same client, or one that we dial.
    pub(super) fn path_along(
        &mut self,
        connection: ConnectionId,
        address: IpAddr,
        next_hop: &str,
    ) -> Option<PairId> {
        if let Some(pair) = self.pairs.towards(connection, address) {
            return Some(pair);
        }
        self.outbound
            .path_to(outbound_target(next_hop)?, &mut self.outputs)
    }

    /// Forgets attempts that failed a while ago; sessions that still wait dial anew.
    pub(super) fn redial(&mut self, now: Now) {
        if self.outbound.forget_failed(now.instant) {
            let waiting = std::mem::take(&mut self.pathless);
            self.touched.extend(waiting);
        }
    }
}

impl OneSession<'_> {
    /// Calls that ended, changed or began while nobody watched.
    pub(super) fn compare_with_snapshot(&mut self, found: &Found) {
        let session = &mut self.session;
        session.resumptions_failed = 0;
        let mut known = session.record.calls.clone();
        known.extend(session.calls.clone());
        for event in missed_events(&known, found, &session.record.device) {
            self.take_event(event);
        }
    }

    /// An event of the session's own monitor, in the PBX's terms. One that is old news is left out.
    pub(super) fn take_event(&mut self, event: Event) {
        let Some(client_event) = self.session.receive(event) else {
            return;
        };
        let events = &mut self.session.events;
        let overflows = events.len() >= self.config.events_per_session_max;
        if overflows {
            events.pop_front();
        }
        match planted(Bug::EventsOutOfOrder) {
            true => events.push_front(client_event),
            false => events.push_back(client_event),
        }
        if overflows {
            self.report(Report::EventDropped);
        }
    }

    /// Sends the event that stands at that place of the queue.
    fn send_event(&mut self, place: usize, pair: PairId) {
        let event = self.session.events.remove(place);
        let event = event.expect("an event is sent in the step that has found it");
        let branch = new_branch(self.config.node, self.rng);
        let session = &mut self.session;
        let cseq = session.next_cseq();
        let dialog = &session.record.dialog;
        let body = Bytes::from(event.event.encode());
        let info = dialog::request(
            dialog,
            session.key(),
            Method::Info,
            cseq,
            &via(&dialog.local_target, &branch),
            Some((csta::CONTENT_TYPE, body)),
        );
        self.outputs.push(Output::Send {
            pair,
            bytes: info.write(),
        });
        let kind = event.event.kind;
        let (call_id, call) = (event.call_id().to_owned(), event.call.clone());
        session.unanswered = Some(UnansweredEvent {
            branch,
            pair,
            event,
            until: self.now.instant + self.config.event_wait,
        });
        self.note_call(&call_id, call);
        self.report(Report::EventSent { kind });
    }

    /// A client that no connection leads to is not told.
    pub(super) fn send_bye(&mut self) {
        let session = &mut self.session;
        let record = &session.record;
        if let Some(pair) = self.pairs.towards(record.connection, record.client_address) {
            let cseq = session.next_cseq();
            let dialog = &session.record.dialog;
            let via = via(&dialog.local_target, &new_branch(self.config.node, self.rng));
            let bytes = dialog::request(dialog, session.key(), Method::Bye, cseq, &via, None).write();
            self.outputs.push(Output::Send { pair, bytes });
        }
    }

    /// What the client knows of a call, for the node that takes the session over.
    pub(super) fn note_call(&mut self, call_id: &str, call: Option<CallRecord>) {
        let calls = &mut self.session.record.calls;
        match &call {
            Some(call) => calls.insert(call_id.to_owned(), call.clone()),
            None => calls.remove(call_id),
        };
        self.update(|update| {
            update.calls.retain(|(known, _)| known != call_id);
            update.calls.push((call_id.to_owned(), call));
        });
    }

    /// A client that has not answered in time gets the next event.
    pub(super) fn give_up_event(&mut self) {
        let now = self.now.instant;
        if let Some(unanswered) = &self.session.unanswered
            && unanswered.until <= now
        {
            self.session.unanswered = None;
            self.report(Report::EventUnanswered);
        }
    }

    /// The front end has turned the event away: another node may own the session. If none does, it is sent again.
    fn event_fenced(&mut self) {
        let session = &mut self.session;
        session.fenced += 1;
        session.events_not_before = Some(self.now.instant + FENCED_WAIT);
        let may_go_again = session.fenced <= FENCED_ATTEMPTS;
        if let Some(unanswered) = session.unanswered.take()
            && may_go_again
        {
            session.events.push_front(unanswered.event);
        }
        let key = session.key().clone();
        self.report(Report::Fenced { key });
    }
}

impl Session {
    /// The place in the queue of the next event, if one may go now.
    fn event_to_send(&mut self, now: Instant) -> Option<usize> {
        if self.events_not_before.is_some_and(|at| at <= now) {
            self.events_not_before = None;
        }
        if self.call_expected_until.is_some_and(|at| at <= now) {
            self.call_expected_until = None;
        }
        let waits = self.is_leaving
            || !self.is_established()
            || self.unanswered.is_some()
            || self.events_not_before.is_some()
            // The client learns first that its monitor runs.
            || self.progress.is_waiting_for_commit();
        if waits { None } else { self.next_event() }
    }

    fn event_answered(&mut self, branch: &[u8]) {
        let unanswered = self.unanswered.as_ref();
        if unanswered.is_some_and(|unanswered| unanswered.branch.as_bytes() == branch) {
            self.unanswered = None;
            self.fenced = 0;
        }
    }

    /// The connection broke before the client could have answered: it may not have had the event.
    pub(super) fn send_event_again(&mut self) {
        if let Some(unanswered) = self.unanswered.take() {
            self.events.push_front(unanswered.event);
        }
    }

    /// What the event changes, and what the client is to be told. `None` when it is old news.
    fn receive(&mut self, mut event: Event) -> Option<ClientEvent> {
        let pbx_call_id = event.connection.call_id.clone();
        let call_id = self.client_call_id(&pbx_call_id);
        let before = self
            .calls
            .get(&call_id)
            .or_else(|| self.record.calls.get(&call_id))
            .cloned();
        let change = change_of(&event, &self.record.device);
        let call = match change {
            CallChange::Over => {
                before.as_ref()?;
                // The record forgets the call only when the client is told. Until then a snapshot and an event may
                // both tell of the end, which counts once.
                if self.is_about_to_end(&call_id) {
                    return None;
                }
                self.calls.remove(&call_id);
                None
            }
            CallChange::Unchanged => Some(before?),
            CallChange::Now(state) => {
                let progressed = self
                    .calls
                    .get(&call_id)
                    .is_none_or(|known| advances(known.state, state));
                if !progressed {
                    return None;
                }
                let call = CallRecord {
                    pbx_call_id,
                    state,
                    calling: party(event.calling.as_ref(), before.as_ref().map(|call| &call.calling)),
                    called: party(event.called.as_ref(), before.as_ref().map(|call| &call.called)),
                };
                self.calls.insert(call_id.clone(), call.clone());
                Some(call)
            }
        };
        event
            .monitor_cross_ref_id
            .clone_from(&self.record.monitor.cross_ref_id);
        event.connection.call_id = call_id;
        let (device, line) = (self.record.device.clone(), self.record.line.clone());
        for identifier in event.device_identifiers_mut() {
            *identifier = client_device(identifier, &device, &line);
        }
        Some(ClientEvent { event, call })
    }

    fn is_about_to_end(&self, call_id: &str) -> bool {
        let mut waiting = self.events.iter();
        waiting.any(|waiting| waiting.call.is_none() && waiting.call_id() == call_id)
    }

    /// The first event that may go: none of a call whose callID a MakeCallResponse has yet to tell.
    fn next_event(&self) -> Option<usize> {
        let expects_call = self.expects_call() && !planted(Bug::EventBeforeAnswer);
        self.events.iter().position(|event| {
            !expects_call || self.record.calls.contains_key(event.call_id()) || rings_here(&event.event)
        })
    }

    /// The PBX's ids of the calls that the client knows, or is about to be told of.
    pub(super) fn known_calls(&self) -> BTreeSet<String> {
        let known = self.calls.values().chain(self.record.calls.values());
        known.map(|call| call.pbx_call_id.clone()).collect()
    }

    pub(super) fn client_call_id(&self, pbx_call_id: &str) -> String {
        let known = self.calls.iter().chain(&self.record.calls);
        known
            .into_iter()
            .find(|(_, call)| call.pbx_call_id == pbx_call_id)
            .map_or_else(|| pbx_call_id.to_owned(), |(call_id, _)| call_id.clone())
    }

    pub(super) fn pbx_call_id(&self, call_id: &str) -> String {
        let known = self.calls.get(call_id).or_else(|| self.record.calls.get(call_id));
        known.map_or_else(|| call_id.to_owned(), |call| call.pbx_call_id.clone())
    }
}

/// A call from elsewhere, which no MakeCallResponse tells of.
fn rings_here(event: &Event) -> bool {
    event.kind == EventKind::Delivered && event.local_connection_info == Some(LocalConnectionState::Alerting)
}

/// What an event does to the call at the session's own device.
enum CallChange {
    Now(CallState),
    Unchanged,
    Over,
}

fn change_of(event: &Event, device: &str) -> CallChange {
    let own = event.local_connection_info;
    let at_own_device = event
        .connection
        .device_id
        .as_deref()
        .is_none_or(|named| directory_number(named) == directory_number(device));
    match event.kind {
        EventKind::ConnectionCleared | EventKind::Diverted => match own {
            Some(LocalConnectionState::Null) => CallChange::Over,
            None if at_own_device => CallChange::Over,
            Some(_) | None => CallChange::Unchanged,
        },
        EventKind::Delivered if own == Some(LocalConnectionState::Alerting) => {
            CallChange::Now(CallState::Alerting)
        }
        EventKind::Delivered if own.is_none() && at_own_device => CallChange::Now(CallState::Alerting),
        EventKind::Delivered => CallChange::Now(CallState::Delivered),
        EventKind::Established => CallChange::Now(CallState::Connected),
        EventKind::Originated => CallChange::Now(CallState::Originated),
        EventKind::ServiceInitiated => CallChange::Now(CallState::Initiated),
        EventKind::Failed => CallChange::Now(CallState::Failed),
        EventKind::Held if own == Some(LocalConnectionState::Hold) => CallChange::Now(CallState::Hold),
        EventKind::Retrieved if own == Some(LocalConnectionState::Connected) => {
            CallChange::Now(CallState::Connected)
        }
        EventKind::Held | EventKind::Retrieved | EventKind::NetworkReached => CallChange::Unchanged,
    }
}

/// A snapshot and the events around it may tell the same thing twice.
fn advances(from: CallState, to: CallState) -> bool {
    let hold = |state| state == CallState::Hold;
    rank(to) > rank(from) || (from != to && (hold(from) || hold(to)))
}

fn party(device: Option<&Device>, before: Option<&String>) -> String {
    let told = device.and_then(Device::identifier);
    told.map_or_else(|| before.cloned().unwrap_or_default(), ToOwned::to_owned)
}

/// The fence answers for a session that the replicated state gives to another node.
pub(super) fn is_from_front_end(raw: &RawMessage) -> bool {
    let tagged = raw.to_tag().is_some_and(|tag| tag.starts_with(b"lb-"));
    // In a dialog To has the client's tag already, and the front end adds no other.
    let warned = raw.headers().any(|(name, value)| {
        name.eq_ignore_ascii_case(b"Warning") && value.trim_ascii().starts_with(b"399 tandem-lb ")
    });
    tagged || warned
}

fn outbound_target(uri: &str) -> Option<OutboundTarget> {
    let uri = Uri::parse(uri).ok()?;
    let sip = uri.as_sip()?;
    let tls = sip.secure
        || sip
            .params
            .get("transport")
            .is_some_and(|name| name.eq_ignore_ascii_case("tls"));
    let host = sip.params.get("maddr").unwrap_or(&sip.host);
    Some(OutboundTarget {
        host: host.to_owned(),
        port: sip.port.unwrap_or(if tls { 5061 } else { 5060 }),
        tls,
    })
}

/// Events turned away by the front end's fence in a row, before one is given up.
const FENCED_ATTEMPTS: u32 = 5;
const FENCED_WAIT: Duration = Duration::from_millis(200);
