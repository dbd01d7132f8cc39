//! One task per client connection: it owns the balancer, and everything that happens to the connection passes here.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::NodeId;
use tandem_runtime::io::environment;
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::pair_security::PairSecurity;
use tandem_runtime::io::revocation::RevocationWatch;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::sip_stream::{
    MessageDeadlines, Received, SendEnded, SendLimits, SendRefused, SipReader, SipSender, send_queue,
};
use tandem_runtime::source::source_of;
use tandem_sip::proxy_protocol::{PeerIdentity, ProxiedConnection, ProxyHeader, Purpose, Transport};
use tandem_sip::{Frame, FramerLimits, RawMessage};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, info, warn};

use crate::balancer::pending::EntryId;
use crate::balancer::{Balancer, Input, Output, PairId, PairPurpose, Shared};
use crate::metrics::{MessageCounters, Metrics, Side};

use super::admission::Admitted;
use super::client_reading::{Arrival, Reading};
use super::node_board::NodeBoard;
use super::paired_connection::{PairEvent, PairTask, overdue_label};

/// Bounds and times of byte streams, the same for all connections.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    pub framer: FramerLimits,
    pub deadlines: MessageDeadlines,
    pub client_queue: SendLimits,
    pub node_queue: SendLimits,
    pub connect_timeout: Duration,
    /// Bytes that a node does not acknowledge break its connection after this.
    pub silence_max: Duration,
    /// The same for a client, whose queue ends the connection earlier, and counts it.
    pub client_silence_max: Duration,
    pub idle: Duration,
}

/// What all connections of one listener share.
#[derive(Debug, Clone)]
pub struct ListenerContext {
    pub name: Arc<str>,
    /// Where clients connect to: shown to nodes, who show it to clients.
    pub vip: SocketAddr,
    /// Shown instead of its address.
    pub host_name: Option<String>,
    pub transport: Transport,
    pub balancer: Shared,
    pub streams: Arc<StreamSettings>,
    pub pairs: PairSecurity,
    pub board: Arc<NodeBoard>,
    pub doubts: mpsc::Sender<NodeId>,
    /// What is said of clients, once a minute for each address and reason.
    pub remarks: Arc<LogLimit<(IpAddr, &'static str)>>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    pub address: SocketAddr,
    pub connection_id: [u8; 16],
    pub peer: Option<PeerIdentity>,
    /// Over the certificate that it has shown.
    pub revocation: Option<RevocationWatch>,
}

impl ClientIdentity {
    /// Resolves once its certificate is revoked.
    pub async fn revoked(self) {
        match self.revocation {
            Some(watch) => watch.revoked().await,
            None => std::future::pending().await,
        }
    }
}

impl ListenerContext {
    /// Who the client is and where it connected to: nodes show the latter to clients.
    #[must_use]
    pub fn pair_header(&self, identity: &ClientIdentity, purpose: Purpose) -> Vec<u8> {
        let header = ProxyHeader::Proxied(ProxiedConnection {
            source: identity.address,
            destination: self.vip,
            transport: self.transport,
            connection_id: Some(identity.connection_id),
            peer: identity.peer.clone(),
            purpose,
            host_name: self.host_name.clone(),
        });
        header.write()
    }

    /// What is left to do when [`ClientIdentity::revoked`] has resolved is to end the connection.
    pub fn note_revoked(&self, identity: &ClientIdentity) {
        self.metrics.connection_ended(&self.name, "revoked");
        let (client, peer) = (identity.address, &identity.peer);
        warn!(listener = %self.name, %client, ?peer, reason = "revoked", "ended a connection");
    }
}

/// The node's end of an outbound connection, and what was read from it already.
#[derive(Debug)]
pub struct StandingNode<R> {
    pub node: NodeId,
    pub reader: SipReader<R>,
    pub sender: SipSender,
    pub first_message: Option<RawMessage>,
}

/// The task's state around the balancer.
pub struct ClientConnection {
    context: Arc<ListenerContext>,
    identity: ClientIdentity,
    balancer: Balancer,
    client: SipSender,
    pairs: HashMap<PairId, PairHandle>,
    pairs_to: HashMap<NodeId, MessageCounters>,
    counters: MessageCounters,
    events: mpsc::Sender<PairEvent>,
    /// What a full queue and the like say back to the balancer.
    echoes: VecDeque<Input>,
    closing: bool,
    /// Silence from both ends is counted from here.
    last_activity: Instant,
}

/// A pair as the client's task holds it; dropping it closes the pair.
#[derive(Debug)]
struct PairHandle {
    node: NodeId,
    drain: Arc<Notify>,
    queue: PairQueue,
}

#[derive(Debug)]
enum PairQueue {
    /// Messages wait, bounded as the pair's own queue will be.
    Connecting {
        task: tokio::task::AbortHandle,
        waiting: Vec<Bytes>,
        bytes: usize,
    },
    Standing(SipSender),
}

impl Drop for PairHandle {
    fn drop(&mut self) {
        match &self.queue {
            PairQueue::Connecting { task, .. } => task.abort(),
            PairQueue::Standing(sender) => sender.close(),
        }
    }
}

impl ClientConnection {
    /// Serves one client until its connection is over.
    pub async fn run<S>(
        context: Arc<ListenerContext>,
        identity: ClientIdentity,
        stream: S,
        admitted: Admitted,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::run_with::<S, tokio::io::Empty>(context, identity, stream, admitted, None).await;
    }

    /// As [`Self::run`], for a connection that a node asked for.
    pub async fn run_with<S, R>(
        context: Arc<ListenerContext>,
        identity: ClientIdentity,
        stream: S,
        admitted: Admitted,
        standing: Option<StandingNode<R>>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        R: AsyncRead + Unpin + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let counters = context.metrics.stream_counters(Side::Client);
        let (client, writer) = send_queue(write, &context.streams.client_queue, counters.clone());
        let writer = tokio::spawn(writer.run());
        let streams = Arc::clone(&context.streams);
        let reader = SipReader::new(read, streams.framer, streams.deadlines.clone(), counters);
        let board = context.board.subscribe();
        let (events, received) = mpsc::channel(EVENTS_WAITING_MAX);
        let mut connection = Self::new(context, identity, client, events);
        if let Some(standing) = standing {
            connection.take_standing(standing);
        }
        connection.serve(reader, received, board, &admitted).await;
        connection.feed(Input::ClientGone);
        connection.client.close();
        connection.pairs.clear();
        // The writer has its own patience with a client that takes nothing.
        if let Ok(Err(error)) = writer.await {
            if matches!(error, SendEnded::Stalled(_)) {
                connection.context.metrics.limit_reached("client_stalled");
            }
            debug!(client = %connection.identity.address, %error, "a client did not take its last messages");
        }
    }

    fn new(
        context: Arc<ListenerContext>,
        identity: ClientIdentity,
        client: SipSender,
        events: mpsc::Sender<PairEvent>,
    ) -> Self {
        let balancer = Balancer::new(
            context.balancer.clone(),
            context.board.table(),
            environment::random(),
        );
        Self {
            counters: MessageCounters::of_clients(&context.metrics),
            balancer,
            identity,
            client,
            pairs: HashMap::new(),
            pairs_to: HashMap::new(),
            events,
            echoes: VecDeque::new(),
            closing: false,
            last_activity: environment::now(),
            context,
        }
    }

    async fn serve<R: AsyncRead + Unpin>(
        &mut self,
        mut reader: SipReader<R>,
        mut events: mpsc::Receiver<PairEvent>,
        mut board: watch::Receiver<u64>,
        admitted: &Admitted,
    ) {
        let shutdown = self.context.shutdown.clone();
        let mut reading = Reading::new();
        let mut draining = false;
        let mut nodes_are_read = true;
        // Made once: making them takes a lock that all connections share.
        let (drain, close) = (shutdown.reached(Stage::Drain), shutdown.reached(Stage::Close));
        let revoked = self.identity.clone().revoked();
        tokio::pin!(drain, close, revoked);
        loop {
            self.serve_waiting(&mut reading, admitted);
            if self.closing {
                return;
            }
            let deadline = self.deadline(reading.paused);
            let congested = self.client.queued_bytes() > self.high_water();
            if congested == nodes_are_read {
                nodes_are_read = !congested;
                self.feed(Input::NodesRead(nodes_are_read));
            }
            tokio::select! {
                received = reader.next(), if reading.may_read() => {
                    let served = self.is_served(&reading);
                    match reading.arrived(received, served) {
                        Arrival::Ping => {
                            self.last_activity = environment::now();
                            self.feed(Input::ClientPinged);
                        }
                        Arrival::Serve(received) => self.client_sent(received, &mut reading, admitted),
                        Arrival::Kept => {}
                    }
                }
                Some(event) = events.recv(), if !congested => self.pair_reported(event),
                () = self.client.drained_to(self.high_water() / 4), if congested => {}
                () = self.client.closed() => return,
                changed = board.changed() => match changed {
                    Ok(()) => {
                        let table = self.context.board.table();
                        self.feed(Input::NodeTableChanged(table));
                    }
                    Err(_) => return,
                },
                () = sleep_until(deadline) => self.deadline_reached(&mut reading),
                () = &mut drain, if !draining => {
                    draining = true;
                    self.feed(Input::DrainStarted);
                }
                () = &mut revoked => {
                    self.context.note_revoked(&self.identity);
                    return;
                }
                () = &mut close => return,
            }
        }
    }

    /// A client over its rate, or with as many unanswered requests as it may have, waits.
    fn is_served(&self, reading: &Reading) -> bool {
        reading.paused.is_none() && !self.balancer.is_full()
    }

    fn serve_waiting(&mut self, reading: &mut Reading, admitted: &Admitted) {
        while !self.closing
            && self.is_served(reading)
            && let Some(received) = reading.take_next()
        {
            self.client_sent(received, reading, admitted);
        }
    }

    /// Above this, nodes are not read: they wait until the client has taken what it has.
    fn high_water(&self) -> usize {
        self.context.streams.client_queue.queued_bytes_max / 8
    }

    fn deadline(&self, paused: Option<Instant>) -> Instant {
        let idle = self.last_activity + self.context.streams.idle;
        let deadlines = [self.balancer.next_deadline(), paused, Some(idle)];
        deadlines.into_iter().flatten().min().unwrap_or(idle)
    }

    fn deadline_reached(&mut self, reading: &mut Reading) {
        let now = environment::now();
        if reading.paused.is_some_and(|until| until <= now) {
            reading.paused = None;
        }
        if now >= self.last_activity + self.context.streams.idle && self.balancer.unanswered() == 0 {
            self.context.metrics.limit_reached("idle");
            self.remark("idle", "a connection was idle, and is closed");
            self.closing = true;
        }
        self.feed(Input::DeadlineReached);
    }

    fn client_sent(&mut self, received: Received, reading: &mut Reading, admitted: &Admitted) {
        self.last_activity = environment::now();
        match received {
            Received::Frame(frame) => {
                reading.paused = admitted.message_arrived(self.last_activity);
                if reading.paused.is_some() {
                    self.context.metrics.limit_reached("messages_per_second");
                }
                self.client_framed(frame);
            }
            // A probe says nothing and leaves: no mistake of anybody's.
            Received::Ended if !reading.heard => self.closing = true,
            Received::Ended => self.feed(Input::ClientHalfClosed),
            Received::Failed(error) => {
                if reading.heard {
                    debug!(client = %self.identity.address, %error, "a client's connection broke");
                }
                self.closing = true;
            }
            Received::Truncated(_) => {
                self.client_incomplete("truncated");
                self.feed(Input::ClientHalfClosed);
            }
            Received::Overdue(phase) => {
                self.client_incomplete(overdue_label(phase));
                self.feed(Input::ClientFramingLost { answer: None });
            }
        }
    }

    fn remark(&self, reason: &'static str, text: &'static str) {
        let client = self.identity.address;
        if let Some(unsaid) = self.context.remarks.is_due((source_of(client.ip()), reason)) {
            info!(%client, reason, unsaid, "{text}");
        }
    }

    fn client_incomplete(&self, reason: &'static str) {
        self.remark(reason, "a message did not become whole");
        self.context.metrics.framing_error(reason, "client");
    }

    fn client_framed(&mut self, frame: Frame) {
        match frame {
            Frame::Message(message) => {
                self.counters.received(message.is_request());
                if message.has_bare_line_feeds() {
                    self.context.metrics.framing_error("bare_line_feed", "client");
                }
                self.feed(Input::ClientMessage(message));
            }
            Frame::KeepAlivePing => self.feed(Input::ClientPinged),
            Frame::Refused { message, reason } => {
                self.remark(reason.label(), "a message is refused");
                self.context.metrics.framing_error(reason.label(), "client");
                self.feed(Input::ClientMessageRefused {
                    message,
                    status: reason.status(),
                });
            }
            Frame::Lost { answer, reason } => {
                self.remark(reason.label(), "framing is lost: the connection is closed");
                self.context.metrics.framing_error(reason.label(), "client");
                self.feed(Input::ClientFramingLost { answer });
            }
        }
    }

    fn pair_reported(&mut self, event: PairEvent) {
        match event {
            PairEvent::Opened { pair, sender } => {
                self.pair_stands(pair, sender);
                self.feed(Input::PairOpened(pair));
            }
            PairEvent::Message { pair, message } => {
                self.last_activity = environment::now();
                self.feed(Input::PairMessage { pair, message });
            }
            PairEvent::Pinged { pair } => self.feed(Input::PairPinged(pair)),
            PairEvent::Lost { pair, loss } => {
                if let Some(handle) = self.pairs.remove(&pair) {
                    self.context.metrics.pair_lost(handle.node, loss);
                }
                self.feed(Input::PairLost { pair, loss });
            }
        }
    }

    /// Sends what has waited, in order.
    fn pair_stands(&mut self, pair: PairId, sender: SipSender) {
        let Some(handle) = self.pairs.get_mut(&pair) else {
            return sender.close();
        };
        let before = std::mem::replace(&mut handle.queue, PairQueue::Standing(sender.clone()));
        if let PairQueue::Connecting { waiting, .. } = before {
            for bytes in waiting {
                // As much fits as was allowed to wait; a queue that has closed meanwhile is reported as a loss.
                let _ = sender.try_send(bytes);
            }
        }
    }

    /// Lets the balancer decide, and does what it says, until nothing is left to say.
    fn feed(&mut self, input: Input) {
        self.echoes.push_back(input);
        while let Some(input) = self.echoes.pop_front() {
            for output in self.balancer.handle(input, environment::now()) {
                self.perform(output);
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::OpenPair {
                pair,
                node,
                address,
                purpose,
            } => self.open_pair(pair, node, address, purpose),
            Output::SendToNode { pair, bytes, entry } => self.send_to_node(pair, bytes, entry),
            Output::DrainPair(pair) => {
                if let Some(handle) = self.pairs.get(&pair) {
                    handle.drain.notify_one();
                }
            }
            Output::ClosePair(pair) => drop(self.pairs.remove(&pair)),
            Output::SendToClient(bytes) => self.send_to_client(bytes),
            Output::CloseClient(reason) => {
                debug!(client = %self.identity.address, ?reason, "closing a connection");
                self.closing = true;
            }
            // The prober hears enough of others when its queue is full.
            Output::DoubtNode(node) => drop(self.context.doubts.try_send(node)),
            Output::Count(count) => self.context.metrics.count(&self.context.name, &count),
        }
    }

    fn open_pair(&mut self, pair: PairId, node: NodeId, address: SocketAddr, purpose: PairPurpose) {
        let drain = Arc::new(Notify::new());
        let purpose = match purpose {
            PairPurpose::Ordinary => Purpose::Pair,
            PairPurpose::Resent => Purpose::Resent,
        };
        let header = self.context.pair_header(&self.identity, purpose);
        let task = self.pair_task(pair, node, &drain).run(address, header);
        let task = tokio::spawn(task).abort_handle();
        let queue = PairQueue::Connecting {
            task,
            waiting: Vec::new(),
            bytes: 0,
        };
        self.pairs.insert(pair, PairHandle { node, drain, queue });
    }

    fn take_standing<R: AsyncRead + Unpin + Send + 'static>(&mut self, standing: StandingNode<R>) {
        let StandingNode {
            node,
            reader,
            sender,
            first_message,
        } = standing;
        let pair = PairId(0);
        let drain = Arc::new(Notify::new());
        let task = self.pair_task(pair, node, &drain).carry(reader, sender.clone());
        tokio::spawn(task);
        self.pairs.insert(
            pair,
            PairHandle {
                node,
                drain,
                queue: PairQueue::Standing(sender),
            },
        );
        let balancer = Balancer::new(
            self.context.balancer.clone(),
            self.context.board.table(),
            environment::random(),
        );
        let standing = crate::balancer::StandingPair { pair, node };
        self.balancer = balancer.with_standing_pair(standing, environment::now());
        if let Some(message) = first_message {
            self.feed(Input::PairMessage { pair, message });
        }
    }

    fn pair_task(&self, pair: PairId, node: NodeId, drain: &Arc<Notify>) -> PairTask {
        PairTask {
            pair,
            node,
            settings: Arc::clone(&self.context.streams),
            security: self.context.pairs.clone(),
            events: self.events.clone(),
            drain: Arc::clone(drain),
            metrics: self.context.metrics.clone(),
        }
    }

    fn send_to_node(&mut self, pair: PairId, bytes: Bytes, entry: Option<EntryId>) {
        let Some(handle) = self.pairs.get_mut(&pair) else {
            return;
        };
        let node = handle.node;
        let queued = match &mut handle.queue {
            PairQueue::Standing(sender) => sender.try_send(bytes.clone()),
            PairQueue::Connecting {
                waiting,
                bytes: waiting_bytes,
                ..
            } => {
                let bytes_max = self.context.streams.node_queue.queued_bytes_max / 2;
                if *waiting_bytes + bytes.len() <= bytes_max || waiting.is_empty() {
                    *waiting_bytes += bytes.len();
                    waiting.push(bytes.clone());
                    Ok(())
                } else {
                    Err(SendRefused::Full)
                }
            }
        };
        match queued {
            Ok(()) => self.counters_of(node).sent(&bytes),
            Err(SendRefused::Full) => self.echoes.push_back(Input::PairQueueFull { pair, entry }),
            // The pair's task reports the loss, after what the node had written.
            Err(SendRefused::Closed) => {}
        }
    }

    fn counters_of(&mut self, node: NodeId) -> &MessageCounters {
        let metrics = &self.context.metrics;
        self.pairs_to
            .entry(node)
            .or_insert_with(|| MessageCounters::of_node(metrics, node))
    }

    fn send_to_client(&mut self, bytes: Bytes) {
        self.counters.sent(&bytes);
        match self.client.try_send(bytes) {
            Ok(()) | Err(SendRefused::Closed) => {}
            Err(SendRefused::Full) => {
                // Nodes are not read any more long before this; what a client does not take at all ends here.
                self.context.metrics.limit_reached("client_queue");
                self.remark("client_queue", "a client takes nothing: its connection is closed");
                self.closing = true;
            }
        }
    }
}

async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(deadline.into()).await;
}

/// Messages of nodes that may wait for the client's task.
const EVENTS_WAITING_MAX: usize = 256;
