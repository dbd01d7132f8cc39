//! The task that writes the log: everything that waits goes to the disk in one write and one sync.
//!
//! Owns the files of the log and the order in which records reach them. Does not own what they say. What always holds: after
//! an error of the disk every later write fails too.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::IOFlushed;
use prometheus::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::record::EncodedRecord;
use super::segments::Segments;
use super::type_config::TypeConfig;

pub(super) struct Job {
    pub(super) records: Vec<EncodedRecord>,
    pub(super) index_max: Option<u64>,
    pub(super) purge_to: Option<u64>,
    /// Index of the last entry on the disk once this job is done, where the job changes it.
    pub(super) ends_at: Option<u64>,
    pub(super) done: Done,
}

pub(super) enum Done {
    Appended(IOFlushed<TypeConfig>),
    Stored(oneshot::Sender<io::Result<()>>),
    /// Nobody waits; the record goes along with the next batch.
    Whenever,
}

/// The only task that writes to the files of the log.
pub(super) struct Writer {
    pub(super) segments: Segments,
    pub(super) synced: Arc<AtomicU64>,
    pub(super) writing: Arc<Mutex<Option<Instant>>>,
    pub(super) queued_bytes: Arc<AtomicUsize>,
    pub(super) queue: mpsc::UnboundedReceiver<Job>,
    pub(super) failed: Option<String>,
    pub(super) sync_seconds: Histogram,
}

impl Writer {
    pub(super) async fn run(mut self) {
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
    pub(super) fn bytes(&self) -> usize {
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

pub(super) fn locked(writing: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    writing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Jobs that one batch takes along.
const JOBS_PER_BATCH_MAX: usize = 1024;
