//! A disk that forgets: for simulations and for tests of recovery.
//!
//! Contents and names have two lives, what the running process sees and what a crash would leave. A crash keeps
//! what was synced, and of every write that was not, an arbitrary part of its sectors.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::files::{File, Files, Lock};

/// One simulated directory. Clones are the same one, and survive the process that is simulated.
#[derive(Debug, Clone)]
pub struct SimulatedFiles {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    /// By name, as the running process sees it and as a crash would leave it.
    names: BTreeMap<String, u64>,
    names_synced: BTreeMap<String, u64>,
    contents: BTreeMap<u64, Content>,
    next_content: u64,
    random: SmallRng,
    sync_time_max: Duration,
    fault: Option<Fault>,
    /// Held by the process that uses the directory.
    lock: Weak<()>,
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// Writes since the last sync.
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// What the disk does from now on instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Writes fail: no space is left.
    Full,
    /// Syncs fail.
    SyncFails,
}

impl SimulatedFiles {
    /// An empty directory. A sync takes up to `sync_time_max` of the runtime's time, decided by the seed.
    #[must_use]
    pub fn new(seed: u64, sync_time_max: Duration) -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk {
                names: BTreeMap::new(),
                names_synced: BTreeMap::new(),
                contents: BTreeMap::new(),
                next_content: 0,
                random: SmallRng::seed_from_u64(seed),
                sync_time_max,
                fault: None,
                lock: Weak::new(),
            })),
        }
    }

    /// The process died and the power failed: what was not synced is lost, in whole or in part.
    pub fn crash(&self) {
        let mut disk = self.disk();
        let Disk {
            names,
            names_synced,
            contents,
            random,
            ..
        } = &mut *disk;
        *names = names_synced.clone();
        for content in contents.values_mut() {
            content.crash(random);
        }
        contents.retain(|id, _| names.values().any(|named| named == id));
    }

    /// From now on, until it is set to `None`.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.disk().fault = fault;
    }

    /// Replaces a file, durably: tests prepare damage with it.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
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

impl Disk {
    fn add(&mut self, bytes: Vec<u8>) -> u64 {
        let id = self.next_content;
        self.next_content += 1;
        let content = Content {
            bytes,
            ..Content::default()
        };
        self.contents.insert(id, content);
        id
    }

    fn check(&self, fault: Fault) -> io::Result<()> {
        if self.fault != Some(fault) {
            return Ok(());
        }
        Err(match fault {
            Fault::Full => io::ErrorKind::StorageFull.into(),
            Fault::SyncFails => io::Error::other("simulated failure of a sync"),
        })
    }
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        overwrite(&mut self.bytes, offset, bytes);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    fn sync(&mut self) {
        self.synced.clone_from(&self.bytes);
        self.unsynced.clear();
    }

    fn crash(&mut self, random: &mut SmallRng) {
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            let mut start = 0;
            while start < bytes.len() {
                let sector_end = (offset + start) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - offset;
                let end = sector_end.min(bytes.len());
                if random.random_bool(0.5) {
                    overwrite(&mut self.synced, offset + start, &bytes[start..end]);
                }
                start = end;
            }
        }
        self.bytes.clone_from(&self.synced);
    }
}

fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Files for SimulatedFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.disk();
        let content = disk.names.get(name).and_then(|id| disk.contents.get(id));
        Ok(content.map(|content| content.bytes.clone()))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.check(Fault::Full)?;
        let id = disk.add(vec![0; usize::try_from(bytes).map_err(io::Error::other)?]);
        disk.names.insert(name.to_owned(), id);
        drop(disk);
        Ok(self.file(id))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let id = self.disk().names.get(name).copied();
        id.map(|id| self.file(id))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let id = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.disk().names.remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.check(Fault::SyncFails)?;
        disk.names_synced = disk.names.clone();
        Ok(())
    }

    /// A task: a thread would run in real time.
    fn spawn(&self, _name: &str, job: BoxFuture<'static, ()>) -> io::Result<()> {
        tokio::spawn(job);
        Ok(())
    }

    fn lock(&self, _name: &str) -> io::Result<Option<Lock>> {
        let mut disk = self.disk();
        if disk.lock.strong_count() > 0 {
            return Ok(None);
        }
        let lock = Arc::new(());
        disk.lock = Arc::downgrade(&lock);
        Ok(Some(Box::new(lock)))
    }
}

struct SimulatedFile {
    files: SimulatedFiles,
    id: u64,
}

impl File for SimulatedFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.files.disk();
        disk.check(Fault::Full)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        if let Some(content) = disk.contents.get_mut(&self.id) {
            content.write(offset, bytes);
        }
        Ok(())
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            let takes = {
                let mut disk = self.files.disk();
                let sync_time_max = disk.sync_time_max;
                sync_time_max.mul_f64(disk.random.random())
            };
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            let mut disk = self.files.disk();
            disk.check(Fault::SyncFails)?;
            if let Some(content) = disk.contents.get_mut(&self.id) {
                content.sync();
            }
            Ok(())
        })
    }
}

const SECTOR_BYTES: usize = 512;
