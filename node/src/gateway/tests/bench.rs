//! A gateway, and a test that plays front end, clients, CTI managers and cluster.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::Authority;
pub(super) use tandem_cluster::Command;
use tandem_cluster::{Change, ClusterState, ConnectionId, NodeId, SessionKey, StateLimits};
use tandem_sip::RawMessage;
use tandem_sip::proxy_protocol::Transport;

use crate::csta::{
    CallRequest, CstaErrorCode, CstaMessage, Event, MonitorRequest, Request, Response, SnapshotRequest,
    SystemRequest, decode,
};
use crate::cti::link_framer::EVENT_INVOKE_ID;
use crate::cti::{CtiConnectionId, CtiConnectionSettings, CtiInput, CtiSettings, CtiTimings, LinkId};
use crate::directory::{Directory, read_file};
use crate::gateway::*;
use crate::presence::Phones;
use crate::settings::GatewaySettings;

use super::cti_managers::{CtiManagers, Received};

pub(super) const LINE: &str = "tel:4711;phone-context=dialstring";

/// What the gateway said to a client.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) pair: PairId,
    pub(super) message: RawMessage,
}

impl Sent {
    pub(super) fn status(&self) -> u16 {
        self.message.status().unwrap_or(0)
    }

    pub(super) fn header(&self, name: &str) -> String {
        let headers = self.message.headers();
        let found = headers
            .into_iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        found.map_or_else(String::new, |(_, value)| {
            String::from_utf8_lossy(value).into_owned()
        })
    }

    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(&self.message.body()).into_owned()
    }

    pub(super) fn csta(&self) -> CstaMessage {
        decode(&self.message.body()).unwrap()
    }

    pub(super) fn to_tag(&self) -> SessionKey {
        SessionKey::new(String::from_utf8_lossy(self.message.to_tag().unwrap()))
    }
}

/// One gateway of a cluster whose state the test holds.
pub(super) struct Bench {
    pub(super) gateway: Gateway,
    pub(super) now: Now,
    pub(super) state: ClusterState,
    /// Batches are committed at once.
    pub(super) quorum: bool,
    pub(super) sent: Vec<Sent>,
    /// Of CTI managers, by connection and invoke id.
    pub(super) asked: Vec<(CtiConnectionId, u16, Request)>,
    pub(super) proposed: Vec<Command>,
    pub(super) reports: Vec<Report>,
    pub(super) dialled: Vec<OutboundTarget>,
    /// Pairs that shall be closed.
    pub(super) closed: Vec<PairId>,
    /// What committed batches changed, for who follows.
    pub(super) changes: Vec<Vec<Change>>,
    pending: Vec<(u64, Command)>,
    managers: CtiManagers,
    cti: CtiSettings,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::of(1, ClusterState::new(StateLimits::default()))
    }

    /// Node `node` with two CTI connections in service, after it has registered with a cluster in `state`.
    pub(super) fn of(node: u64, state: ClusterState) -> Self {
        Self::configured(node, state, |_| {})
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
    pub(super) fn configured(
        node: u64,
        state: ClusterState,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let mut config = config(node);
        change(&mut config);
        let cti = cti_settings(&config);
        let mut bench = Self {
            gateway: Gateway::new(config, cti.clone(), Arc::new(directory()), node),
            now: Now {
                instant: Instant::now(),
                unix_ms: 1_800_000_000_000,
                cluster_ms: 1_800_000_000_000,
            },
            state,
            quorum: true,
            sent: Vec::new(),
            asked: Vec::new(),
            proposed: Vec::new(),
            reports: Vec::new(),
            dialled: Vec::new(),
            closed: Vec::new(),
            changes: Vec::new(),
            pending: Vec::new(),
            managers: CtiManagers::default(),
            cti,
        };
        bench.state.apply(registered(node, node));
        bench.input(Input::AuthorityChanged(Authority::Quorum));
        bench.input(Input::Cti(CtiInput::Started));
        bench.open_pair(1, PairPurpose::Pair);
        bench
    }

    pub(super) fn open_pair(&mut self, id: u64, purpose: PairPurpose) {
        self.input(Input::PairOpened {
            id: PairId(id),
            pair: Pair {
                purpose,
                connection: ConnectionId([1; 16]),
                client: "10.0.0.1:40000".parse().unwrap(),
                local: "192.0.2.1:5060".parse().unwrap(),
                host_name: None,
                subject: None,
                transport: Transport::Tcp,
            },
        });
    }

    pub(super) fn input(&mut self, input: Input) {
        self.take_in(input);
        while self.quorum && !self.pending.is_empty() {
            self.commit();
        }
    }

    pub(super) fn commit_all(&mut self) {
        while !self.pending.is_empty() {
            self.commit();
        }
    }

    /// The oldest batch is committed.
    pub(super) fn commit(&mut self) {
        let (batch, command) = self.pending.remove(0);
        let (applied, changes) = self.state.apply(command);
        self.changes.push(changes);
        self.input(Input::Committed {
            batch,
            applied: Some(applied),
        });
    }

    pub(super) fn known(&self, key: &SessionKey) -> Option<KnownSession> {
        KnownSession::look_up(key, &self.state)
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now.instant += span;
        let millis = u64::try_from(span.as_millis()).unwrap();
        self.now.unix_ms += millis;
        self.now.cluster_ms += millis;
        while self
            .gateway
            .next_deadline()
            .is_some_and(|at| at <= self.now.instant)
        {
            self.input(Input::DeadlineReached);
        }
    }

    pub(super) fn receive(&mut self, text: &str) -> Vec<Sent> {
        self.receive_on(1, text)
    }

    /// What the gateway sends upon a message that comes by pair `pair`.
    pub(super) fn receive_on(&mut self, pair: u64, text: &str) -> Vec<Sent> {
        self.sent.clear();
        let message = RawMessage::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap();
        self.input(Input::SipMessage {
            pair: PairId(pair),
            message,
        });
        std::mem::take(&mut self.sent)
    }

    /// Answers the oldest request to a CTI manager; returns what the gateway sends upon it.
    pub(super) fn answer_cti(&mut self, answer: Result<Response, CstaErrorCode>) -> Vec<Sent> {
        let (connection, invoke_id, _) = self.asked.remove(0);
        let document = match answer {
            Ok(response) => response.encode(),
            Err(error) => error.encode(),
        };
        self.cti_says(connection, invoke_id, &document)
    }

    /// What the gateway sends when the CTI manager tells of an event.
    pub(super) fn cti_event(&mut self, connection: CtiConnectionId, event: &Event) -> Vec<Sent> {
        self.cti_says(connection, EVENT_INVOKE_ID, &event.encode())
    }

    pub(super) fn cti_ends_monitor(&mut self, connection: CtiConnectionId, cross_ref_id: &str) -> Vec<Sent> {
        let cross_ref_id = cross_ref_id.to_owned();
        self.cti_says(
            connection,
            EVENT_INVOKE_ID,
            &Request::Monitor(MonitorRequest::Stop { cross_ref_id }).encode(),
        )
    }

    /// Requests are for the test to answer; a heartbeat is answered at once.
    fn managers_read(&mut self, link: LinkId, bytes: &[u8]) -> Option<CtiInput> {
        let mut answer = None;
        for received in self.managers.read(link, bytes) {
            match received {
                Received::Heartbeat(well) => answer = Some(well),
                Received::Request { invoke_id, request } => {
                    self.asked.push((link.connection, invoke_id, request));
                }
            }
        }
        answer
    }

    fn cti_says(&mut self, connection: CtiConnectionId, invoke_id: u16, document: &str) -> Vec<Sent> {
        self.sent.clear();
        let said = self.managers.say(connection, invoke_id, document);
        self.input(Input::Cti(said));
        std::mem::take(&mut self.sent)
    }

    pub(super) fn lose_cti(&mut self, connection: CtiConnectionId) {
        let lost = self.managers.leave(connection);
        self.input(Input::Cti(lost));
    }

    pub(super) fn cti_comes_back(&mut self, connection: CtiConnectionId) {
        let back = self.managers.come_back(connection);
        self.input(Input::Cti(back));
    }

    /// An administrator has requests given up after this time.
    pub(super) fn set_request_timeout(&mut self, request_timeout: Duration) {
        self.input(Input::SettingsChanged(GatewaySettings {
            session_timer_secs: 1800,
            cti: CtiTimings {
                request_timeout,
                ..CtiTimings::of(&self.cti)
            },
        }));
    }

    pub(super) fn asked(&self) -> Vec<&Request> {
        self.asked.iter().map(|(_, _, request)| request).collect()
    }

    /// Signs user1 in; returns the session.
    pub(super) fn sign_in(&mut self) -> SessionKey {
        let sent = self.receive(&invite("1", "user1"));
        assert_eq!(sent[0].status(), 200, "{sent:?}");
        sent[0].to_tag()
    }

    /// Signs user1 in and starts a monitor: the PBX calls it `p-1`.
    pub(super) fn sign_in_with_monitor(&mut self) -> SessionKey {
        let key = self.sign_in();
        self.receive(&info(&key, 2, &monitor_start()));
        let sent = self.answer_cti(Ok(Response::MonitorStart {
            cross_ref_id: "p-1".into(),
        }));
        assert_eq!(sent[0].status(), 200);
        key
    }

    pub(super) fn record(&self, key: &SessionKey) -> &tandem_cluster::SessionRecord {
        self.state.session(key).unwrap()
    }
}

impl Shell for Bench {
    fn handle(&mut self, input: Input) -> Vec<Output> {
        let phones = Phones::of(self.state.sessions());
        let view = View {
            state: &self.state,
            phones: &phones,
        };
        self.gateway.handle(input, view, self.now)
    }

    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Send { pair, bytes } => {
                let message = RawMessage::parse(bytes).unwrap();
                self.sent.push(Sent { pair, message });
            }
            Output::ClosePair { pair } => self.closed.push(pair),
            Output::DialOutbound { target } => self.dialled.push(target),
            Output::ConnectLink { link, .. } => return self.managers.connect(link).map(Input::Cti),
            Output::WriteLink { link, bytes } => return self.managers_read(link, &bytes).map(Input::Cti),
            Output::CloseLink { link } => self.managers.close(link),
            Output::Propose { batch, command } => {
                self.proposed.push(command.clone());
                self.pending.push((batch, command));
            }
            Output::Report(report) => self.reports.push(report),
        }
        None
    }
}

/// Node `id` is there, at an address of its own.
pub(super) fn registered(id: u64, incarnation: u64) -> Command {
    Command::NodeRegistered {
        id: NodeId(id),
        sip_address: format!("127.0.0.1:{}", 5069 + id).parse().unwrap(),
        incarnation,
    }
}

fn config(node: u64) -> GatewayConfig {
    GatewayConfig {
        node: NodeId(node),
        session_timer_secs: 1800,
        sessions_max: 100,
        sessions_per_line_max: 5,
        requests_per_session_max: 8,
        events_per_session_max: 16,
        requests_held_max: 16,
        proposals_max: 64,
        commit_timeout: Duration::from_secs(5),
        event_wait: Duration::from_millis(300),
        resumptions_in_flight_max: 4,
        retry_after_secs_max: 1,
        new_sessions_without_quorum: WithoutQuorum::Refuse,
        sessions_without_quorum_max: 1,
        without_quorum_max: Duration::from_secs(300),
        adoption: AdoptionPolicy::Enabled,
        cti_connections: vec!["cm1:8000".into(), "cm2:8000".into()],
        watchers: WatcherSettings {
            watchers_max: 200,
            watchers_per_presentity_max: 150,
            ..WatcherSettings::default()
        },
        publish: None,
    }
}

/// A request is waited for as long as the test likes, and a lost link is opened again at once.
fn cti_settings(config: &GatewayConfig) -> CtiSettings {
    let connections = config.cti_connections.iter();
    let connections = connections.map(|address| CtiConnectionSettings {
        name: address.clone(),
        address: address.clone(),
    });
    CtiSettings {
        request_timeout: Duration::from_secs(86_400),
        reconnect_interval: Duration::ZERO,
        ..CtiSettings::new(connections.collect())
    }
}

fn directory() -> Directory {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("directory.toml");
    std::fs::write(&path, DIRECTORY).unwrap();
    read_file(Path::new(&path)).unwrap()
}

pub(super) fn invite(cseq: &str, user: &str) -> String {
    let body = Request::System(SystemRequest::RequestSystemStatus {
        line: Some(LINE.into()),
    })
    .encode();
    let headers = format!(
        "Contact: <sip:{user}@10.0.0.9:5060;transport=tcp>\r\nSupported: timer\r\n\
         Content-Type: application/csta+xml\r\n"
    );
    message(
        "INVITE",
        user,
        "",
        cseq,
        &format!("z9hG4bK-i{cseq}"),
        &headers,
        &body,
    )
}

/// An INFO inside the dialog of `key`, with a branch of its own.
/// The re-INVITE of a session that [`Bench::sign_in`] has opened.
pub(super) fn refresh(key: &SessionKey) -> String {
    invite("7", "user1").replace(
        "To: <sip:8000@gw.example.com>",
        &format!("To: <sip:8000@gw.example.com>;tag={key}"),
    )
}

pub(super) fn info(key: &SessionKey, cseq: u32, request: &Request) -> String {
    info_with(key, cseq, &format!("z9hG4bK-{cseq}"), &request.encode())
}

pub(super) fn info_with(key: &SessionKey, cseq: u32, branch: &str, body: &str) -> String {
    let headers = "Content-Type: application/csta+xml\r\n";
    message(
        "INFO",
        "user1",
        &format!(";tag={key}"),
        &cseq.to_string(),
        branch,
        headers,
        body,
    )
}

pub(super) fn bare(method: &str, to_tag: &str, cseq: u32) -> String {
    message(
        method,
        "user1",
        to_tag,
        &cseq.to_string(),
        &format!("z9hG4bK-{method}{cseq}"),
        "",
        "",
    )
}

pub(super) fn message(
    method: &str,
    user: &str,
    to_tag: &str,
    cseq: &str,
    branch: &str,
    headers: &str,
    body: &str,
) -> String {
    let length = body.len();
    format!(
        "{method} sip:8000@gw.example.com SIP/2.0\r\nVia: SIP/2.0/TCP 10.0.0.1:5060;branch={branch}\r\n\
         Via: SIP/2.0/TLS 10.1.1.5:50123\r\nRecord-Route: <sip:10.0.0.1:5060;transport=tcp;lr>\r\n\
         From: <sip:{user}@example.com>;tag=1234;epid=ab12\r\nTo: <sip:8000@gw.example.com>{to_tag}\r\n\
         Call-ID: shared\r\nCSeq: {cseq} {method}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// The client's answer to a request of ours.
pub(super) fn response_to(sent: &Sent, status: u16, extra: &str) -> String {
    let copied: String = ["Via", "From", "To", "Call-ID", "CSeq"]
        .iter()
        .map(|name| format!("{name}: {}\r\n", sent.header(name)))
        .collect();
    format!("SIP/2.0 {status} Whatever\r\n{copied}{extra}Content-Length: 0\r\n\r\n")
}

pub(super) fn monitor_start() -> Request {
    Request::Monitor(MonitorRequest::Start { device: LINE.into() })
}

pub(super) fn snapshot_device() -> Request {
    Request::Snapshot(SnapshotRequest::Device { device: LINE.into() })
}

pub(super) fn make_call() -> Request {
    CallRequest::make_call(LINE, "tel:+32-2222")
}

const DIRECTORY: &str = r#"
[[user]]
id = "user1"
[[user]]
id = "user2"
mail = "user2@mail.lab.test"
[[user]]
id = "user3"
remote_call_control = false
[[device]]
name = "SEP1"
[[device]]
name = "SEP2"
[[line]]
number = "4711"
devices = ["SEP1"]
users = ["user1", "user2"]
[[line]]
number = "4712"
devices = ["SEP2"]
users = ["user2"]
"#;
