//! The OCS front end: many communicators over few connections, with the Via and Record-Route that it adds.
//!
//! Owns the communicators, the transactions that pass through it, and the check that what comes back is whole.
//! Does not own sockets. Incoming requests find their communicator by the dialog's tags, never by Call-ID:
//! real clients collide on that.

mod judgement;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tandem_runtime::io::environment;
use tandem_sip::RawMessage;
use tandem_sip::message::{Message, Request, Response};

use super::books::Answer;
use super::communicator::{Communicator, Draft, Identity, Kind, Tolerance};
use super::csta;
use super::violation::{Promise, Violation};
use crate::xml::Element;

/// A connection of the front end, dialled or accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionNumber(pub u64);

/// What the front end wants done.
#[derive(Debug)]
pub enum Output {
    Send {
        connection: ConnectionNumber,
        bytes: Bytes,
    },
}

/// The pure part of a simulated OCS.
#[derive(Debug)]
pub struct FrontEnd {
    /// Its own listening address, as in Record-Route.
    address: SocketAddr,
    /// Tandem's virtual address, where every Contact must point.
    vip: SocketAddr,
    users: Vec<Communicator>,
    /// The connections towards the VIP, by slot; users are spread over the slots.
    slots: Vec<Slot>,
    accepted: BTreeMap<ConnectionNumber, u64>,
    transactions: HashMap<String, Transaction>,
    /// The node's tag → user.
    dialogs: HashMap<String, usize>,
    violations: Vec<Violation>,
    last_branch: u64,
    outputs: Vec<Output>,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Option<ConnectionNumber>,
    /// Sent as soon as there is a connection again.
    waiting: Vec<(Bytes, Option<String>)>,
}

/// A request on its way, by the branch of the front end's Via.
#[derive(Debug)]
struct Transaction {
    user: usize,
    request: usize,
    connection: Option<ConnectionNumber>,
    /// Via values, From, To, Call-ID and CSeq as they were sent.
    vias: Vec<String>,
    from: String,
    to: String,
    call_id: String,
    cseq: String,
    uri: String,
    opens_dialog: bool,
}

impl FrontEnd {
    #[must_use]
    pub fn new(address: SocketAddr, vip: SocketAddr, identities: Vec<Identity>, connections: usize) -> Self {
        Self {
            address,
            vip,
            users: identities.into_iter().map(Communicator::new).collect(),
            slots: (0..connections.max(1)).map(|_| Slot::default()).collect(),
            accepted: BTreeMap::new(),
            transactions: HashMap::new(),
            dialogs: HashMap::new(),
            violations: Vec::new(),
            last_branch: 0,
            outputs: Vec::new(),
        }
    }

    #[must_use]
    pub fn users(&self) -> &[Communicator] {
        &self.users
    }

    #[must_use]
    pub fn user(&self, user: usize) -> &Communicator {
        &self.users[user]
    }

    /// For a story that wants a user to be somebody else, before he signs in.
    pub fn identity_mut(&mut self, user: usize) -> &mut Identity {
        &mut self.users[user].identity
    }

    /// Sends the opening INVITE; the rest of signing in follows by itself.
    pub fn sign_in(&mut self, user: usize) {
        let draft = self.users[user].invite(environment::now());
        self.send(user, draft);
    }

    /// Refreshes the dialog by a re-INVITE.
    pub fn refresh(&mut self, user: usize) {
        self.sign_in(user);
    }

    pub fn sign_off(&mut self, user: usize) {
        for draft in self.users[user].sign_off(environment::now()) {
            self.send(user, draft);
        }
    }

    pub fn snapshot(&mut self, user: usize) -> usize {
        let body = csta::snapshot_device(&self.users[user].identity.line);
        self.info(user, &body)
    }

    pub fn make_call(&mut self, user: usize, called: &str) -> usize {
        let body = csta::make_call(&self.users[user].identity.line, &format!("tel:{called}"));
        self.info(user, &body)
    }

    pub fn answer_call(&mut self, user: usize, call: &str) -> usize {
        let body = csta::answer_call(call, &self.users[user].identity.line);
        self.info(user, &body)
    }

    pub fn clear_connection(&mut self, user: usize, call: &str) -> usize {
        let body = csta::clear_connection(call, &self.users[user].identity.line);
        self.info(user, &body)
    }

    /// Sends any body as INFO inside the user's dialog; the number finds it among his requests.
    pub fn info(&mut self, user: usize, body: &str) -> usize {
        let draft = self.users[user].info(body, environment::now());
        let request = draft.request.expect("an INFO is a request with an answer");
        self.send(user, draft);
        request
    }

    /// A connection to the VIP stands; what waited for it goes out.
    pub fn connected(&mut self, slot: usize, connection: ConnectionNumber) {
        self.slots[slot].connection = Some(connection);
        for (bytes, branch) in std::mem::take(&mut self.slots[slot].waiting) {
            self.send_on(connection, bytes, branch);
        }
    }

    /// A connection that lb opened towards us.
    pub fn accepted(&mut self, connection: ConnectionNumber) {
        self.accepted.insert(connection, 0);
    }

    pub fn disconnected(&mut self, connection: ConnectionNumber) {
        self.accepted.remove(&connection);
        for slot in &mut self.slots {
            if slot.connection == Some(connection) {
                slot.connection = None;
            }
        }
        let users = &mut self.users;
        self.transactions.retain(|_, transaction| {
            let lost = transaction.connection == Some(connection);
            if lost {
                users[transaction.user].connection_lost(transaction.request);
            }
            !lost
        });
        let now = environment::now();
        self.users.iter_mut().for_each(|user| user.connection_broken(now));
    }

    /// One whole message has come.
    pub fn message_arrived(&mut self, connection: ConnectionNumber, raw: &RawMessage, now: Instant) {
        if let Some(compact) = compact_header(raw.bytes()) {
            // docs/spec/uacsta.md §9.8: clients do not read compact names.
            self.violation(format!("a message has a compact header {compact:?}"));
        }
        if let Some(count) = self.accepted.get_mut(&connection) {
            *count += 1;
        }
        match Message::parse(raw) {
            Ok(Message::Request(request)) => self.request_arrived(connection, &request, now),
            Ok(Message::Response(response)) => self.response_arrived(&response, now),
            Err(error) => self.violation(format!("a message that cannot be read: {error}")),
        }
    }

    /// Something on the wire that is no message, or a story's own finding.
    pub fn violation(&mut self, what: String) {
        self.broken(Promise::Form, what);
    }

    fn broken(&mut self, promise: Promise, what: String) {
        self.violations.push(Violation { promise, what });
    }

    /// From now on these things are no violations.
    pub fn tolerate(&mut self, tolerance: Tolerance) {
        self.users.iter_mut().for_each(|user| user.tolerate(tolerance));
    }

    #[must_use]
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Adds this front end's Via and, where a dialog opens, its Record-Route.
    fn send(&mut self, user: usize, draft: Draft) {
        self.last_branch += 1;
        let branch = format!("z9hG4bKocs{}", self.last_branch);
        let communicator = &self.users[user];
        let transaction = Transaction {
            user,
            request: draft.request.unwrap_or_default(),
            connection: None,
            vias: vec![
                format!(
                    "SIP/2.0/TCP {};branch={branch};ms-received-port=50123",
                    self.address
                ),
                // docs/spec/uacsta.md §1.2: the communicator's own Via has no branch.
                format!("SIP/2.0/TCP 10.1.{}.{}:50123", user / 250, user % 250 + 1),
            ],
            from: communicator.from_value(),
            to: draft.to.clone(),
            call_id: communicator.identity.call_id.clone(),
            cseq: format!("{} {}", draft.cseq, draft.method),
            uri: draft.uri.clone(),
            opens_dialog: draft.method == "INVITE",
        };
        let bytes = self.write_request(&draft, &transaction);
        let slot = user % self.slots.len();
        let tracked = draft.request.is_some().then(|| {
            self.transactions.insert(branch.clone(), transaction);
            branch
        });
        self.queue(slot, bytes, tracked);
    }

    fn write_request(&self, draft: &Draft, transaction: &Transaction) -> Bytes {
        let mut lines = vec![format!("{} {} SIP/2.0", draft.method, draft.uri)];
        lines.extend(transaction.vias.iter().map(|via| format!("Via: {via}")));
        if draft.method == "INVITE" {
            lines.push(format!("Record-Route: {}", self.record_route()));
        }
        lines.push("Max-Forwards: 69".to_owned());
        lines.push(format!("From: {}", transaction.from));
        lines.push(format!("To: {}", transaction.to));
        lines.push(format!("Call-ID: {}", transaction.call_id));
        lines.push(format!("CSeq: {}", transaction.cseq));
        lines.extend(draft.headers.iter().cloned());
        lines.push(format!("Content-Length: {}", draft.body.len()));
        Bytes::from(format!("{}\r\n\r\n{}", lines.join("\r\n"), draft.body))
    }

    fn record_route(&self) -> String {
        format!("<sip:{};transport=tcp;lr>", self.address)
    }

    fn queue(&mut self, slot: usize, bytes: Bytes, branch: Option<String>) {
        match self.slots[slot].connection {
            Some(connection) => self.send_on(connection, bytes, branch),
            None => self.slots[slot].waiting.push((bytes, branch)),
        }
    }

    fn send_on(&mut self, connection: ConnectionNumber, bytes: Bytes, branch: Option<String>) {
        if let Some(transaction) = branch.and_then(|branch| self.transactions.get_mut(&branch)) {
            transaction.connection = Some(connection);
        }
        self.outputs.push(Output::Send { connection, bytes });
    }

    fn response_arrived(&mut self, response: &Response, now: Instant) {
        let vias = values(&response.headers.get_all("Via"));
        let branch = vias
            .first()
            .and_then(|via| parameter(via, "branch"))
            .unwrap_or_default();
        if response.status < 200 {
            return;
        }
        let Some(transaction) = self.transactions.remove(branch) else {
            let what = format!("{} for a transaction that is not ours: {vias:?}", response.status);
            return self.broken(Promise::OneAnswer, what);
        };
        let user = transaction.user;
        for wrong in differences(&transaction, &vias, response) {
            self.users[user].violation(format!("{} to {}: {wrong}", response.status, transaction.cseq));
        }
        let to = header(response, "To");
        let to_tag = parameter(&to, "tag").unwrap_or_default().to_owned();
        if transaction.opens_dialog {
            self.opening_answered(&transaction, branch, response, &to_tag);
        }
        let answer = Answer {
            at: now,
            status: response.status,
            document: self.read_document(user, response),
        };
        let contact = header(response, "Contact");
        let contact = contact.split(['<', '>']).nth(1).map(str::to_owned);
        let drafts = self.users[user].answered(transaction.request, answer, contact.as_deref(), &to_tag);
        for draft in drafts {
            self.send(user, draft);
        }
    }

    /// What an answer to an INVITE must carry, and the ACK that this hop owes for a refusal.
    fn opening_answered(
        &mut self,
        transaction: &Transaction,
        branch: &str,
        response: &Response,
        to_tag: &str,
    ) {
        let user = transaction.user;
        if response.status != 200 {
            return self.acknowledge_refusal(transaction, branch, response);
        }
        let mut wrong = Vec::new();
        let refresher = header(response, "Session-Expires")
            .replace(' ', "")
            .to_ascii_lowercase();
        let interval = refresher
            .split(';')
            .next()
            .and_then(|text| text.parse::<u32>().ok());
        if !refresher.contains("refresher=uac") || interval.is_none_or(|interval| interval < 120) {
            wrong.push(format!("Session-Expires is {refresher:?}"));
        }
        if !values(&response.headers.get_all("Require")).contains(&"timer".to_owned()) {
            wrong.push("Require: timer is missing".to_owned());
        }
        let contact = header(response, "Contact");
        if !contact.contains(&self.vip.to_string()) {
            wrong.push(format!(
                "Contact {contact} does not name the virtual address {}",
                self.vip
            ));
        }
        let route = values(&response.headers.get_all("Record-Route"));
        if route != [self.record_route()] {
            wrong.push(format!("Record-Route is {route:?}"));
        }
        if !is_node_tag(to_tag) {
            wrong.push(format!("To-tag {to_tag:?} names no node"));
        }
        match self.dialogs.insert(to_tag.to_owned(), user) {
            Some(other) if other != user => wrong.push(format!("To-tag {to_tag} belongs to another dialog")),
            Some(_) | None => {}
        }
        for what in wrong {
            self.users[user].violation(format!("200 to INVITE: {what}"));
        }
    }

    /// RFC 3261 §17.1.1.3: same branch, one Via, the To of the answer.
    fn acknowledge_refusal(&mut self, transaction: &Transaction, branch: &str, response: &Response) {
        let cseq = transaction.cseq.replace("INVITE", "ACK");
        let bytes = format!(
            "ACK {} SIP/2.0\r\nVia: SIP/2.0/TCP {};branch={branch};ms-received-port=50123\r\nMax-Forwards: 70\r\n\
             From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq}\r\nContent-Length: 0\r\n\r\n",
            transaction.uri,
            self.address,
            transaction.from,
            header(response, "To"),
            transaction.call_id,
        );
        let slot = transaction.user % self.slots.len();
        self.queue(slot, Bytes::from(bytes), None);
    }

    fn read_document(&mut self, user: usize, response: &Response) -> Option<Element> {
        if response.body.is_empty() {
            return None;
        }
        let content_type = header(response, "Content-Type");
        if !content_type.starts_with("application/csta+xml") {
            self.users[user].violation(format!("a body of type {content_type:?}"));
        }
        match std::str::from_utf8(&response.body).map(Element::parse) {
            Ok(Ok(root)) => Some(root),
            unreadable => {
                self.users[user].violation(format!("a body that cannot be read: {unreadable:?}"));
                None
            }
        }
    }

    fn request_arrived(&mut self, connection: ConnectionNumber, request: &Request, now: Instant) {
        let to_tag = tag(&request_header(request, "To"));
        let from_tag = tag(&request_header(request, "From"));
        let user = self
            .dialogs
            .get(&from_tag)
            .copied()
            .filter(|&user| self.users[user].identity.from_tag == to_tag);
        let Some(user) = user else {
            let what = format!("{} for no dialog of ours: {from_tag}", request.method.as_str());
            self.broken(Promise::OwnEvents, what);
            return self.answer(connection, request, 481);
        };
        for wrong in self.wrong_in_request(user, request) {
            self.users[user].violation(format!("{} from the gateway: {wrong}", request.method.as_str()));
        }
        match request.method.as_str() {
            "INFO" => self.event_arrived(user, connection, request, now),
            "BYE" => {
                self.users[user].bye_arrived();
                self.answer(connection, request, 200);
            }
            // docs/spec/uacsta.md §0.4: clients answer 501 to whatever else comes.
            _ => self.answer(connection, request, 501),
        }
    }

    fn event_arrived(&mut self, user: usize, connection: ConnectionNumber, request: &Request, now: Instant) {
        let cseq = request_header(request, "CSeq");
        let number = cseq
            .split(' ')
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let communicator = &mut self.users[user];
        communicator.event_arrived(number, &body, now);
        if communicator.identity.kind == Kind::OfficeCommunicator {
            self.answer(connection, request, 200);
        }
    }

    /// What a request inside a dialog must look like (RFC 3261 §12.2.1.1, docs/spec/uacsta.md §1.6).
    fn wrong_in_request(&self, user: usize, request: &Request) -> Vec<String> {
        let communicator = &self.users[user];
        let mut wrong = Vec::new();
        let vias = values(&request.headers.get_all("Via"));
        let via = vias.first().cloned().unwrap_or_default();
        let branch = parameter(&via, "branch").unwrap_or_default();
        if !branch.strip_prefix("z9hG4bK").is_some_and(is_node_tag) {
            wrong.push(format!("Via branch {branch:?} names no node"));
        }
        if !via.starts_with(&format!("SIP/2.0/TCP {}", self.vip)) {
            wrong.push(format!(
                "Via {via:?} does not show the virtual address {}",
                self.vip
            ));
        }
        if values(&request.headers.get_all("Route")) != [self.record_route()] {
            wrong.push(format!("Route is {:?}", request.headers.get_all("Route")));
        }
        if request.uri != communicator.contact_uri() {
            wrong.push(format!("Request-URI is {}", request.uri));
        }
        if request_header(request, "Call-ID") != communicator.identity.call_id {
            wrong.push("another Call-ID".to_owned());
        }
        if parameter(&request_header(request, "To"), "epid") != Some(communicator.identity.epid.as_str()) {
            wrong.push(format!("To has lost its epid: {}", request_header(request, "To")));
        }
        if request.headers.get("Max-Forwards").is_none() {
            wrong.push("no Max-Forwards".to_owned());
        }
        let content_type = request_header(request, "Content-Type");
        if request.method.as_str() == "INFO" && !content_type.starts_with("application/csta+xml") {
            wrong.push(format!("Content-Type is {content_type:?}"));
        }
        wrong
    }

    fn answer(&mut self, connection: ConnectionNumber, request: &Request, status: u16) {
        let mut lines = vec![format!("SIP/2.0 {status} {}", reason(status))];
        lines.extend(
            request
                .headers
                .get_all("Via")
                .iter()
                .map(|via| format!("Via: {via}")),
        );
        for name in ["From", "To", "Call-ID", "CSeq"] {
            lines.push(format!("{name}: {}", request_header(request, name)));
        }
        lines.push("Content-Length: 0".to_owned());
        let bytes = Bytes::from(format!("{}\r\n\r\n", lines.join("\r\n")));
        self.outputs.push(Output::Send { connection, bytes });
    }
}

/// Where an answer does not echo its request.
fn differences(transaction: &Transaction, vias: &[String], response: &Response) -> Vec<String> {
    let mut wrong = Vec::new();
    if vias != transaction.vias {
        wrong.push(format!("Via came back as {vias:?}"));
    }
    for (name, sent) in [
        ("From", &transaction.from),
        ("Call-ID", &transaction.call_id),
        ("CSeq", &transaction.cseq),
    ] {
        let echoed = header(response, name);
        if echoed != *sent {
            wrong.push(format!("{name} {sent:?} came back as {echoed:?}"));
        }
    }
    let to = header(response, "To");
    let has_tag = parameter(&transaction.to, "tag").is_some();
    let same = if has_tag {
        to == transaction.to
    } else {
        to.starts_with(&transaction.to)
    };
    if !same || parameter(&to, "tag").is_none() {
        wrong.push(format!("To {:?} came back as {to:?}", transaction.to));
    }
    wrong
}

/// `n1-…`: the id of a node, then something random.
fn is_node_tag(tag: &str) -> bool {
    let Some((node, random)) = tag.strip_prefix('n').and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    !node.is_empty() && node.bytes().all(|byte| byte.is_ascii_digit()) && random.len() >= 16
}

fn header(response: &Response, name: &str) -> String {
    response
        .headers
        .get(name)
        .map(|value| value.to_string())
        .unwrap_or_default()
}

fn request_header(request: &Request, name: &str) -> String {
    request
        .headers
        .get(name)
        .map(|value| value.to_string())
        .unwrap_or_default()
}

fn values(values: &[std::borrow::Cow<'_, str>]) -> Vec<String> {
    values.iter().map(|value| value.trim().to_owned()).collect()
}

fn tag(value: &str) -> String {
    parameter(value, "tag").unwrap_or_default().to_owned()
}

/// A parameter of a Via, or of a name-addr behind its `>`.
fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let parameters = value.rsplit_once('>').map_or(value, |(_, parameters)| parameters);
    parameters
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

fn compact_header(bytes: &[u8]) -> Option<char> {
    let head = bytes
        .split(|&byte| byte == b'\n')
        .skip(1)
        .take_while(|line| line.len() > 1);
    head.filter_map(|line| match line {
        [name, b':', ..] => Some(char::from(*name)),
        _ => None,
    })
    .next()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        481 => "Call Leg/Transaction Does Not Exist",
        501 => "Not Implemented",
        _ => "Answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_behind_the_uri_only() {
        let value = "<sip:joe@example.com;tag=no>;tag=yes;epid=ab";
        assert_eq!(parameter(value, "tag"), Some("yes"));
        assert_eq!(parameter(value, "epid"), Some("ab"));
        assert_eq!(
            parameter("SIP/2.0/TCP h:1;branch=z9hG4bKn1-x", "branch"),
            Some("z9hG4bKn1-x")
        );
    }

    #[test]
    fn compact_names_are_seen_in_the_head_only() {
        assert_eq!(compact_header(b"SIP/2.0 200 OK\r\nv: x\r\n\r\n"), Some('v'));
        assert_eq!(compact_header(b"SIP/2.0 200 OK\r\nVia: x\r\n\r\nv: body"), None);
    }
}
