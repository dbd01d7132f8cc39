//! What keeps a link up: it connects again and again, and tells of what it learns of the peer's process.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use tandem_cluster::membership::Introduction;
use tandem_cluster::{MemberAddress, NodeId};

use super::frame::{Frame, FrameReader, Kind, decode, encode};
use super::link::{Call, Link, LinkEvent, WelcomedBy};
use super::link_requests::{Unanswered, send_calls, take_answers, watch_silence};
use super::member::Member;
use super::messages::{Hello, Welcome};
use super::refusals::{Direction, Refusal};
use tandem_runtime::io::transport::Transport;

pub(super) struct LinkOptions {
    pub(super) to: NodeId,
    pub(super) address: MemberAddress,
    pub(super) connect_timeout: Duration,
    /// With a request outstanding and nothing heard for so long, the connection is given up.
    pub(super) silence_max: Duration,
    /// For the one link per peer that watches its process.
    pub(super) events: Option<mpsc::Sender<(NodeId, LinkEvent)>>,
}

/// Makes a link, and what keeps it up once it runs.
pub(super) fn link<T: Transport>(transport: T, options: LinkOptions) -> (Link, LinkDriver<T>) {
    let (calls, queue) = mpsc::channel(CALLS_WAITING_MAX);
    let welcomed_by = WelcomedBy::default();
    let wake = Arc::<Notify>::default();
    let outdated = Arc::<Notify>::default();
    let driver = LinkDriver {
        transport,
        options,
        queue,
        welcomed_by: welcomed_by.clone(),
        wake: wake.clone(),
        outdated: outdated.clone(),
    };
    let link = Link {
        calls,
        welcomed_by,
        wake,
        outdated,
    };
    (link, driver)
}

/// Keeps one link up.
pub(super) struct LinkDriver<T> {
    transport: T,
    options: LinkOptions,
    queue: mpsc::Receiver<Call>,
    welcomed_by: WelcomedBy,
    wake: Arc<Notify>,
    outdated: Arc<Notify>,
}

impl<T: Transport> LinkDriver<T> {
    /// Connects again and again, in the name of `member`, until nobody can ask any more.
    pub(super) async fn run(mut self, member: Arc<Member>) {
        let mut failures = 0;
        loop {
            match self.connect(&member).await {
                Ok(Greeted {
                    reader,
                    writer,
                    welcome,
                    refused_later,
                }) => {
                    failures = 0;
                    let incarnation = welcome.incarnation;
                    let start = welcome.introduction.start;
                    self.tell(LinkEvent::Connected { incarnation, start }).await;
                    self.set_welcomed_by(Some(welcome.introduction));
                    let outdated = self.outdated.clone();
                    tokio::select! {
                        biased;
                        () = outdated.notified() => {}
                        reason = refused_later => {
                            let peer = self.options.to;
                            tracing::warn!(%peer, reason, "a member's certificate is not accepted any more");
                        }
                        () = self.serve(reader, writer, &member) => {}
                    }
                    self.set_welcomed_by(None);
                    self.tell(LinkEvent::Broken).await;
                }
                Err(error) => {
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        self.tell(LinkEvent::Refused).await;
                    }
                    let peer = self.options.to;
                    member.refusals.failed(Direction::Out, &peer.to_string(), &error);
                    failures += 1;
                }
            }
            if !self.pause(failures).await {
                return;
            }
        }
    }

    fn set_welcomed_by(&self, introduction: Option<Introduction>) {
        *self.welcomed_by.lock().unwrap_or_else(PoisonError::into_inner) = introduction;
    }

    async fn connect(&self, member: &Member) -> io::Result<Greeted<T>> {
        timeout(self.options.connect_timeout, self.greet(member)).await?
    }

    /// Three frames: who connects, who answers and how far its log reaches, and how far the first one's reaches. Each
    /// reach is told after the other side's last frame, so that neither can be older than what is known of it.
    async fn greet(&self, member: &Member) -> io::Result<Greeted<T>> {
        let peer = self.options.to;
        let baseline = member.book.baseline();
        let stream = self.transport.connect(peer, &self.options.address).await?;
        let refused_later = self.transport.refused_later(&stream);
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader);
        let hello = Hello {
            cluster: member.config.name.clone(),
            from: member.introduction(),
            to: peer,
            members: member.listed(),
        };
        write_frame(&mut writer, Kind::Hello, encode(&hello)?).await?;
        let answer = reader.next().await?;
        if answer.kind != Kind::Answer {
            if let Ok(refusal) = decode::<Refusal>(&answer.body) {
                member.refusals.refused_by(peer, &refusal);
            }
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the peer refused the connection",
            ));
        }
        let welcome: Welcome = decode(&answer.body)?;
        if welcome.introduction.id.member() != peer {
            let text = format!(
                "{} answers at the address of {peer}",
                welcome.introduction.id.member()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        member.note_list(peer, &welcome.members);
        member.book.note_told(peer, welcome.stranger);
        // A stranger keeps its connection: it is asked how it is, and nothing else.
        let _ = member.book.meet(&welcome.introduction, &welcome.reach, &baseline);
        write_frame(&mut writer, Kind::Reach, encode(&member.reach())?).await?;
        Ok(Greeted {
            reader,
            writer,
            welcome,
            refused_later,
        })
    }

    /// Until the connection ends. What was not answered is answered by the end of its channel.
    async fn serve(&mut self, reader: Reader<T>, writer: Writer<T>, member: &Member) {
        let waiting = Mutex::new(Unanswered::default());
        let (silence_max, peer) = (self.options.silence_max, self.options.to);
        let result = tokio::select! {
            biased;
            result = take_answers(reader, &waiting, |declined| member.note_declined(peer, declined)) => result,
            result = send_calls(writer, &mut self.queue, &waiting) => result,
            () = watch_silence(silence_max, &waiting) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "connection to a member ended");
        }
    }

    /// Waits before the next attempt while refusing calls; false when nobody can call any more.
    async fn pause(&mut self, failures: u32) -> bool {
        let end = Instant::now() + pause_after(failures);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(end) => return true,
                () = self.wake.notified() => return true,
                call = self.queue.recv() => if call.is_none() {
                    return false;
                },
            }
        }
    }

    async fn tell(&self, event: LinkEvent) {
        if let Some(events) = &self.options.events {
            // Nobody listens any more: the member is stopping.
            let _ = events.send((self.options.to, event)).await;
        }
    }
}

/// A connection on which both ends know each other.
struct Greeted<T: Transport> {
    reader: Reader<T>,
    writer: Writer<T>,
    welcome: Welcome,
    refused_later: BoxFuture<'static, String>,
}

type Reader<T> = FrameReader<tokio::io::ReadHalf<<T as Transport>::Stream>>;

type Writer<T> = tokio::io::WriteHalf<<T as Transport>::Stream>;

async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, kind: Kind, body: Bytes) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    let frame = Frame {
        kind,
        request: 0,
        body,
    };
    frame.write(&mut bytes);
    writer.write_all_buf(&mut bytes).await?;
    writer.flush().await
}

const CALLS_WAITING_MAX: usize = 4096;

/// The first attempt after a break comes at once: it tells a dead process from a broken path. A peer that stays away is
/// tried less and less; when it is back, its own connection ends the pause.
fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE_MAX.min(PAUSE_MIN * 2_u32.pow(doublings.min(16))),
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(20);

const PAUSE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_nothing_to_two_seconds() {
        let pauses: Vec<u128> = (0..10)
            .map(|failures| pause_after(failures).as_millis())
            .collect();
        assert_eq!(pauses, [0, 20, 40, 80, 160, 320, 640, 1280, 2000, 2000]);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }
}
