//! A disk that forgets and fills up: for simulations and for tests of recovery.
//!
//! Contents and names have two lives, what the running process sees and what a crash would leave. A crash keeps
//! what was synced. Of every write that was not, it keeps an arbitrary part of the sectors; a file that grew has any
//! length between the synced one and the new one; a change of a name happened or not, whatever came before or after
//! it, and of a rename both names may be left.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::files::{File, Files, Lock};

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
    /// Since the last sync of the directory, in order.
    names_unsynced: Vec<NameChange>,
    contents: BTreeMap<u64, Content>,
    next_content: u64,
    random: SmallRng,
    sync_time_max: Duration,
    fault: Option<Fault>,
    /// Held by the process that uses the directory.
    lock: Weak<()>,
    interruption: Option<(u64, Interruption)>,
    power_failed: bool,
    capacity: u64,
}

#[derive(Debug)]
enum NameChange {
    Added { name: String, id: u64 },
    Renamed { from: String, to: String, id: u64 },
    Removed { name: String },
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
            Fault::StandsStill => return Ok(()),
        })
    }

    /// Begins an operation that changes something. `Ok` with an error inside: do a part of it, then return that.
    fn begin(&mut self) -> io::Result<Option<io::Error>> {
        self.check_power()?;
        let Some((operations, how)) = self.interruption else {
            return Ok(None);
        };
        if let Some(fewer) = operations.checked_sub(1) {
            self.interruption = Some((fewer, how));
            return Ok(None);
        }
        self.interruption = None;
        self.power_failed = how == Interruption::PowerFails;
        Ok(Some(io::Error::other("simulated failure of an operation")))
    }

    fn check_power(&self) -> io::Result<()> {
        if self.power_failed {
            return Err(io::Error::other("the simulated power has failed"));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|id| self.contents.get(id));
        named.map(|content| content.bytes.len() as u64).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    /// Writes as much as there is room for; only growing takes room.
    fn write(&mut self, id: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let free = usize::try_from(self.free()).unwrap_or(usize::MAX);
        let Some(content) = self.contents.get_mut(&id) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let end_max = content.bytes.len().saturating_add(free);
        let fitting = end_max.saturating_sub(offset).min(bytes.len());
        content.write(offset, &bytes[..fitting]);
        if fitting < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl NameChange {
    fn concerns(&self, changed: &str) -> bool {
        match self {
            Self::Added { name, .. } | Self::Removed { name } => name == changed,
            Self::Renamed { from, to, .. } => from == changed || to == changed,
        }
    }

    /// Happened or not; a rename may have happened by half.
    fn crash(self, names: &mut BTreeMap<String, u64>, random: &mut SmallRng) {
        let happened = random.random_bool(0.5);
        match self {
            Self::Added { name, id } if happened => drop(names.insert(name, id)),
            Self::Removed { name } if happened => drop(names.remove(&name)),
            Self::Renamed { from, to, id } if happened => {
                names.insert(to, id);
                if random.random_bool(0.75) {
                    names.remove(&from);
                }
            }
            Self::Added { .. } | Self::Removed { .. } | Self::Renamed { .. } => {}
        }
    }
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        overwrite(&mut self.bytes, offset, bytes);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    /// Costs as much as was written, and not as much as the file holds: a log is synced at every entry.
    fn sync(&mut self) {
        for (offset, bytes) in self.unsynced.drain(..) {
            overwrite(&mut self.synced, offset, &bytes);
        }
    }

    fn crash(&mut self, random: &mut SmallRng) {
        let length = any_length(self.synced.len(), self.bytes.len(), random);
        self.synced.resize(length, 0);
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            let mut start = 0;
            while start < bytes.len() {
                let sector_end = (offset + start) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - offset;
                let end = sector_end.min(bytes.len());
                let kept = end.min(length.saturating_sub(offset));
                if kept > start && random.random_bool(0.5) {
                    overwrite(&mut self.synced, offset + start, &bytes[start..kept]);
                }
                start = end;
            }
        }
        self.bytes.clone_from(&self.synced);
    }
}

/// Both ends and what lies between them.
fn any_length(least: usize, most: usize, random: &mut SmallRng) -> usize {
    match random.random_range(0..4) {
        0 => least,
        1 => most,
        _ => random.random_range(least..=most),
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
        let disk = self.disk();
        disk.check_power()?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let disk = self.disk();
        disk.check_power()?;
        let content = disk.names.get(name).and_then(|id| disk.contents.get(id));
        Ok(content.map(|content| content.bytes.clone()))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        disk.check(Fault::Full)?;
        let interrupted = disk.begin()?;
        if interrupted.is_none() || disk.random.random() {
            let id = disk.add(Vec::new());
            disk.names.insert(name.to_owned(), id);
            let name = name.to_owned();
            disk.names_unsynced.push(NameChange::Added { name, id });
        }
        if let Some(error) = interrupted {
            return Err(error);
        }
        let id = disk.names[name];
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let interrupted = disk.begin()?;
        let length = match interrupted {
            None => bytes,
            Some(_) => any_length(0, bytes, &mut disk.random),
        };
        disk.write(id, 0, &vec![0; length])?;
        drop(disk);
        interrupted.map_or_else(|| Ok(self.file(id)), Err)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let disk = self.disk();
        disk.check_power()?;
        let id = disk.names.get(name).copied();
        drop(disk);
        id.map(|id| self.file(id))
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let interrupted = disk.begin()?;
        if interrupted.is_none() || disk.random.random() {
            let id = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            disk.names.insert(to.to_owned(), id);
            let (from, to) = (from.to_owned(), to.to_owned());
            disk.names_unsynced.push(NameChange::Renamed { from, to, id });
        }
        interrupted.map_or(Ok(()), Err)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let interrupted = disk.begin()?;
        if interrupted.is_none() || disk.random.random() {
            disk.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            let name = name.to_owned();
            disk.names_unsynced.push(NameChange::Removed { name });
        }
        interrupted.map_or(Ok(()), Err)
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.check(Fault::SyncFails)?;
        if let Some(error) = disk.begin()? {
            return Err(error);
        }
        disk.names_synced = disk.names.clone();
        disk.names_unsynced.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = self.disk();
        disk.check_power()?;
        Ok(if disk.fault == Some(Fault::Full) {
            0
        } else {
            disk.free()
        })
    }

    /// A task: a thread would run in real time.
    fn spawn(&self, _name: &str, job: BoxFuture<'static, ()>) -> io::Result<()> {
        tokio::spawn(job);
        Ok(())
    }

    fn pause(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(time))
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
        let interrupted = disk.begin()?;
        let length = match interrupted {
            None => bytes.len(),
            Some(_) => any_length(0, bytes.len(), &mut disk.random),
        };
        disk.write(self.id, offset, &bytes[..length])?;
        interrupted.map_or(Ok(()), Err)
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
            while self.files.disk().fault == Some(Fault::StandsStill) {
                tokio::time::sleep(LOOKED_AGAIN_AFTER).await;
            }
            let mut disk = self.files.disk();
            disk.check(Fault::SyncFails)?;
            if let Some(error) = disk.begin()? {
                return Err(error);
            }
            if let Some(content) = disk.contents.get_mut(&self.id) {
                content.sync();
            }
            Ok(())
        })
    }
}

const SECTOR_BYTES: usize = 512;

const LOOKED_AGAIN_AFTER: Duration = Duration::from_millis(5);
