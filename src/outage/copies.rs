//! What this process's memory knows of shared threads, behind one lock: copies to answer from while Redis is unreachable,
//! and the queue of writes that were accepted meanwhile.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    copy::{Observation, ThreadCopy},
    file::FileJournal,
    queue::{JournalBounds, Queue, Write},
};
use crate::{
    call::{Answer, Call},
    clock::{Clock, Timestamp, fresh_id},
    error::{Error, Result},
    memory::{lock, thread_for},
    threads::{
        Append, Appended, Context, ContextQuery, Digest, Limits, Message, MessagesPage, MessagesQuery,
        NewThread, Thread, ThreadId, Ttl,
        replay::{JournalStatus, Origin, Receipt, Record},
        watch::{Followed, Since},
    },
};

mod lru;
mod replaying;
#[cfg(test)]
mod tests;

use lru::Lru;

/// Keeps copies of at most `max_threads` threads and `max_bytes` of memory; the copy used longest ago goes first, never one
/// with writes that only memory has. Those are in the queue, which has bounds of its own: a write that would exceed them
/// is [`Error::JournalFull`].
///
/// A copy knows the metadata of its thread and one unbroken run of messages that ends at the thread's last seq. A write of
/// another process shows as a gap in `previous_last_seq` or in the revision, and cuts the run there. What a copy cannot
/// answer honestly is [`Error::NeedsShared`], never "not found" and never an empty page.
///
/// A copy in which writes wait learns nothing more from Redis until they are merged, and outlives its expiry till then,
/// though nothing is served from it.
pub struct Copies {
    clock: Arc<dyn Clock>,
    limits: Limits,
    digest_of: fn(&Message) -> Digest,
    known: Mutex<Known>,
    changed: Notify,
}

/// The copies, and the writes that wait in them.
#[derive(Debug)]
pub(crate) struct Known {
    copies: Lru,
    pub(crate) queue: Queue,
}

/// What is known of a thread before a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KnownThread {
    /// Nothing.
    Unknown,
    /// The epoch and the revision that Redis was last seen to have acknowledged.
    Acknowledged(String, i64),
    /// Writes of it wait to be merged: memory answers for it until they are.
    Waiting,
}

/// An answer of memory, and when the write that it accepted is in the journal file.
type Accepting<T> = (Answer<T>, Option<Receipt>);

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Copies {
    /// No copies yet. `limits` hold for each thread; a single copy takes at most a quarter of `max_bytes`, beyond
    /// which its oldest messages are given up. `digest_of` makes the digest of a message that was read. `clock` is the
    /// clock of Redis, which says when threads expire.
    pub fn new(
        clock: Arc<dyn Clock>,
        limits: Limits,
        (max_bytes, max_threads): (u64, usize),
        bounds: JournalBounds,
        digest_of: fn(&Message) -> Digest,
    ) -> Self {
        let known = Known { copies: Lru::new(max_bytes, max_threads), queue: Queue::new(bounds) };
        Self { clock, limits, digest_of, known: Mutex::new(known), changed: Notify::new() }
    }

    /// The same, with a file that the queue is also written to, and the records in it. Writes that an earlier process gave
    /// up may still happen in Redis for `hold`.
    #[must_use]
    pub fn with_file(self, file: FileJournal, records: Vec<Record>, hold: Duration) -> Self {
        let now = self.clock.now();
        {
            let Known { copies, queue } = &mut *self.lock();
            for (origin, entries) in queue.restore(records, Instant::now() + hold, now) {
                copies.put(ThreadCopy::restore(&origin, &entries, now));
            }
            queue.write_to(file);
        }
        self
    }

    /// Locks what is known, for one short step.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    /// How many threads have copies, expired ones that were not swept yet included.
    pub fn len(&self) -> usize {
        self.lock().copies.len()
    }

    /// Whether no thread has a copy.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The writes that wait, for people.
    pub fn journal(&self) -> JournalStatus {
        self.lock().queue.status()
    }

    /// Whether writes wait that nothing but time, or Redis, holds up.
    pub fn is_pending(&self) -> bool {
        self.lock().queue.is_pending()
    }

    /// Learns from an answer of Redis. Cheap: no IO, one short critical section.
    pub(super) fn learn(&self, thread: &Thread, observed: Observation<'_>) {
        let now = self.clock.now();
        let copies = &mut self.lock().copies;
        let copy = ThreadCopy::learn(copies.take(&thread.id), thread, observed, now);
        copies.put(copy);
    }

    /// Learns the metadata of a thread.
    pub(super) fn learn_metadata(&self, thread: &Thread) {
        self.learn(thread, Observation::Metadata);
    }

    /// Learns that Redis does not have a thread. A copy in which writes wait stays.
    pub(super) fn forget(&self, id: &ThreadId) {
        let copies = &mut self.lock().copies;
        if copies.peek(id).is_some_and(|copy| !copy.is_waiting()) {
            copies.take(id);
        }
    }

    /// What is known of a thread.
    pub(super) fn standing(&self, id: &ThreadId) -> KnownThread {
        let Known { copies, queue } = &*self.lock();
        if queue.is_waiting(id) {
            return KnownThread::Waiting;
        }
        copies.peek(id).map_or(KnownThread::Unknown, |copy| {
            let (epoch, revision) = copy.acknowledged().clone();
            KnownThread::Acknowledged(epoch, revision)
        })
    }

    /// Forgets the copies that have expired and tries again to write what the journal file could not take. Answers how many
    /// copies it forgot.
    pub(super) fn sweep(&self) -> u64 {
        let now = self.clock.now();
        let Known { copies, queue } = &mut *self.lock();
        queue.mend();
        copies.sweep(now)
    }
}

/// What memory answers in an outage.
impl Copies {
    pub(super) async fn create(&self, call: &Call, new: &NewThread) -> Result<Answer<Appended>> {
        self.accept(call, |known, held_until, now| {
            if known.lacks(&new.id, now) {
                return self.accept_creation(known, new, false, held_until, now);
            }
            let answer = known.copies.ask(&new.id, now, |copy| copy.repeat_creation(new))?;
            Ok((answer, known.queue.receipt()))
        })
        .await
    }

    pub(super) async fn append(&self, call: &Call, append: &Append) -> Result<Answer<Appended>> {
        if append.etag.is_some() {
            return Err(Error::NeedsShared("an append with an etag"));
        }
        self.accept(call, |known, held_until, now| match thread_for(append) {
            Some(new) if known.lacks(&append.id, now) => {
                self.accept_creation(known, &new, append.owner.is_none(), held_until, now)
            }
            Some(_) | None => {
                let Known { copies, queue } = known;
                let Answer { value: (appended, entries, origin), source } =
                    copies.ask(&append.id, now, |copy| {
                        let origin = copy.origin();
                        let (appended, entries) =
                            copy.append(append, (self.limits, self.digest_of), queue, now)?;
                        Ok((appended, entries, origin))
                    })?;
                let receipt = if entries.is_empty() {
                    queue.receipt()
                } else {
                    queue.accept(origin, Write::Append(entries), held_until, now)
                };
                Ok((Answer { value: appended, source }, receipt))
            }
        })
        .await
    }

    pub(super) async fn touch(&self, call: &Call, id: &ThreadId, ttl: Option<Ttl>) -> Result<Answer<Thread>> {
        self.accept(call, |Known { copies, queue }, held_until, now| {
            let Answer { value: (thread, origin), source } = copies.ask(id, now, |copy| {
                queue.admit(u64::from(!copy.is_waiting()), 0)?;
                let origin = copy.origin();
                copy.touch(ttl, now);
                Ok((copy.thread().clone(), origin))
            })?;
            let receipt = queue.accept(origin, Write::Renew(ttl), held_until, now);
            Ok((Answer { value: thread, source }, receipt))
        })
        .await
    }

    pub(super) fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        self.ask(call, id, |copy, now| copy.get(renew, now))
    }

    pub(super) fn messages(&self, call: &Call, query: &MessagesQuery) -> Result<Answer<MessagesPage>> {
        self.ask(call, &query.id, |copy, now| copy.messages(query, now))
    }

    pub(super) fn context(&self, call: &Call, query: &ContextQuery) -> Result<Answer<Context>> {
        self.ask(call, &query.id, |copy, now| copy.context(query, now))
    }

    pub(super) fn follow(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Answer<Followed>> {
        self.ask(call, id, |copy, now| copy.follow(since, now))
    }

    /// Asks one copy.
    fn ask<T>(
        &self,
        call: &Call,
        id: &ThreadId,
        ask: impl FnOnce(&mut ThreadCopy, Timestamp) -> Result<T>,
    ) -> Result<Answer<T>> {
        self.step(call, |known, now| known.copies.ask(id, now, |copy| ask(copy, now)))
    }

    /// Accepts a write; answers once the write is in the journal file, too.
    async fn accept<T>(
        &self,
        call: &Call,
        accept: impl FnOnce(&mut Known, Option<Instant>, Timestamp) -> Result<Accepting<T>>,
    ) -> Result<Answer<T>> {
        let held_until = (!call.late.is_zero()).then(|| Instant::now() + call.late);
        let (answer, receipt) = self.step(call, |known, now| accept(known, held_until, now))?;
        self.changed.notify_one();
        if let Some(receipt) = receipt
            && !matches!(receipt.await, Ok(Ok(())))
        {
            // Memory has the write, and a repeat may find it; but it is not as safe as whoever configured the file expects.
            return Err(Error::NeedsShared("a write that the journal file cannot take"));
        }
        Ok(answer)
    }

    /// Accepts a thread that has no copy.
    fn accept_creation(
        &self,
        Known { copies, queue }: &mut Known,
        new: &NewThread,
        any_owner: bool,
        held_until: Option<Instant>,
        now: Timestamp,
    ) -> Result<Accepting<Appended>> {
        let copy = ThreadCopy::create(new, fresh_id(&self.clock), now);
        let origin = Origin { any_owner, ..copy.origin() };
        let Answer { value: (appended, entries), source } =
            copies.accept(copy, |copy| copy.add(&new.messages, self.limits, queue, now))?;
        let receipt = queue.accept(origin, Write::Create(entries), held_until, now);
        Ok((Answer { value: appended, source }, receipt))
    }

    /// Carries out one short step on the copies and the queue.
    fn step<T>(&self, call: &Call, step: impl FnOnce(&mut Known, Timestamp) -> Result<T>) -> Result<T> {
        if call.require_shared {
            return Err(Error::NeedsShared("this call"));
        }
        let now = self.clock.now();
        step(&mut self.lock(), now)
    }
}

impl Known {
    /// Whether a thread has no copy. Forgets a copy that has expired, but for one in which writes wait.
    fn lacks(&mut self, id: &ThreadId, now: Timestamp) -> bool {
        if self.copies.peek(id).is_some_and(|copy| copy.has_expired(now) && !copy.is_waiting()) {
            self.copies.take(id);
        }
        !self.copies.holds(id)
    }
}
