//! Every change of the replicated state, in order, to whoever follows.
//!
//! What always holds: a state is published before its changes are told, so that a follower finds a state at least as new
//! as what it is told of. By how much newer is nobody's promise: in a simulated world the seed decides it.

use std::sync::Arc;

use tokio::sync::broadcast;

use tandem_cluster::Change;

/// Entries that a follower may lag behind before it is told to read the state anew.
const ENTRIES_BEHIND_MAX: usize = 8192;

#[derive(Debug, Clone)]
pub(super) struct ChangeSender(broadcast::Sender<Arc<Vec<Change>>>);

impl ChangeSender {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(ENTRIES_BEHIND_MAX))
    }

    pub(super) fn send(&self, changes: Vec<Change>) {
        if !changes.is_empty() {
            // Nobody following is no fault.
            let _ = self.0.send(Arc::new(changes));
        }
    }

    pub(super) fn subscribe(&self) -> ChangeReceiver {
        ChangeReceiver {
            changes: self.0.subscribe(),
            #[cfg(feature = "simulation")]
            late: None,
        }
    }
}

/// Changes from the moment of [`super::Cluster::changes`] on.
#[derive(Debug)]
pub struct ChangeReceiver {
    changes: broadcast::Receiver<Arc<Vec<Change>>>,
    #[cfg(feature = "simulation")]
    late: Option<late::Late>,
}

impl ChangeReceiver {
    /// The next changes. One who falls too far behind gets a single `Change::Replaced` and reads the state anew.
    /// `None` when the member is gone. Cancelling loses nothing.
    pub async fn recv(&mut self) -> Option<Vec<Change>> {
        #[cfg(feature = "simulation")]
        if tandem_runtime::io::environment::simulated::Host::current().is_some() {
            return self.recv_late().await;
        }
        self.recv_soon().await
    }

    async fn recv_soon(&mut self) -> Option<Vec<Change>> {
        match self.changes.recv().await {
            Ok(changes) => Some(changes.to_vec()),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(vec![Change::Replaced]),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// A follower that is slow to look, as one is on a busy machine.
#[cfg(feature = "simulation")]
mod late {
    use std::time::Duration;

    use tandem_cluster::Change;
    use tandem_runtime::io::environment;
    use tokio::time::{Instant, sleep_until};

    use super::ChangeReceiver;

    /// Changes that have come and are told later.
    #[derive(Debug)]
    pub(super) struct Late {
        due: Instant,
        changes: Vec<Change>,
    }

    impl ChangeReceiver {
        /// As `recv`. What was received waits in the receiver, so that cancelling loses nothing here either; the changes
        /// of later batches wait behind it while the state runs ahead.
        pub(super) async fn recv_late(&mut self) -> Option<Vec<Change>> {
            if self.late.is_none() {
                let changes = self.recv_soon().await?;
                let due = Instant::now() + lateness();
                self.late = Some(Late { due, changes });
            }
            sleep_until(self.late.as_ref()?.due).await;
            let late = self.late.take()?;
            if once_in(DROPPED_ONCE_IN) {
                while self.changes.try_recv().is_ok() {}
                return Some(vec![Change::Replaced]);
            }
            Some(late.changes)
        }
    }

    fn lateness() -> Duration {
        match once_in(LATE_ONCE_IN) {
            true => LATE_MAX.mul_f64(environment::random()),
            false => Duration::ZERO,
        }
    }

    fn once_in(times: u32) -> bool {
        environment::random::<u32>().is_multiple_of(times)
    }

    const LATE_ONCE_IN: u32 = 8;
    /// Several batches, and less than a leader is silent before another one is elected.
    const LATE_MAX: Duration = Duration::from_millis(40);
    const DROPPED_ONCE_IN: u32 = 64;
}
