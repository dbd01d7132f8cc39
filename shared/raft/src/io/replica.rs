//! One copy of the state, and which entry of the log it ends with.

use std::sync::Arc;

use openraft::EntryPayload;
use tokio::task::yield_now;

use tandem_cluster::{Applied, Change, ClusterState, Command, StateLimits};
use tandem_planted::{Bug, planted};

use super::type_config::{Entry, LogId, SnapshotMeta, StoredMembership};

/// The state after one entry. Copies share what they have in common.
#[derive(Clone)]
pub(super) struct Replica {
    pub(super) state: Arc<ClusterState>,
    pub(super) last_applied: Option<LogId>,
    pub(super) membership: Arc<StoredMembership>,
}

impl Replica {
    /// The one before the first entry.
    pub(super) fn new(limits: StateLimits) -> Self {
        Self {
            state: Arc::new(ClusterState::new(limits)),
            last_applied: None,
            membership: Arc::default(),
        }
    }

    pub(super) fn of_snapshot(meta: &SnapshotMeta, state: ClusterState) -> Self {
        Self {
            state: Arc::new(state),
            last_applied: meta.last_log_id,
            membership: Arc::new(meta.last_membership.clone()),
        }
    }

    /// What a snapshot of it covers.
    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last_applied.map(one_later_if_planted),
            last_membership: StoredMembership::clone(&self.membership),
        }
    }

    /// Applies the next entry. Others may run while one that concerns many records is applied, and find nothing of it yet.
    pub(super) async fn apply(&mut self, entry: Entry) -> Outcome {
        self.last_applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Outcome::of_nothing(),
            EntryPayload::Normal(proposal) => {
                apply_in_portions(Arc::make_mut(&mut self.state), proposal.command).await
            }
            EntryPayload::Membership(membership) => {
                self.membership = Arc::new(StoredMembership::new(Some(entry.log_id), membership));
                Outcome::of_nothing()
            }
        }
    }
}

/// What came of an entry.
pub(super) struct Outcome {
    pub(super) applied: Applied,
    pub(super) changes: Vec<Change>,
    /// Portions in which it was applied.
    pub(super) portions: usize,
}

impl Outcome {
    fn of_nothing() -> Self {
        Self {
            applied: Applied::Done,
            changes: Vec::new(),
            portions: 1,
        }
    }
}

async fn apply_in_portions(state: &mut ClusterState, command: Command) -> Outcome {
    let mut under_way = state.begin(command);
    let mut portions = 1;
    while !state.go_on(&mut under_way) {
        portions += 1;
        yield_now().await;
    }
    let (applied, changes) = under_way.finish();
    Outcome {
        applied,
        changes,
        portions,
    }
}

fn one_later_if_planted(id: LogId) -> LogId {
    let one_more = u64::from(planted(Bug::SnapshotNamesLaterEntry));
    LogId::new(*id.committed_leader_id(), id.index() + one_more)
}
