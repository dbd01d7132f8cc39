//! Marks of this member's state, worked out where they hold up nobody.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
        let (latest, under_way) = (self.latest.clone(), self.under_way.clone());
        let job = Box::pin(async move {
            match mark(index, &state) {
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

/// In the format that the state itself says: all members agree on it.
fn mark(index: u64, state: &ClusterState) -> io::Result<StateMark> {
    let digest = Sha256::digest(state.encode(state.format())?);
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    Ok(StateMark { index, hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_cluster::{Command, NodeId, StateLimits};

    #[test]
    fn what_differs_in_the_state_differs_in_the_mark() {
        let mut state = ClusterState::new(StateLimits::default());
        let before = mark(7, &state).unwrap();
        assert_eq!(mark(7, &state.clone()).unwrap(), before);
        state.apply(Command::NodeRegistered {
            id: NodeId(1),
            sip_address: ([10, 0, 0, 1], 5060).into(),
            incarnation: 1,
        });
        assert_ne!(mark(7, &state).unwrap(), before);
    }
}
