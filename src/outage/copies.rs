//! Copies of shared threads, to answer from while Redis is unreachable. `learning` tells what an answer of Redis
//! teaches, `held` what one copy can answer and accept, `stock` which copies stay, `accepting` goes between these and the
//! journal.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    observed::{Known, Observed, Progress, ThreadCopies},
    queue::{Base, Journal, JournalBounds},
};
use crate::{
    call::{Answer, Call},
    clock::{Clock, Timestamp, fresh_id},
    error::{Error, Result},
    memory::{lock, thread_for},
    threads::{
        Append, Appended, Context, ContextQuery, Cut, Digest, Fork, Guard, Limits, Message, MessageUpdate,
        MessagesPage, MessagesQuery, NewThread, Owner, Swept, Thread, ThreadChange, ThreadId, ThreadStore,
        ThreadsPage, ThreadsQuery, Ttl, UpdatedMessage,
        replay::{JournalFile, JournalStatus, Receipt, Record, Replay, Replayed, RunId},
        watch::{Followed, Since},
    },
};

mod accepting;
mod copy;
mod learning;
mod stock;
#[cfg(test)]
mod tests;

use copy::HeldThread;
use stock::Stock;

/// Keeps copies of at most `max_threads` threads and `max_bytes` of memory; the one used longest ago goes first, never one
/// with writes that only memory has. Those are on the journal, which has bounds of its own: what would exceed them is
/// [`Error::JournalFull`].
///
/// A copy with such writes learns nothing more from the shared store until they are merged, and outlives its expiry till
/// then, though nothing is served from it.
pub struct MemoryCopies<C> {
    clock: C,
    limits: Limits,
    digest_of: fn(&Message) -> Digest,
    held: Mutex<Held>,
    stirred: Notify,
}

/// The copies, and what waits in them.
#[derive(Debug)]
struct Held {
    stock: Stock,
    journal: Journal,
}

/// When a write is accepted, and until when a first attempt of it may still happen in Redis.
#[derive(Debug, Clone, Copy)]
struct Moment {
    now: Timestamp,
    held_until: Timestamp,
}

/// An answer of memory, and when what it accepted is in the journal file.
type Accepting<T> = (Answer<T>, Option<Receipt>);

impl<C> fmt::Debug for MemoryCopies<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCopies").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<C: Clock> MemoryCopies<C> {
    /// No copies yet. `limits` hold for each thread; a single copy takes at most a quarter of `max_bytes`, beyond
    /// which its oldest messages are given up. `digest_of` makes the digest of a message that was read.
    pub fn new(
        clock: C,
        limits: Limits,
        (max_bytes, max_threads): (u64, usize),
        bounds: JournalBounds,
        digest_of: fn(&Message) -> Digest,
    ) -> Self {
        let held = Held { stock: Stock::new(max_bytes, max_threads), journal: Journal::new(bounds) };
        Self { clock, limits, digest_of, held: Mutex::new(held), stirred: Notify::new() }
    }

    /// The same, with a file that the journal is also written to, and what that said at the start. What may still happen of
    /// an earlier process's abandoned writes has happened after `hold`.
    #[must_use]
    pub fn with_file(self, file: Arc<dyn JournalFile>, records: Vec<Record>, hold: Duration) -> Self {
        let now = self.clock.now();
        {
            let Held { stock, journal } = &mut *lock(&self.held);
            for (origin, entries) in journal.restore(records, (now, now.plus(hold))) {
                stock.put(HeldThread::restored(&origin, &entries, now));
            }
            journal.write_to(file);
        }
        self
    }

    /// How many threads are held, expired ones that were not swept yet included.
    pub fn len(&self) -> usize {
        lock(&self.held).stock.len()
    }

    /// Whether no thread is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Carries out one short step on the copies and what waits.
    fn act<T>(&self, call: &Call, act: impl FnOnce(&mut Held, Timestamp) -> Result<T>) -> Result<T> {
        if call.require_shared {
            return Err(Error::NeedsShared("this call"));
        }
        let now = self.clock.now();
        act(&mut lock(&self.held), now)
    }

    /// Asks one copy.
    fn ask<T>(
        &self,
        call: &Call,
        id: &ThreadId,
        ask: impl FnOnce(&mut HeldThread, Timestamp) -> Result<T>,
    ) -> Result<Answer<T>> {
        self.act(call, |held, now| held.stock.ask(id, now, |held| ask(held, now)))
    }

    /// Accepts a write; answers once that is in the journal file, too.
    async fn accept<T>(
        &self,
        call: &Call,
        accept: impl FnOnce(&mut Held, Moment) -> Result<Accepting<T>>,
    ) -> Result<Answer<T>> {
        let act = |held: &mut Held, now: Timestamp| {
            let held_until = if call.late.is_zero() { Timestamp::default() } else { now.plus(call.late) };
            accept(held, Moment { now, held_until })
        };
        let (answer, receipt) = self.act(call, act)?;
        self.stirred.notify_one();
        if let Some(receipt) = receipt
            && !matches!(receipt.await, Ok(Ok(())))
        {
            // Memory has it, and a repeat may find it; but it is not as safe as whoever configured the file expects.
            return Err(Error::NeedsShared("a write that the journal file cannot take"));
        }
        Ok(answer)
    }
}

impl<C: Clock> ThreadCopies for MemoryCopies<C> {
    fn observe(&self, observed: Observed<'_>) {
        let now = self.clock.now();
        let stock = &mut lock(&self.held).stock;
        let held = stock.take(learning::subject(&observed));
        if let Some(held) = learning::learn(held, &observed, now) {
            stock.put(held);
        }
    }

    fn known(&self, id: &ThreadId) -> Known {
        let Held { stock, journal } = &*lock(&self.held);
        if journal.is_waiting(id) {
            return Known::Waiting;
        }
        stock.peek(id).map_or(Known::Nothing, |held| {
            let (epoch, revision) = held.acknowledged.clone();
            Known::Acknowledged(epoch, revision)
        })
    }

    async fn stirred(&self) {
        self.stirred.notified().await;
    }

    fn due(&self, all: bool) -> Vec<Vec<RunId>> {
        let now = self.clock.now();
        lock(&self.held).journal.due(now, all)
    }

    fn next_due(&self) -> Option<Duration> {
        let now = self.clock.now();
        lock(&self.held).journal.next_due(now)
    }

    fn is_pending(&self) -> bool {
        lock(&self.held).journal.is_pending()
    }

    fn is_creating(&self, owner: &Owner) -> bool {
        lock(&self.held).journal.is_creating(owner)
    }

    fn step(&self, run: RunId) -> Option<Replay> {
        lock(&self.held).journal.step(run)
    }

    fn settle(&self, run: RunId, step: &Replay, replayed: Replayed) -> Progress {
        let now = self.clock.now();
        let held = &mut *lock(&self.held);
        let id = &step.origin.thread.id;
        let Held { stock, journal } = held;
        let base = |base| stock.peek(id).map_or_else(Vec::new, |copy| copy.base(base, self.digest_of));
        let settled = journal.settle(run, step, replayed, base, now);
        held.settle(id, settled, now)
    }

    fn rebase(&self, run: RunId, thread: &Thread) {
        lock(&self.held).journal.rebase(run, &thread.epoch, thread.revision);
    }

    fn park(&self, run: RunId, reason: &str) {
        let now = self.clock.now();
        lock(&self.held).journal.park(run, reason, now);
    }

    fn repair(&self, id: &ThreadId) -> Option<RunId> {
        let now = self.clock.now();
        let Held { stock, journal } = &mut *lock(&self.held);
        let held = stock.peek(id)?;
        let missing = held.base(Base::Acknowledged, self.digest_of);
        let run = journal.repair(held.origin(), missing, now);
        self.stirred.notify_one();
        run
    }

    fn written_within(&self, how_long: Duration) -> Vec<ThreadId> {
        let now = self.clock.now();
        let held = lock(&self.held);
        let is_young = |held: &&HeldThread| {
            !held.is_waiting() && held.wrote_at.is_some_and(|at| now.since(at) <= how_long)
        };
        held.stock.iter().filter(is_young).map(|held| held.thread().id.clone()).collect()
    }

    fn renewed(&self) -> Vec<ThreadId> {
        let held = lock(&self.held);
        let is_renewed = |held: &&HeldThread| !held.is_waiting() && held.is_renewed();
        held.stock.iter().filter(is_renewed).map(|held| held.thread().id.clone()).collect()
    }

    fn journal(&self) -> JournalStatus {
        lock(&self.held).journal.status()
    }
}

impl<C: Clock> ThreadStore for MemoryCopies<C> {
    async fn create(&self, call: &Call, thread: &NewThread) -> Result<Answer<Appended>> {
        self.accept(call, |held, at| {
            let answer = held.stock.ask(&thread.id, at.now, |held| held.repeat_creation(thread));
            if held.stock.holds(&thread.id) {
                return answer.map(|answer| (answer, held.journal.receipt()));
            }
            held.create(thread, (fresh_id(&self.clock), false), self.limits, at)
        })
        .await
    }

    async fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        self.ask(call, id, |held, now| {
            held.check_readable()?;
            if renew {
                held.renew(None, now);
            }
            Ok(held.thread().clone())
        })
    }

    async fn list(&self, _: &Call, _: &ThreadsQuery) -> Result<Answer<ThreadsPage>> {
        Err(Error::NeedsShared("a list of threads"))
    }

    async fn update(&self, _: &Call, _: &ThreadId, _: &ThreadChange, _: &Guard) -> Result<Answer<Thread>> {
        Err(Error::NeedsShared("a change of a thread"))
    }

    async fn delete(&self, _: &Call, _: &ThreadId, _: &Guard) -> Result<Answer<()>> {
        Err(Error::NeedsShared("a deletion"))
    }

    async fn touch(&self, call: &Call, id: &ThreadId, ttl: Option<Ttl>) -> Result<Answer<Thread>> {
        self.accept(call, |held, at| held.touch(id, ttl, at)).await
    }

    async fn append(&self, call: &Call, append: &Append) -> Result<Answer<Appended>> {
        if append.etag.is_some() {
            return Err(Error::NeedsShared("an append with an etag"));
        }
        self.accept(call, |held, at| {
            let accepted = held.append(append, (self.limits, self.digest_of), at);
            match (thread_for(append), held.stock.holds(&append.id)) {
                (Some(new), false) => {
                    let any_owner = append.owner.is_none();
                    held.create(&new, (fresh_id(&self.clock), any_owner), self.limits, at)
                }
                (Some(_), true) | (None, _) => accepted,
            }
        })
        .await
    }

    async fn messages(&self, call: &Call, query: &MessagesQuery) -> Result<Answer<MessagesPage>> {
        self.ask(call, &query.id, |held, now| held.messages(query, now))
    }

    async fn context(&self, call: &Call, query: &ContextQuery) -> Result<Answer<Context>> {
        self.ask(call, &query.id, |held, now| held.context(query, now))
    }

    async fn update_message(&self, _: &Call, _: &MessageUpdate) -> Result<Answer<UpdatedMessage>> {
        Err(Error::NeedsShared("a change of a message"))
    }

    async fn truncate(&self, _: &Call, _: &ThreadId, _: Cut, _: &Guard) -> Result<Answer<Thread>> {
        Err(Error::NeedsShared("a truncation"))
    }

    async fn fork(&self, _: &Call, _: &Fork) -> Result<Answer<Thread>> {
        Err(Error::NeedsShared("a fork"))
    }

    async fn reincarnate(&self, _: &Call, _: &Thread) -> Result<Answer<Thread>> {
        Err(Error::NeedsShared("a new epoch"))
    }

    async fn replay(&self, _: &Call, _: &Replay) -> Result<Replayed> {
        Err(Error::NeedsShared("a replay"))
    }

    async fn follow(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Answer<Followed>> {
        self.ask(call, id, |held, now| held.follow(since, now))
    }

    async fn sweep(&self) -> Result<Swept> {
        let now = self.clock.now();
        let held = &mut *lock(&self.held);
        held.journal.mend();
        Ok(Swept { removed: held.stock.sweep(now), repaired: 0 })
    }
}
