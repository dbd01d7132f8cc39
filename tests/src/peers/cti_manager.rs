//! A CTI manager: CSTA XML over TCP towards the nodes, the line protocol towards the PBX.
//!
//! Every node connection gets a PBX connection of its own, so that its monitors fall with it. What a node does
//! against the protocol is reported to the PBX, where a story finds it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tandem_runtime::io::environment::{
    self,
    net::{ReadHalf, TcpListener, TcpOptions, TcpStream},
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::Instant;

use super::csta;
use super::line_protocol::{CallId, Fault, FromManager, PbxAnswer, PbxEvent, PbxRequest, ToManager};
use crate::xml::Element;

/// What `tandem-cti-manager` is told on its command line.
#[derive(Debug, Clone)]
pub struct CtiManagerOptions {
    pub listen: SocketAddr,
    pub pbx: SocketAddr,
    pub name: String,
}

/// Serves nodes until the process is killed.
pub async fn run(options: CtiManagerOptions) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("binding to {}", options.listen))?;
    println!("{} listens on {}", options.name, options.listen);
    loop {
        let (stream, peer) = listener.accept().await.context("accepting a node")?;
        let options = options.clone();
        tokio::spawn(async move {
            match serve(stream, &options).await {
                Ok(()) => println!("{peer} has gone"),
                Err(error) => println!("{peer} is cut off: {error:#}"),
            }
        });
    }
}

/// One node connection and the PBX connection behind it.
async fn serve(node: TcpStream, options: &CtiManagerOptions) -> anyhow::Result<()> {
    node.tune(&TcpOptions::default())?;
    let pbx = TcpStream::connect(options.pbx)
        .await
        .context("connecting to the PBX")?;
    pbx.tune(&TcpOptions::default())?;
    let (node_reader, mut node_writer) = node.into_split();
    let (pbx_reader, mut pbx_writer) = pbx.into_split();
    let (frame_sender, mut frames) = tokio::sync::mpsc::channel(FRAMES_MAX);
    let reading = tokio::spawn(read_frames(node_reader, frame_sender));
    let mut lines = BufReader::new(pbx_reader).lines();
    let mut session = Session::new(&options.name);
    let result = loop {
        for line in session.to_pbx.drain(..) {
            let mut line = serde_json::to_vec(&line)?;
            line.push(b'\n');
            pbx_writer.write_all(&line).await?;
        }
        for (invoke_id, document) in session.to_node.drain(..) {
            node_writer.write_all(&frame(&invoke_id, &document)).await?;
        }
        if let Some(reason) = session.closing.take() {
            break Err(anyhow::anyhow!(reason));
        }
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(Ok(frame)) => session.frame(&frame, Instant::now()),
                Some(Err(reason)) => session.violation(&reason, true),
                None => break Ok(()),
            },
            line = lines.next_line() => match line? {
                Some(line) => session.pbx_said(serde_json::from_str(&line)?),
                None => break Err(anyhow::anyhow!("the PBX has gone")),
            },
            () = tokio::time::sleep_until(session.deadline) => session.expire(),
        }
    };
    reading.abort();
    result
}

/// An Annex J frame: invoke id and document.
#[derive(Debug)]
struct Frame {
    invoke_id: [u8; 4],
    document: Vec<u8>,
}

async fn read_frames(mut reader: ReadHalf, frames: tokio::sync::mpsc::Sender<Result<Frame, String>>) {
    loop {
        let mut header = [0; HEADER_LENGTH];
        if reader.read_exact(&mut header).await.is_err() {
            return;
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let invoke_id = [header[4], header[5], header[6], header[7]];
        if header[0..2] != [0, 0] || length <= HEADER_LENGTH || !invoke_id.iter().all(u8::is_ascii_digit) {
            let _ = frames
                .send(Err(format!("a bad Annex J header: {header:?}")))
                .await;
            return;
        }
        let mut document = vec![0; length - HEADER_LENGTH];
        if reader.read_exact(&mut document).await.is_err() {
            return;
        }
        if frames.send(Ok(Frame { invoke_id, document })).await.is_err() {
            return;
        }
    }
}

/// Length includes the header, big-endian (docs/spec/uacsta.md §4.1).
fn frame(invoke_id: &str, document: &str) -> Vec<u8> {
    let length = u16::try_from(HEADER_LENGTH + document.len()).expect("no simulated document is that long");
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(invoke_id.as_bytes());
    bytes.extend_from_slice(document.as_bytes());
    bytes
}

/// The pure part: what a node has said so far, and what is to be sent.
#[derive(Debug)]
struct Session {
    prefix: String,
    application_session: Option<String>,
    granted: Duration,
    deadline: Instant,
    /// Monitor cross reference id → device as the node wrote it.
    monitors: BTreeMap<String, String>,
    last_monitor: u64,
    /// Requests at the PBX: what the node asked, by our number.
    pending: HashMap<u64, Pending>,
    outstanding_invoke_ids: HashSet<String>,
    last_request: u64,
    to_node: Vec<(String, String)>,
    to_pbx: Vec<FromManager>,
    closing: Option<String>,
}

#[derive(Debug)]
struct Pending {
    invoke_id: String,
    asked: Asked,
}

#[derive(Debug)]
enum Asked {
    MonitorStart {
        device: String,
    },
    /// Of a monitor that falls without an answer to anybody.
    Nothing,
    Snapshot {
        device: String,
    },
    SnapshotCall {
        call: CallId,
    },
    MakeCall {
        device: String,
    },
    Empty {
        response: &'static str,
    },
}

impl Session {
    fn new(name: &str) -> Self {
        let hello = FromManager::Hello {
            name: name.to_owned(),
        };
        Self {
            prefix: format!("{name}-{:04x}", environment::random::<u16>()),
            application_session: None,
            granted: SESSION_DURATION_MAX,
            deadline: Instant::now() + SESSION_DURATION_MAX,
            monitors: BTreeMap::new(),
            last_monitor: 0,
            pending: HashMap::new(),
            outstanding_invoke_ids: HashSet::new(),
            last_request: 0,
            to_node: Vec::new(),
            to_pbx: vec![hello],
            closing: None,
        }
    }

    fn frame(&mut self, frame: &Frame, now: Instant) {
        let invoke_id = String::from_utf8_lossy(&frame.invoke_id).into_owned();
        let root = match std::str::from_utf8(&frame.document).map(Element::parse) {
            Ok(Ok(root)) => root,
            Ok(Err(error)) => return self.violation(&format!("XML that cannot be read: {error}"), true),
            Err(_) => return self.violation("a document that is not UTF-8", true),
        };
        if invoke_id == EVENT_INVOKE_ID {
            return self.violation("a request with the invoke id of events", true);
        }
        if !self.outstanding_invoke_ids.insert(invoke_id.clone()) {
            return self.violation(&format!("invoke id {invoke_id} is still outstanding"), true);
        }
        match root.namespace.as_deref() {
            Some(csta::APPLICATION_SESSION) => self.session_service(invoke_id, &root, now),
            Some(csta::CSTA) => self.service(invoke_id, &root),
            other => self.violation(&format!("{} in namespace {other:?}", root.name), true),
        }
    }

    /// ECMA-354: start, keep alive, stop.
    fn session_service(&mut self, invoke_id: String, root: &Element, now: Instant) {
        let asked = root
            .text_at(&["requestedSessionDuration"])
            .and_then(|text| text.parse().ok())
            .map_or(SESSION_DURATION_MAX, Duration::from_secs);
        let known = root.text_at(&["sessionID"]) == self.application_session.as_deref();
        match root.name.as_str() {
            "StartApplicationSession" => {
                if root.at(&["applicationInfo", "applicationID"]).is_none() {
                    return self.violation("StartApplicationSession without applicationID", true);
                }
                self.granted = asked.clamp(Duration::from_secs(1), SESSION_DURATION_MAX);
                self.application_session = Some(self.prefix.clone());
                let inner = [
                    csta::element("sessionID", &self.prefix),
                    csta::element("actualProtocolVersion", csta::CSTA),
                    self.duration_element(),
                ];
                self.answer_session(invoke_id, "StartApplicationSessionPosResponse", &inner.concat());
            }
            "ResetApplicationSessionTimer" if known => {
                self.granted = asked.clamp(Duration::from_secs(1), SESSION_DURATION_MAX);
                let inner = self.duration_element();
                self.answer_session(invoke_id, "ResetApplicationSessionTimerPosResponse", &inner);
            }
            "StopApplicationSession" if known => {
                self.answer_session(invoke_id, "StopApplicationSessionPosResponse", "");
                self.closing = Some("the node has stopped its session".to_owned());
            }
            other => return self.violation(&format!("{other} with a session that does not exist"), true),
        }
        self.deadline = now + self.granted;
    }

    fn service(&mut self, invoke_id: String, root: &Element) {
        if root.name == "RequestSystemStatus" {
            return self.answer(invoke_id, csta::system_status_response());
        }
        if root.name == "SystemStatusResponse" {
            self.outstanding_invoke_ids.remove(&invoke_id);
            return;
        }
        if self.application_session.is_none() {
            return self.violation(&format!("{} before StartApplicationSession", root.name), true);
        }
        match root.name.as_str() {
            "MonitorStart" => self.monitor_start(invoke_id, root),
            "MonitorStop" => self.monitor_stop(invoke_id, root),
            "SnapshotDevice" => match root.text_at(&["snapshotObject"]) {
                Some(device) => {
                    let device = device.to_owned();
                    let request = PbxRequest::Snapshot {
                        device: device.clone(),
                    };
                    self.ask_pbx(invoke_id, request, Asked::Snapshot { device });
                }
                None => self.answer(invoke_id, csta::error("operation", "invalidDeviceID")),
            },
            "SnapshotCall" => match on_connection(root, "snapshotObject") {
                Some((call, device)) => {
                    self.ask_pbx(
                        invoke_id,
                        PbxRequest::Snapshot { device },
                        Asked::SnapshotCall { call },
                    );
                }
                None => self.answer(invoke_id, csta::error("operation", "invalidConnectionID")),
            },
            "MakeCall" => self.make_call(invoke_id, root),
            "AnswerCall" => {
                let request = on_connection(root, "callToBeAnswered")
                    .map(|(call, device)| PbxRequest::AnswerCall { device, call });
                self.call_service(invoke_id, request, "AnswerCallResponse");
            }
            "ClearConnection" => {
                let request = on_connection(root, "connectionToBeCleared")
                    .map(|(call, device)| PbxRequest::ClearConnection { device, call });
                self.call_service(invoke_id, request, "ClearConnectionResponse");
            }
            _ => self.answer(invoke_id, csta::error("operation", "serviceNotSupported")),
        }
    }

    fn monitor_start(&mut self, invoke_id: String, root: &Element) {
        let Some(device) = root.text_at(&["monitorObject", "deviceObject"]) else {
            return self.answer(invoke_id, csta::error("operation", "invalidMonitorObject"));
        };
        let device = device.to_owned();
        let request = PbxRequest::MonitorStart {
            device: device.clone(),
        };
        self.ask_pbx(invoke_id, request, Asked::MonitorStart { device });
    }

    fn monitor_stop(&mut self, invoke_id: String, root: &Element) {
        let id = root.text_at(&["monitorCrossRefID"]).unwrap_or_default();
        let Some(device) = self.monitors.remove(id) else {
            return self.answer(invoke_id, csta::error("operation", "invalidMonitorCrossRefID"));
        };
        if !self.monitors.values().any(|other| *other == device) {
            self.ask_pbx(String::new(), PbxRequest::MonitorStop { device }, Asked::Nothing);
        }
        self.answer(invoke_id, csta::document("MonitorStopResponse", ""));
    }

    fn make_call(&mut self, invoke_id: String, root: &Element) {
        let device = root.text_at(&["callingDevice"]);
        let called = root.text_at(&["calledDirectoryNumber"]);
        let (Some(device), Some(called)) = (device, called) else {
            return self.answer(invoke_id, csta::error("operation", "invalidParameterValue"));
        };
        let (device, called) = (device.to_owned(), called.to_owned());
        let request = PbxRequest::MakeCall {
            device: device.clone(),
            called,
        };
        self.ask_pbx(invoke_id, request, Asked::MakeCall { device });
    }

    fn call_service(&mut self, invoke_id: String, request: Option<PbxRequest>, response: &'static str) {
        match request {
            Some(request) => self.ask_pbx(invoke_id, request, Asked::Empty { response }),
            None => self.answer(invoke_id, csta::error("operation", "invalidConnectionID")),
        }
    }

    fn pbx_said(&mut self, message: ToManager) {
        match message {
            ToManager::Answer { id, answer } => self.pbx_answered(id, answer),
            ToManager::Event(event) => self.pbx_event(&event),
        }
    }

    fn pbx_answered(&mut self, id: u64, answer: Result<PbxAnswer, Fault>) {
        let Some(Pending { invoke_id, asked }) = self.pending.remove(&id) else {
            return;
        };
        let document = match (asked, answer) {
            (Asked::Nothing, _) => return,
            (asked, Err(fault)) => fault_document(&asked, fault),
            (Asked::MonitorStart { device }, Ok(_)) => {
                self.last_monitor += 1;
                let monitor = format!("{}-{}", self.prefix, self.last_monitor);
                self.monitors.insert(monitor.clone(), device);
                csta::monitor_start_response(&monitor)
            }
            (Asked::Snapshot { device }, Ok(PbxAnswer::Snapshot { calls })) => {
                csta::snapshot_response(&device, &calls)
            }
            (Asked::SnapshotCall { call }, Ok(PbxAnswer::Snapshot { calls })) => {
                let found = calls.iter().find(|shown| shown.call == call);
                found.map_or_else(
                    || csta::error("operation", "invalidConnectionID"),
                    csta::snapshot_call_response,
                )
            }
            (Asked::MakeCall { device }, Ok(PbxAnswer::CallMade { call })) => {
                csta::make_call_response(&call, &device)
            }
            (Asked::Empty { response }, Ok(PbxAnswer::Done)) => csta::document(response, ""),
            (asked, Ok(answer)) => unreachable!("the PBX answered {answer:?} to {asked:?}"),
        };
        self.answer(invoke_id, document);
    }

    fn pbx_event(&mut self, event: &PbxEvent) {
        let monitors = self
            .monitors
            .iter()
            .filter(|(_, device)| **device == event.device);
        for (monitor, _) in monitors {
            self.to_node
                .push((EVENT_INVOKE_ID.to_owned(), csta::event(monitor, event)));
        }
    }

    fn ask_pbx(&mut self, invoke_id: String, request: PbxRequest, asked: Asked) {
        self.last_request += 1;
        let id = self.last_request;
        self.pending.insert(id, Pending { invoke_id, asked });
        self.to_pbx.push(FromManager::Request { id, request });
    }

    fn answer(&mut self, invoke_id: String, document: String) {
        self.outstanding_invoke_ids.remove(&invoke_id);
        self.to_node.push((invoke_id, document));
    }

    fn answer_session(&mut self, invoke_id: String, root: &str, inner: &str) {
        self.answer(invoke_id, csta::session_document(root, inner));
    }

    fn duration_element(&self) -> String {
        csta::element("actualSessionDuration", &self.granted.as_secs().to_string())
    }

    /// The node has let its application session run out.
    fn expire(&mut self) {
        let reason = "<sessionTermReason><definedTermReason>sessionTimerExpired</definedTermReason></sessionTermReason>";
        let inner = format!("{}{reason}", csta::element("sessionID", &self.prefix));
        let document = csta::session_document("ApplicationSessionTerminated", &inner);
        self.to_node.push((EVENT_INVOKE_ID.to_owned(), document));
        self.violation("the application session ran out", true);
    }

    fn violation(&mut self, what: &str, fatal: bool) {
        println!("violation: {what}");
        self.to_pbx.push(FromManager::Violation {
            what: what.to_owned(),
        });
        if fatal {
            self.closing = Some(what.to_owned());
        }
    }
}

fn on_connection(root: &Element, name: &str) -> Option<(String, String)> {
    let connection = root.child(name)?;
    let call = connection.text_at(&["callID"])?;
    let device = connection.text_at(&["deviceID"])?;
    Some((call.to_owned(), device.to_owned()))
}

fn fault_document(asked: &Asked, fault: Fault) -> String {
    match (fault, asked) {
        (Fault::UnknownDevice, Asked::MakeCall { .. }) => csta::error("operation", "invalidCallingDeviceID"),
        (Fault::UnknownDevice, _) => csta::error("operation", "invalidDeviceID"),
        (Fault::UnknownCall, _) => csta::error("operation", "invalidConnectionID"),
        (Fault::WrongState, _) => csta::error("stateIncompatibility", "invalidConnectionState"),
    }
}

/// Two octets of format, two of length, four digits of invoke id.
const HEADER_LENGTH: usize = 8;
/// Events carry it (docs/spec/uacsta.md §4.1).
const EVENT_INVOKE_ID: &str = "9999";
const SESSION_DURATION_MAX: Duration = Duration::from_secs(60);
const FRAMES_MAX: usize = 64;
