//! One communicator: its dialog with the gateway, the requests it sends, and its strict reading of what comes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::books::{Answer, CallBook, Outcome, ReceivedEvent, SentRequest, connection_of, snapshot_calls};
use super::csta;
use super::violation::{Promise, Violation};
use crate::xml::Element;

/// Which client this is (docs/spec/uacsta.md §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// pidgin-sipe: never answers an INFO; its CSeq starts anew after every answer to an INVITE.
    Sipe,
    /// Office Communicator: answers every INFO with 200; its CSeq goes on.
    OfficeCommunicator,
}

/// Who the user is and what his client calls its dialog.
#[derive(Debug, Clone)]
pub struct Identity {
    /// User part of From; the directory's user id.
    pub user: String,
    /// The whole line URI, echoed by the gateway byte for byte.
    pub line: String,
    /// Directory number of the phone.
    pub phone: String,
    pub call_id: String,
    pub from_tag: String,
    pub epid: String,
    pub kind: Kind,
    /// The session interval that it asks for in every INVITE, in seconds (RFC 4028 §7.1); `None`: it leaves that to the
    /// gateway.
    pub session_expires_secs: Option<u32>,
}

/// How far signing in has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    SignedOut,
    /// INVITE sent.
    Inviting,
    /// INVITE answered with 200; features and monitor asked for.
    Starting,
    SignedIn,
    /// The INVITE was refused with this status.
    Refused(u16),
}

/// What is no violation at the moment, because a node may have died or been cut off in the middle of telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tolerance {
    Nothing,
    /// An event may come once more: its node could not write down that it was told.
    Repeats,
    /// An event may come before the answer to the command that caused it, besides: the answer was lost on its way.
    EarlyEvents,
}

/// The dialog as its UAC keeps it.
#[derive(Debug, Clone)]
pub struct Dialog {
    /// The node's tag: `n1-…`.
    pub to_tag: String,
    pub remote_target: String,
    /// CSeq of the last event; the next one must be higher (RFC 3261 §12.2.1.1).
    pub last_event_cseq: Option<u32>,
}

/// A request ready for the front end, which adds its own Via and Record-Route.
#[derive(Debug, Clone)]
pub struct Draft {
    pub method: &'static str,
    pub cseq: u32,
    pub uri: String,
    pub to: String,
    /// Header lines in order, without Via, From, To, Call-ID, CSeq and Content-Length.
    pub headers: Vec<String>,
    pub body: String,
    /// Index in [`Communicator::requests`]; an ACK has none.
    pub request: Option<usize>,
}

/// A communicator and its books.
#[derive(Debug)]
pub struct Communicator {
    pub identity: Identity,
    presence: Presence,
    dialog: Option<Dialog>,
    monitor: Option<String>,
    cseq: u32,
    requests: Vec<SentRequest>,
    events: Vec<ReceivedEvent>,
    calls: CallBook,
    /// Numbers that MakeCall requests without an answer have called, by request.
    calling: BTreeMap<usize, String>,
    last_snapshot: Option<BTreeMap<String, Vec<String>>>,
    ended_by_gateway: bool,
    /// The last event before a connection broke: nobody can know that it arrived, so it may come once more.
    may_be_repeated: Option<(String, String)>,
    tolerance: Tolerance,
    tolerated: usize,
    violations: Vec<Violation>,
}

impl Communicator {
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            presence: Presence::SignedOut,
            dialog: None,
            monitor: None,
            cseq: 0,
            requests: Vec::new(),
            events: Vec::new(),
            calls: CallBook::default(),
            calling: BTreeMap::new(),
            last_snapshot: None,
            ended_by_gateway: false,
            may_be_repeated: None,
            tolerance: Tolerance::Nothing,
            tolerated: 0,
            violations: Vec::new(),
        }
    }

    #[must_use]
    pub fn presence(&self) -> Presence {
        self.presence
    }

    #[must_use]
    pub fn dialog(&self) -> Option<&Dialog> {
        self.dialog.as_ref()
    }

    /// The monitor cross reference id that this client holds.
    #[must_use]
    pub fn monitor(&self) -> Option<&str> {
        self.monitor.as_deref()
    }

    #[must_use]
    pub fn requests(&self) -> &[SentRequest] {
        &self.requests
    }

    #[must_use]
    pub fn events(&self) -> &[ReceivedEvent] {
        &self.events
    }

    #[must_use]
    pub fn calls(&self) -> &CallBook {
        &self.calls
    }

    /// What the last answered SnapshotDevice listed.
    #[must_use]
    pub fn last_snapshot(&self) -> Option<&BTreeMap<String, Vec<String>>> {
        self.last_snapshot.as_ref()
    }

    /// Everything that was wrong, in order.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The gateway has sent BYE.
    #[must_use]
    pub fn ended_by_gateway(&self) -> bool {
        self.ended_by_gateway
    }

    /// The From of its requests, which the gateway must give back as To, `epid` and all.
    #[must_use]
    pub fn from_value(&self) -> String {
        let Identity {
            user, from_tag, epid, ..
        } = &self.identity;
        format!("<sip:{user}@example.com>;tag={from_tag};epid={epid}")
    }

    #[must_use]
    pub fn contact_uri(&self) -> String {
        let Identity { user, epid, .. } = &self.identity;
        format!("sip:{user}@example.com;opaque=user:epid:{epid};gruu")
    }

    /// The opening INVITE, or a refresh of the dialog when there is one.
    pub fn invite(&mut self, now: Instant) -> Draft {
        if self.dialog.is_none() {
            self.presence = Presence::Inviting;
        }
        let body = csta::request_system_status(&self.identity.line);
        let mut draft = self.draft("INVITE", &body, now);
        draft.headers.push(format!("Contact: <{}>", self.contact_uri()));
        draft.headers.push("Supported: timer".to_owned());
        let interval = self.identity.session_expires_secs;
        draft
            .headers
            .extend(interval.map(|secs| format!("Session-Expires: {secs};refresher=uac")));
        draft
    }

    /// A CSTA request inside the dialog.
    pub fn info(&mut self, body: &str, now: Instant) -> Draft {
        let draft = self.draft("INFO", body, now);
        if let (Some(index), Some(called)) = (draft.request, called_number(body)) {
            self.calling.insert(index, called);
        }
        draft
    }

    /// Sign-off: MonitorStop and BYE back to back, without waiting.
    pub fn sign_off(&mut self, now: Instant) -> Vec<Draft> {
        let stop = csta::monitor_stop(self.monitor.as_deref().unwrap_or_default());
        let drafts = vec![self.info(&stop, now), self.draft("BYE", "", now)];
        self.presence = Presence::SignedOut;
        drafts
    }

    /// Takes a final answer; returns what the client sends next.
    pub fn answered(
        &mut self,
        request: usize,
        answer: Answer,
        contact: Option<&str>,
        to_tag: &str,
    ) -> Vec<Draft> {
        let now = answer.at;
        let (status, method) = (answer.status, self.requests[request].method);
        let service = self.requests[request].service.clone();
        let document = answer.document.clone();
        match self.requests[request].outcome {
            Outcome::Pending => self.requests[request].outcome = Outcome::Answered(answer),
            Outcome::Answered(_) => {
                let what = format!("a second final answer, {status}, to {service}");
                self.broken(Promise::OneAnswer, what);
            }
            Outcome::ConnectionLost => {}
        }
        let called = self.calling.remove(&request);
        match method {
            "INVITE" => self.invite_answered(request, status, document.as_ref(), contact, to_tag, now),
            "INFO" if status == 200 => {
                self.info_answered(&service, document.as_ref(), called.as_deref());
                Vec::new()
            }
            "BYE" => {
                self.dialog = None;
                self.monitor = None;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The connection broke: what was sent on it and is unanswered stays so.
    pub fn connection_lost(&mut self, request: usize) {
        if self.requests[request].is_pending() {
            self.requests[request].outcome = Outcome::ConnectionLost;
        }
    }

    /// The front end has lost a connection. An event that was on its way may come again (RFC 3261 §8.1.3.1: its
    /// sender saw no answer), in the dialog's next CSeq.
    pub fn connection_broken(&mut self, now: Instant) {
        let recent = |event: &&ReceivedEvent| now.saturating_duration_since(event.at) < UNANSWERED_EVENT;
        let last = self.events.last().filter(recent);
        self.may_be_repeated = last.map(|event| (event.call.clone(), event.name.clone()));
    }

    pub fn tolerate(&mut self, tolerance: Tolerance) {
        self.tolerance = tolerance;
    }

    /// How often something was tolerated.
    #[must_use]
    pub fn tolerated(&self) -> usize {
        self.tolerated
    }

    /// An INFO with an event has come, on the right dialog. `cseq` is its number.
    pub fn event_arrived(&mut self, cseq: u32, body: &str, now: Instant) {
        let root = match Element::parse(body) {
            Ok(root) => root,
            Err(error) => return self.violation(format!("an event that cannot be read: {error}")),
        };
        if root.namespace.as_deref() != Some(csta::CSTA) {
            self.violation(format!("{} in namespace {:?}", root.name, root.namespace));
        }
        self.check_cseq(&root, cseq);
        let monitor = root
            .text_at(&["monitorCrossRefID"])
            .unwrap_or_default()
            .to_owned();
        if self.monitor.as_ref() != Some(&monitor) {
            let what = format!(
                "{} for monitor {monitor:?}, held is {:?}",
                root.name, self.monitor
            );
            self.broken(Promise::OwnEvents, what);
        }
        let Some((call, device)) = connection_of(&root).filter(|(call, _)| !call.is_empty()) else {
            return self.violation(format!("an event without a whole connection: {body}"));
        };
        self.check_own_device(&root, device);
        self.check_make_call_answered(&root, call);
        let mut repeated = self.may_be_repeated.take() == Some((call.to_owned(), root.name.clone()));
        if !repeated && self.tolerance >= Tolerance::Repeats && self.calls.was_told(call, &root.name) {
            self.tolerated += 1;
            repeated = true;
        }
        if !repeated && let Err(wrong) = self.calls.entered(call, &root) {
            self.broken(Promise::EventsInOrder, wrong);
        }
        self.events.push(ReceivedEvent {
            at: now,
            name: root.name.clone(),
            monitor,
            call: call.to_owned(),
            cseq,
            own_state: root
                .text_at(&["localConnectionInfo"])
                .unwrap_or_default()
                .to_owned(),
        });
    }

    pub fn bye_arrived(&mut self) {
        self.ended_by_gateway = true;
        let what = "the gateway ended the dialog with BYE".to_owned();
        self.broken(Promise::SessionKept, what);
    }

    /// A message is not as it must be.
    pub fn violation(&mut self, what: String) {
        self.broken(Promise::Form, what);
    }

    fn broken(&mut self, promise: Promise, what: String) {
        self.violations.push(Violation { promise, what });
    }

    fn invite_answered(
        &mut self,
        request: usize,
        status: u16,
        document: Option<&Element>,
        contact: Option<&str>,
        to_tag: &str,
        now: Instant,
    ) -> Vec<Draft> {
        let invite_cseq = self.requests[request].cseq;
        if self.identity.kind == Kind::Sipe {
            // docs/spec/uacsta.md §9.3: the count starts anew with the ACK.
            self.cseq = 1;
        }
        if status != 200 {
            if self.dialog.is_none() {
                self.presence = Presence::Refused(status);
            }
            return Vec::new();
        }
        self.check_opened(document);
        let Some(contact) = contact else {
            self.violation("200 to INVITE without Contact".to_owned());
            return Vec::new();
        };
        let first = self.dialog.is_none();
        let last_event_cseq = self.dialog.as_ref().and_then(|dialog| dialog.last_event_cseq);
        self.dialog = Some(Dialog {
            to_tag: to_tag.to_owned(),
            remote_target: contact.to_owned(),
            last_event_cseq,
        });
        let mut drafts = vec![self.ack(invite_cseq)];
        if first {
            self.presence = Presence::Starting;
            let line = self.identity.line.clone();
            drafts.push(self.info(&csta::get_csta_features(&line), now));
            drafts.push(self.info(&csta::monitor_start(&line), now));
        }
        drafts
    }

    fn check_opened(&mut self, document: Option<&Element>) {
        let status = document.and_then(|root| root.text_at(&["systemStatus"]));
        let root = document.map(|root| root.name.as_str());
        if root != Some("RequestSystemStatusResponse") || status != Some("normal") {
            self.violation(format!("200 to INVITE with {root:?}, systemStatus {status:?}"));
        }
    }

    fn info_answered(&mut self, service: &str, document: Option<&Element>, called: Option<&str>) {
        let Some(root) = document else {
            return self.violation(format!("200 to {service} without a CSTA document"));
        };
        if root.name == "CSTAErrorCode" {
            return;
        }
        if root.name != format!("{service}Response") || root.namespace.as_deref() != Some(csta::CSTA) {
            return self.violation(format!("{service} is answered with {}", root.name));
        }
        match service {
            "MonitorStart" => self.monitor_started(root),
            "MonitorStop" => self.monitor = None,
            "SnapshotDevice" => self.last_snapshot = Some(snapshot_calls(root)),
            "MakeCall" => self.call_made(root, called.unwrap_or_default()),
            _ => {}
        }
    }

    fn monitor_started(&mut self, root: &Element) {
        let Some(monitor) = root.text_at(&["monitorCrossRefID"]).filter(|id| !id.is_empty()) else {
            return self.violation("MonitorStartResponse without monitorCrossRefID".to_owned());
        };
        if let Some(held) = &self.monitor
            && held != monitor
        {
            self.violation(format!("a second monitor, {monitor}, beside {held}"));
        }
        self.monitor = Some(monitor.to_owned());
        self.presence = Presence::SignedIn;
    }

    fn call_made(&mut self, root: &Element, called: &str) {
        let device = root.text_at(&["callingDevice", "deviceID"]);
        if device != Some(self.identity.line.as_str()) {
            // docs/spec/uacsta.md §9.5: character for character, else the client never learns the callID.
            self.violation(format!("MakeCallResponse has device {device:?}"));
        }
        match root
            .text_at(&["callingDevice", "callID"])
            .filter(|id| !id.is_empty())
        {
            Some(call) => {
                let made = self.calls.made(call, &self.identity.phone, called);
                if let Err(wrong) = made
                    && self.tolerance < Tolerance::EarlyEvents
                {
                    self.broken(Promise::EventsInOrder, wrong);
                }
            }
            None => self.violation("MakeCallResponse without callID".to_owned()),
        }
    }

    fn check_cseq(&mut self, event: &Element, cseq: u32) {
        let Some(dialog) = &mut self.dialog else { return };
        if let Some(last) = dialog.last_event_cseq.replace(cseq)
            && cseq <= last
        {
            let what = format!("{} has CSeq {cseq} after {last}", event.name);
            self.broken(Promise::EventsInOrder, what);
        }
    }

    /// Where the connection is the client's own, it must be named as the client names it.
    fn check_own_device(&mut self, event: &Element, device: &str) {
        let own = event.text_at(&["localConnectionInfo"]);
        let is_own = event.name == "OriginatedEvent" || own == Some("alerting");
        if is_own && device != self.identity.line {
            let what = format!("{} names the client's line {device:?}", event.name);
            self.broken(Promise::OwnEvents, what);
        }
    }

    /// docs/spec/uacsta.md §9.5: no event of a call before the MakeCallResponse that names it.
    fn check_make_call_answered(&mut self, event: &Element, call: &str) {
        let called = event
            .text_at(&["calledDevice", "deviceIdentifier"])
            .map(super::switch::number_of);
        let early = !self.calls.calls().contains_key(call)
            && called.is_some_and(|called| self.calling.values().any(|number| *number == called));
        if early && self.tolerance >= Tolerance::EarlyEvents {
            self.tolerated += 1;
        } else if early {
            let what = format!("{} came before the MakeCallResponse", event.name);
            self.broken(Promise::EventsInOrder, what);
        }
    }

    fn ack(&self, invite_cseq: u32) -> Draft {
        let cseq = match self.identity.kind {
            Kind::Sipe => 1,
            Kind::OfficeCommunicator => invite_cseq,
        };
        Draft {
            method: "ACK",
            cseq,
            uri: self.request_uri(),
            to: self.to_value(),
            headers: Vec::new(),
            body: String::new(),
            request: None,
        }
    }

    fn draft(&mut self, method: &'static str, body: &str, now: Instant) -> Draft {
        self.cseq += 1;
        self.requests.push(SentRequest {
            method,
            service: Element::parse(body).map(|root| root.name).unwrap_or_default(),
            cseq: self.cseq,
            sent_at: now,
            outcome: Outcome::Pending,
        });
        let mut headers = vec![format!("User-Agent: {}", self.user_agent())];
        if !body.is_empty() {
            headers.push("Content-Disposition: signal;handling=required".to_owned());
            headers.push("Content-Type: application/csta+xml".to_owned());
        }
        Draft {
            method,
            cseq: self.cseq,
            uri: self.request_uri(),
            to: self.to_value(),
            headers,
            body: body.to_owned(),
            request: Some(self.requests.len() - 1),
        }
    }

    fn request_uri(&self) -> String {
        self.dialog
            .as_ref()
            .map_or_else(|| GATEWAY.to_owned(), |dialog| dialog.remote_target.clone())
    }

    fn to_value(&self) -> String {
        match &self.dialog {
            Some(dialog) => format!("<{GATEWAY}>;tag={}", dialog.to_tag),
            None => format!("<{GATEWAY}>"),
        }
    }

    fn user_agent(&self) -> &'static str {
        match self.identity.kind {
            Kind::Sipe => "Purple/2.10.12 Sipe/1.25.0 (linux-x86_64; RTC/5.0)",
            Kind::OfficeCommunicator => "UCCP/2.0.6362.0 OC/2.0.6362.0 (Microsoft Office Communicator)",
        }
    }
}

fn called_number(body: &str) -> Option<String> {
    let root = Element::parse(body).ok()?;
    root.text_at(&["calledDirectoryNumber"])
        .map(super::switch::number_of)
}

/// Longer than a gateway waits for the answer to an event before it sends the next one.
const UNANSWERED_EVENT: Duration = Duration::from_millis(500);
/// The gateway's URI as it stands in msRTCSIP-LineServer.
pub const GATEWAY: &str = "sip:8000@gateway.example.com";
