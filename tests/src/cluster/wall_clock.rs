//! Wall clocks that a test steps while their members run. Their monotonic clocks go on as they are.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Cluster, Member};

/// The clock on the wall of one member: libfaketime reads a file before it answers.
#[derive(Debug)]
pub(super) struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// Right, to begin with.
    pub(super) fn new(directory: &Path, member: Member) -> anyhow::Result<Self> {
        let clock = Self {
            library: library()?,
            file: directory.join(format!("{member}.clock")),
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// What a process that goes by this clock is started with.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let on = || "1".to_owned();
        vec![
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", on()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
            ("NO_FAKE_STAT", on()),
        ]
    }

    fn set(&self, offset_secs: i64) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset_secs:+}\n"))?;
        Ok(std::fs::rename(&new, &self.file)?)
    }
}

impl Cluster {
    /// A member's wall clock is wrong by so much from now on; the member was named in
    /// [`super::ClusterOptions::stepped_clocks`].
    pub fn step_wall_clock(&self, member: Member, offset_secs: i64) -> anyhow::Result<()> {
        let clock = self.clocks.get(&member);
        let clock = clock.with_context(|| format!("{member} goes by the host's clock"))?;
        clock.set(offset_secs)
    }
}

/// libfaketime shares memory among the children of a process, and leaves it behind when that is killed.
pub(super) fn remove_traces_of(process: u32) {
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        let _ = std::fs::remove_file(format!("/dev/shm/{name}{process}"));
    }
}

/// Where libfaketime lies, in the variant for processes with threads.
pub(super) fn library() -> anyhow::Result<PathBuf> {
    let places = std::fs::read_dir("/usr/lib")?.filter_map(Result::ok);
    let mut candidates = places.map(|place| place.path().join("faketime/libfaketimeMT.so.1"));
    let found = candidates.find(|candidate| candidate.exists());
    found.context("libfaketime is not installed")
}
