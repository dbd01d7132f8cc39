//! Files that are replaced whole: written beside, synced, renamed, and the name synced.

use std::io;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use tandem_runtime::io::environment::files::Files;

/// Replaces a file by these parts: durable when this returns, and after a crash at any point either the old content or
/// the new.
pub(super) async fn replace(files: &dyn Files, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let unfinished = format!("{name}{UNFINISHED}");
    let written = write(files, &unfinished, parts).await;
    if written.is_err() {
        // Gives the disk its room back. Where even this fails, the next start tries again.
        drop(files.remove(&unfinished));
    }
    written?;
    files.rename(&unfinished, name)?;
    files.sync_directory()
}

/// A large file is written piece by piece, at a bounded rate: the log, whose entries somebody waits for, has the same disk.
async fn write(files: &dyn Files, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = files.create(name, 0)?;
    let (mut offset, mut unsynced) = (0, 0);
    for piece in parts.iter().flat_map(|part| part.chunks(BYTES_PER_SYNC)) {
        file.write_at(offset, piece)?;
        offset += piece.len() as u64;
        unsynced += piece.len();
        if unsynced >= BYTES_PER_SYNC {
            file.sync().await?;
            unsynced = 0;
            files.pause(PAUSE_AFTER_PIECE).await;
        }
    }
    file.sync().await
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
