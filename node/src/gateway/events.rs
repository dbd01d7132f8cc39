//! From the PBX's events to INFOs in the client's dialog: one at a time, in order, whether it answers or not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use tandem_cluster::Authority;
use tandem_cluster::{CallRecord, CallState, ConnectionId, SessionKey};
use tandem_planted::{Bug, planted};
use tandem_sip::{Method, RawMessage, Uri};

use crate::csta::{self, Device, Event, EventKind, LocalConnectionState};
use crate::sip::dialog;

use super::outbound::Way;
use super::session::{ClientEvent, Found, Session, UnansweredEvent};
use super::snapshot::{missed_events, rank};
use super::translation::{client_device, directory_number};
use super::{
    EndReason, Farewell, Gateway, Now, OutboundTarget, Output, PairId, Report, View, new_branch, via,
};

impl Gateway {
    /// Calls that ended, changed or began while nobody watched.
    pub(super) fn compare_with_snapshot(&mut self, key: &SessionKey, found: &Found) {
        let session = self.known_mut(key);
        session.resumptions_failed = 0;
        let mut known = session.record.calls.clone();
        known.extend(session.calls.clone());
        for event in missed_events(&known, found, &session.record.device) {
            self.take_event(key, event);
        }
    }

    /// An event of the session's own monitor, in the PBX's terms.
    pub(super) fn take_event(&mut self, key: &SessionKey, event: Event) {
        let events_max = self.config.events_per_session_max;
        let session = self.known_mut(key);
        let Some(client_event) = session.receive(event) else {
            return;
        };
        let overflows = session.events.len() >= events_max;
        if overflows {
            session.events.pop_front();
        }
        match planted(Bug::EventsOutOfOrder) {
            true => session.events.push_front(client_event),
            false => session.events.push_back(client_event),
        }
        if overflows {
            self.report(Report::EventDropped);
        }
    }

    /// Sends the next event, if there is one and nothing forbids it.
    pub(super) fn send_events(&mut self, key: &SessionKey, now: Now) {
        // An owner that may have been replaced starts nothing.
        if self.authority == Authority::Isolated {
            return;
        }
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        if session.events_not_before.is_some_and(|at| at <= now.instant) {
            session.events_not_before = None;
        }
        if session.call_expected_until.is_some_and(|at| at <= now.instant) {
            session.call_expected_until = None;
        }
        if session.is_leaving
            || !session.is_established()
            || session.unanswered.is_some()
            || session.events_not_before.is_some()
        {
            return;
        }
        // The client learns first that its monitor runs.
        if session.progress.is_waiting_for_commit() {
            return;
        }
        let Some(index) = session.next_event() else {
            return;
        };
        let Some(pair) = self.path_to(key) else {
            self.pathless.insert(key.clone());
            return;
        };
        let Some(event) = self
            .sessions
            .get_mut(key)
            .and_then(|session| session.events.remove(index))
        else {
            return;
        };
        self.send_event(key, pair, event, now);
    }

    fn send_event(&mut self, key: &SessionKey, pair: PairId, event: ClientEvent, now: Now) {
        let branch = new_branch(self.config.node, &mut self.rng);
        let event_wait = self.config.event_wait;
        let session = self.sessions.known_mut(key);
        let cseq = session.next_cseq();
        let dialog = &session.record.dialog;
        let body = Bytes::from(event.event.encode());
        let info = dialog::request(
            dialog,
            key,
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
            until: now.instant + event_wait,
        });
        self.note_call(key, &call_id, call, now);
        self.report(Report::EventSent { kind });
    }

    pub(super) fn send_bye(&mut self, key: &SessionKey) {
        let session = self.sessions.known_mut(key);
        let pair = self
            .pairs
            .towards(session.record.connection, session.record.client_address);
        let Some(pair) = pair else {
            return;
        };
        let cseq = session.next_cseq();
        let via = via(
            &session.record.dialog.local_target,
            &new_branch(self.config.node, &mut self.rng),
        );
        let method = Method::Bye;
        let bytes = dialog::request(&session.record.dialog, key, method, cseq, &via, None).write();
        self.outputs.push(Output::Send { pair, bytes });
    }

    /// What the client knows of a call, for the node that takes the session over.
    pub(super) fn note_call(&mut self, key: &SessionKey, call_id: &str, call: Option<CallRecord>, now: Now) {
        let session = self.sessions.known_mut(key);
        match &call {
            Some(call) => session.record.calls.insert(call_id.to_owned(), call.clone()),
            None => session.record.calls.remove(call_id),
        };
        let epoch = session.epoch();
        self.proposals.update(key, epoch, now.instant, |update| {
            update.calls.retain(|(known, _)| known != call_id);
            update.calls.push((call_id.to_owned(), call));
        });
    }

    /// The connection broke before the client could have answered: it may not have had the event.
    pub(super) fn send_event_again(&mut self, key: &SessionKey) {
        if let Some(session) = self.session_mut(key)
            && let Some(unanswered) = session.unanswered.take()
        {
            session.events.push_front(unanswered.event);
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
        let branch = raw.via_branch().unwrap_or_default();
        if let Some(session) = self.session_mut(&key)
            && session
                .unanswered
                .as_ref()
                .is_some_and(|unanswered| unanswered.branch.as_bytes() == branch)
        {
            session.unanswered = None;
            session.fenced = 0;
        }
    }

    fn dialog_unknown(&mut self, key: &SessionKey, raw: &RawMessage, view: View<'_>, now: Now) {
        if !self.sessions.contains(key) {
            return;
        }
        if !is_from_front_end(raw) {
            return self.end_session(key, EndReason::UnknownToClient, Farewell::Silent, now);
        }
        self.report(Report::Fenced { key: key.clone() });
        if let Some(session) = self.session_mut(key) {
            session.fenced += 1;
            if let Some(unanswered) = session.unanswered.take()
                && session.fenced <= FENCED_ATTEMPTS
            {
                session.events.push_front(unanswered.event);
            }
            session.events_not_before = Some(now.instant + FENCED_WAIT);
        }
        self.look_up_session(key, view, now);
    }

    fn path_to(&mut self, key: &SessionKey) -> Option<PairId> {
        let session = self.sessions.get(key)?;
        let record = &session.record;
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
        self.path_to_target(outbound_target(next_hop)?)
    }

    /// The connection that was dialled to the target. Where there is none, it is dialled.
    pub(super) fn path_to_target(&mut self, target: OutboundTarget) -> Option<PairId> {
        match self.outbound.way_to(&target) {
            Way::Open(pair) => Some(pair),
            Way::Wait => None,
            Way::Dial => {
                self.outputs.push(Output::DialOutbound { target });
                None
            }
        }
    }

    /// Forgets attempts that failed a while ago; sessions that still wait dial anew.
    pub(super) fn redial(&mut self, now: Now) {
        if self.outbound.forget_failed(now.instant) {
            let waiting = std::mem::take(&mut self.pathless);
            self.touched.extend(waiting);
        }
    }
}

impl Session {
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
