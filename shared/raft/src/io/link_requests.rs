//! Requests on one connection: sent in order, and matched with their answers.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::frame::{Frame, FrameReader, Kind, decode};
use super::link::Call;
use super::messages::Declined;

pub(super) type Waiting = Mutex<Unanswered>;

/// Requests that were sent.
#[derive(Default)]
pub(super) struct Unanswered {
    calls: BTreeMap<u64, oneshot::Sender<Bytes>>,
    /// When something was last heard, or the first of these requests was sent.
    quiet_since: Option<Instant>,
}

impl Unanswered {
    /// False when there are too many already; dropping the call then tells its asker.
    fn add(&mut self, request: u64, answer: oneshot::Sender<Bytes>) -> bool {
        if self.calls.len() >= CALLS_UNANSWERED_MAX {
            self.calls.retain(|_, answer| !answer.is_closed());
        }
        if self.calls.len() >= CALLS_UNANSWERED_MAX {
            return false;
        }
        self.quiet_since.get_or_insert_with(Instant::now);
        self.calls.insert(request, answer);
        true
    }

    fn take(&mut self, request: u64) -> Option<oneshot::Sender<Bytes>> {
        let answer = self.calls.remove(&request);
        self.quiet_since = (!self.calls.is_empty()).then(Instant::now);
        answer
    }
}

/// Resolves when the peer has been silent for too long: the path may be broken without anybody having said so.
pub(super) async fn watch_silence(silence_max: Duration, waiting: &Waiting) {
    loop {
        let quiet_since = locked(waiting).quiet_since;
        let now = Instant::now();
        let due = quiet_since.unwrap_or(now) + silence_max;
        if due <= now {
            return;
        }
        sleep_until(due).await;
    }
}

pub(super) async fn take_answers<S: tokio::io::AsyncRead + Unpin>(
    mut reader: FrameReader<S>,
    waiting: &Waiting,
    declined: impl Fn(Declined),
) -> io::Result<()> {
    loop {
        let frame = reader.next().await?;
        if frame.kind == Kind::Declined {
            // The end of its channel tells the asker.
            drop(locked(waiting).take(frame.request));
            declined(decode(&frame.body)?);
            continue;
        }
        if frame.kind != Kind::Answer {
            return Err(io::Error::other("the peer ended the conversation"));
        }
        let answer = locked(waiting).take(frame.request);
        if let Some(answer) = answer {
            // The asker's deadline may have passed.
            let _ = answer.send(frame.body);
        }
    }
}

pub(super) async fn send_calls<W: AsyncWrite + Unpin>(
    mut writer: W,
    queue: &mut mpsc::Receiver<Call>,
    waiting: &Waiting,
) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    let mut next_request = 1;
    while let Some(call) = queue.recv().await {
        let mut next = Some(call);
        while let Some(call) = next {
            let frame = Frame {
                kind: call.kind,
                request: next_request,
                body: call.body,
            };
            next_request += 1;
            if locked(waiting).add(frame.request, call.answer) {
                frame.write(&mut bytes);
            }
            next = (bytes.len() < WRITE_BYTES)
                .then(|| queue.try_recv().ok())
                .flatten();
        }
        writer.write_all_buf(&mut bytes).await?;
        writer.flush().await?;
    }
    Ok(())
}

fn locked(waiting: &Waiting) -> MutexGuard<'_, Unanswered> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls whose answer is outstanding; more fail at once.
const CALLS_UNANSWERED_MAX: usize = 16384;

/// Calls are gathered into one write up to this size.
const WRITE_BYTES: usize = 64 << 10;
