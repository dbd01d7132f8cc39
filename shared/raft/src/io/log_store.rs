//! openraft's log storage: entries in memory for reading, [`Segments`] behind one queue for keeping.
//!
//! Vote and entries go through the same queue in the order in which openraft wrote them. Everything that waits in
//! the queue when a sync returns becomes the next batch. After an error of the disk every later write fails too.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use prometheus::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use tandem_planted::{Bug, planted};

use super::formats::Formats;
use super::record::{EncodedRecord, PAYLOAD_BYTES_MAX, Record};
use super::segments::{self, Segments};
use super::type_config::{Entry, LogId, TypeConfig, VoteRecord};
use tandem_runtime::io::environment::files::Files;

/// The log of one member. Clones read and write the same one.
#[derive(Clone)]
pub(super) struct LogStore {
    files: Arc<dyn Files>,
    formats: Formats,
    kept: Arc<RwLock<Kept>>,
    synced: Arc<AtomicU64>,
    /// Since when the write takes that is under way.
    writing: Arc<Mutex<Option<Instant>>>,
    /// Bytes of everything that was written in this life.
    appended_bytes: Arc<AtomicU64>,
    /// Bytes in `jobs`, and in the write that is under way.
    queued_bytes: Arc<AtomicUsize>,
    /// Holds what openraft has under way. That is bounded but for a leader whose own disk stands still while others commit:
    /// such a one takes no proposal while [`QUEUED_BYTES_MAX`] wait.
    jobs: mpsc::UnboundedSender<Job>,
}

/// What the log holds, for readers.
#[derive(Default)]
struct Kept {
    vote: Option<VoteRecord>,
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    committed: Option<LogId>,
}

struct Job {
    records: Vec<EncodedRecord>,
    index_max: Option<u64>,
    purge_to: Option<u64>,
    /// Index of the last entry on the disk once this job is done, where the job changes it.
    ends_at: Option<u64>,
    done: Done,
}

enum Done {
    Appended(IOFlushed<TypeConfig>),
    Stored(oneshot::Sender<io::Result<()>>),
    /// Nobody waits; the record goes along with the next batch.
    Whenever,
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

    /// Bytes of everything that was written in this life, or waits for that.
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

    fn read<R>(&self, read: impl FnOnce(&Kept) -> R) -> R {
        read(&self.kept.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<R>(&self, change: impl FnOnce(&mut Kept) -> R) -> R {
        change(&mut self.kept.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn enqueue(&self, job: Job) -> io::Result<()> {
        let bytes = job.bytes();
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.jobs.send(job).map_err(|_| io::Error::other(WRITER_GONE))
    }

    async fn store(&self, record: EncodedRecord) -> io::Result<()> {
        self.store_as(|done| Job {
            records: vec![record],
            index_max: None,
            purge_to: None,
            ends_at: None,
            done,
        })
        .await
    }

    async fn store_as(&self, job: impl FnOnce(Done) -> Job) -> io::Result<()> {
        let (done, stored) = oneshot::channel();
        self.enqueue(job(Done::Stored(done)))?;
        stored.await.map_err(|_| io::Error::other(WRITER_GONE))?
    }
}

impl Kept {
    fn replay(records: Vec<Record>) -> io::Result<Self> {
        let mut kept = Self::default();
        for record in records {
            match record {
                Record::Entry(entry) => {
                    kept.entries.insert(entry.log_id.index(), entry);
                }
                Record::Vote(vote) => kept.vote = Some(vote),
                Record::TruncatedAfter(index) => {
                    let one_more = u64::from(planted(Bug::TruncatedEntryRecovered));
                    kept.truncate_after(index.map(|index| index + one_more));
                }
                Record::PurgedTo(id) => kept.purged = Some(id),
                Record::Committed(id) => kept.committed = Some(id),
            }
        }
        if let Some(purged) = kept.purged {
            drop(kept.purge(purged));
        }
        // The record of what is committed may have reached the disk before the entries did.
        kept.committed = kept.committed.min(kept.last_log_id());
        kept.without_gaps()
    }

    fn without_gaps(self) -> io::Result<Self> {
        let first = self.purged.map_or(0, |id| id.index() + 1);
        let expected = first..first + self.entries.len() as u64;
        if self.entries.keys().copied().eq(expected) {
            Ok(self)
        } else {
            Err(unusable("entries of the log are missing"))
        }
    }

    fn check_snapshot(&self, snapshot: Option<LogId>) -> io::Result<()> {
        if self.purged > snapshot {
            return Err(unusable("the snapshot is missing or older than the log"));
        }
        Ok(())
    }

    fn last_index(&self) -> u64 {
        self.last_log_id().map_or(0, |id| id.index())
    }

    fn last_log_id(&self) -> Option<LogId> {
        let last = self.entries.last_key_value().map(|(_, entry)| entry.log_id);
        last.or(self.purged)
    }

    fn truncate_after(&mut self, index: Option<u64>) {
        self.entries.split_off(&index.map_or(0, |index| index + 1));
    }

    /// What is not kept any more.
    fn purge(&mut self, to: LogId) -> BTreeMap<u64, Entry> {
        self.purged = Some(to);
        let kept = self.entries.split_off(&(to.index() + 1));
        std::mem::replace(&mut self.entries, kept)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        Ok(self.read(|kept| {
            kept.entries
                .range(range)
                .map(|(_, entry)| entry.clone())
                .collect()
        }))
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteRecord>> {
        Ok(self.read(|kept| kept.vote))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        Ok(self.read(|kept| LogState {
            last_purged_log_id: kept.purged,
            last_log_id: kept.last_log_id(),
        }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteRecord) -> io::Result<()> {
        let record = EncodedRecord::vote(vote, self.formats.written()).map_err(io::Error::other)?;
        if !planted(Bug::VoteNotPersisted) {
            self.store(record).await?;
        }
        self.change(|kept| kept.vote = Some(*vote));
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        self.change(|kept| kept.committed = Some(committed));
        let record = EncodedRecord::committed(committed, self.formats.written()).map_err(io::Error::other)?;
        self.enqueue(Job {
            records: vec![record],
            index_max: None,
            purge_to: None,
            ends_at: None,
            done: Done::Whenever,
        })
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.read(|kept| kept.committed))
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut appended = Vec::new();
        for entry in entries {
            let written = self.formats.written();
            let record = EncodedRecord::entry(&entry, written).map_err(io::Error::other)?;
            if record.format > self.formats.newest() {
                // The next start could not read it.
                return Err(io::Error::other(format!(
                    "an entry needs {}; this program writes up to {}",
                    record.format,
                    self.formats.newest()
                )));
            }
            if record.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(io::Error::other("an entry is larger than the log takes"));
            }
            records.push(record);
            appended.push(entry);
        }
        let index_max = appended.last().map(RaftEntry::index);
        self.change(|kept| {
            kept.entries
                .extend(appended.into_iter().map(|entry| (entry.index(), entry)));
        });
        let done = match planted(Bug::AppendBeforeSync) {
            true => {
                done.io_completed(Ok(()));
                Done::Stored(oneshot::channel().0)
            }
            false => Done::Appended(done),
        };
        self.enqueue(Job {
            records,
            index_max,
            purge_to: None,
            ends_at: index_max,
            done,
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let index = last.map(|id| id.index());
        // openraft asserts this in debug builds alone.
        if let Some(committed) = self
            .committed()
            .filter(|committed| Some(committed.index()) > index)
        {
            let text = format!("refusing to cut the log off after {index:?}: {committed} is committed");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.change(|kept| kept.truncate_after(index));
        let record =
            EncodedRecord::truncated_after(index, self.formats.written()).map_err(io::Error::other)?;
        self.store_as(|done| Job {
            records: vec![record],
            index_max: None,
            purge_to: None,
            ends_at: Some(index.unwrap_or(0)),
            done,
        })
        .await
    }

    async fn purge(&mut self, to: LogId) -> io::Result<()> {
        let purged = self.change(|kept| kept.purge(to));
        // openraft does nothing else while this runs, and to give up many large entries takes a while. Where no thread can
        // be had they are given up here.
        let give_up = Box::pin(async move { drop(purged) });
        drop(self.files.spawn("raft-log-purged", give_up));
        let record = EncodedRecord::purged_to(to, self.formats.written()).map_err(io::Error::other)?;
        let ends_at = self.read(Kept::last_index);
        self.store_as(|done| Job {
            records: vec![record],
            index_max: None,
            purge_to: Some(to.index()),
            // Without entries behind it, the snapshot's end is the log's.
            ends_at: (ends_at == to.index()).then_some(ends_at),
            done,
        })
        .await
    }
}

/// The one who writes.
struct Writer {
    segments: Segments,
    synced: Arc<AtomicU64>,
    writing: Arc<Mutex<Option<Instant>>>,
    queued_bytes: Arc<AtomicUsize>,
    queue: mpsc::UnboundedReceiver<Job>,
    failed: Option<String>,
    sync_seconds: Histogram,
}

impl Writer {
    async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.queue.recv_many(&mut waiting, JOBS_PER_BATCH_MAX).await > 0 {
            while waiting.iter().any(Job::is_waited_for) {
                let jobs = std::mem::take(&mut waiting);
                self.perform(jobs).await;
                while waiting.len() < JOBS_PER_BATCH_MAX
                    && let Ok(job) = self.queue.try_recv()
                {
                    waiting.push(job);
                }
            }
            self.keep_the_last(&mut waiting);
        }
        // The process stops in order: what nobody waited for is worth a write.
        self.perform(waiting).await;
    }

    async fn perform(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut records = Vec::new();
        let mut dones = Vec::new();
        let (mut index_max, mut purge_to, mut ends_at) = (None, None, None);
        let bytes = jobs.iter().map(Job::bytes).sum();
        for job in jobs {
            records.extend(job.records);
            index_max = index_max.max(job.index_max);
            purge_to = purge_to.max(job.purge_to);
            ends_at = job.ends_at.or(ends_at);
            dones.push(job.done);
        }
        let mut result = self.write(&records, index_max).await;
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let (Ok(()), Some(index)) = (&result, ends_at) {
            self.synced.store(index, Ordering::Release);
        }
        // Whoever waits for entries need not wait until old files are gone.
        let (waiting, purging): (Vec<_>, Vec<_>) = dones.into_iter().partition(Done::is_for_entries);
        waiting.into_iter().for_each(|done| done.tell(&result));
        if let (Ok(()), Some(index)) = (&result, purge_to) {
            let removed = self.segments.purge(index);
            result = removed.map_err(|error| self.fail(&error));
        }
        purging.into_iter().for_each(|done| done.tell(&result));
    }

    async fn write(&mut self, records: &[EncodedRecord], index_max: Option<u64>) -> Result<(), String> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        let started = Instant::now();
        *locked(&self.writing) = Some(started);
        let result = self.segments.append(records, index_max).await;
        *locked(&self.writing) = None;
        self.sync_seconds.observe(started.elapsed().as_secs_f64());
        result.map_err(|error| self.fail(&error))
    }

    /// Of several records that nobody waits for, the last says it all.
    fn keep_the_last(&self, waiting: &mut Vec<Job>) {
        let last = waiting.pop();
        let bytes = waiting.drain(..).map(|job| job.bytes()).sum();
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        waiting.extend(last);
    }

    fn fail(&mut self, error: &io::Error) -> String {
        tracing::error!(%error, "the log cannot be written; this member stops");
        self.failed = Some(error.to_string());
        error.to_string()
    }
}

impl Job {
    fn bytes(&self) -> usize {
        self.records.iter().map(EncodedRecord::length).sum()
    }

    fn is_waited_for(&self) -> bool {
        !matches!(self.done, Done::Whenever)
    }
}

impl Done {
    fn is_for_entries(&self) -> bool {
        matches!(self, Self::Appended(_))
    }

    fn tell(self, result: &Result<(), String>) {
        let result = result.clone().map_err(io::Error::other);
        match self {
            Self::Appended(done) => done.io_completed(result),
            // Whoever asked may have been stopped meanwhile.
            Self::Stored(done) => drop(done.send(result)),
            Self::Whenever => {}
        }
    }
}

fn locked(writing: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unusable(why: &str) -> io::Error {
    let advice = "empty the data directory and run `tandem-node cluster replace`";
    io::Error::new(io::ErrorKind::InvalidData, format!("{why}; {advice}"))
}

/// Jobs that one batch takes along.
const JOBS_PER_BATCH_MAX: usize = 1024;
/// Some seconds of the heaviest load.
const QUEUED_BYTES_MAX: usize = 64 << 20;
const WRITER_GONE: &str = "the writer of the log has stopped";
