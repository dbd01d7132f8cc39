//! A disk that can be filled up: a file system in memory, beneath the data directory of one member.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::{Cluster, Member};

/// Unmounted when it is dropped: before the cluster, whose directory it lies in.
#[derive(Debug)]
pub struct SmallDisk {
    mounted_at: PathBuf,
}

impl Cluster {
    /// Moves the data directory of a member that does not run to a disk of that many bytes. `None` when nothing can be
    /// mounted here, which takes the superuser.
    pub fn move_to_small_disk(&self, member: Member, bytes: u64) -> anyhow::Result<Option<SmallDisk>> {
        self.ensure_stopped(member)?;
        let mounted_at = self.directory().join(format!("{member}-disk"));
        std::fs::create_dir(&mounted_at)?;
        let size = format!("size={bytes}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tandem-story"])
            .arg(&mounted_at)
            .output();
        if !mount.is_ok_and(|output| output.status.success()) {
            return Ok(None);
        }
        let disk = SmallDisk { mounted_at };
        let (data, moved) = (self.data_directory(member)?, disk.mounted_at.join("data"));
        std::fs::create_dir(&moved)?;
        super::directories::copy_files(&data, &moved)?;
        std::fs::remove_dir_all(&data)?;
        std::os::unix::fs::symlink(&moved, &data)?;
        Ok(Some(disk))
    }
}

impl SmallDisk {
    /// Leaves not one free byte.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut filler = std::fs::File::create(self.filler())?;
        for bytes in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; bytes];
            while filler.write_all(&zeros).is_ok() {}
        }
        ensure!(filler.write_all(&[0]).is_err(), "the disk is not full");
        Ok(())
    }

    pub fn make_space(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.filler()).context("removing what filled the disk")
    }

    fn filler(&self) -> PathBuf {
        self.mounted_at.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.mounted_at);
    }
}

/// At once, even while a process still has a file open there.
fn unmount(mounted_at: &Path) {
    let unmounted = Command::new("umount").arg("--lazy").arg(mounted_at).status();
    if !unmounted.is_ok_and(|status| status.success()) {
        println!("{} stays mounted", mounted_at.display());
    }
}
