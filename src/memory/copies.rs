//! Copies of shared threads, to answer from while Redis is unreachable. `learning` tells what an answer of Redis
//! teaches, `held` what one copy can answer and accept, `stock` which copies stay.

use std::{fmt, sync::Mutex};

use super::{lock, threads::thread_for};
use crate::{
    call::{Answer, Call},
    clock::{Clock, Timestamp, fresh_id},
    error::{Error, Result},
    threads::{
        Append, Appended, Context, ContextQuery, Cut, Fork, Guard, Limits, MessageUpdate, MessagesPage,
        MessagesQuery, NewThread, Swept, Thread, ThreadChange, ThreadId, ThreadStore, ThreadsPage,
        ThreadsQuery, Ttl, UpdatedMessage,
        copies::{Observed, ThreadCopies, Unmerged},
        watch::{Followed, Since},
    },
};

mod held;
mod learning;
mod stock;
#[cfg(test)]
mod tests;

use held::HeldThread;
use stock::Stock;

/// Keeps copies of at most `max_threads` threads and `max_bytes` of memory; the one used longest ago goes first,
/// never one with writes that only memory has. Those are bounded by `max_bytes` alone: what would exceed it is
/// [`Error::JournalFull`].
///
/// A copy with such writes learns nothing more from the shared store until [`ThreadCopies::release`] forgets it, and
/// outlives its expiry till then, though nothing is served from it.
pub struct MemoryCopies<C> {
    clock: C,
    limits: Limits,
    stock: Mutex<Stock>,
}

impl<C> fmt::Debug for MemoryCopies<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCopies").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<C: Clock> MemoryCopies<C> {
    /// No copies yet. `limits` hold for each thread; a single copy takes at most a quarter of `max_bytes`, beyond
    /// which its oldest messages are given up.
    pub fn new(clock: C, limits: Limits, max_bytes: u64, max_threads: usize) -> Self {
        Self { clock, limits, stock: Mutex::new(Stock::new(max_bytes, max_threads)) }
    }

    /// How many threads are held, expired ones that were not swept yet included.
    pub fn len(&self) -> usize {
        lock(&self.stock).len()
    }

    /// Whether no thread is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Carries out one short step.
    fn step<T>(
        &self,
        call: &Call,
        step: impl FnOnce(&mut Stock, Timestamp) -> Result<Answer<T>>,
    ) -> Result<Answer<T>> {
        if call.require_shared {
            return Err(Error::NeedsShared("this call"));
        }
        let now = self.clock.now();
        step(&mut lock(&self.stock), now)
    }

    /// Asks one copy.
    fn ask<T>(
        &self,
        call: &Call,
        id: &ThreadId,
        ask: impl FnOnce(&mut HeldThread, Timestamp) -> Result<T>,
    ) -> Result<Answer<T>> {
        self.step(call, |stock, now| stock.ask(id, now, |held, _| ask(held, now)))
    }

    /// Accepts a thread that is not held.
    fn accept(&self, stock: &mut Stock, new: &NewThread, now: Timestamp) -> Result<Answer<Appended>> {
        let held = HeldThread::accept(new, fresh_id(&self.clock), now);
        stock.accept(held, |held, room| held.add(&new.messages, self.limits, room, now))
    }
}

impl<C: Clock> ThreadCopies for MemoryCopies<C> {
    fn observe(&self, observed: Observed<'_>) {
        let now = self.clock.now();
        let mut stock = lock(&self.stock);
        let held = stock.take(learning::subject(&observed));
        if let Some(held) = learning::learn(held, &observed, now) {
            stock.put(held);
        }
    }

    fn acknowledged(&self, id: &ThreadId) -> Option<(String, i64)> {
        let stock = lock(&self.stock);
        let held = stock.peek(id).filter(|held| !held.is_waiting())?;
        Some((held.thread.epoch.clone(), held.thread.revision))
    }

    fn release(&self) -> Unmerged {
        lock(&self.stock).release()
    }
}

impl<C: Clock> ThreadStore for MemoryCopies<C> {
    async fn create(&self, call: &Call, thread: &NewThread) -> Result<Answer<Appended>> {
        self.step(call, |stock, now| {
            let answer = stock.ask(&thread.id, now, |held, _| held.repeat_creation(thread));
            if stock.holds(&thread.id) { answer } else { self.accept(stock, thread, now) }
        })
    }

    async fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        self.ask(call, id, |held, now| {
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
        self.ask(call, id, |held, now| {
            held.renew(ttl, now);
            Ok(held.thread().clone())
        })
    }

    async fn append(&self, call: &Call, append: &Append) -> Result<Answer<Appended>> {
        if append.etag.is_some() {
            return Err(Error::NeedsShared("an append with an etag"));
        }
        self.step(call, |stock, now| {
            let answer = stock.ask(&append.id, now, |held, room| held.append(append, self.limits, room, now));
            if stock.holds(&append.id) {
                return answer;
            }
            match thread_for(append) {
                Some(new) => self.accept(stock, &new, now),
                None => answer,
            }
        })
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

    async fn follow(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Answer<Followed>> {
        self.ask(call, id, |held, now| held.follow(since, now))
    }

    async fn sweep(&self) -> Result<Swept> {
        let now = self.clock.now();
        Ok(Swept { removed: lock(&self.stock).sweep(now), repaired: 0 })
    }
}
