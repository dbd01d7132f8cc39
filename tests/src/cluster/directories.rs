//! What befalls data directories: emptied, copied, put back, swapped, filled up.
//!
//! Owns no process: a directory is touched only while its member does not run, but for copies, which a hypervisor makes
//! of running machines as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use super::{Cluster, Member};

/// A copy of a data directory.
#[derive(Debug)]
pub struct Backup(TempDir);

impl Cluster {
    /// The data directory of a member of the Raft group.
    pub fn data_directory(&self, member: Member) -> anyhow::Result<PathBuf> {
        match member {
            Member::Lb | Member::Node(_) => Ok(self.directory().join(member.to_string())),
            Member::CtiManager(_) => bail!("{member} has no data directory"),
        }
    }

    /// A copy of a member's data directory as it is now.
    pub fn back_up(&self, member: Member) -> anyhow::Result<Backup> {
        let backup = tempfile::Builder::new().prefix("tandem-backup-").tempdir()?;
        copy_files(&self.data_directory(member)?, backup.path())?;
        Ok(Backup(backup))
    }

    /// The member's disk was replaced by an empty one.
    pub fn wipe(&self, member: Member) -> anyhow::Result<()> {
        self.ensure_stopped(member)?;
        // Perhaps a link to a disk of its own.
        let directory = self.data_directory(member)?.canonicalize()?;
        std::fs::remove_dir_all(&directory).with_context(|| format!("emptying {}", directory.display()))?;
        Ok(std::fs::create_dir(&directory)?)
    }

    /// The member's data directory is as it was when the copy was made.
    pub fn put_back(&self, member: Member, backup: &Backup) -> anyhow::Result<()> {
        self.wipe(member)?;
        copy_files(backup.0.path(), &self.data_directory(member)?)
    }

    /// Each of the two members has the other's data directory.
    pub fn swap_data(&self, one: Member, other: Member) -> anyhow::Result<()> {
        self.ensure_stopped(one)?;
        self.ensure_stopped(other)?;
        let (one, other) = (self.data_directory(one)?, self.data_directory(other)?);
        let between = self.directory().join("swapped");
        std::fs::rename(&one, &between)?;
        std::fs::rename(&other, &one)?;
        Ok(std::fs::rename(&between, &other)?)
    }

    /// Every file of a member's data directory, without the empty one that locks it.
    pub fn data(&self, member: Member) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(self.data_directory(member)?)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "lock" {
                files.insert(name, std::fs::read(entry.path())?);
            }
        }
        Ok(files)
    }

    pub(super) fn ensure_stopped(&self, member: Member) -> anyhow::Result<()> {
        ensure!(
            !self.is_running(member),
            "{member} runs: its data directory is its own"
        );
        Ok(())
    }
}

impl Backup {
    /// For a process that is to run on the copy itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

pub(super) fn copy_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        match std::fs::copy(entry.path(), to.join(entry.file_name())) {
            // A running member replaces and removes files all the time.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => drop(result?),
        }
    }
    Ok(())
}
