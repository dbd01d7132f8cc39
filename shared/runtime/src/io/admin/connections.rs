//! The connections that stand: bounded in number, and an idle one makes room for one that has a request.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// All connections of a listener. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    max: usize,
    next_id: u64,
    open: HashMap<u64, Open>,
    /// Those that have no request under way, the one that has been idle longest first.
    idle: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Open {
    idle_since: Option<Instant>,
    close: Arc<Notify>,
}

/// One connection's place; dropping it makes room.
#[derive(Debug)]
pub(super) struct Place {
    connections: Connections,
    id: u64,
    close: Arc<Notify>,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        let shared = Shared {
            max,
            next_id: 0,
            open: HashMap::new(),
            idle: BTreeSet::new(),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// A place for one more; `None` when all have requests under way.
    pub(super) fn admit(&self, now: Instant) -> Option<Place> {
        let mut shared = self.shared();
        if shared.open.len() >= shared.max {
            let (_, longest) = shared.idle.pop_first()?;
            if let Some(open) = shared.open.remove(&longest) {
                open.close.notify_one();
            }
        }
        let id = shared.next_id;
        shared.next_id += 1;
        let close = Arc::<Notify>::default();
        let open = Open {
            idle_since: Some(now),
            close: close.clone(),
        };
        shared.open.insert(id, open);
        shared.idle.insert((now, id));
        Some(Place {
            connections: self.clone(),
            id,
            close,
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A request is under way.
    pub(super) fn busy(&self) {
        self.set_idle_since(None);
    }

    /// It is answered.
    pub(super) fn idle(&self, now: Instant) {
        self.set_idle_since(Some(now));
    }

    /// Resolves when another one needs the place.
    pub(super) async fn given_away(&self) {
        self.close.notified().await;
    }

    fn set_idle_since(&self, since: Option<Instant>) {
        let mut shared = self.connections.shared();
        let Shared { open, idle, .. } = &mut *shared;
        let Some(open) = open.get_mut(&self.id) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut open.idle_since, since) {
            idle.remove(&(before, self.id));
        }
        idle.extend(since.map(|since| (since, self.id)));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set_idle_since(None);
        self.connections.shared().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_one_that_has_been_idle_longest_makes_room() {
        let (connections, start) = (Connections::new(2), Instant::now());
        let second = Duration::from_secs(1);
        let first = connections.admit(start).unwrap();
        let other = connections.admit(start + second).unwrap();
        first.busy();
        first.idle(start + second * 2);
        let third = connections.admit(start + second * 3).unwrap();
        assert!(other.given_away().now_or_never().is_some());
        assert!(first.given_away().now_or_never().is_none());
        first.busy();
        third.busy();
        assert!(connections.admit(start + second * 4).is_none(), "all are at work");
        drop(other);
        assert!(
            connections.admit(start + second * 4).is_none(),
            "its place was given away before"
        );
        drop(third);
        assert!(connections.admit(start + second * 5).is_some());
    }
}
