//! The one writer of the file: takes what waits in a queue, writes it in groups, and answers.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    disk::{Disk, WriteError},
    encoding,
    format::HEADER,
};
use crate::{
    error::{Error, Result},
    shutdown::Shutdown,
    threads::replay::{Receipt, Record},
};

/// Appends are written together as long as they take about so many bytes: so much more memory than what waits.
const GROUP_BYTES: u64 = 8 << 20;
/// After a replacement that failed the next may be tried so much later.
const RETRY: Duration = Duration::from_secs(1);

/// The queue, the file, and the task that goes from one to the other. It runs while something waits, is being written,
/// or must still be forced to disk; so it ends by itself, and a shutdown waits for nothing else.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Mutex<Queue>,
    arrived: Notify,
    /// Held by whoever writes, which only the task does.
    disk: Mutex<Disk>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Whether the task runs.
    is_running: bool,
    /// The bytes of the file and, as far as that is known, of what waits.
    bytes: u64,
    has_failed: bool,
    /// Whether a replacement is being written.
    is_replacing: bool,
    /// When the last replacement failed, if it did.
    refused: Option<Instant>,
}

#[derive(Debug)]
struct Job {
    kind: Kind,
    records: Vec<Record>,
    /// The bytes that the records will take, about.
    bytes: u64,
    told: oneshot::Sender<Result<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Behind what is there.
    Append,
    /// In the place of all that is there.
    Replace,
}

impl Writer {
    pub(super) fn new(disk: Disk, shutdown: Shutdown) -> Self {
        let queue = Queue {
            jobs: VecDeque::new(),
            is_running: false,
            bytes: disk.length(),
            has_failed: false,
            is_replacing: false,
            refused: None,
        };
        Self { queue: Mutex::new(queue), arrived: Notify::new(), disk: Mutex::new(disk), shutdown }
    }

    /// Queues a write, and sees to it that the task runs.
    pub(super) fn hand_over(self: &Arc<Self>, kind: Kind, records: Vec<Record>) -> Receipt {
        let (told, receipt) = oneshot::channel();
        let job = Job { kind, bytes: encoding::estimate(&records), records, told };
        let is_running = {
            let mut queue = self.queue();
            queue.bytes = job.bytes_after(queue.bytes);
            queue.jobs.push_back(job);
            mem::replace(&mut queue.is_running, true)
        };
        if is_running {
            self.arrived.notify_one();
        } else {
            self.shutdown.spawn("journal file", Arc::clone(self).run());
        }
        receipt
    }

    /// Whether the file holds less than was given to it.
    pub(super) fn has_failed(&self) -> bool {
        self.queue().has_failed
    }

    /// Whether a replacement may be tried now.
    pub(super) fn may_replace(&self) -> bool {
        self.queue().may_replace()
    }

    /// The bytes of the file and, about, of what waits.
    pub(super) fn bytes(&self) -> u64 {
        self.queue().bytes
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file; blocks while the task writes to it.
    pub(super) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task.
    async fn run(self: Arc<Self>) {
        let token = self.shutdown.token();
        loop {
            let writer = Arc::clone(&self);
            match self.shutdown.spawn_blocking(move || writer.write_all_queued()).await {
                Ok(None) => return,
                Ok(Some(due)) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.arrived.notified() => {}
                    () = token.cancelled() => {}
                },
                Err(cause) => return self.give_up(io::Error::other(cause)),
            }
        }
    }

    /// Tells those who wait that the task died. Those whose write it died of learn it as their receipt is dropped.
    fn give_up(&self, cause: io::Error) {
        let mut disk = self.disk();
        let failed = disk.give_up(cause);
        let mut queue = self.queue();
        for job in queue.jobs.drain(..) {
            let _ = job.told.send(Err(to_error(failed.clone())));
        }
        queue.note(&disk);
        if mem::take(&mut queue.is_replacing) {
            queue.refused = Some(Instant::now());
        }
        queue.is_running = false;
    }

    /// Writes until nothing waits. Returns when the file must be forced to disk; none if it need not be: the task then
    /// counts as ended.
    fn write_all_queued(&self) -> Option<Instant> {
        let mut disk = self.disk();
        loop {
            let group = self.queue().next_group();
            if !group.is_empty() {
                self.write(&mut disk, group);
            }
            if let Some(due) = disk.sync_due() {
                if self.shutdown.is_triggered() || due <= Instant::now() {
                    disk.sync();
                    self.queue().note(&disk);
                } else if self.queue().jobs.is_empty() {
                    return Some(due);
                }
            } else if self.queue().end_if_empty() {
                return None;
            }
        }
    }

    fn write(&self, disk: &mut Disk, group: Vec<Job>) {
        let written = match group.as_slice() {
            // Whatever the others wanted the file to hold would be gone at once.
            [.., Job { kind: Kind::Replace, records, .. }] => {
                let written = disk.replace(records);
                let mut queue = self.queue();
                queue.is_replacing = false;
                queue.refused = written.is_err().then(Instant::now);
                written
            }
            appends => disk.append(appends.iter().map(|job| job.records.as_slice())),
        };
        // First: whoever is told of a failure finds the file to have failed.
        self.queue().note(disk);
        for job in group {
            // Whoever does not wait any more is not told.
            let _ = job.told.send(written.clone().map_err(to_error));
        }
    }
}

impl Queue {
    /// Takes what is done together: appends that follow each other, or replacements that do.
    fn next_group(&mut self) -> Vec<Job> {
        let mut group: Vec<Job> = Vec::new();
        let mut bytes = 0;
        while let Some(job) = self.jobs.pop_front_if(|job| match group.first() {
            None => true,
            Some(first) if first.kind != job.kind => false,
            Some(_) => job.kind == Kind::Replace || bytes + job.bytes <= GROUP_BYTES,
        }) {
            bytes += job.bytes;
            group.push(job);
        }
        self.is_replacing = group.first().is_some_and(|job| job.kind == Kind::Replace);
        group
    }

    fn may_replace(&self) -> bool {
        let is_under_way = || self.is_replacing || self.jobs.iter().any(|job| job.kind == Kind::Replace);
        let is_too_soon = || self.refused.is_some_and(|at| at.elapsed() < RETRY);
        !self.has_failed || !(is_under_way() || is_too_soon())
    }

    /// Takes over what became of the file.
    fn note(&mut self, disk: &Disk) {
        self.has_failed = disk.has_failed();
        self.bytes = self.jobs.iter().fold(disk.length(), |bytes, job| job.bytes_after(bytes));
    }

    fn end_if_empty(&mut self) -> bool {
        let is_empty = self.jobs.is_empty();
        if is_empty {
            self.is_running = false;
        }
        is_empty
    }
}

impl Job {
    /// The bytes of a file of so many after this.
    fn bytes_after(&self, bytes: u64) -> u64 {
        match self.kind {
            Kind::Append => bytes.saturating_add(self.bytes),
            Kind::Replace => self.bytes.saturating_add(HEADER as u64),
        }
    }
}

fn to_error(cause: WriteError) -> Error {
    Error::Internal(cause.into())
}
