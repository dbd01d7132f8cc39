//! The files of one member's data directory: real ones, or a simulated disk's.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

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

    /// Bytes by which these files may still grow.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Runs a job that blocks on these files where it holds up nobody else.
    fn spawn(&self, name: &str, job: BoxFuture<'static, ()>) -> io::Result<()>;

    /// Takes the directory for this process, by a lock on the file `name`; `None` when another process has it.
    fn lock(&self, name: &str) -> io::Result<Option<Lock>>;
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
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }
}

impl Files for RealFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.directory.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(self.directory.join(name))?;
        // Written, not only reserved: a later fdatasync then has no metadata to write.
        let zeros = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < bytes {
            let length = (bytes - offset).min(1 << 20);
            file.write_all_at(&zeros[..usize::try_from(length).unwrap_or(zeros.len())], offset)?;
            offset += length;
        }
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.directory.join(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = statvfs(&self.directory)?;
        // What is set aside for the superuser does not count: the program may run as somebody else.
        Ok(space.blocks_available() * space.fragment_size())
    }

    fn spawn(&self, name: &str, job: BoxFuture<'static, ()>) -> io::Result<()> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || futures::executor::block_on(job))?;
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Option<Lock>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.directory.join(name))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { self.0.sync_data() })
    }
}

/// Ends the name of a file that is not whole yet. One that is found at the start never will be.
pub(super) const UNFINISHED: &str = ".new";
