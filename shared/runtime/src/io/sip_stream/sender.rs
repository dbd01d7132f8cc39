//! The sending half: a queue bounded in bytes, and one task that empties it with as few writes as it can.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use super::StreamCounters;

/// Bounds of one connection's way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendLimits {
    pub queued_bytes_max: usize,
    /// Without any progress for so long, the peer is taken for dead.
    pub stall_max: Duration,
}

impl Default for SendLimits {
    fn default() -> Self {
        Self {
            queued_bytes_max: 4 << 20,
            stall_max: Duration::from_secs(10),
        }
    }
}

/// Queues messages for one connection. Never waits.
#[derive(Debug, Clone)]
pub struct SipSender {
    items: mpsc::UnboundedSender<Item>,
    queue: Arc<Queue>,
}

/// Writes what is queued; run it as a task of its own.
#[derive(Debug)]
pub struct SipWriter<W> {
    stream: W,
    items: mpsc::UnboundedReceiver<Item>,
    queue: Arc<Queue>,
    stall_max: Duration,
    counters: StreamCounters,
}

#[derive(Debug)]
struct Queue {
    queued_bytes: AtomicUsize,
    queued_bytes_max: usize,
    closing: AtomicBool,
    written: Notify,
}

#[derive(Debug)]
enum Item {
    Message(Bytes),
    Close,
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendRefused {
    #[error("the connection's send queue is full")]
    Full,
    #[error("the connection is closed")]
    Closed,
}

/// Why a writer ended before it was asked to.
#[derive(Debug, Error)]
pub enum SendEnded {
    #[error("the peer has taken no byte for {0:?}")]
    Stalled(Duration),
    #[error("writing failed")]
    Failed(#[source] io::Error),
}

/// A queue in front of `stream`: its two ends.
pub fn send_queue<W>(stream: W, limits: &SendLimits, counters: StreamCounters) -> (SipSender, SipWriter<W>) {
    // Unbounded in number, because it is bounded in bytes: every message is charged for itself and its place.
    let (sender, receiver) = mpsc::unbounded_channel();
    let queue = Arc::new(Queue {
        queued_bytes: AtomicUsize::new(0),
        queued_bytes_max: limits.queued_bytes_max,
        closing: AtomicBool::new(false),
        written: Notify::new(),
    });
    let writer = SipWriter {
        stream,
        items: receiver,
        queue: queue.clone(),
        stall_max: limits.stall_max,
        counters,
    };
    (SipSender { items: sender, queue }, writer)
}

impl SipSender {
    /// Queues one message.
    ///
    /// # Errors
    /// When the queue's bound would be passed, or nobody writes any more.
    pub fn try_send(&self, message: Bytes) -> Result<(), SendRefused> {
        if self.is_closed() {
            return Err(SendRefused::Closed);
        }
        let charge = charge(&message);
        self.queue.charge(charge)?;
        self.items.send(Item::Message(message)).map_err(|_| {
            self.queue.release(charge);
            SendRefused::Closed
        })
    }

    /// Lets the writer finish what is queued and then close the connection. Nothing more is taken.
    pub fn close(&self) {
        if !self.queue.closing.swap(true, Ordering::AcqRel) {
            // When the writer has gone, the connection is closed already.
            let _ = self.items.send(Item::Close);
        }
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.closing.load(Ordering::Acquire) || self.items.is_closed()
    }

    /// Returns when the writer has ended, for whatever reason.
    pub async fn closed(&self) {
        self.items.closed().await;
    }

    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queue.queued_bytes.load(Ordering::Acquire)
    }

    /// Returns when no more than `bytes` are queued, or the writer has ended: for a reader that pauses while those
    /// it feeds are slow.
    pub async fn drained_to(&self, bytes: usize) {
        loop {
            let written = self.queue.written.notified();
            tokio::pin!(written);
            // Before the check, so that no write between the two is missed.
            written.as_mut().enable();
            if self.queued_bytes() <= bytes {
                return;
            }
            tokio::select! {
                () = written => {}
                () = self.closed() => return,
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> SipWriter<W> {
    /// Writes until it is told to close, or every sender is gone; then shuts the stream down.
    ///
    /// # Errors
    /// When the peer takes nothing any more, or is gone. What was queued is lost then.
    pub async fn run(mut self) -> Result<(), SendEnded> {
        let mut batch = BytesMut::new();
        while let Some(Item::Message(first)) = self.items.recv().await {
            let (charged, last) = self.gather(&first, &mut batch);
            self.write(&batch).await?;
            self.queue.release(charged);
            self.queue.written.notify_waiters();
            batch.clear();
            if last {
                break;
            }
        }
        let shutdown = tokio::time::timeout(self.stall_max, self.stream.shutdown()).await;
        shutdown
            .map_err(|_| SendEnded::Stalled(self.stall_max))?
            .map_err(SendEnded::Failed)
    }

    /// What is queued at this moment goes out together: one system call, and one TLS record, for many small
    /// messages. Tells what was charged for it, and whether it is the last.
    fn gather(&mut self, first: &Bytes, batch: &mut BytesMut) -> (usize, bool) {
        batch.extend_from_slice(first);
        let mut charged = charge(first);
        self.counters.messages_sent.inc();
        while batch.len() < BATCH_BYTES {
            match self.items.try_recv() {
                Ok(Item::Message(message)) => {
                    batch.extend_from_slice(&message);
                    charged += charge(&message);
                    self.counters.messages_sent.inc();
                }
                Ok(Item::Close) => return (charged, true),
                Err(_) => return (charged, false),
            }
        }
        (charged, false)
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), SendEnded> {
        while !bytes.is_empty() {
            let written = tokio::time::timeout(self.stall_max, self.stream.write(bytes)).await;
            let written = written.map_err(|_| SendEnded::Stalled(self.stall_max))?;
            let written = written.map_err(SendEnded::Failed)?;
            if written == 0 {
                return Err(SendEnded::Failed(io::ErrorKind::WriteZero.into()));
            }
            self.counters.bytes_sent.inc_by(written as u64);
            bytes = &bytes[written..];
        }
        // A TLS stream buffers.
        let flushed = tokio::time::timeout(self.stall_max, self.stream.flush()).await;
        flushed
            .map_err(|_| SendEnded::Stalled(self.stall_max))?
            .map_err(SendEnded::Failed)
    }
}

impl Queue {
    /// An empty queue takes any message, so that no bound makes a message unsendable.
    fn charge(&self, charge: usize) -> Result<(), SendRefused> {
        let add = |queued: usize| {
            let sum = queued.saturating_add(charge);
            (queued == 0 || sum <= self.queued_bytes_max).then_some(sum)
        };
        let charged = self
            .queued_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        charged.map(drop).map_err(|_| SendRefused::Full)
    }

    fn release(&self, charge: usize) {
        self.queued_bytes.fetch_sub(charge, Ordering::AcqRel);
    }
}

fn charge(message: &Bytes) -> usize {
    message.len() + PLACE_BYTES
}

/// What a message's place in the queue is charged, so that many tiny messages are bounded too.
const PLACE_BYTES: usize = 64;
const BATCH_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn limits(queued_bytes_max: usize) -> SendLimits {
        SendLimits {
            queued_bytes_max,
            ..SendLimits::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn messages_leave_whole_in_order_and_the_end_follows_them() {
        let (stream, mut peer) = tokio::io::duplex(7);
        let counters = StreamCounters::unregistered();
        let (sender, writer) = send_queue(stream, &limits(1 << 20), counters.clone());
        let expected: Vec<u8> = (0..200_u8).flat_map(|number| [number; 3]).collect();
        for number in 0..200_u8 {
            sender.try_send(Bytes::from(vec![number; 3])).unwrap();
        }
        sender.close();
        assert_eq!(
            sender.try_send(Bytes::from_static(b"late")),
            Err(SendRefused::Closed)
        );
        let writer = tokio::spawn(writer.run());
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, expected);
        writer.await.unwrap().unwrap();
        assert_eq!(sender.queued_bytes(), 0);
        assert_eq!(
            (counters.messages_sent.get(), counters.bytes_sent.get()),
            (200, 600)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_and_takes_again_when_it_has_drained() {
        let (stream, mut peer) = tokio::io::duplex(16);
        let (sender, writer) = send_queue(stream, &limits(1000), StreamCounters::unregistered());
        let message = Bytes::from(vec![b'x'; 436]);
        sender.try_send(message.clone()).unwrap();
        sender.try_send(message.clone()).unwrap();
        assert_eq!(sender.try_send(message.clone()), Err(SendRefused::Full));
        tokio::spawn(writer.run());
        let mut sink = vec![0; 872];
        let (read, ()) = tokio::join!(peer.read_exact(&mut sink), sender.drained_to(0));
        read.unwrap();
        sender.try_send(message).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_larger_than_the_bound_goes_through_an_empty_queue() {
        let (stream, _peer) = tokio::io::duplex(16);
        let (sender, _writer) = send_queue(stream, &limits(10), StreamCounters::unregistered());
        sender.try_send(Bytes::from(vec![0; 100])).unwrap();
        assert_eq!(sender.try_send(Bytes::from_static(b"x")), Err(SendRefused::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_for_ten_seconds_is_given_up() {
        let (stream, _peer) = tokio::io::duplex(16);
        let (sender, writer) = send_queue(stream, &SendLimits::default(), StreamCounters::unregistered());
        sender.try_send(Bytes::from(vec![0; 100])).unwrap();
        let ended = writer.run().await;
        assert!(matches!(ended, Err(SendEnded::Stalled(_))), "{ended:?}");
        assert_eq!(
            sender.try_send(Bytes::from_static(b"x")),
            Err(SendRefused::Closed)
        );
        sender.closed().await;
        sender.drained_to(0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_ends_when_nobody_can_send_any_more() {
        let (stream, mut peer) = tokio::io::duplex(16);
        let (sender, writer) = send_queue(stream, &SendLimits::default(), StreamCounters::unregistered());
        drop(sender);
        writer.run().await.unwrap();
        assert_eq!(peer.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
