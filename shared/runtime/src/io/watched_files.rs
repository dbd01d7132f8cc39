//! Files that are replaced while the process runs.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

/// Changes whenever a file is written or another takes its place, even one with the old file's times and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    inode: u64,
    changed: (i64, i64),
    pub(super) bytes: u64,
}

impl FileStamp {
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            bytes: metadata.len(),
        }
    }

    /// `None` while there is no such file.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::of)
    }
}

/// A few files that belong together, looked at every few seconds. Of a directory, each file in it counts.
#[derive(Debug)]
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    known: Fingerprint,
}

/// Of each file, in a fixed order.
type Fingerprint = Vec<Option<FileStamp>>;

impl WatchedFiles {
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        let known = fingerprint(&paths);
        Self { paths, known }
    }

    /// Resolves when one of them was written or replaced. They are not replaced all at once: there is time for the rest of
    /// them to be written.
    pub async fn changed(&mut self) {
        loop {
            sleep(LOOKED_AT_EVERY).await;
            let seen = fingerprint(&self.paths);
            if seen == self.known {
                continue;
            }
            sleep(SETTLE).await;
            if fingerprint(&self.paths) == seen {
                self.known = seen;
                return;
            }
        }
    }
}

fn fingerprint(paths: &[PathBuf]) -> Fingerprint {
    paths
        .iter()
        .flat_map(|path| std::iter::once(path.clone()).chain(files_in(path)))
        .map(|path| FileStamp::at(&path))
        .collect()
}

/// By name; none of what is no directory.
fn files_in(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.take(FILES_MAX).map(|entry| entry.path()).collect();
    files.sort();
    files
}

const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_millis(500);
/// A trust store takes as many.
const FILES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_written_or_replaced_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("a"), "1").unwrap();
        let mut files = WatchedFiles::new([file("a"), file("absent")]);
        assert!(
            tokio::time::timeout(Duration::from_secs(60), files.changed())
                .await
                .is_err()
        );
        std::fs::write(file("a"), "22").unwrap();
        files.changed().await;
        std::fs::write(file("b"), "33").unwrap();
        std::fs::rename(file("b"), file("a")).unwrap();
        files.changed().await;
        std::fs::write(file("absent"), "").unwrap();
        files.changed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_changes_with_each_of_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = WatchedFiles::new([directory.path().to_path_buf()]);
        let file = directory.path().join("a");
        for text in ["1", "22"] {
            std::fs::write(&file, text).unwrap();
            files.changed().await;
        }
        std::fs::remove_file(&file).unwrap();
        files.changed().await;
        assert!(
            tokio::time::timeout(Duration::from_secs(60), files.changed())
                .await
                .is_err()
        );
    }
}
