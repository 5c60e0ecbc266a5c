//! Chooses who answers a call on threads: Redis while it is reachable, else this process's memory, which says so.
//!
//! While Redis answers, memory learns along. In an outage memory answers what it honestly can and accepts creations and
//! plain appends as provisional. The writes that it accepted are merged when Redis returns (`merge`), and until then
//! memory goes on to answer for these threads.

use std::{
    future::{Future, ready},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use super::{Copies, Guarded, Reachability, copies::KnownThread, copy::Observation};
use crate::{
    call::{Answer, Call},
    error::{Error, Result},
    threads::{
        Append, Appended, Context, ContextQuery, Cut, Fork, Guard, MessageUpdate, MessagesPage,
        MessagesQuery, NewThread, SharedThreads, Swept, Thread, ThreadChange, ThreadId, ThreadStore,
        ThreadsPage, ThreadsQuery, Ttl, UpdatedMessage,
        watch::{Followed, Since},
    },
};

/// Redis refuses a write so long after its call's deadline, at the latest.
const GRACE: Duration = Duration::from_secs(1);

/// Threads on a shared store, with copies in memory for its outages.
#[derive(Debug)]
pub struct Fallback<S> {
    pub(super) shared: Arc<S>,
    pub(super) copies: Arc<Copies>,
    pub(super) reachability: Arc<Reachability>,
    /// For so long a write that was given up may still happen in the shared store.
    late: Duration,
}

impl<S> Clone for Fallback<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            copies: Arc::clone(&self.copies),
            reachability: Arc::clone(&self.reachability),
            late: self.late,
        }
    }
}

impl<S: SharedThreads> Fallback<S> {
    /// Puts copies behind a shared store, where a write without deadline that was given up may still happen for `late`.
    pub fn new(shared: S, copies: Copies, reachability: Arc<Reachability>, late: Duration) -> Self {
        Self { shared: Arc::new(shared), copies: Arc::new(copies), reachability, late }
    }

    /// The copies in memory.
    pub fn copies(&self) -> &Copies {
        &self.copies
    }

    /// For how long a write may still happen in the shared store that is begun there now; zero if it is not begun.
    fn late(&self, call: &Call) -> Duration {
        if !self.reachability.is_reachable() {
            return Duration::ZERO;
        }
        let left = call.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) + GRACE);
        left.map_or(self.late, |left| left.min(self.late))
    }

    /// Asks the shared store, or memory if that is unreachable. Memory learns from the answer of the shared store, also that
    /// it does not have the thread. `thread_of` finds the thread in an answer.
    ///
    /// A future that is moved into another takes its room twice. So `shared` is pinned where it is made, and the future of
    /// `local`, which is seldom needed, is made late.
    async fn choose<T, F>(
        &self,
        call: &Call,
        id: &ThreadId,
        shared: Pin<&mut impl Future<Output = Result<Answer<T>>>>,
        local: impl FnOnce(Call) -> F,
        thread_of: impl Fn(&mut T) -> Option<&mut Thread>,
        learn: impl FnOnce(&Copies, &T),
    ) -> Result<Answer<T>>
    where
        F: Future<Output = Result<Answer<T>>>,
    {
        let known = self.copies.standing(id);
        if known == KnownThread::Waiting {
            // The shared store lacks writes of this thread that were acknowledged.
            return match self.reachability.misconfiguration() {
                Some(error) => Err(error),
                None => Box::pin(local(*call)).await,
            };
        }
        let late = self.late(call);
        match self.reachability.guard(shared).await {
            Guarded::Lost => Box::pin(local(Call { late, ..*call })).await,
            Guarded::Answered(Ok(mut answer)) => {
                if let Some(thread) = thread_of(&mut answer.value).filter(|thread| thread.id == *id) {
                    self.note_losses(call, thread, known).await?;
                }
                learn(&self.copies, &answer.value);
                Ok(answer)
            }
            Guarded::Answered(Err(error)) => {
                if matches!(error, Error::ThreadNotFound { .. }) {
                    self.copies.forget(id);
                }
                Err(error)
            }
        }
    }

    /// Sees to it that writes are repaired that a failover of the shared store lost: where the thread's revision is lower
    /// than the revision that was known before the call, or its epoch another.
    async fn note_losses(&self, call: &Call, thread: &mut Thread, known: KnownThread) -> Result<()> {
        let KnownThread::Acknowledged(epoch, revision) = known else { return Ok(()) };
        if thread.epoch != epoch {
            // Another instance may have found the loss first; that instance repairs its own writes alone.
            self.copies.repair(&thread.id);
        } else if thread.revision < revision {
            self.mark_loss(call, thread, revision).await?;
        }
        Ok(())
    }

    /// Gives a thread that lost writes another epoch, so that the next write is not taken for a lost one. The messages that
    /// are known of the lost ones are queued first.
    async fn mark_loss(&self, call: &Call, thread: &mut Thread, acknowledged: i64) -> Result<()> {
        let lost = acknowledged - thread.revision;
        warn!(thread = %thread.id, lost, "redis lost acknowledged writes: the thread gets a new epoch");
        let batch = self.copies.repair(&thread.id);
        // Where the shared store falls silent here, the batch sees to it later.
        if let Guarded::Answered(answer) =
            self.reachability.guard(self.shared.reincarnate(call, thread)).await
        {
            *thread = answer?.value;
            if let Some(batch) = batch {
                // A deletion names this epoch: what it deletes is not brought back.
                self.copies.lock().queue.rebase(batch, thread);
            }
        }
        Ok(())
    }
}

/// Memory's answer to a call that speaks for every instance.
fn needs_shared<T>(what: &'static str) -> impl Future<Output = Result<Answer<T>>> {
    ready(Err(Error::NeedsShared(what)))
}

/// The thread of an answer that is a thread.
#[expect(clippy::unnecessary_wraps, reason = "other answers may have no thread")]
fn itself(thread: &mut Thread) -> Option<&mut Thread> {
    Some(thread)
}

impl<S: SharedThreads> ThreadStore for Fallback<S> {
    async fn create(&self, call: &Call, new: &NewThread) -> Result<Answer<Appended>> {
        let shared = pin!(self.shared.create(call, new));
        let local = async |call: Call| self.copies.create(&call, new).await;
        self.choose(
            call,
            &new.id,
            shared,
            local,
            |made| Some(&mut made.thread),
            |copies, made| {
                copies.learn(&made.thread, Observation::Created(new, made));
            },
        )
        .await
    }

    async fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.get(call, id, renew));
        let local = async |call: Call| self.copies.get(&call, id, renew);
        self.choose(call, id, shared, local, itself, Copies::learn_metadata).await
    }

    async fn list(&self, call: &Call, query: &ThreadsQuery) -> Result<Answer<ThreadsPage>> {
        if self.reachability.is_reachable() && self.copies.lock().queue.is_creating(&query.owner) {
            return Err(Error::NeedsShared("a list of threads of which one is still to be merged"));
        }
        match self.reachability.guard(self.shared.list(call, query)).await {
            Guarded::Answered(answer) => answer,
            Guarded::Lost => Err(Error::NeedsShared("a list of threads")),
        }
    }

    async fn update(
        &self,
        call: &Call,
        id: &ThreadId,
        change: &ThreadChange,
        guard: &Guard,
    ) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.update(call, id, change, guard));
        let local = |_| needs_shared("a change of a thread");
        self.choose(call, id, shared, local, itself, |copies, thread| {
            copies.learn(thread, Observation::Updated);
        })
        .await
    }

    async fn delete(&self, call: &Call, id: &ThreadId, guard: &Guard) -> Result<Answer<()>> {
        let shared = pin!(self.shared.delete(call, id, guard));
        let local = |_| needs_shared("a deletion");
        self.choose(call, id, shared, local, |()| None, |copies, ()| copies.forget(id)).await
    }

    async fn touch(&self, call: &Call, id: &ThreadId, ttl: Option<Ttl>) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.touch(call, id, ttl));
        let local = async |call: Call| self.copies.touch(&call, id, ttl).await;
        self.choose(call, id, shared, local, itself, Copies::learn_metadata).await
    }

    async fn append(&self, call: &Call, append: &Append) -> Result<Answer<Appended>> {
        let shared = pin!(self.shared.append(call, append));
        let local = async |call: Call| self.copies.append(&call, append).await;
        self.choose(
            call,
            &append.id,
            shared,
            local,
            |made| Some(&mut made.thread),
            |copies, made| {
                copies.learn(&made.thread, Observation::Appended(append, made));
            },
        )
        .await
    }

    async fn messages(&self, call: &Call, query: &MessagesQuery) -> Result<Answer<MessagesPage>> {
        let shared = pin!(self.shared.messages(call, query));
        let local = async |call: Call| self.copies.messages(&call, query);
        self.choose(
            call,
            &query.id,
            shared,
            local,
            |page| Some(&mut page.thread),
            |copies, page| {
                copies.learn(&page.thread, Observation::of_page(query, page));
            },
        )
        .await
    }

    async fn context(&self, call: &Call, query: &ContextQuery) -> Result<Answer<Context>> {
        let shared = pin!(self.shared.context(call, query));
        let local = async |call: Call| self.copies.context(&call, query);
        self.choose(
            call,
            &query.id,
            shared,
            local,
            |context| Some(&mut context.thread),
            |copies, context| {
                copies.learn(&context.thread, Observation::Context(context));
            },
        )
        .await
    }

    async fn update_message(&self, call: &Call, update: &MessageUpdate) -> Result<Answer<UpdatedMessage>> {
        let shared = pin!(self.shared.update_message(call, update));
        let local = |_| needs_shared("a change of a message");
        self.choose(
            call,
            &update.id,
            shared,
            local,
            |updated| Some(&mut updated.thread),
            |copies, updated| {
                copies.learn(&updated.thread, Observation::MessageUpdated(&updated.message));
            },
        )
        .await
    }

    async fn truncate(&self, call: &Call, id: &ThreadId, cut: Cut, guard: &Guard) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.truncate(call, id, cut, guard));
        let local = |_| needs_shared("a truncation");
        self.choose(call, id, shared, local, itself, |copies, thread| {
            copies.learn(thread, Observation::Truncated(cut));
        })
        .await
    }

    async fn fork(&self, call: &Call, fork: &Fork) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.fork(call, fork));
        let local = |_| needs_shared("a fork");
        self.choose(call, &fork.source, shared, local, itself, Copies::learn_metadata).await
    }

    async fn follow(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Answer<Followed>> {
        let shared = pin!(self.shared.follow(call, id, since));
        let local = async |call: Call| self.copies.follow(&call, id, since);
        self.choose(
            call,
            id,
            shared,
            local,
            |followed| match followed {
                Followed::Found(found) => Some(&mut found.thread),
                Followed::Gone { .. } => None,
            },
            |copies, followed| match followed {
                Followed::Found(found) => copies.learn(&found.thread, Observation::of_watch(since, found)),
                Followed::Gone { .. } => copies.forget(id),
            },
        )
        .await
    }

    /// Sweeps the shared store while it is reachable, and the copies always.
    async fn sweep(&self) -> Result<Swept> {
        let removed = self.copies.sweep();
        match self.reachability.guard(self.shared.sweep()).await {
            Guarded::Answered(swept) => swept,
            Guarded::Lost => Ok(Swept { removed, repaired: 0 }),
        }
    }
}
