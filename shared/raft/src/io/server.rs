//! The answering end: accepts members' connections and hands their requests to the local member.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use tandem_cluster::membership::{Introduction, Reach};

use super::answering::{answer, answer_requests, write_frames};
use super::frame::{Frame, FrameReader, Kind, decode, encode};
use super::member::Member;
use super::messages::{Hello, Welcome};
use super::refusals::{Direction, Refusal};
use tandem_runtime::io::transport::Transport;

/// Accepts until it is dropped, and all connections with it.
pub(super) async fn serve<T: Transport>(transport: T, listener: T::Listener, member: Arc<Member>) {
    accept_all(transport, listener, |transport, incoming| {
        converse(transport, incoming, member.clone())
    })
    .await;
}

/// Accepts until it is dropped, and lets `converse` have each connection.
pub(super) async fn accept_all<T, C>(
    transport: T,
    mut listener: T::Listener,
    converse: impl Fn(T, T::Incoming) -> C,
) where
    T: Transport,
    C: Future<Output = io::Result<()>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = permits.clone().acquire_owned().await else {
            return;
        };
        match transport.accept(&mut listener).await {
            Ok(incoming) => {
                let connection = converse(transport.clone(), incoming);
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "connection from a member ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a member's connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse<T: Transport>(transport: T, incoming: T::Incoming, member: Arc<Member>) -> io::Result<()> {
    let origin = transport.origin(&incoming);
    let greeting = timeout(HELLO_TIMEOUT, greet(&transport, incoming, &member, &origin)).await?;
    let Greeted {
        reader,
        writer,
        peer,
        refused_later,
    } = greeting.inspect_err(|error| {
        member.refusals.failed(Direction::In, &origin, error);
    })?;
    // A peer that reaches this member can perhaps be reached again.
    if let Some(links) = member.peers.get(&peer.id.member()) {
        links.wake();
    }
    let (frames, queue) = mpsc::channel(REQUESTS_AHEAD_MAX);
    tokio::select! {
        biased;
        reason = refused_later => {
            tracing::warn!(peer = %peer.id, reason, "a member's certificate is not accepted any more");
            Ok(())
        }
        result = read_requests(reader, frames) => result,
        result = answer_requests(writer, queue, &member, &peer) => result,
    }
}

/// A connection on which both ends know each other.
struct Greeted<S> {
    reader: FrameReader<tokio::io::ReadHalf<S>>,
    writer: tokio::io::WriteHalf<S>,
    peer: Introduction,
    refused_later: BoxFuture<'static, String>,
}

/// Nothing is believed before the other end has named the cluster, itself and us, and proved the second.
async fn greet<T: Transport>(
    transport: &T,
    incoming: T::Incoming,
    member: &Member,
    origin: &str,
) -> io::Result<Greeted<T::Stream>> {
    let stream = transport.secure(incoming).await?;
    let mut reader = FrameReader::new(stream);
    let frame = reader.next().await?;
    let hello: Hello = decode(&frame.body)?;
    if frame.kind != Kind::Hello {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a greeting out of order",
        ));
    }
    let refusal = member.refusal(&hello).or_else(|| {
        let proved = transport.check_from(reader.stream(), hello.from.id.member());
        proved.err().map(Refusal::Certificate)
    });
    let baseline = member.book.baseline();
    let refused_later = transport.refused_later(reader.stream());
    let (mut reader, mut writer) = reader.split();
    if let Some(refusal) = refusal {
        member.refusals.refused(origin, &refusal);
        let refused = Frame {
            kind: Kind::Refused,
            request: frame.request,
            body: encode(&refusal)?,
        };
        write_frames(&mut writer, [refused]).await?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let welcome = Welcome {
        incarnation: member.incarnation(),
        introduction: member.introduction(),
        reach: member.reach(),
        stranger: member.book.may_ask(&hello.from).err(),
        members: member.listed(),
    };
    member.note_list(hello.from.id.member(), &hello.members);
    write_frames(&mut writer, [answer(frame.request, encode(&welcome)?)]).await?;
    let frame = reader.next().await?;
    if frame.kind != Kind::Reach {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a greeting out of order",
        ));
    }
    let reach: Reach = decode(&frame.body)?;
    // A stranger keeps its connection: it is told how this member is, and nothing else.
    let _ = member.book.meet(&hello.from, &reach, &baseline);
    Ok(Greeted {
        reader,
        writer,
        peer: hello.from,
        refused_later,
    })
}

async fn read_requests<S: tokio::io::AsyncRead + Unpin>(
    mut reader: FrameReader<S>,
    frames: mpsc::Sender<Frame>,
) -> io::Result<()> {
    loop {
        let frame = reader.next().await?;
        if frames.send(frame).await.is_err() {
            return Ok(());
        }
    }
}

const CONNECTIONS_MAX: usize = 256;
const REQUESTS_AHEAD_MAX: usize = 256;
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
