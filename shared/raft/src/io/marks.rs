//! Marks of this member's state, worked out where they hold up nobody.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use tandem_cluster::ClusterState;
use tandem_cluster::state_comparison::StateMark;

use tandem_runtime::io::environment::files::Files;

/// The latest mark. Clones share it.
#[derive(Clone)]
pub(super) struct Marks {
    files: Arc<dyn Files>,
    latest: Arc<Mutex<Option<StateMark>>>,
    under_way: Arc<AtomicBool>,
}

impl Marks {
    pub(super) fn new(files: Arc<dyn Files>) -> Self {
        Self {
            files,
            latest: Arc::default(),
            under_way: Arc::default(),
        }
    }

    pub(super) fn latest(&self) -> Option<StateMark> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While another one is being marked nothing happens: the next entry that
    /// asks for it does as well.
    pub(super) fn begin(&self, index: u64, state: Arc<ClusterState>) {
        if self.under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        let (latest, under_way, files) = (self.latest.clone(), self.under_way.clone(), self.files.clone());
        let job = Box::pin(async move {
            match mark(&*files, index, &state).await {
                Ok(mark) => *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark),
                Err(error) => {
                    tracing::warn!(%error, index, "the state cannot be encoded, and is not compared")
                }
            }
            under_way.store(false, Ordering::Release);
        });
        if let Err(error) = self.files.spawn("raft-mark", job) {
            tracing::warn!(%error, "the state is not compared");
            self.under_way.store(false, Ordering::Release);
        }
    }
}

/// In the format that the state itself says: all members agree on it. Piece by piece, with pauses: all members do this at
/// the same time, and a processor may have other things to do.
async fn mark(files: &dyn Files, index: u64, state: &ClusterState) -> io::Result<StateMark> {
    let (mut pieces, mut digest) = (state.encoded(state.format()), Sha256::new());
    let mut piece = Vec::new();
    while pieces.append_next(&mut piece)? {
        digest.update(&piece);
        piece.clear();
        files.pause(PAUSE_AFTER_PIECE).await;
    }
    digest.update(&piece);
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest.finalize()[..16]);
    Ok(StateMark { index, hash })
}

const PAUSE_AFTER_PIECE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_cluster::{Command, NodeId, StateLimits};
    use tandem_runtime::io::environment::simulated::SimulatedFiles;

    #[tokio::test(start_paused = true)]
    async fn what_differs_in_the_state_differs_in_the_mark() {
        let files = SimulatedFiles::new(1, Duration::ZERO);
        let mut state = ClusterState::new(StateLimits::default());
        let before = mark(&files, 7, &state).await.unwrap();
        assert_eq!(mark(&files, 7, &state.clone()).await.unwrap(), before);
        state.apply(Command::NodeRegistered {
            id: NodeId(1),
            sip_address: ([10, 0, 0, 1], 5060).into(),
            incarnation: 1,
        });
        assert_ne!(mark(&files, 7, &state).await.unwrap(), before);
    }
}
