//! The files of one member's data directory: real ones, or a simulated disk's.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use nix::sys::statvfs::statvfs;

/// One flat directory. Names are durable after [`Files::sync_directory`], contents after [`File::sync`].
pub trait Files: Send + Sync + 'static {
    fn list(&self) -> io::Result<Vec<String>>;

    /// The whole file; `None` when there is none of this name.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Creates (or replaces) a file of `bytes` zeros.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>>;

    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;

    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    fn sync_directory(&self) -> io::Result<()>;

    /// How much room the disk has.
    fn space(&self) -> io::Result<Space>;

    /// Runs a job that blocks on these files where it holds up nobody else.
    fn spawn(&self, name: &str, job: BoxFuture<'static, ()>) -> io::Result<()>;

    /// Lets some time pass, in a job that was spawned here.
    fn pause(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { std::thread::sleep(time) })
    }

    /// Takes the directory for this process, by a lock on the file `name`; `None` when another process has it.
    fn lock(&self, name: &str) -> io::Result<Option<Lock>>;
}

/// The room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes by which files may still grow.
    pub free_bytes: u64,
    /// Bytes in all.
    pub size_bytes: u64,
}

/// A directory is this process's own until the lock is dropped, or the process ends.
pub type Lock = Box<dyn Send + Sync>;

/// One open file.
pub trait File: Send {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// What was written is on the disk when this returns. A future, because a simulated disk takes its time.
    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>>;
}

/// A directory of the operating system.
#[derive(Debug, Clone)]
pub struct RealFiles {
    directory: PathBuf,
}

impl RealFiles {
    /// Creates the directory unless it exists.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(naming("create", &directory))?;
        Ok(Self { directory })
    }
}

impl RealFiles {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Files for RealFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        let list = || {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                names.extend(entry?.file_name().into_string().ok());
            }
            names.sort();
            Ok(names)
        };
        list().map_err(naming("list", &self.directory))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(naming("read", &path)(error)),
        }
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        let path = self.path(name);
        let create = || {
            let file = fs::OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .open(&path)?;
            // Written, not only reserved: a later fdatasync then has no metadata to write.
            let zeros = vec![0; 1 << 20];
            let mut offset = 0;
            while offset < bytes {
                let length = (bytes - offset).min(1 << 20);
                file.write_all_at(&zeros[..usize::try_from(length).unwrap_or(zeros.len())], offset)?;
                offset += length;
            }
            Ok(file)
        };
        let file = create().map_err(naming("create", &path))?;
        Ok(Box::new(RealFile { file, path }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let path = self.path(name);
        let opened = fs::OpenOptions::new().write(true).open(&path);
        let file = opened.map_err(naming("open", &path))?;
        Ok(Box::new(RealFile { file, path }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let from = self.path(from);
        fs::rename(&from, self.path(to)).map_err(naming("rename", &from))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        fs::remove_file(&path).map_err(naming("remove", &path))
    }

    fn sync_directory(&self) -> io::Result<()> {
        let sync = || fs::File::open(&self.directory)?.sync_all();
        sync().map_err(naming("sync", &self.directory))
    }

    fn space(&self) -> io::Result<Space> {
        let space = statvfs(&self.directory).map_err(io::Error::from);
        let space = space.map_err(naming("look at the disk of", &self.directory))?;
        // What is set aside for the superuser does not count: the program may run as somebody else.
        Ok(Space {
            free_bytes: space.blocks_available() * space.fragment_size(),
            size_bytes: space.blocks() * space.fragment_size(),
        })
    }

    fn spawn(&self, name: &str, job: BoxFuture<'static, ()>) -> io::Result<()> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || futures::executor::block_on(job))?;
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        let path = self.path(name);
        let lock = || {
            let file = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(Box::new(file) as Lock)),
                Err(fs::TryLockError::WouldBlock) => Ok(None),
                Err(fs::TryLockError::Error(error)) => Err(error),
            }
        };
        lock().map_err(naming("lock", &path))
    }
}

struct RealFile {
    file: fs::File,
    path: PathBuf,
}

impl File for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(naming("write", &self.path))
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { self.file.sync_data().map_err(naming("sync", &self.path)) })
    }
}

/// An error of the operating system says what failed, and not where.
fn naming(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| {
        io::Error::new(
            error.kind(),
            format!("cannot {doing} {}: {error}", path.display()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_disk_names_the_file_and_keeps_its_kind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let files = RealFiles::open(&path).unwrap();
        let missing = path.join("missing");
        let text = |error: io::Error| {
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            error.to_string()
        };
        let opened = files.open("missing").err().unwrap();
        assert!(text(opened).starts_with(&format!("cannot open {}: ", missing.display())));
        for (doing, error) in [
            ("rename", files.rename("missing", "other").unwrap_err()),
            ("remove", files.remove("missing").unwrap_err()),
        ] {
            assert!(text(error).starts_with(&format!("cannot {doing} {}: ", missing.display())));
        }
        fs::remove_dir(&path).unwrap();
        for (doing, error) in [
            ("list", files.list().unwrap_err()),
            ("sync", files.sync_directory().unwrap_err()),
            ("look at the disk of", files.space().unwrap_err()),
        ] {
            assert!(text(error).starts_with(&format!("cannot {doing} {}: ", path.display())));
        }
    }
}
