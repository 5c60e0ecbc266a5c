//! The queue of writes, and the task that writes them to the file in groups.

use std::{
    collections::VecDeque,
    io, iter, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{disk::Disk, encoding};
use crate::{
    error::{Error, Result},
    shutdown::Shutdown,
    threads::replay::{Receipt, Record},
};

/// How long no replacement is tried after one that failed.
const RETRY: Duration = Duration::from_secs(1);

/// Accepts writes from callers. The task runs only while a write waits or the file must still be forced to disk, so that
/// a shutdown need not wait longer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Mutex<WriteQueue>,
    /// Wakes the task when it waits for the next sync.
    arrived: Notify,
    /// Only the task locks the file, for as long as it writes.
    disk: Mutex<Disk>,
    shutdown: Shutdown,
}

/// What callers see of the file while the task has it.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    writes: VecDeque<PendingWrite>,
    task_runs: bool,
    /// The bytes of the file, and the estimated bytes of the writes that are not in it yet.
    pub(super) bytes: u64,
    /// Whether the file lacks writes.
    pub(super) has_failed: bool,
    /// Whether a replacement waits or is being written.
    is_replacing: bool,
    /// When the last replacement failed.
    refused_at: Option<Instant>,
}

#[derive(Debug)]
struct PendingWrite {
    kind: WriteKind,
    records: Vec<Record>,
    /// Estimated.
    bytes: u64,
    answer: oneshot::Sender<Result<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteKind {
    Append,
    Replace,
}

impl Writer {
    pub(super) fn new(disk: Disk, shutdown: Shutdown) -> Self {
        let queue = WriteQueue { bytes: disk.length(), ..WriteQueue::default() };
        Self { queue: Mutex::new(queue), arrived: Notify::new(), disk: Mutex::new(disk), shutdown }
    }

    /// Queues a write, and starts the task if it does not run.
    pub(super) fn submit(self: &Arc<Self>, kind: WriteKind, records: Vec<Record>) -> Receipt {
        let (answer, receipt) = oneshot::channel();
        let bytes = encoding::estimate(&records);
        if self.queue().push(PendingWrite { kind, records, bytes, answer }) {
            self.shutdown.spawn("journal file", Arc::clone(self).run());
        } else {
            self.arrived.notify_one();
        }
        receipt
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, WriteQueue> {
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
            match self.shutdown.spawn_blocking(move || writer.write_queued()).await {
                Ok(None) => return,
                Ok(Some(due)) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.arrived.notified() => {}
                    () = token.cancelled() => {}
                },
                Err(panicked) => return self.give_up(&io::Error::other(panicked)),
            }
        }
    }

    /// Writes until the queue is empty. Returns when the file must be forced to disk; if it need not be, the task ends.
    fn write_queued(&self) -> Option<Instant> {
        let mut disk = self.disk();
        loop {
            let group = self.queue().next_group();
            self.write(&mut disk, group);
            let due = disk.sync_due();
            if due.is_some_and(|due| self.shutdown.is_triggered() || due <= Instant::now()) {
                disk.sync();
                self.queue().note(&disk);
                continue;
            }
            let mut queue = self.queue();
            if queue.writes.is_empty() {
                queue.task_runs = due.is_some();
                return due;
            }
        }
    }

    fn write(&self, disk: &mut Disk, group: Vec<PendingWrite>) {
        let written = match group.last() {
            None => return,
            // The last replacement alone, because the records of the others would be replaced at once.
            Some(PendingWrite { kind: WriteKind::Replace, records, .. }) => {
                let written = disk.replace(records);
                self.queue().refused_at = written.is_err().then(Instant::now);
                written
            }
            Some(_) => disk.append(group.iter().map(|write| write.records.as_slice())),
        };
        // Before the answers: a caller that learns of a failure finds that the file has failed.
        self.queue().note(disk);
        for write in group {
            write.answer(written.clone());
        }
    }

    /// Ends the task after a panic: the file may lack writes. The panic dropped the answers of the writes in its group.
    fn give_up(&self, cause: &io::Error) {
        let mut disk = self.disk();
        let failure = disk.fail("go on with", cause);
        let mut queue = self.queue();
        if queue.is_replacing {
            queue.refused_at = Some(Instant::now());
        }
        let writes = mem::take(&mut queue.writes);
        queue.note(&disk);
        queue.task_runs = false;
        for write in writes {
            write.answer(Err(failure.clone()));
        }
    }
}

impl WriteQueue {
    /// Adds a write. Returns whether the task must be started.
    fn push(&mut self, write: PendingWrite) -> bool {
        self.bytes = write.bytes_after(self.bytes);
        self.is_replacing |= write.kind == WriteKind::Replace;
        self.writes.push_back(write);
        !mem::replace(&mut self.task_runs, true)
    }

    /// Removes the writes at the front that are of the same kind.
    fn next_group(&mut self) -> Vec<PendingWrite> {
        let kind = self.writes.front().map(|first| first.kind);
        iter::from_fn(|| self.writes.pop_front_if(|write| Some(write.kind) == kind)).collect()
    }

    /// Whether a replacement may be tried now.
    pub(super) fn may_replace(&self) -> bool {
        let failed_just_now = || self.refused_at.is_some_and(|at| at.elapsed() < RETRY);
        !self.has_failed || !(self.is_replacing || failed_just_now())
    }

    /// Takes over the state of the file.
    fn note(&mut self, disk: &Disk) {
        self.has_failed = disk.has_failed();
        self.bytes = self.writes.iter().fold(disk.length(), |bytes, write| write.bytes_after(bytes));
        self.is_replacing = self.writes.iter().any(|write| write.kind == WriteKind::Replace);
    }
}

impl PendingWrite {
    /// The bytes of the file after this write, if it has so many before.
    fn bytes_after(&self, bytes: u64) -> u64 {
        match self.kind {
            WriteKind::Append => bytes + self.bytes,
            WriteKind::Replace => self.bytes,
        }
    }

    fn answer(self, written: Result<(), String>) {
        // A caller that no longer waits needs no answer.
        let _ = self.answer.send(written.map_err(|failure| Error::Internal(failure.into())));
    }
}
