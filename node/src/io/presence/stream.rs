//! The live stream: presence as server-sent events.
//!
//! It begins with the current presence of all requested users; then every change follows. A comment now and then shows
//! that the connection is alive. A client that reads too slowly is told that changes were lost, and the stream ends; a new
//! one begins with the whole state again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tandem_runtime::io::admin::{AdminResponse, StatusCode};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::view::PresenceView;
use crate::admin::presence::ComposedView;
use crate::presence::PresenceChanged;

/// The streams that are open on this node. Clones share them.
#[derive(Clone)]
pub(super) struct Streams {
    view: PresenceView,
    places: Arc<Semaphore>,
}

impl Streams {
    pub(super) fn new(view: PresenceView) -> Self {
        Self {
            view,
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    /// Of these users; `None`: of all users with known presence.
    pub(super) fn open(&self, users: Option<BTreeSet<String>>) -> Result<AdminResponse, AdminResponse> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let message = format!("the limit of {STREAMS_MAX} open streams is reached");
            return Err(AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, &message));
        };
        let (pieces, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let stream = Stream {
            // Before the first look at the state, so that no change falls in between.
            changes: self.view.subscribe(),
            view: self.view.clone(),
            users,
            pieces,
        };
        tokio::spawn(run(stream, place));
        Ok(AdminResponse::pieces(CONTENT_TYPE, receiver))
    }
}

struct Stream {
    view: PresenceView,
    changes: broadcast::Receiver<PresenceChanged>,
    users: Option<BTreeSet<String>>,
    pieces: mpsc::Sender<Bytes>,
}

/// Why a stream ended.
enum End {
    ReaderGone,
    ProcessEnds,
    Lost { changes: u64 },
}

impl End {
    fn label(&self) -> &'static str {
        match self {
            Self::ReaderGone => "reader_gone",
            Self::ProcessEnds => "process_ends",
            Self::Lost { .. } => "lost",
        }
    }
}

async fn run(mut stream: Stream, place: OwnedSemaphorePermit) {
    let metrics = stream.view.metrics().clone();
    metrics.streams.inc();
    let end = stream.tell().await;
    if let End::Lost { changes } = end {
        let lost = event("lost", &serde_json::json!({ "changes": changes }));
        // A client that does not read even this will see the end of the stream.
        let _ = timeout(LAST_WORD, stream.pieces.send(lost)).await;
    }
    metrics.streams.dec();
    metrics.streams_ended.with_label_values(&[end.label()]).inc();
    drop(place);
}

impl Stream {
    async fn tell(&mut self) -> End {
        if let Err(end) = self.tell_all().await {
            return end;
        }
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let piece = tokio::select! {
                changed = self.changes.recv() => match changed {
                    Ok(changed) if self.is_asked_for(&changed.user) => presence(&changed.user, &self.view),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(changes)) => return End::Lost { changes },
                    Err(RecvError::Closed) => return End::ProcessEnds,
                },
                _ = heartbeat.tick() => Bytes::from_static(b": alive\n\n"),
                () = self.pieces.closed() => return End::ReaderGone,
            };
            if let Err(end) = self.send(piece).await {
                return end;
            }
        }
    }

    async fn tell_all(&self) -> Result<(), End> {
        match &self.users {
            Some(users) => self.tell_some(users.iter()).await?,
            None => {
                let mut page = self.view.users_after(None, PAGE);
                while let Some(last) = page.last() {
                    self.tell_some(page.iter()).await?;
                    page = self.view.users_after(Some(last), PAGE);
                }
            }
        }
        self.send(event("complete", &serde_json::json!({}))).await
    }

    async fn tell_some(&self, users: impl Iterator<Item = &String>) -> Result<(), End> {
        for user in users {
            self.send(presence(user, &self.view)).await?;
        }
        Ok(())
    }

    /// A client that reads nothing for this long loses what follows.
    async fn send(&self, piece: Bytes) -> Result<(), End> {
        match timeout(PATIENCE, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::ReaderGone),
            Err(_) => Err(End::Lost {
                changes: u64::try_from(self.changes.len()).unwrap_or(u64::MAX),
            }),
        }
    }

    fn is_asked_for(&self, user: &str) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }
}

/// The user's presence now, which may be newer than the change that caused this.
fn presence(user: &str, view: &PresenceView) -> Bytes {
    event("presence", &ComposedView::of(user, &view.get(user)))
}

fn event(name: &str, data: &impl Serialize) -> Bytes {
    // Plain structures of text and numbers always serialize, and JSON has no line breaks.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

const CONTENT_TYPE: &str = "text/event-stream";
const STREAMS_MAX: usize = 32;
const PIECES_WAITING_MAX: usize = 256;
const PAGE: usize = 200;
const HEARTBEAT: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(30);
const LAST_WORD: Duration = Duration::from_secs(5);
