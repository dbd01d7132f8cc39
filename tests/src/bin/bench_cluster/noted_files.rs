//! The files of a member, with a note of when a snapshot was written to them.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use tandem_runtime::io::environment::files::{File, Files, Lock, RealFiles, Space};

/// Real files. The last step of a snapshot is to take the name of the one before it.
#[derive(Debug)]
pub(crate) struct NotedFiles {
    files: RealFiles,
    snapshots: Arc<Mutex<Snapshots>>,
}

/// Unix microseconds.
#[derive(Debug, Default)]
struct Snapshots {
    begun: u64,
    written: Vec<(u64, u64)>,
}

impl NotedFiles {
    pub(crate) fn new(files: RealFiles) -> Self {
        Self {
            files,
            snapshots: Arc::default(),
        }
    }

    pub(crate) fn forget_snapshots(&self) {
        self.noted().written.clear();
    }

    /// When each snapshot began and ended to be written.
    pub(crate) fn snapshots(&self) -> Vec<(u64, u64)> {
        self.noted().written.clone()
    }

    fn noted(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for NotedFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.files.read(name)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        self.files.create(name, bytes)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.files.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)?;
        if to == SNAPSHOT {
            let mut noted = self.noted();
            let begun = noted.begun;
            noted.written.push((begun, unix_us()));
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.files.sync_directory()
    }

    fn space(&self) -> io::Result<Space> {
        self.files.space()
    }

    fn spawn(&self, name: &str, job: BoxFuture<'static, ()>) -> io::Result<()> {
        if name == SNAPSHOT_THREAD {
            self.noted().begun = unix_us();
        }
        self.files.spawn(name, job)
    }

    fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        self.files.lock(name)
    }
}

fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

const SNAPSHOT: &str = "snapshot";
const SNAPSHOT_THREAD: &str = "raft-snapshot";
