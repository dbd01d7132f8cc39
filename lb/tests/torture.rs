//! The torture messages of RFC 4475 through the front end, before nodes that accept everything.
#![allow(clippy::unwrap_used, reason = "what cannot be set up fails the test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tandem_lb::app::FrontEnd;
use tandem_lb::config::Config;
use tandem_runtime::config::read_text;
use tandem_runtime::io::sip_stream::read_proxy_header;
use tandem_sip::proxy_protocol::ProxyHeader;
use tandem_sip::{Frame, Framer, FramerLimits, RawMessage, write_answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// The expected handling of the requests in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Passed on unchanged and accepted by a node; the next one as well.
    PassedOn,
    /// Passed on unchanged and accepted by a node. What follows is not a message: the front end closes without an answer.
    PassedOnAndClosed,
    /// Answered by the front end, and no more; the next one is passed on.
    Refused(u16),
    /// A response to no request: dropped silently. The next request is passed on.
    Dropped,
    /// Answered by the front end, which closes, because the start of the next message is unknown.
    Closed(u16),
    /// Incomplete until the client closes its side. The next message is taken for the rest of this one.
    Incomplete,
}

const FATES: &[(&str, Fate)] = &[
    // Its To-tag names a dialog that no node has.
    ("3.1.1.1-wsinv", Fate::Refused(481)),
    ("3.1.1.2-intmeth", Fate::PassedOn),
    ("3.1.1.3-esc01", Fate::PassedOn),
    ("3.1.1.4-escnull", Fate::PassedOn),
    ("3.1.1.5-esc02", Fate::PassedOn),
    ("3.1.1.6-lwsdisp", Fate::PassedOn),
    ("3.1.1.7-longreq", Fate::PassedOn),
    // Two requests, of which the second has more body than it says: what is left of it is no start line.
    ("3.1.1.8-dblreq", Fate::PassedOnAndClosed),
    ("3.1.1.9-semiuri", Fate::PassedOn),
    ("3.1.1.10-transports", Fate::PassedOn),
    ("3.1.1.11-mpart01", Fate::PassedOn),
    ("3.1.1.12-unreason", Fate::Dropped),
    ("3.1.1.13-noreason", Fate::Dropped),
    ("3.1.2.1-badinv01", Fate::PassedOn),
    ("3.1.2.2-clerr", Fate::Incomplete),
    ("3.1.2.3-ncl", Fate::Closed(400)),
    ("3.1.2.4-scalar02", Fate::Refused(400)),
    ("3.1.2.5-scalarlg", Fate::Dropped),
    ("3.1.2.6-quotbal", Fate::Refused(400)),
    ("3.1.2.7-ltgtruri", Fate::PassedOn),
    ("3.1.2.8-lwsruri", Fate::Refused(400)),
    ("3.1.2.9-lwsstart", Fate::Refused(400)),
    ("3.1.2.10-trws", Fate::Refused(400)),
    ("3.1.2.11-escruri", Fate::PassedOn),
    ("3.1.2.12-baddate", Fate::PassedOn),
    ("3.1.2.13-regbadct", Fate::PassedOn),
    ("3.1.2.14-badaspec", Fate::PassedOn),
    ("3.1.2.15-baddn", Fate::PassedOn),
    ("3.1.2.16-badvers", Fate::Refused(505)),
    ("3.1.2.17-mismatch01", Fate::Refused(400)),
    ("3.1.2.18-mismatch02", Fate::Refused(400)),
    ("3.1.2.19-bigcode", Fate::Dropped),
    ("3.2.1-badbranch", Fate::PassedOn),
    ("3.3.1-insuf", Fate::Refused(400)),
    ("3.3.2-unkscm", Fate::PassedOn),
    ("3.3.3-novelsc", Fate::PassedOn),
    ("3.3.4-unksm2", Fate::PassedOn),
    ("3.3.5-bext01", Fate::PassedOn),
    ("3.3.6-invut", Fate::PassedOn),
    ("3.3.7-regaut01", Fate::PassedOn),
    ("3.3.8-multi01", Fate::Refused(400)),
    ("3.3.9-mcl01", Fate::Closed(400)),
    ("3.3.10-bcast", Fate::Dropped),
    // The front end is not a SIP proxy: it counts no hops, and the node is the final destination.
    ("3.3.11-zeromf", Fate::PassedOn),
    ("3.3.12-cparam01", Fate::PassedOn),
    ("3.3.13-cparam02", Fate::PassedOn),
    ("3.3.14-regescrt", Fate::PassedOn),
    ("3.3.15-sdp01", Fate::PassedOn),
    ("3.4.1-inv2543", Fate::Closed(400)),
];

#[tokio::test]
async fn each_gets_its_answers_and_the_next_request_its_own_wherever_it_can_be_found() {
    let mut world = World::start().await;
    for (name, fate) in FATES {
        let message = message(name);
        let heard = world.say(&[&message[..], GOOD.as_bytes()].concat()).await;
        assert_eq!(heard.answers, expected_answers(&message, *fate), "{name}");
        let mut passed_on = expected_at_nodes(&message, *fate);
        passed_on.sort_unstable();
        assert_eq!(heard.at_nodes, passed_on, "{name}");
        // Whatever happened to that connection, the next one is served.
        let heard = world.say(GOOD.as_bytes()).await;
        assert_eq!(heard.answers, [("good".to_owned(), ACCEPTED)], "after {name}");
    }
}

#[test]
fn every_file_is_in_the_table() {
    let files = std::fs::read_dir(folder()).unwrap();
    let mut files: Vec<String> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".sip").map(str::to_owned))
        .collect();
    let mut listed: Vec<&str> = FATES.iter().map(|(name, _)| *name).collect();
    files.sort_unstable();
    listed.sort_unstable();
    assert_eq!(files, listed);
}

/// Call-ID and status of every final answer, in alphabetical order: two nodes may answer in any.
fn expected_answers(message: &Bytes, fate: Fate) -> Vec<(String, u16)> {
    let statuses = |status| {
        framed(message)
            .into_iter()
            .map(move |request| (text(request.call_id()), status))
    };
    let good = ("good".to_owned(), ACCEPTED);
    let mut answers: Vec<(String, u16)> = match fate {
        Fate::PassedOn => statuses(ACCEPTED).chain([good]).collect(),
        Fate::PassedOnAndClosed => statuses(ACCEPTED).collect(),
        Fate::Refused(status) => statuses(status).chain([good]).collect(),
        Fate::Dropped => vec![good],
        Fate::Closed(status) => statuses(status).collect(),
        Fate::Incomplete => Vec::new(),
    };
    answers.sort_unstable();
    answers
}

fn expected_at_nodes(message: &Bytes, fate: Fate) -> Vec<Bytes> {
    let good = Bytes::from_static(GOOD.as_bytes());
    let messages = framed(message).into_iter().map(|message| message.bytes().clone());
    match fate {
        Fate::PassedOn => messages.chain([good]).collect(),
        Fate::PassedOnAndClosed => messages.collect(),
        Fate::Refused(_) | Fate::Dropped => vec![good],
        Fate::Closed(_) | Fate::Incomplete => Vec::new(),
    }
}

/// A front end with two nodes in service that accept every request.
struct World {
    front_end: FrontEnd,
    /// What the nodes have received.
    passed_on: mpsc::UnboundedReceiver<Bytes>,
}

/// The result of one connection.
struct Heard {
    answers: Vec<(String, u16)>,
    at_nodes: Vec<Bytes>,
}

impl World {
    async fn start() -> Self {
        let (sender, passed_on) = mpsc::unbounded_channel();
        let mut nodes = String::new();
        for id in 1..=2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            nodes.push_str(&format!("[[node]]\nid = {id}\naddress = \"{address}\"\n"));
            tokio::spawn(run_node(id, listener, sender.clone()));
        }
        let text = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"ocs\"\naddress = \"127.0.0.1:0\"\nmode = \"message\"\n\
             {nodes}[keepalive]\ncheck = \"connect\"\n"
        );
        let config = read_text(Path::new("lb.toml"), &text, Config::read).unwrap();
        let front_end = FrontEnd::start(config).await.unwrap();
        let in_service = async {
            while front_end.nodes_in_service() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(in_service).await;
        Self { front_end, passed_on }
    }

    /// Sends the bytes, closes the sending side, and reads until the front end closes.
    async fn say(&mut self, bytes: &[u8]) -> Heard {
        let mut client = TcpStream::connect(self.front_end.addresses()[0]).await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = Vec::new();
        within(client.read_to_end(&mut received)).await.unwrap();
        let answers = framed(&received.into()).into_iter();
        let answers = answers.filter_map(|answer| Some((text(answer.call_id()), answer.status()?)));
        // 100 Trying is no final answer.
        let mut answers: Vec<_> = answers.filter(|(_, status)| *status >= 200).collect();
        answers.sort_unstable();
        // A node tells what it received before it answers, and the answers are here.
        let mut at_nodes: Vec<Bytes> = std::iter::from_fn(|| self.passed_on.try_recv().ok()).collect();
        at_nodes.sort_unstable();
        Heard { answers, at_nodes }
    }
}

async fn run_node(id: u64, listener: TcpListener, passed_on: mpsc::UnboundedSender<Bytes>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(id, stream, passed_on.clone()));
    }
}

async fn serve(id: u64, mut stream: TcpStream, passed_on: mpsc::UnboundedSender<Bytes>) {
    let header = read_proxy_header(&mut stream, PATIENCE).await;
    let Ok(Some((ProxyHeader::Proxied(_), rest))) = header else {
        return;
    };
    let mut framer = Framer::new(FramerLimits::default());
    framer.buffer_mut().extend_from_slice(&rest);
    loop {
        while let Some(frame) = framer.next_frame() {
            let Frame::Message(message) = frame else {
                panic!("passed on to a node: {frame:?}");
            };
            passed_on.send(message.bytes().clone()).unwrap();
            let answer = write_answer(&message, ACCEPTED, "Accepted", &format!("n{id}-a"), &[]);
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
        match stream.read_buf(framer.buffer_mut()).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// The messages in the bytes, as far as they are framed or can be answered.
fn framed(bytes: &Bytes) -> Vec<RawMessage> {
    let mut framer = Framer::new(FramerLimits::default());
    framer.buffer_mut().extend_from_slice(bytes);
    let frames = std::iter::from_fn(|| framer.next_frame());
    frames
        .filter_map(|frame| match frame {
            Frame::Message(message) | Frame::Refused { message, .. } => Some(message),
            Frame::Lost { answer, .. } => answer.map(|(message, _)| message),
            Frame::KeepAlivePing => panic!("unexpected ping"),
        })
        .collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn message(name: &str) -> Bytes {
    let path = folder().join(format!("{name}.sip"));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into()
}

fn folder() -> PathBuf {
    let samples = ["..", "shared", "sip", "testdata", "rfc4475"];
    samples
        .iter()
        .fold(PathBuf::from(env!("CARGO_MANIFEST_DIR")), |path, part| {
            path.join(part)
        })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

const GOOD: &str = "INVITE sip:good@example.com SIP/2.0\r\n\
    Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKgood\r\n\
    From: <sip:caller@example.net>;tag=good\r\n\
    To: <sip:good@example.com>\r\n\
    Call-ID: good\r\n\
    CSeq: 1 INVITE\r\n\
    Content-Length: 4\r\n\r\ngood";

/// The nodes' answer, which the front end never generates itself.
const ACCEPTED: u16 = 202;
const PATIENCE: Duration = Duration::from_secs(10);
