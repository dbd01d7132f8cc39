//! Two nodes as the front end sees them: they read its header and answer every request 200, in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use futures::FutureExt;
use tandem_runtime::io::environment::net::{ReadHalf, TcpListener, TcpStream, WriteHalf};
use tandem_runtime::io::sip_stream::{
    MessageDeadlines, Received, SipReader, StreamCounters, listen, read_proxy_header, tune_socket,
};
use tandem_sip::{Frame, FramerLimits, RawMessage, write_answer};
use tandem_tests::cluster::Addresses;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// They stop when this is dropped.
pub(crate) struct StandInNodes {
    holding: watch::Sender<bool>,
    held: Arc<AtomicUsize>,
    _listening: JoinSet<()>,
}

impl StandInNodes {
    pub(crate) fn start(addresses: Addresses) -> anyhow::Result<Self> {
        let holding = watch::Sender::new(false);
        let held = Arc::new(AtomicUsize::new(0));
        let mut listening = JoinSet::new();
        for id in 1..=2 {
            let node = Node {
                to_tag: to_tag(id),
                holding: holding.subscribe(),
                held: Arc::clone(&held),
            };
            listening.spawn(node.listen(listen(addresses.node_sip(id))?));
        }
        Ok(Self {
            holding,
            held,
            _listening: listening,
        })
    }

    /// From now on INVITEs wait for their answer.
    pub(crate) fn hold_invites(&self) {
        self.holding.send_replace(true);
    }

    /// They are answered, each before anything that comes after it; how many there were.
    pub(crate) fn release_invites(&self) -> usize {
        self.holding.send_replace(false);
        self.held.swap(0, Ordering::Relaxed)
    }
}

/// The To-tag of everything that a node answers, as a node's own begin (`n1-`).
pub(crate) fn to_tag(id: u64) -> String {
    format!("n{id}-standin")
}

#[derive(Clone)]
struct Node {
    to_tag: String,
    holding: watch::Receiver<bool>,
    held: Arc<AtomicUsize>,
}

impl Node {
    async fn listen(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(self.clone().serve(stream));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Until the front end is gone.
    async fn serve(self, mut stream: TcpStream) {
        let tuned = tune_socket(&stream, SILENCE_MAX);
        let header = read_proxy_header(&mut stream, SILENCE_MAX).await;
        let (Ok(()), Ok(Some((_, behind)))) = (tuned, header) else {
            return;
        };
        let (read, write) = stream.into_split();
        let reader = SipReader::new(
            read,
            FramerLimits::default(),
            MessageDeadlines::default(),
            StreamCounters::unregistered(),
        );
        let answering = Answering {
            node: self,
            write,
            invites: Vec::new(),
            answers: BytesMut::new(),
        };
        answering.run(reader.with_bytes(&behind)).await;
    }
}

/// One connection.
struct Answering {
    node: Node,
    write: WriteHalf,
    /// Those that wait for their answer.
    invites: Vec<RawMessage>,
    answers: BytesMut,
}

impl Answering {
    async fn run(mut self, mut reader: SipReader<ReadHalf>) {
        let mut holding = self.node.holding.clone();
        loop {
            // Answers to requests that came together are written together.
            while self.answers.len() < WRITE_BYTES {
                match reader.next().now_or_never() {
                    None => break,
                    Some(Received::Frame(frame)) => self.take(frame),
                    Some(_) => return,
                }
            }
            if !self.answers.is_empty() {
                if self.write.write_all(&self.answers).await.is_err() {
                    return;
                }
                self.answers.clear();
                // Nobody shall wait for another's flood here: the front end is measured, and not these.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                received = reader.next() => match received {
                    Received::Frame(frame) => self.take(frame),
                    Received::Ended | Received::Truncated(_) | Received::Overdue(_) | Received::Failed(_) => return,
                },
                changed = holding.changed() => match changed {
                    Ok(()) => self.answer_released(),
                    Err(_) => return,
                },
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        self.answer_released();
        match frame {
            Frame::Message(request) if request.method() == Some(b"INVITE") && self.holds() => {
                self.node.held.fetch_add(1, Ordering::Relaxed);
                self.invites.push(request);
            }
            Frame::Message(request) if request.is_request() && request.method() != Some(b"ACK") => {
                self.answer(&request);
            }
            Frame::KeepAlivePing => self.answers.extend_from_slice(b"\r\n"),
            Frame::Message(_) | Frame::Refused { .. } | Frame::Lost { .. } => {}
        }
    }

    fn holds(&self) -> bool {
        *self.node.holding.borrow()
    }

    fn answer_released(&mut self) {
        if !self.holds() {
            for invite in std::mem::take(&mut self.invites) {
                self.answer(&invite);
            }
        }
    }

    fn answer(&mut self, request: &RawMessage) {
        let answer = write_answer(request, 200, "OK", &self.node.to_tag, &[]);
        self.answers.extend_from_slice(&answer);
    }
}

const SILENCE_MAX: Duration = Duration::from_secs(30);
/// About as much as one write takes.
const WRITE_BYTES: usize = 64 << 10;
