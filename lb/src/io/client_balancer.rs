//! Performs the outputs of one client's balancer: on the client's send queue and the pairs with nodes.
//!
//! Owns the effects that the balancer asks for, and reports full queues back to it. Does not own the timing: the loop of
//! [`super::client_connection`] does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_runtime::io::environment;
use tandem_runtime::io::sip_stream::{Received, SendRefused, SipSender};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tracing::debug;

use crate::balancer::{Balancer, Input, Output, PairId, StandingPair};

use super::client_input::ClientInput;
use super::client_pairs::{PairFull, Pairs};
use super::listener_context::{ClientIdentity, ListenerContext};
use super::paired_connection::PairEvent;
use super::standing_node::StandingNode;

/// The balancer of one client connection, with the connections it works on.
pub struct ClientBalancer {
    context: Arc<ListenerContext>,
    balancer: Balancer,
    /// The send queue towards the client.
    pub client: SipSender,
    pairs: Pairs,
    input: ClientInput,
    /// Inputs that result from performing outputs, such as a full queue.
    echoes: VecDeque<Input>,
    /// The connection is to be closed.
    pub closing: bool,
    /// When the last byte arrived from either side; the idle time is counted from here.
    pub last_activity: Instant,
}

impl ClientBalancer {
    /// A balancer for a new connection. Pairs report to `events`; pass their reports to [`Self::pair_reported`].
    #[must_use]
    pub fn new(
        context: Arc<ListenerContext>,
        identity: ClientIdentity,
        client: SipSender,
        events: mpsc::Sender<PairEvent>,
    ) -> Self {
        Self {
            input: ClientInput::new(Arc::clone(&context), identity.address),
            balancer: new_balancer(&context),
            client,
            pairs: Pairs::new(Arc::clone(&context), identity, events),
            echoes: VecDeque::new(),
            closing: false,
            last_activity: environment::now(),
            context,
        }
    }

    /// When to feed the balancer `DeadlineReached` next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.balancer.next_deadline()
    }

    /// Whether the client has as many unanswered requests as permitted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.balancer.is_full()
    }

    /// Closes the connection when it has been idle for too long and no request is outstanding.
    pub fn close_if_idle(&mut self, now: Instant) {
        if now >= self.last_activity + self.context.streams.idle && self.balancer.unanswered() == 0 {
            self.context.metrics.limit_reached("idle");
            self.input
                .log("idle", "idle timeout; closing the client connection");
            self.closing = true;
        }
    }

    /// Feeds what the client sent to the balancer. `heard` says whether any well-framed bytes have arrived yet.
    pub fn client_sent(&mut self, received: Received, heard: bool) {
        match self.input.of(received, heard) {
            Some(input) => self.feed(input),
            None => self.closing = true,
        }
    }

    /// Tells the balancer that the client is gone, and closes all connections.
    pub fn end(&mut self) {
        self.feed(Input::ClientGone);
        self.client.close();
        self.pairs.close_all();
    }

    /// Feeds the report of a pair's task to the balancer.
    pub fn pair_reported(&mut self, event: PairEvent) {
        match event {
            PairEvent::Opened { pair, sender } => {
                self.pairs.stands(pair, sender);
                self.feed(Input::PairOpened(pair));
            }
            PairEvent::Message { pair, message } => {
                self.last_activity = environment::now();
                self.feed(Input::PairMessage { pair, message });
            }
            PairEvent::Pinged { pair } => self.feed(Input::PairPinged(pair)),
            PairEvent::Lost { pair, loss } => {
                if let Some(node) = self.pairs.close(pair) {
                    self.context.metrics.pair_lost(node, loss);
                }
                self.feed(Input::PairLost { pair, loss });
            }
        }
    }

    /// Feeds an input to the balancer and performs its outputs, until no further input results.
    pub fn feed(&mut self, input: Input) {
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
            } => self.pairs.open(pair, node, address, purpose),
            Output::SendToNode { pair, bytes, entry } => {
                if self.pairs.send(pair, bytes) == Err(PairFull) {
                    self.echoes.push_back(Input::PairQueueFull { pair, entry });
                }
            }
            Output::DrainPair(pair) => self.pairs.drain(pair),
            Output::ClosePair(pair) => {
                self.pairs.close(pair);
            }
            Output::SendToClient(bytes) => self.send_to_client(bytes),
            Output::CloseClient(reason) => {
                debug!(client = %self.input.client(), ?reason, "closing the client connection");
                self.closing = true;
            }
            // A full queue means that the prober has enough checks to do.
            Output::DoubtNode(node) => drop(self.context.doubts.try_send(node)),
            Output::Count(count) => self.context.metrics.count(&self.context.name, &count),
        }
    }

    /// Begins with a pair whose connection the node has opened.
    pub fn take_standing<R: AsyncRead + Unpin + Send + 'static>(&mut self, standing: StandingNode<R>) {
        let pair = PairId(0);
        let node = standing.node;
        let first_message = self.pairs.carry(pair, standing);
        let standing = StandingPair { pair, node };
        self.balancer = new_balancer(&self.context).with_standing_pair(standing, environment::now());
        if let Some(message) = first_message {
            self.feed(Input::PairMessage { pair, message });
        }
    }

    fn send_to_client(&mut self, bytes: Bytes) {
        self.input.sent(&bytes);
        match self.client.try_send(bytes) {
            Ok(()) | Err(SendRefused::Closed) => {}
            Err(SendRefused::Full) => {
                // Reading from nodes stops long before this, so the client has not read for a long time.
                self.context.metrics.limit_reached("client_queue");
                self.input.log(
                    "client_queue",
                    "send queue full: the client does not read; closing its connection",
                );
                self.closing = true;
            }
        }
    }
}

fn new_balancer(context: &ListenerContext) -> Balancer {
    Balancer::new(
        context.balancer.clone(),
        context.board.table(),
        environment::random(),
    )
}
