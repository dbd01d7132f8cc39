//! One connection to one peer, kept up: requests out, answers in.
//!
//! Each peer has several links, so that heartbeats never stand behind entries or a snapshot. Requests made while
//! there is no connection fail at once.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};

use tandem_cluster::membership::{Introduction, Start};

use super::frame::Kind;

/// The asking end of a link. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) welcomed_by: WelcomedBy,
    /// Ends the pause before the next attempt to connect.
    pub(super) wake: Arc<Notify>,
    /// Ends the connection: its other end is a process that is gone.
    pub(super) outdated: Arc<Notify>,
}

/// Who answers at the other end now, as they introduced themselves.
pub(super) type WelcomedBy = Arc<Mutex<Option<Introduction>>>;

/// There is no connection, or it broke before the answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer cannot be reached")]
pub(super) struct Unreachable;

#[derive(Debug)]
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) body: Bytes,
    pub(super) answer: oneshot::Sender<Bytes>,
}

impl Link {
    /// Who answers at the other end now; `None` without a connection.
    pub(super) fn welcomed_by(&self) -> Option<Introduction> {
        *self.welcomed_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next attempt to connect comes at once.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The peer's process is the one of this start: a connection to another one ends. Nothing else would end one on which
    /// nothing is said, after its peer's machine was restarted without closing it.
    pub(super) fn renew(&self, start: Start) {
        if self.welcomed_by().is_some_and(|peer| peer.start != start) {
            self.outdated.notify_one();
        }
    }

    /// Asks, and waits for the answer as long as the connection stands: callers bring their own deadline.
    pub(super) async fn ask(&self, kind: Kind, body: Bytes) -> Result<Bytes, Unreachable> {
        let (answer, answered) = oneshot::channel();
        let call = Call { kind, body, answer };
        self.calls.send(call).await.map_err(|_| Unreachable)?;
        answered.await.map_err(|_| Unreachable)
    }
}

/// What a link learns about its peer's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkEvent {
    /// Connected; the number tells one process, and one registration, from the next.
    Connected { incarnation: u64, start: Start },
    /// An established connection ended.
    Broken,
    /// The machine answers, the process does not.
    Refused,
}
