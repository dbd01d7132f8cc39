//! The log of one member: entries in memory for reading, [`Segments`] behind one queue for keeping.
//!
//! Vote and entries go through the same queue in the order in which openraft wrote them. Everything that waits in
//! the queue when a sync returns becomes the next batch. After an error of the disk every later write fails too.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::formats::Formats;
use super::kept_log::Kept;
use super::log_writer::{Done, Job, Writer, locked};
use super::record::EncodedRecord;
use super::segments::{self, Segments};
use super::type_config::LogId;
use tandem_runtime::io::environment::files::Files;

/// The log of one member. Clones read and write the same one.
#[derive(Clone)]
pub(super) struct LogStore {
    pub(super) files: Arc<dyn Files>,
    pub(super) formats: Formats,
    kept: Arc<RwLock<Kept>>,
    synced: Arc<AtomicU64>,
    /// Since when the write takes that is under way.
    writing: Arc<Mutex<Option<Instant>>>,
    /// Bytes of everything that this process has written.
    appended_bytes: Arc<AtomicU64>,
    /// Bytes in `jobs`, and in the write that is under way.
    queued_bytes: Arc<AtomicUsize>,
    /// Holds what openraft has under way. That is bounded but for a leader whose own disk stands still while others commit:
    /// such a one takes no proposal while [`QUEUED_BYTES_MAX`] wait.
    jobs: mpsc::UnboundedSender<Job>,
}

impl LogStore {
    /// Recovers the log and starts its writer. `snapshot` is the last entry that the snapshot covers.
    pub(super) async fn open(
        files: Arc<dyn Files>,
        segment_bytes: u64,
        formats: Formats,
        snapshot: Option<LogId>,
        sync_seconds: Histogram,
    ) -> io::Result<Self> {
        let mut found = segments::read(&*files, formats.newest())?;
        // Whatever is wrong is found before anything is changed.
        let kept = Kept::replay(std::mem::take(&mut found.records))?;
        kept.check_snapshot(snapshot)?;
        let appended_bytes = Arc::<AtomicU64>::default();
        let segments = Segments::resume(files.clone(), segment_bytes, found).await?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let synced = Arc::new(AtomicU64::new(kept.last_index()));
        let writing = Arc::<Mutex<Option<Instant>>>::default();
        let queued_bytes = Arc::<AtomicUsize>::default();
        let writer = Writer {
            segments,
            synced: synced.clone(),
            writing: writing.clone(),
            queued_bytes: queued_bytes.clone(),
            queue,
            failed: None,
            sync_seconds,
        };
        files.spawn("raft-log", Box::pin(writer.run()))?;
        Ok(Self {
            files,
            formats,
            kept: Arc::new(RwLock::new(kept)),
            synced,
            writing,
            appended_bytes,
            queued_bytes,
            jobs,
        })
    }

    /// Id of the last entry, on disk or on its way there.
    pub(super) fn last_log_id(&self) -> Option<LogId> {
        self.read(Kept::last_log_id)
    }

    /// Index of the last entry that is on the disk, or covered by the snapshot there. An entry may be committed, and
    /// applied, by the disks of others before it is on this one.
    pub(super) fn synced_index(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// How long the write has taken that is under way; `None`: there is none.
    pub(super) fn writing_for(&self) -> Option<Duration> {
        locked(&self.writing).map(|started| started.elapsed())
    }

    /// Bytes of everything that this process has written, or has waiting.
    pub(super) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that wait for the disk.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// More waits for the disk than should.
    pub(super) fn is_overloaded(&self) -> bool {
        self.queued_bytes() > QUEUED_BYTES_MAX
    }

    /// The last entry that is known here to be committed.
    pub(super) fn committed(&self) -> Option<LogId> {
        self.read(|kept| kept.committed)
    }

    /// The first entry that has not been purged.
    pub(super) fn first_index(&self) -> u64 {
        self.read(|kept| kept.purged.map_or(0, |purged| purged.index() + 1))
    }

    /// The id of the entry at this index; `None` where there is none, or it was purged.
    pub(super) fn id_at(&self, index: u64) -> Option<LogId> {
        self.read(|kept| {
            let entry = kept.entries.get(&index).map(|entry| entry.log_id);
            entry.or_else(|| kept.purged.filter(|purged| purged.index() == index))
        })
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&Kept) -> R) -> R {
        read(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn change<R>(&self, change: impl FnOnce(&mut Kept) -> R) -> R {
        change(&mut self.kept.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn enqueue(&self, job: Job) -> io::Result<()> {
        let bytes = job.bytes();
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.jobs.send(job).map_err(|_| io::Error::other(WRITER_GONE))
    }

    pub(super) async fn store(&self, record: EncodedRecord) -> io::Result<()> {
        self.store_as(|done| Job {
            records: vec![record],
            index_max: None,
            purge_to: None,
            ends_at: None,
            done,
        })
        .await
    }

    pub(super) async fn store_as(&self, job: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, stored) = oneshot::channel();
        self.enqueue(job(Done::Stored(done)))?;
        stored.await.map_err(|_| io::Error::other(WRITER_GONE))?
    }
}

/// Some seconds of the heaviest load.
const QUEUED_BYTES_MAX: usize = 64 << 20;
const WRITER_GONE: &str = "the writer of the log has stopped";
