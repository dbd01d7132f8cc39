//! What a member keeps in its data directory: log, snapshot, and the state that both make.

use std::io;
use std::sync::Arc;

use prometheus::Histogram;

use tandem_cluster::{Format, StateLimits};

use super::formats::Formats;
use super::log_store::LogStore;
use super::state_machine::StateMachine;
use tandem_runtime::io::environment::files::Files;

/// Log and state of one member.
pub(super) struct Storage {
    pub(super) log: LogStore,
    pub(super) machine: StateMachine,
}

impl Storage {
    /// Reads everything, in formats up to `newest`. Nothing is changed on the disk before all of it is understood.
    pub(super) async fn open(
        files: Arc<dyn Files>,
        segment_bytes: u64,
        limits: StateLimits,
        newest: Format,
        sync_seconds: Histogram,
    ) -> io::Result<Self> {
        let formats = Formats::up_to(newest);
        let machine = StateMachine::open(limits, files.clone(), formats.clone())?;
        let snapshot = machine.last_applied();
        let log = LogStore::open(files, segment_bytes, formats, snapshot, sync_seconds).await?;
        Ok(Self { log, machine })
    }
}
