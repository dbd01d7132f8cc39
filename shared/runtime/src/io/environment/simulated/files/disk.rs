//! What stands on the disk, as the running process sees it and as a crash would leave it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Weak;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Fault, Interruption};

#[derive(Debug)]
pub(super) struct Disk {
    /// By name, as the running process sees it and as a crash would leave it.
    pub(super) names: BTreeMap<String, u64>,
    pub(super) names_synced: BTreeMap<String, u64>,
    /// Since the last sync of the directory, in order.
    pub(super) names_unsynced: Vec<NameChange>,
    pub(super) contents: BTreeMap<u64, Content>,
    pub(super) next_content: u64,
    pub(super) random: SmallRng,
    pub(super) sync_time_max: Duration,
    pub(super) fault: Option<Fault>,
    /// Held by the process that uses the directory.
    pub(super) lock: Weak<()>,
    pub(super) interruption: Option<(u64, Interruption)>,
    pub(super) power_failed: bool,
    pub(super) capacity: u64,
}

#[derive(Debug)]
pub(super) enum NameChange {
    Added { name: String, id: u64 },
    Renamed { from: String, to: String, id: u64 },
    Removed { name: String },
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) synced: Vec<u8>,
    /// Writes since the last sync.
    pub(super) unsynced: Vec<(usize, Vec<u8>)>,
}

impl Disk {
    pub(super) fn add(&mut self, bytes: Vec<u8>) -> u64 {
        let id = self.next_content;
        self.next_content += 1;
        let content = Content {
            bytes,
            ..Content::default()
        };
        self.contents.insert(id, content);
        id
    }

    pub(super) fn check(&self, fault: Fault) -> io::Result<()> {
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
    pub(super) fn begin(&mut self) -> io::Result<Option<io::Error>> {
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

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.power_failed {
            return Err(io::Error::other("the simulated power has failed"));
        }
        Ok(())
    }

    pub(super) fn used(&self) -> u64 {
        let named = self.names.values().filter_map(|id| self.contents.get(id));
        named.map(|content| content.bytes.len() as u64).sum()
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    /// Writes as much as there is room for; only growing takes room.
    pub(super) fn write(&mut self, id: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
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
    pub(super) fn concerns(&self, changed: &str) -> bool {
        match self {
            Self::Added { name, .. } | Self::Removed { name } => name == changed,
            Self::Renamed { from, to, .. } => from == changed || to == changed,
        }
    }

    /// Happened or not; a rename may have happened by half.
    pub(super) fn crash(self, names: &mut BTreeMap<String, u64>, random: &mut SmallRng) {
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
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        overwrite(&mut self.bytes, offset, bytes);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    /// Costs as much as was written, and not as much as the file holds: a log is synced at every entry.
    pub(super) fn sync(&mut self) {
        for (offset, bytes) in self.unsynced.drain(..) {
            overwrite(&mut self.synced, offset, &bytes);
        }
    }

    pub(super) fn crash(&mut self, random: &mut SmallRng) {
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
pub(super) fn any_length(least: usize, most: usize, random: &mut SmallRng) -> usize {
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

const SECTOR_BYTES: usize = 512;
