//! Memory as the only truth: what serves where Redis is switched off.

use std::{fmt, sync::Mutex};

use super::{
    conversation::{Bounds, Conversation, Creator},
    lock, not_found,
};
use tokio::time::Instant;
use tracing::debug;

use crate::{
    call::{Answer, Call},
    clock::{Clock, Timestamp, fresh_id},
    error::{Error, Result},
    threads::{
        Append, Appended, Context, ContextQuery, Cut, Fork, Guard, Limits, MessageUpdate, MessagesPage,
        MessagesQuery, NewThread, Profile, Swept, Thread, ThreadChange, ThreadId, ThreadStore, ThreadsPage,
        ThreadsQuery, Trim, Ttl, UpdatedMessage,
        watch::{Followed, Since},
    },
};

mod stock;
#[cfg(test)]
mod tests;
mod tombstone;

use stock::Stock;

/// Keeps threads in this process's memory and nowhere else, at most so many bytes of them. What would grow beyond
/// that is [`Error::StoreFull`]; nothing that was acknowledged is dropped before it expires.
pub struct MemoryThreads<C> {
    clock: C,
    limits: Limits,
    stock: Mutex<Stock>,
}

impl<C> fmt::Debug for MemoryThreads<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryThreads").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl<C: Clock> MemoryThreads<C> {
    /// An empty store that takes at most `max_bytes` of memory, estimated from above; `limits` hold for each thread.
    /// What truncations and updates leave behind, at most 16 request ids and 256 changes a thread, may exceed
    /// `max_bytes`.
    pub fn new(clock: C, limits: Limits, max_bytes: u64) -> Self {
        Self { clock, limits, stock: Mutex::new(Stock::new(max_bytes)) }
    }

    /// How many threads there are. Ones that expired count until the next call of any other method.
    pub fn len(&self) -> usize {
        lock(&self.stock).len()
    }

    /// Whether there is no thread.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Carries out one short step on what has not expired.
    fn step<T>(
        &self,
        call: &Call,
        step: impl FnOnce(&mut Stock, Timestamp) -> Result<T>,
    ) -> Result<Answer<T>> {
        if call.require_shared {
            return Err(Error::NeedsShared("this call"));
        }
        let began = Instant::now();
        let now = self.clock.now();
        let result = {
            let mut stock = lock(&self.stock);
            stock.reclaim(now);
            step(&mut stock, now)
        };
        // Which operation it was, the span around it tells.
        let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &result {
            Ok(_) => debug!(duration_us, "memory answered"),
            Err(error) => debug!(duration_us, %error, "memory refused"),
        }
        result.map(Answer::local)
    }

    /// Carries out one write to one thread.
    fn write<T>(
        &self,
        call: &Call,
        id: &ThreadId,
        write: impl FnOnce(&mut Conversation, Bounds, Timestamp) -> Result<T>,
    ) -> Result<Answer<T>> {
        self.step(call, |stock, now| {
            let bounds = Bounds { limits: self.limits, room: stock.room() };
            stock.change(id, |conversation| write(conversation, bounds, now))
        })
    }

    fn begin(&self, stock: &mut Stock, new: &NewThread, now: Timestamp) -> Result<Appended> {
        let (conversation, appended) = Conversation::create(new, fresh_id(&self.clock), self.limits, now)?;
        stock.insert(conversation)?;
        Ok(appended)
    }
}

impl<C: Clock> ThreadStore for MemoryThreads<C> {
    async fn create(&self, call: &Call, thread: &NewThread) -> Result<Answer<Appended>> {
        self.step(call, |stock, now| {
            if let Some(existing) = stock.find(&thread.id) {
                return existing.repeat_creation(thread);
            }
            self.begin(stock, thread, now)
        })
    }

    async fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        self.write(call, id, |conversation, _, now| {
            if renew {
                conversation.renew(now);
            }
            Ok(conversation.thread().clone())
        })
    }

    async fn list(&self, call: &Call, query: &ThreadsQuery) -> Result<Answer<ThreadsPage>> {
        self.step(call, |stock, _| Ok(stock.list(query)))
    }

    async fn update(
        &self,
        call: &Call,
        id: &ThreadId,
        change: &ThreadChange,
        guard: &Guard,
    ) -> Result<Answer<Thread>> {
        self.write(call, id, |conversation, bounds, now| {
            conversation.update(change, guard, bounds, now)?;
            Ok(conversation.thread().clone())
        })
    }

    async fn delete(&self, call: &Call, id: &ThreadId, guard: &Guard) -> Result<Answer<()>> {
        self.step(call, |stock, now| {
            if stock.was_deleted_by(id, guard.request_id.as_ref()) {
                return Ok(());
            }
            stock.find(id).ok_or_else(|| not_found(id))?.check_etag(guard.etag.as_deref())?;
            stock.bury(id, guard.request_id.clone(), now);
            Ok(())
        })
    }

    async fn touch(&self, call: &Call, id: &ThreadId, ttl: Option<Ttl>) -> Result<Answer<Thread>> {
        self.write(call, id, |conversation, _, now| {
            conversation.touch(ttl, now);
            Ok(conversation.thread().clone())
        })
    }

    async fn append(&self, call: &Call, append: &Append) -> Result<Answer<Appended>> {
        self.step(call, |stock, now| {
            if stock.find(&append.id).is_none() {
                let new = thread_for(append).ok_or_else(|| not_found(&append.id))?;
                if stock.has_tombstone(&append.id) {
                    return Err(Error::ThreadDeleted { id: append.id.to_string() });
                }
                return self.begin(stock, &new, now);
            }
            let bounds = Bounds { limits: self.limits, room: stock.room() };
            stock.change(&append.id, |conversation| conversation.append(append, bounds, now))
        })
    }

    async fn messages(&self, call: &Call, query: &MessagesQuery) -> Result<Answer<MessagesPage>> {
        self.write(call, &query.id, |conversation, _, now| conversation.messages(query, now))
    }

    async fn context(&self, call: &Call, query: &ContextQuery) -> Result<Answer<Context>> {
        self.write(call, &query.id, |conversation, _, now| conversation.context(query, now))
    }

    async fn update_message(&self, call: &Call, update: &MessageUpdate) -> Result<Answer<UpdatedMessage>> {
        self.write(call, &update.id, |conversation, bounds, now| {
            conversation.update_message(update, bounds, now)
        })
    }

    async fn truncate(&self, call: &Call, id: &ThreadId, cut: Cut, guard: &Guard) -> Result<Answer<Thread>> {
        self.write(call, id, |conversation, _, now| {
            conversation.truncate(cut, guard, now)?;
            Ok(conversation.thread().clone())
        })
    }

    async fn fork(&self, call: &Call, fork: &Fork) -> Result<Answer<Thread>> {
        self.step(call, |stock, now| {
            let creator = fork.request_id.clone().map(Creator::Fork);
            if let Some(existing) = stock.find(&fork.id) {
                if existing.was_created_by(creator.as_ref()) {
                    return Ok(existing.thread().clone());
                }
                return Err(Error::ThreadExists { id: fork.id.to_string() });
            }
            let source = stock.find(&fork.source).ok_or_else(|| not_found(&fork.source))?;
            let copy = source.fork(fork.at_seq, fork.id.clone(), creator, fresh_id(&self.clock), now)?;
            let thread = copy.thread().clone();
            stock.insert(copy)?;
            Ok(thread)
        })
    }

    async fn follow(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Answer<Followed>> {
        self.step(call, |stock, now| {
            if let Some(conversation) = stock.find(id) {
                return Ok(Followed::Found(Box::new(conversation.follow(since, now)?)));
            }
            let was_deleted = match since {
                Since::Seq(_) => false,
                Since::Told(place) => stock.was_deleted(id, &place.position.epoch),
            };
            Ok(Followed::Gone { now, was_deleted })
        })
    }

    async fn sweep(&self) -> Result<Swept> {
        let now = self.clock.now();
        Ok(Swept { removed: lock(&self.stock).sweep(now), repaired: 0 })
    }
}

/// The thread that an append creates where there is none, if it may.
pub(crate) fn thread_for(append: &Append) -> Option<NewThread> {
    let ttl = append.create.filter(|_| append.etag.is_none())?;
    let profile = Profile {
        owner: append.owner.clone(),
        title: String::new(),
        labels: std::collections::BTreeMap::new(),
        ttl,
        pinned: false,
        trim: Trim::default(),
    };
    Some(NewThread { id: append.id.clone(), profile, messages: append.messages.clone(), request_id: None })
}
