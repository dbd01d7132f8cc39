//! A disk that forgets and fills up: for simulations and for tests of recovery.
//!
//! Contents and names have two lives, what the running process sees and what a crash would leave. A crash keeps
//! what was synced. Of every write that was not, it keeps an arbitrary part of the sectors; a file that grew has any
//! length between the synced one and the new one; a change of a name happened or not, whatever came before or after
//! it, and of a rename both names may be left.

mod disk;
mod operations;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::disk::Disk;
use self::operations::SimulatedFile;
use crate::io::environment::files::File;

/// One simulated directory. Clones are the same one, and survive the process that is simulated.
#[derive(Debug, Clone)]
pub struct SimulatedFiles {
    disk: Arc<Mutex<Disk>>,
}

/// What the disk does from now on instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Writes fail: no space is left.
    Full,
    /// Syncs fail.
    SyncFails,
    /// Syncs of files take until the fault is over.
    StandsStill,
}

/// What happens to the disk in the middle of one operation. The operation is done in part and fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// Every later operation fails as well, until [`SimulatedFiles::crash`].
    PowerFails,
    /// Later operations succeed.
    OneError,
}

impl SimulatedFiles {
    /// An empty directory. A sync takes up to `sync_time_max` of the runtime's time, decided by the seed.
    #[must_use]
    pub fn new(seed: u64, sync_time_max: Duration) -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk {
                names: BTreeMap::new(),
                names_synced: BTreeMap::new(),
                names_unsynced: Vec::new(),
                contents: BTreeMap::new(),
                next_content: 0,
                random: SmallRng::seed_from_u64(seed),
                sync_time_max,
                fault: None,
                lock: Weak::new(),
                interruption: None,
                power_failed: false,
                capacity: u64::MAX,
            })),
        }
    }

    /// The process died and the power failed: what was not synced is lost, in whole or in part.
    pub fn crash(&self) {
        let mut disk = self.disk();
        let Disk {
            names,
            names_synced,
            names_unsynced,
            contents,
            random,
            ..
        } = &mut *disk;
        for change in names_unsynced.drain(..) {
            change.crash(names_synced, random);
        }
        names.clone_from(names_synced);
        for content in contents.values_mut() {
            content.crash(random);
        }
        contents.retain(|id, _| names.values().any(|named| named == id));
        disk.power_failed = false;
        disk.interruption = None;
    }

    /// From now on, until it is set to `None`.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.disk().fault = fault;
    }

    /// Interrupts the operation that comes after so many others. Creating a file counts as two: its name, its zeros.
    pub fn interrupt_after(&self, operations: u64, how: Interruption) {
        self.disk().interruption = Some((operations, how));
    }

    /// Whether the operation named to [`Self::interrupt_after`] has been reached; forgets the interruption.
    #[must_use]
    pub fn was_interrupted(&self) -> bool {
        self.disk().interruption.take().is_none()
    }

    /// From now on files may grow by so many bytes in all. Files that are removed give their bytes back.
    pub fn set_free_bytes(&self, bytes: u64) {
        let mut disk = self.disk();
        disk.capacity = disk.used().saturating_add(bytes);
    }

    /// Replaces a file, durably: tests prepare damage with it.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
        disk.names_unsynced.retain(|change| !change.concerns(name));
        let id = disk.add(bytes.clone());
        disk.names.insert(name.to_owned(), id);
        disk.names_synced.insert(name.to_owned(), id);
        if let Some(content) = disk.contents.get_mut(&id) {
            content.synced = bytes;
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: u64) -> Box<dyn File> {
        Box::new(SimulatedFile {
            files: self.clone(),
            id,
        })
    }
}
