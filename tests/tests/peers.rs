//! The simulated peers, each against the other or against the smallest fake that will do: a judge that cannot
//! see a mistake is no judge.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::net::SocketAddr;
use std::time::Duration;

use tandem_sip::{Frame, Framer, FramerLimits, Message, Request};
use tandem_tests::peers::books::Stage;
use tandem_tests::peers::communicator::Presence;
use tandem_tests::peers::csta;
use tandem_tests::peers::cti_manager::{self, CtiManagerOptions};
use tandem_tests::peers::ocs::{Ocs, OcsOptions, phone_number};
use tandem_tests::peers::pbx::Pbx;
use tandem_tests::xml::Element;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_cti_manager_makes_calls_and_reports_them_with_its_own_monitor_ids() {
    let (pbx, mut link) = pbx_behind_manager().await;
    link.start_session().await;
    let started = link.ask("0002", &csta::monitor_start("40001")).await;
    let monitor = started.text_at(&["monitorCrossRefID"]).unwrap().to_owned();
    let made = link
        .ask("0003", &csta::make_call("40001", "tel:+3222220220"))
        .await;
    let call = made.text_at(&["callingDevice", "callID"]).unwrap().to_owned();
    let events = [link.event().await, link.event().await];
    assert_eq!(
        events.each_ref().map(|event| event.name.as_str()),
        ["OriginatedEvent", "DeliveredEvent"]
    );
    assert!(
        events
            .iter()
            .all(|event| event.text_at(&["monitorCrossRefID"]) == Some(&monitor))
    );
    assert!(pbx.called_side_answers(&call).await);
    assert_eq!(link.event().await.name, "EstablishedEvent");
    let snapshot = link.ask("0004", &csta::snapshot_device("40001")).await;
    let calls = tandem_tests::peers::books::snapshot_calls(&snapshot);
    assert_eq!(calls[&call], ["connected", "connected"]);
    assert_eq!(pbx.log().await.len(), 1);
}

#[tokio::test]
async fn a_command_is_executed_at_once_even_when_its_answer_is_delayed() {
    let (pbx, mut link) = pbx_behind_manager().await;
    link.start_session().await;
    pbx.set_answer_delay(Duration::from_secs(3600)).await;
    link.send("0002", &csta::make_call("40001", "tel:+3222220220"))
        .await;
    pbx.wait_until("the call is made", DEADLINE, |switch| switch.calls().len() == 1)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_that_skips_the_application_session_is_cut_off_and_reported() {
    let (pbx, mut link) = pbx_behind_manager().await;
    link.send("0001", &csta::monitor_start("40001")).await;
    pbx.wait_until("it is reported", DEADLINE, |switch| {
        !switch.violations().is_empty()
    })
    .await
    .unwrap();
    assert!(link.is_closed().await);
}

#[tokio::test]
async fn monitors_fall_with_the_connection_that_started_them() {
    let (pbx, mut link) = pbx_behind_manager().await;
    link.start_session().await;
    link.ask("0002", &csta::monitor_start("40001")).await;
    drop(link);
    pbx.wait_until("no monitor is left", DEADLINE, |switch| {
        switch.monitors().values().sum::<usize>() == 0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn communicators_sign_in_behind_one_connection_although_their_call_ids_collide() {
    let ocs = ocs_at(fake_gateway(Mistake::None).await).await;
    sign_in(&ocs).await;
    ocs.wait_until("everyone has the event", DEADLINE, |front_end| {
        front_end.users().iter().all(|user| user.events().len() == 2)
    })
    .await
    .unwrap();
    let (violations, stages) = ocs
        .ask(|front_end| {
            let stage = |user: &tandem_tests::peers::communicator::Communicator| {
                user.calls().calls().values().next().unwrap().stage
            };
            (
                front_end.violations(),
                front_end.users().iter().map(stage).collect::<Vec<_>>(),
            )
        })
        .await;
    assert_eq!(violations, Vec::<String>::new());
    assert_eq!(stages, vec![Stage::Cleared; 4]);
}

#[tokio::test]
async fn every_planted_mistake_of_a_gateway_is_seen() {
    for (mistake, word) in [
        (Mistake::RepeatsCSeq, "has CSeq"),
        (Mistake::RepeatsEvent, "which was"),
        (Mistake::WrongMonitor, "for monitor"),
        (Mistake::ForgetsEpid, "epid"),
        (Mistake::ForgetsRoute, "Route is"),
        (Mistake::ForgetsRecordRoute, "Record-Route is"),
        (Mistake::CompactName, "compact header"),
        (Mistake::AnswersTwice, "a transaction that is not ours"),
    ] {
        let ocs = ocs_at(fake_gateway(mistake).await).await;
        sign_in(&ocs).await;
        ocs.wait_until(&format!("{mistake:?} is seen"), DEADLINE, move |front_end| {
            front_end
                .violations()
                .iter()
                .any(|violation| violation.contains(word))
        })
        .await
        .unwrap();
    }
}

async fn sign_in(ocs: &Ocs) {
    ocs.ask(|front_end| (0..front_end.users().len()).for_each(|user| front_end.sign_in(user)))
        .await;
    ocs.wait_until("everyone is signed in", DEADLINE, |front_end| {
        front_end
            .users()
            .iter()
            .all(|user| user.presence() == Presence::SignedIn)
    })
    .await
    .unwrap();
}

async fn ocs_at(vip: SocketAddr) -> Ocs {
    let options = OcsOptions {
        address: free_address().await,
        vip,
        users: 0..4,
        connections: 1,
        office_communicator_every: 2,
        colliding_group: 2,
    };
    Ocs::start(options).await.unwrap()
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn pbx_behind_manager() -> (Pbx, Link) {
    let pbx = Pbx::start("127.0.0.1:0".parse().unwrap(), vec![phone_number(1)])
        .await
        .unwrap();
    let listen = free_address().await;
    let options = CtiManagerOptions {
        listen,
        pbx: pbx.address(),
        name: "cm1".to_owned(),
    };
    tokio::spawn(cti_manager::run(options));
    loop {
        if let Ok(stream) = TcpStream::connect(listen).await {
            return (
                pbx,
                Link {
                    stream,
                    early: Vec::new(),
                },
            );
        }
        tokio::task::yield_now().await;
    }
}

/// A node's side of a CSTA link, as small as it can be.
struct Link {
    early: Vec<Element>,
    stream: TcpStream,
}

impl Link {
    async fn start_session(&mut self) {
        let inner = "<applicationInfo><applicationID>x</applicationID></applicationInfo>";
        let start = csta::session_document("StartApplicationSession", inner);
        assert_eq!(
            self.ask("0001", &start).await.name,
            "StartApplicationSessionPosResponse"
        );
    }

    async fn send(&mut self, invoke_id: &str, document: &str) {
        let length = u16::try_from(8 + document.len()).unwrap();
        let mut bytes = [[0, 0], length.to_be_bytes()].concat();
        bytes.extend_from_slice(invoke_id.as_bytes());
        bytes.extend_from_slice(document.as_bytes());
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The answer; events that come before it are kept.
    async fn ask(&mut self, invoke_id: &str, document: &str) -> Element {
        self.send(invoke_id, document).await;
        loop {
            let (id, root) = self.receive().await;
            if id == invoke_id {
                return root;
            }
            self.early.push(root);
        }
    }

    async fn event(&mut self) -> Element {
        if !self.early.is_empty() {
            return self.early.remove(0);
        }
        let (id, root) = self.receive().await;
        assert_eq!(id, "9999");
        root
    }

    async fn receive(&mut self) -> (String, Element) {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]])) - 8];
        self.stream.read_exact(&mut body).await.unwrap();
        let id = String::from_utf8(header[4..].to_vec()).unwrap();
        (id, Element::parse(std::str::from_utf8(&body).unwrap()).unwrap())
    }

    async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 64]).await, Ok(0) | Err(_))
    }
}

/// What the fake gateway does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    RepeatsCSeq,
    RepeatsEvent,
    WrongMonitor,
    ForgetsEpid,
    ForgetsRoute,
    ForgetsRecordRoute,
    CompactName,
    AnswersTwice,
}

/// Answers like a node: one dialog per INVITE, two events after MonitorStart.
async fn fake_gateway(mistake: Mistake) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut gateway = FakeGateway {
            address,
            mistake,
            dialogs: Vec::new(),
        };
        let mut framer = Framer::new(FramerLimits::default());
        while stream
            .read_buf(framer.buffer_mut())
            .await
            .is_ok_and(|count| count > 0)
        {
            while let Some(Frame::Message(raw)) = framer.next_frame() {
                let Ok(Message::Request(request)) = Message::parse(&raw) else {
                    continue;
                };
                for text in gateway.handle(&request) {
                    stream.write_all(text.as_bytes()).await.unwrap();
                }
            }
        }
    });
    address
}

struct FakeGateway {
    address: SocketAddr,
    mistake: Mistake,
    /// The INVITE of each dialog.
    dialogs: Vec<Request>,
}

impl FakeGateway {
    fn handle(&mut self, request: &Request) -> Vec<String> {
        let header = |name: &str| request.headers.get(name).unwrap_or_default().into_owned();
        match request.method.as_str() {
            "INVITE" => {
                self.dialogs.push(request.clone());
                let tag = format!("n1-{:016}", self.dialogs.len());
                let body = csta::system_status_response();
                let mut extra = format!(
                    "Contact: <sip:{}>\r\nRequire: timer\r\nSession-Expires: 1800;refresher=uac\r\n",
                    self.address
                );
                if self.mistake != Mistake::ForgetsRecordRoute {
                    extra += &format!("Record-Route: {}\r\n", header("Record-Route"));
                }
                vec![self.answer(request, &format!(";tag={tag}"), &extra, &body)]
            }
            "INFO" => self.info(request),
            _ => Vec::new(),
        }
    }

    fn info(&self, request: &Request) -> Vec<String> {
        let root = Element::parse(std::str::from_utf8(&request.body).unwrap()).unwrap();
        if root.name != "MonitorStart" {
            return vec![self.answer(
                request,
                "",
                "",
                &csta::document(&format!("{}Response", root.name), ""),
            )];
        }
        let answer = self.answer(request, "", "", &csta::monitor_start_response("m1"));
        let mut texts = vec![answer.clone()];
        if self.mistake == Mistake::AnswersTwice {
            texts.push(answer);
        }
        let to = request.headers.get("To").unwrap().into_owned();
        let number: usize = to.rsplit('-').next().unwrap().parse().unwrap();
        let line = root.text_at(&["monitorObject", "deviceObject"]).unwrap();
        let second = if self.mistake == Mistake::RepeatsEvent {
            "DeliveredEvent"
        } else {
            "ConnectionClearedEvent"
        };
        let numbers = if self.mistake == Mistake::RepeatsCSeq {
            [5, 5]
        } else {
            [5, 9]
        };
        texts.push(self.event(number, &to, line, "DeliveredEvent", numbers[0]));
        texts.push(self.event(number, &to, line, second, numbers[1]));
        texts
    }

    fn event(&self, number: usize, own: &str, line: &str, name: &str, cseq: u32) -> String {
        let invite = &self.dialogs[number - 1];
        let header = |name: &str| invite.headers.get(name).unwrap_or_default().into_owned();
        let contact = header("Contact");
        let connection = if name == "DeliveredEvent" {
            "connection"
        } else {
            "droppedConnection"
        };
        let monitor = if self.mistake == Mistake::WrongMonitor {
            "m2"
        } else {
            "m1"
        };
        let body = csta::document(
            name,
            &format!(
                "<monitorCrossRefID>{monitor}</monitorCrossRefID><{connection}><callID>c</callID>\
                 <deviceID>{line}</deviceID></{connection}><localConnectionInfo>alerting</localConnectionInfo>"
            ),
        );
        let mut to = header("From");
        if self.mistake == Mistake::ForgetsEpid {
            to.truncate(to.find(";epid").unwrap());
        }
        let route = format!("Route: {}\r\n", header("Record-Route"));
        let route = if self.mistake == Mistake::ForgetsRoute {
            ""
        } else {
            route.as_str()
        };
        let via = if self.mistake == Mistake::CompactName {
            "v"
        } else {
            "Via"
        };
        format!(
            "INFO {} SIP/2.0\r\n{via}: SIP/2.0/TCP {};branch=z9hG4bKn1-{cseq:016}\r\n{route}From: {own}\r\nTo: {to}\r\n\
             Call-ID: {}\r\nCSeq: {cseq} INFO\r\nMax-Forwards: 70\r\nContent-Type: application/csta+xml\r\n\
             Content-Length: {}\r\n\r\n{body}",
            contact.trim_matches(['<', '>']),
            self.address,
            header("Call-ID"),
            body.len()
        )
    }

    fn answer(&self, request: &Request, tag: &str, extra: &str, body: &str) -> String {
        let header = |name: &str| request.headers.get(name).unwrap_or_default().into_owned();
        let vias: String = request
            .headers
            .get_all("Via")
            .iter()
            .map(|via| format!("Via: {via}\r\n"))
            .collect();
        format!(
            "SIP/2.0 200 OK\r\n{vias}From: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{extra}\
             Content-Type: application/csta+xml\r\nContent-Length: {}\r\n\r\n{body}",
            header("From"),
            header("To"),
            header("Call-ID"),
            header("CSeq"),
            body.len()
        )
    }
}
