//! Files that are replaced while the process runs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

/// A few files that belong together, looked at every few seconds. Of a directory, each file in it counts.
#[derive(Debug)]
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    known: Fingerprint,
}

/// Of each file that is there: when it was written, its length and which one it is.
type Fingerprint = Vec<Option<(SystemTime, u64, u64)>>;

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
        .map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
        })
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
