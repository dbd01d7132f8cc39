//! openraft's order to make a snapshot, carried out.

use std::io;
use std::sync::Arc;

use openraft::{RaftSnapshotBuilder, Snapshot};

use tandem_cluster::{ClusterState, MemberRecord, RaftId};

use super::snapshot_store::{Content, SnapshotData, SnapshotStore};
use super::type_config::{LeaderId, SnapshotMeta, TypeConfig};

/// The state as it was when openraft asked for a snapshot; encoded and written while entries go on being applied.
pub(super) struct SnapshotBuilder {
    /// Until it is built.
    view: Option<(SnapshotMeta, Arc<ClusterState>)>,
    snapshots: SnapshotStore,
}

impl SnapshotBuilder {
    pub(super) fn new(meta: SnapshotMeta, state: Arc<ClusterState>, snapshots: SnapshotStore) -> Self {
        Self {
            view: Some((meta, state)),
            snapshots,
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<LeaderId, RaftId, MemberRecord, SnapshotData>> {
        let (meta, state) = self
            .view
            .take()
            .ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        self.snapshots.save(&meta, Content::State(state)).await?;
        let snapshot = SnapshotData::Kept(self.snapshots.clone());
        Ok(Snapshot { meta, snapshot })
    }
}
