//! Files that are replaced whole: written beside, synced, renamed, and the name synced.

use std::io;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use tandem_runtime::io::environment::files::{File, Files};

/// Replaces a file by these bytes: durable when this returns, and after a crash at any point either the old content or
/// the new.
pub(super) async fn replace(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut replacement = Replacement::begin(files, name)?;
    let written = replacement.append(bytes).await;
    replacement.end(written).await
}

/// A file that is being written, to take the place of another one.
pub(super) struct Replacement<'a> {
    files: &'a dyn Files,
    name: &'a str,
    unfinished: String,
    file: Box<dyn File>,
    length: u64,
    unsynced: usize,
}

impl<'a> Replacement<'a> {
    pub(super) fn begin(files: &'a dyn Files, name: &'a str) -> io::Result<Self> {
        let unfinished = format!("{name}{UNFINISHED}");
        let file = files
            .create(&unfinished, 0)
            .inspect_err(|_| give_up(files, &unfinished))?;
        Ok(Self {
            files,
            name,
            unfinished,
            file,
            length: 0,
            unsynced: 0,
        })
    }

    /// Many bytes are written piece by piece, at a bounded rate: the log, whose entries somebody waits for, has the same disk.
    pub(super) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(BYTES_PER_SYNC) {
            self.file.write_at(self.length, piece)?;
            self.length += piece.len() as u64;
            self.unsynced += piece.len();
            if self.unsynced >= BYTES_PER_SYNC {
                self.file.sync().await?;
                self.unsynced = 0;
                self.files.pause(PAUSE_AFTER_PIECE).await;
            }
        }
        Ok(())
    }

    /// Writes over what was appended before.
    pub(super) fn correct(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    /// Puts the file in its place if all of it was `written`, and removes it if not.
    pub(super) async fn end(self, written: io::Result<()>) -> io::Result<()> {
        let Self {
            files,
            name,
            unfinished,
            mut file,
            ..
        } = self;
        let synced = match written {
            Ok(()) => file.sync().await,
            Err(error) => Err(error),
        };
        synced.inspect_err(|_| give_up(files, &unfinished))?;
        files.rename(&unfinished, name)?;
        files.sync_directory()
    }
}

/// Gives the disk its room back. Where even this fails, the next start tries again.
fn give_up(files: &dyn Files, unfinished: &str) {
    drop(files.remove(unfinished));
}

const BYTES_PER_SYNC: usize = 1 << 20;
/// With what a disk itself takes for a piece, about 32 MiB in a second.
const PAUSE_AFTER_PIECE: Duration = Duration::from_millis(25);

/// Begins a job that blocks on files where it holds up nobody. The result comes unless the job's thread ends before.
pub(super) fn begin_apart<T: Send + 'static>(
    files: &dyn Files,
    name: &str,
    job: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<T>>> {
    let (done, result) = oneshot::channel();
    let job: BoxFuture<'static, ()> = async move { drop(done.send(job.await)) }.boxed();
    files.spawn(name, job)?;
    Ok(result)
}

/// As [`begin_apart`], and waits for it.
pub(super) async fn run_apart<T: Send + 'static>(
    files: &dyn Files,
    name: &str,
    job: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    begin_apart(files, name, job)?
        .await
        .map_err(|_| io::Error::other(format!("{name} has stopped")))?
}

/// Ends the name of a file that is not whole yet. One that is found at the start never will be.
pub(super) const UNFINISHED: &str = ".new";
