//! The receiving half: frames, and an end to messages that never become whole.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::StreamCounters;
use tandem_sip::{Frame, Framer, FramerLimits, Phase};

/// How long a message may take to arrive, from its first byte: absolute, so that a byte now and then buys no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageDeadlines {
    pub head: Duration,
    /// From the end of the head.
    pub body: Duration,
    /// One to three bytes of a ping are forgotten after this: a late rest would make a ping of two pongs.
    pub half_ping: Duration,
}

impl Default for MessageDeadlines {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(20),
            half_ping: Duration::from_secs(1),
        }
    }
}

/// What a connection yields. After anything but a frame there is no more.
#[derive(Debug)]
pub enum Received {
    Frame(Frame),
    /// The peer has closed its side between two messages.
    Ended,
    /// The peer has closed its side within a message.
    Truncated(Phase),
    /// A message did not become whole in time.
    Overdue(Phase),
    Failed(io::Error),
}

/// Reads frames off one stream.
#[derive(Debug)]
pub struct SipReader<R> {
    stream: R,
    framer: Framer,
    deadlines: MessageDeadlines,
    counters: StreamCounters,
    /// What the bytes at hand are the beginning of, and since when.
    begun: Option<(Phase, Instant)>,
}

impl<R: AsyncRead + Unpin> SipReader<R> {
    pub fn new(
        stream: R,
        limits: FramerLimits,
        deadlines: MessageDeadlines,
        counters: StreamCounters,
    ) -> Self {
        Self {
            stream,
            framer: Framer::new(limits),
            deadlines,
            counters,
            begun: None,
        }
    }

    /// Takes bytes that were read off the stream before, behind a PROXY protocol header.
    #[must_use]
    pub fn with_bytes(mut self, bytes: &[u8]) -> Self {
        self.framer.buffer_mut().extend_from_slice(bytes);
        self
    }

    /// The next frame. May be cancelled: what has been read is kept.
    pub async fn next(&mut self) -> Received {
        loop {
            // A read is charged to the task, and the dozens of frames that it brings are not: whoever sends without pause
            // would hold a thread for thousands of messages, and everybody else's would wait.
            consume_budget().await;
            if let Some(frame) = self.framer.next_frame() {
                self.begun = None;
                if !matches!(frame, Frame::KeepAlivePing | Frame::Lost { .. }) {
                    self.counters.messages_received.inc();
                }
                return Received::Frame(frame);
            }
            self.note_phase();
            if let Some(end) = self.read_more().await {
                return end;
            }
        }
    }

    /// A new phase has its own deadline; more bytes of the same one do not move it.
    fn note_phase(&mut self) {
        let phase = self.framer.phase();
        match self.begun {
            Some((begun, _)) if begun == phase => {}
            Some(_) | None => self.begun = Some((phase, Instant::now())),
        }
    }

    /// `None` when the framer may go on.
    async fn read_more(&mut self) -> Option<Received> {
        let deadline = self.deadline();
        let buffer = self.framer.buffer_mut();
        buffer.reserve(READ_BYTES);
        let read = self.stream.read_buf(buffer);
        let read = match deadline {
            None => read.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, read).await {
                Ok(read) => read,
                Err(_) => return self.overdue(),
            },
        };
        match read {
            Ok(0) => Some(self.ended()),
            Ok(count) => {
                self.counters.bytes_received.inc_by(count as u64);
                None
            }
            Err(error) => Some(Received::Failed(error)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let (phase, since) = self.begun?;
        match phase {
            Phase::Boundary => None,
            Phase::KeepAlive => Some(since + self.deadlines.half_ping),
            Phase::Head => Some(since + self.deadlines.head),
            Phase::Body => Some(since + self.deadlines.body),
        }
    }

    fn overdue(&mut self) -> Option<Received> {
        match self.framer.phase() {
            Phase::Boundary => None,
            Phase::KeepAlive => {
                self.framer.discard_half_ping();
                None
            }
            phase @ (Phase::Head | Phase::Body) => Some(Received::Overdue(phase)),
        }
    }

    fn ended(&self) -> Received {
        match self.framer.phase() {
            Phase::Boundary | Phase::KeepAlive => Received::Ended,
            phase @ (Phase::Head | Phase::Body) => Received::Truncated(phase),
        }
    }
}

/// Room made for one read: a few dozen messages of the usual size.
const READ_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const MESSAGE: &[u8] =
        b"OPTIONS sip:vip SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
        To: <sip:vip>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 4\r\n\r\nbody";

    fn reader(stream: tokio::io::DuplexStream) -> SipReader<tokio::io::DuplexStream> {
        let deadlines = MessageDeadlines::default();
        SipReader::new(
            stream,
            FramerLimits::default(),
            deadlines,
            StreamCounters::unregistered(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_comes_byte_by_byte_is_one_frame() {
        let (mut peer, stream) = tokio::io::duplex(1);
        let mut reader = reader(stream);
        let send = async { peer.write_all(MESSAGE).await.unwrap() };
        let ((), received) = tokio::join!(send, reader.next());
        let Received::Frame(Frame::Message(message)) = received else {
            panic!("{received:?}");
        };
        assert_eq!(&message.bytes()[..], MESSAGE);
        assert_eq!(reader.counters.messages_received.get(), 1);
        assert_eq!(reader.counters.bytes_received.get(), MESSAGE.len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_read_loses_nothing() {
        let (mut peer, stream) = tokio::io::duplex(64);
        let mut reader = reader(stream);
        for piece in MESSAGE.chunks(40) {
            peer.write_all(piece).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(1), reader.next())
                .await
                .is_ok()
            {
                return;
            }
        }
        panic!("the message never became whole");
    }

    #[tokio::test]
    async fn frames_at_hand_do_not_hold_up_other_tasks() {
        let (_peer, stream) = tokio::io::duplex(1);
        let mut reader = reader(stream).with_bytes(&MESSAGE.repeat(1000));
        let other = tokio::spawn(async {});
        for _ in 0..1000 {
            let received = reader.next().await;
            assert!(matches!(received, Received::Frame(Frame::Message(_))));
        }
        assert!(other.is_finished(), "nobody else had a turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_is_given_up_ten_seconds_after_its_first_byte() {
        let (mut peer, stream) = tokio::io::duplex(1024);
        let mut reader = reader(stream);
        let start = Instant::now();
        let trickle = async {
            for byte in MESSAGE {
                peer.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let received = tokio::select! {
            received = reader.next() => received,
            () = trickle => panic!("the reader waits for ever"),
        };
        assert!(matches!(received, Received::Overdue(Phase::Head)), "{received:?}");
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_given_up_after_twenty_seconds() {
        let (mut peer, stream) = tokio::io::duplex(1024);
        let mut reader = reader(stream);
        let start = Instant::now();
        peer.write_all(&MESSAGE[..MESSAGE.len() - 1]).await.unwrap();
        let received = reader.next().await;
        assert!(matches!(received, Received::Overdue(Phase::Body)), "{received:?}");
        assert_eq!(start.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_ping_is_forgotten_after_a_second() {
        let (mut peer, stream) = tokio::io::duplex(1024);
        let mut reader = reader(stream);
        peer.write_all(b"\r\n").await.unwrap();
        let late = tokio::time::timeout(Duration::from_millis(1500), reader.next()).await;
        assert!(late.is_err());
        peer.write_all(b"\r\n").await.unwrap();
        let completed = tokio::time::timeout(Duration::from_millis(1500), reader.next()).await;
        assert!(completed.is_err(), "two halves far apart are no ping");
        peer.write_all(b"\r\n\r\n").await.unwrap();
        assert!(matches!(
            reader.next().await,
            Received::Frame(Frame::KeepAlivePing)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_left_in_peace() {
        let (_peer, stream) = tokio::io::duplex(1024);
        let mut reader = reader(stream);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), reader.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_between_messages_is_told_from_one_within() {
        let (mut peer, stream) = tokio::io::duplex(1024);
        let mut whole = reader(stream);
        peer.write_all(MESSAGE).await.unwrap();
        drop(peer);
        assert!(matches!(whole.next().await, Received::Frame(Frame::Message(_))));
        assert!(matches!(whole.next().await, Received::Ended));

        let (mut peer, stream) = tokio::io::duplex(1024);
        peer.write_all(&MESSAGE[..20]).await.unwrap();
        drop(peer);
        assert!(matches!(
            reader(stream).next().await,
            Received::Truncated(Phase::Head)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_read_before_come_first() {
        let (mut peer, stream) = tokio::io::duplex(1024);
        let mut reader = reader(stream).with_bytes(&MESSAGE[..30]);
        peer.write_all(&MESSAGE[30..]).await.unwrap();
        assert!(matches!(reader.next().await, Received::Frame(Frame::Message(_))));
    }
}
