//! What the process that is simulated does with its files, with the fault or the interruption that meets it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rand::Rng;

use super::disk::{NameChange, any_length};
use super::{Fault, SimulatedFiles};
use crate::io::environment::files::{File, Files, Lock, Space};

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

    fn space(&self) -> io::Result<Space> {
        let disk = self.disk();
        disk.check_power()?;
        Ok(Space {
            free_bytes: if disk.fault == Some(Fault::Full) {
                0
            } else {
                disk.free()
            },
            size_bytes: disk.capacity(),
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

pub(super) struct SimulatedFile {
    pub(super) files: SimulatedFiles,
    pub(super) id: u64,
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

const LOOKED_AGAIN_AFTER: Duration = Duration::from_millis(5);
