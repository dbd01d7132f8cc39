//! A balancer with everything that it acts on: the client's queue, and the pairs to nodes.
//!
//! Owns what the balancer asks for, and what a full queue says back to it. Does not own when something happens: the loop of
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

/// The balancer of one client's connection, and its ends.
pub struct ClientBalancer {
    context: Arc<ListenerContext>,
    balancer: Balancer,
    /// Towards the client.
    pub client: SipSender,
    pairs: Pairs,
    input: ClientInput,
    /// What a full queue and the like say back to the balancer.
    echoes: VecDeque<Input>,
    /// The connection is to end.
    pub closing: bool,
    /// Silence from both ends is counted from here.
    pub last_activity: Instant,
}

impl ClientBalancer {
    /// Nothing has come yet. What pairs report goes to `events`, and is to be given to [`Self::pair_reported`].
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

    /// When the balancer wants to be asked again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.balancer.next_deadline()
    }

    /// The client has as many unanswered requests as it may have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.balancer.is_full()
    }

    /// Ends the connection of a client that has said nothing for too long and waits for nothing.
    pub fn close_if_idle(&mut self, now: Instant) {
        if now >= self.last_activity + self.context.streams.idle && self.balancer.unanswered() == 0 {
            self.context.metrics.limit_reached("idle");
            self.input
                .remark("idle", "idle timeout; closing the client connection");
            self.closing = true;
        }
    }

    /// Takes what the client has sent. `heard` says whether anything well-framed has ever come.
    pub fn client_sent(&mut self, received: Received, heard: bool) {
        match self.input.of(received, heard) {
            Some(input) => self.feed(input),
            None => self.closing = true,
        }
    }

    /// Tells the balancer that the client is gone, and closes every end.
    pub fn end(&mut self) {
        self.feed(Input::ClientGone);
        self.client.close();
        self.pairs.close_all();
    }

    /// Takes what the task of a pair reports.
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

    /// Lets the balancer decide, and does what it says, until nothing is left to say.
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
            // The prober hears enough of others when its queue is full.
            Output::DoubtNode(node) => drop(self.context.doubts.try_send(node)),
            Output::Count(count) => self.context.metrics.count(&self.context.name, &count),
        }
    }

    /// Begins with a pair that the node has opened.
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
                // Nodes are not read any more long before this; what a client does not take at all ends here.
                self.context.metrics.limit_reached("client_queue");
                self.input.remark(
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
