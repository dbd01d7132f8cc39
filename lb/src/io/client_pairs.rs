//! The connections with nodes that belong to one client connection.
//!
//! Owns their tasks, and the messages that wait for one that is still being opened. Does not own when a pair is opened,
//! drained or closed: the balancer decides that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tandem_cluster::NodeId;
use tandem_runtime::io::sip_stream::{SendRefused, SipSender};
use tandem_sip::proxy_protocol::Purpose;
use tokio::io::AsyncRead;
use tokio::sync::{Notify, mpsc};

use crate::balancer::{PairId, PairPurpose};
use crate::metrics::MessageCounters;

use super::listener_context::{ClientIdentity, ListenerContext};
use super::paired_connection::{PairEvent, PairTask};
use super::standing_node::StandingNode;

/// The pairs of one client.
pub struct Pairs {
    context: Arc<ListenerContext>,
    identity: ClientIdentity,
    by_id: HashMap<PairId, PairHandle>,
    /// Message counters by node, over all pairs with it.
    counters: HashMap<NodeId, MessageCounters>,
    events: mpsc::Sender<PairEvent>,
}

/// The client task's handle of a pair; dropping it closes the pair.
#[derive(Debug)]
struct PairHandle {
    node: NodeId,
    drain: Arc<Notify>,
    queue: PairQueue,
}

#[derive(Debug)]
enum PairQueue {
    /// Messages wait, within the same bound as the pair's send queue.
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

impl Pairs {
    /// No pairs yet. Their tasks will report to `events`.
    #[must_use]
    pub fn new(
        context: Arc<ListenerContext>,
        identity: ClientIdentity,
        events: mpsc::Sender<PairEvent>,
    ) -> Self {
        Self {
            context,
            identity,
            by_id: HashMap::new(),
            counters: HashMap::new(),
            events,
        }
    }

    /// Starts to open a pair. Its task reports when it is open, or that it was lost.
    pub fn open(&mut self, pair: PairId, node: NodeId, address: SocketAddr, purpose: PairPurpose) {
        let drain = Arc::new(Notify::new());
        let purpose = match purpose {
            PairPurpose::Ordinary => Purpose::Pair,
            PairPurpose::Resent => Purpose::Resent,
        };
        let header = self.context.pair_header(&self.identity, purpose);
        let task = self.task(pair, node, &drain).run(address, header);
        let task = tokio::spawn(task).abort_handle();
        let queue = PairQueue::Connecting {
            task,
            waiting: Vec::new(),
            bytes: 0,
        };
        self.by_id.insert(pair, PairHandle { node, drain, queue });
    }

    /// Adds a pair whose connection the node has opened, and returns the message already read from it.
    pub fn carry<R: AsyncRead + Unpin + Send + 'static>(
        &mut self,
        pair: PairId,
        standing: StandingNode<R>,
    ) -> Option<tandem_sip::RawMessage> {
        let StandingNode {
            node,
            reader,
            sender,
            first_message,
        } = standing;
        let drain = Arc::new(Notify::new());
        let task = self.task(pair, node, &drain).carry(reader, sender.clone());
        tokio::spawn(task);
        let queue = PairQueue::Standing(sender);
        self.by_id.insert(pair, PairHandle { node, drain, queue });
        first_message
    }

    fn task(&self, pair: PairId, node: NodeId, drain: &Arc<Notify>) -> PairTask {
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

    /// Sends, in order, what waited for a pair that is now open.
    pub fn stands(&mut self, pair: PairId, sender: SipSender) {
        let Some(handle) = self.by_id.get_mut(&pair) else {
            // The balancer has closed it in the meantime.
            return sender.close();
        };
        let before = std::mem::replace(&mut handle.queue, PairQueue::Standing(sender.clone()));
        if let PairQueue::Connecting { waiting, .. } = before {
            for bytes in waiting {
                // What was allowed to wait fits; a queue closed in the meantime is reported as a loss.
                let _ = sender.try_send(bytes);
            }
        }
    }

    /// Queues a message for the node, or keeps it until the pair is open.
    ///
    /// # Errors
    /// When the queue is full. Sending to a pair that has ended is not an error: the pair reports its loss itself, after
    /// everything that the node wrote.
    pub fn send(&mut self, pair: PairId, bytes: Bytes) -> Result<(), PairFull> {
        let bytes_max = self.context.streams.node_queue.queued_bytes_max / 2;
        let Some(handle) = self.by_id.get_mut(&pair) else {
            return Ok(());
        };
        let node = handle.node;
        let queued = match &mut handle.queue {
            PairQueue::Standing(sender) => sender.try_send(bytes.clone()),
            PairQueue::Connecting {
                waiting,
                bytes: waiting_bytes,
                ..
            } => {
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
            Err(SendRefused::Full) => return Err(PairFull),
            Err(SendRefused::Closed) => {}
        }
        Ok(())
    }

    fn counters_of(&mut self, node: NodeId) -> &MessageCounters {
        let metrics = &self.context.metrics;
        self.counters
            .entry(node)
            .or_insert_with(|| MessageCounters::of_node(metrics, node))
    }

    /// Asks a pair to report what the node has already written and then to end.
    pub fn drain(&self, pair: PairId) {
        if let Some(handle) = self.by_id.get(&pair) {
            handle.drain.notify_one();
        }
    }

    /// Closes a pair and returns its node; `None` when it was closed already.
    pub fn close(&mut self, pair: PairId) -> Option<NodeId> {
        self.by_id.remove(&pair).map(|handle| handle.node)
    }

    pub fn close_all(&mut self) {
        self.by_id.clear();
    }
}

/// The queue towards a node is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairFull;
