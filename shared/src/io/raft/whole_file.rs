//! Files that are replaced whole: written beside, synced, renamed, and the name synced.

use std::io;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::files::{Files, UNFINISHED};

/// Replaces a file: durable when this returns, and after a crash at any point either the old content or the new.
pub(super) async fn replace(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = format!("{name}{UNFINISHED}");
    let written = write(files, &unfinished, bytes).await;
    if written.is_err() {
        // Gives the disk its room back. Where even this fails, the next start tries again.
        drop(files.remove(&unfinished));
    }
    written?;
    files.rename(&unfinished, name)?;
    files.sync_directory()
}

async fn write(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = files.create(name, 0)?;
    file.write_at(0, bytes)?;
    file.sync().await
}

/// Runs a job that blocks on files where it holds up nobody, and waits for it.
pub(super) async fn run_apart<T: Send + 'static>(
    files: &dyn Files,
    name: &str,
    job: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let job: BoxFuture<'static, ()> = async move { drop(done.send(job.await)) }.boxed();
    files.spawn(name, job)?;
    result
        .await
        .map_err(|_| io::Error::other(format!("{name} has stopped")))?
}
