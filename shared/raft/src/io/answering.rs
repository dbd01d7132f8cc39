//! The requests of one connection, answered by the local member.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use tandem_cluster::membership::Introduction;

use super::frame::{Frame, Kind, decode, encode};
use super::member::Member;
use super::messages::Declined;

pub(super) async fn answer_requests<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Frame>,
    member: &Member,
    peer: &Introduction,
) -> io::Result<()> {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(answer) = under_way.next() => {
                let mut answers = vec![answer?];
                while answers.len() < ANSWERS_PER_WRITE
                    && let Some(Some(answer)) = futures::FutureExt::now_or_never(under_way.next())
                {
                    answers.push(answer?);
                }
                write_frames(&mut writer, answers).await?;
            }
            frame = queue.recv(), if under_way.len() < REQUESTS_UNDER_WAY_MAX => {
                let Some(frame) = frame else {
                    return Ok(());
                };
                if let Some(declined) = declined(member, peer, frame.kind) {
                    let declined = Frame {
                        kind: Kind::Declined,
                        request: frame.request,
                        body: encode(&declined)?,
                    };
                    write_frames(&mut writer, [declined]).await?;
                } else if frame.kind == Kind::Snapshot {
                    // In order, and nothing else comes on that connection.
                    let body = member.take_snapshot(&frame.body).await?;
                    write_frames(&mut writer, [answer(frame.request, body)]).await?;
                } else {
                    under_way.push(handle(member, peer, frame));
                }
            }
        }
    }
}

/// A stranger takes no part at all: no vote, no entry, no snapshot, and no proposal.
fn declined(member: &Member, peer: &Introduction, kind: Kind) -> Option<Declined> {
    if kind == Kind::Status {
        return None;
    }
    if let Some((_, stranger)) = member.book.own_stranger() {
        return Some(Declined::Me(stranger));
    }
    member.book.may_ask(peer).err().map(Declined::You)
}

async fn handle(member: &Member, peer: &Introduction, frame: Frame) -> io::Result<Frame> {
    let body = match frame.kind {
        Kind::Append => member.append(&frame.body).await?,
        Kind::Vote => member.vote(&frame.body).await?,
        Kind::PreVote => member.pre_vote(&frame.body).await?,
        Kind::TransferLeader => member.transfer_leader(&frame.body).await?,
        Kind::Propose => member.propose_forwarded(&frame.body).await?,
        Kind::Status => encode(&member.peer_status(peer, decode(&frame.body)?))?,
        Kind::Administer => member.administer_forwarded(&frame.body).await?,
        Kind::Hello | Kind::Reach | Kind::Snapshot | Kind::Answer | Kind::Refused | Kind::Declined => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a request out of place",
            ));
        }
    };
    Ok(answer(frame.request, body))
}

pub(super) fn answer(request: u64, body: Bytes) -> Frame {
    Frame {
        kind: Kind::Answer,
        request,
        body,
    }
}

const REQUESTS_UNDER_WAY_MAX: usize = 4096;

const ANSWERS_PER_WRITE: usize = 64;

pub(super) async fn write_frames<W: AsyncWrite + Unpin>(
    writer: &mut W,
    frames: impl IntoIterator<Item = Frame>,
) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    for frame in frames {
        frame.write(&mut bytes);
    }
    writer.write_all_buf(&mut bytes).await?;
    writer.flush().await
}
