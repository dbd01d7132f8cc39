//! The directory file: in force as soon as somebody has changed it (CAL-8).
//!
//! A file with errors changes nothing: what was read last stays in force, and what is wrong is said.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tandem_runtime::config::ConfigError;
use tandem_runtime::io::environment;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::watched_files::FileStamp;
use tokio::sync::{Mutex, watch};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::directory::{self, Directory};

/// The file and what it said last. Clones share it.
#[derive(Clone)]
pub struct DirectoryFile {
    path: Arc<Path>,
    current: Arc<watch::Sender<Arc<Directory>>>,
    /// What the file looked like when it was read last. Held while it is read.
    seen: Arc<Mutex<Option<FileStamp>>>,
}

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Loaded {
    pub users: usize,
    pub lines: usize,
    pub calendars: usize,
}

impl DirectoryFile {
    /// # Errors
    /// When the file cannot be read, or has errors.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path: PathBuf = path.into();
        let seen = FileStamp::at(&path);
        let directory = directory::read_file(&path)?;
        Ok(Self {
            path: path.into(),
            current: Arc::new(watch::Sender::new(Arc::new(directory))),
            seen: Arc::new(Mutex::new(seen)),
        })
    }

    #[must_use]
    pub fn current(&self) -> Arc<Directory> {
        self.current.borrow().clone()
    }

    /// The directory now, and every one that follows it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Directory>> {
        self.current.subscribe()
    }

    /// Reads the file, changed or not.
    ///
    /// # Errors
    /// When it cannot be read, or has errors: the former directory stays in force.
    pub async fn reload(&self) -> Result<Loaded, ConfigError> {
        self.read(&mut *self.seen.lock().await).await
    }

    /// Looks after the file until the process ends.
    pub async fn follow(self, shutdown: Shutdown) {
        let mut tick = interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.look().await,
                () = shutdown.reached(Stage::Close) => return,
            }
        }
    }

    /// Reads the file if it looks different from when it was read last: a file with errors is complained of once.
    async fn look(&self) {
        let mut seen = self.seen.lock().await;
        let path = self.path.clone();
        let stamp = environment::blocking(move || FileStamp::at(&path)).await;
        // A file that is not there is being replaced, most likely.
        let Ok(stamp @ Some(_)) = stamp else {
            return;
        };
        if stamp != *seen
            && let Err(error) = self.read(&mut seen).await
        {
            warn!(error = %describe(&error), "the directory has errors; the former one stays in force");
        }
    }

    async fn read(&self, seen: &mut Option<FileStamp>) -> Result<Loaded, ConfigError> {
        let path = self.path.clone();
        // The stamp comes first: what is written while the file is read is noticed at the next look.
        let reading = environment::blocking(move || (FileStamp::at(&path), directory::read_file(&path)));
        let (stamp, directory) = reading.await.map_err(|stopped| ConfigError::Unreadable {
            path: self.path.to_path_buf(),
            source: std::io::Error::other(stopped),
        })?;
        *seen = stamp;
        let directory = directory?;
        let loaded = Loaded {
            users: directory.users().len(),
            lines: directory.lines().len(),
            calendars: directory.calendar_users().count(),
        };
        info!(
            loaded.users,
            loaded.lines, loaded.calendars, "a new directory is in force"
        );
        self.current.send_replace(Arc::new(directory));
        Ok(loaded)
    }
}

/// With what lies beneath: that a file cannot be read says little without why.
#[must_use]
pub fn describe(error: &ConfigError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

const LOOK_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const ANA: &str = "[[user]]\nid = \"ana\"\nmail = \"ana@lab.test\"\ncalendar = true\n";
    const BEN: &str = "[[user]]\nid = \"ben\"\n";

    fn file(text: &str) -> (tempfile::NamedTempFile, DirectoryFile) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let directory = DirectoryFile::open(file.path()).unwrap();
        (file, directory)
    }

    fn users(directory: &DirectoryFile) -> Vec<String> {
        let current = directory.current();
        current.users().iter().map(|user| user.id.clone()).collect()
    }

    #[tokio::test]
    async fn a_changed_file_is_in_force_at_the_next_look() {
        let (file, directory) = file(ANA);
        let mut changes = directory.subscribe();
        directory.look().await;
        assert!(!changes.has_changed().unwrap(), "nothing has changed");
        std::fs::write(file.path(), [ANA, BEN].concat()).unwrap();
        directory.look().await;
        changes.changed().await.unwrap();
        assert_eq!(users(&directory), ["ana", "ben"]);
    }

    /// As rsync and the tools that deploy configurations do it.
    #[tokio::test]
    async fn another_file_of_the_same_length_and_time_is_noticed() {
        let (file, directory) = file("[[user]]\nid = \"ana\"\n");
        let written = file.as_file().metadata().unwrap().modified().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(other.path(), "[[user]]\nid = \"ben\"\n").unwrap();
        other.as_file().set_modified(written).unwrap();
        other.persist(file.path()).unwrap();
        directory.look().await;
        assert_eq!(users(&directory), ["ben"]);
    }

    #[tokio::test]
    async fn a_file_with_errors_changes_nothing_and_is_read_again_once_it_is_mended() {
        let (file, directory) = file(ANA);
        std::fs::write(file.path(), "[[user]]\nid = \"ana\"\ncalendar = true\n").unwrap();
        directory.look().await;
        assert_eq!(directory.current().calendar_users().count(), 1);
        let error = directory.reload().await.unwrap_err();
        assert!(describe(&error).contains("user[0].calendar"), "{error}");
        std::fs::write(file.path(), BEN).unwrap();
        directory.look().await;
        assert_eq!(users(&directory), ["ben"]);
    }

    #[tokio::test]
    async fn a_file_that_is_gone_for_a_moment_changes_nothing() {
        let (file, directory) = file(ANA);
        let path = file.path().to_owned();
        drop(file);
        directory.look().await;
        assert!(directory.reload().await.is_err());
        assert_eq!(users(&directory), ["ana"]);
        std::fs::write(&path, BEN).unwrap();
        directory.look().await;
        assert_eq!(users(&directory), ["ben"]);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn reading_again_tells_what_is_there() {
        let (_file, directory) = file(&[ANA, BEN].concat());
        let loaded = Loaded {
            users: 2,
            lines: 0,
            calendars: 1,
        };
        assert_eq!(directory.reload().await.unwrap(), loaded);
    }
}
