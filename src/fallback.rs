//! The one place that chooses who answers: Redis while it is reachable, else this process's memory, which says so.
//!
//! While Redis answers, memory learns along. In an outage it answers what it honestly can and accepts creations and
//! plain appends as provisional. What it accepted is merged when Redis returns (`reconcile`), and until then memory goes
//! on to answer for these threads.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use crate::{
    call::{Answer, Call},
    error::{Error, Result},
    threads::{
        Append, Appended, Context, ContextQuery, Cut, Fork, Guard, MessageUpdate, MessagesPage,
        MessagesQuery, NewThread, Swept, Thread, ThreadChange, ThreadId, ThreadStore, ThreadsPage,
        ThreadsQuery, Ttl, UpdatedMessage,
        copies::{Known, Observed, TellsOfThread, ThreadCopies},
        journal::{Replay, Replayed},
        watch::{Followed, Found, MAX_FOLLOWED, Place, Since},
    },
};

mod breakers;
mod reachability;
mod reconcile;
mod watch;

pub use breakers::{FallbackBreakers, Handover};
pub use reachability::{Guarded, Reachability, State};
pub use watch::FallbackWatch;

/// A write is refused by Redis so long after its call's deadline, at the latest.
const GRACE: Duration = Duration::from_secs(1);

/// Threads on a shared store, with copies in memory for its outages.
#[derive(Debug)]
pub struct Fallback<S, C> {
    shared: Arc<S>,
    copies: Arc<C>,
    reachability: Arc<Reachability>,
    /// For so long a write that was given up may still happen in the shared store.
    late: Duration,
}

impl<S, C> Clone for Fallback<S, C> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            copies: Arc::clone(&self.copies),
            reachability: Arc::clone(&self.reachability),
            late: self.late,
        }
    }
}

impl<S: ThreadStore, C: ThreadCopies> Fallback<S, C> {
    /// Puts copies behind a shared store, where a write without deadline that was given up may still happen for `late`.
    pub fn new(shared: S, copies: C, reachability: Arc<Reachability>, late: Duration) -> Self {
        Self { shared: Arc::new(shared), copies: Arc::new(copies), reachability, late }
    }

    /// The copies in memory.
    pub fn copies(&self) -> &C {
        &self.copies
    }

    /// For how long a write may still happen in the shared store that is begun there now; zero if it is not.
    fn late(&self, call: &Call) -> Duration {
        if !self.reachability.is_reachable() {
            return Duration::ZERO;
        }
        let left = call.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) + GRACE);
        left.map_or(self.late, |left| left.min(self.late))
    }

    /// Asks the shared store, or memory if that is unreachable; memory learns from what the shared store says, also
    /// that it does not have the thread.
    ///
    /// A future that is moved into another takes its room twice: so the one is pinned where it is made, and the other,
    /// which is seldom needed, is made then.
    async fn choose<T: TellsOfThread, F>(
        &self,
        call: &Call,
        id: Option<&ThreadId>,
        shared: Pin<&mut impl Future<Output = Result<Answer<T>>>>,
        local: impl FnOnce(Call) -> F,
        learn: impl FnOnce(&C, &T),
    ) -> Result<Answer<T>>
    where
        F: Future<Output = Result<Answer<T>>>,
    {
        let known = id.map_or(Known::Nothing, |id| self.copies.known(id));
        if known == Known::Waiting {
            // What the shared store would say of this thread leaves out what was acknowledged.
            return match self.reachability.misconfiguration() {
                Some(error) => Err(error),
                None => Box::pin(local(*call)).await,
            };
        }
        let late = self.late(call);
        match self.reachability.guard(shared).await {
            Guarded::Lost => Box::pin(local(Call { late, ..*call })).await,
            Guarded::Answered(Ok(mut answer)) => {
                if let (Some(thread), Known::Acknowledged(epoch, revision)) =
                    (answer.value.thread_mut(), known)
                    && id == Some(&thread.id)
                {
                    if thread.epoch != epoch {
                        // Another instance may have found out first that a failover lost writes, of which it knows its own.
                        self.copies.repair(&thread.id);
                    } else if thread.revision < revision {
                        self.mark_loss(call, thread, revision).await?;
                    }
                }
                learn(&self.copies, &answer.value);
                Ok(answer)
            }
            Guarded::Answered(Err(error)) => {
                if let (Error::ThreadNotFound { .. }, Some(id)) = (&error, id) {
                    self.copies.observe(Observed::Gone(id));
                }
                Err(error)
            }
        }
    }
}

impl<S: ThreadStore, C: ThreadCopies> Fallback<S, C> {
    /// Gives a thread another epoch whose revision is lower than one that was acknowledged before the call: a failover lost
    /// writes, and what is written next must not be taken for them. What is known of them is put on the journal first.
    async fn mark_loss(&self, call: &Call, thread: &mut Thread, acknowledged: i64) -> Result<()> {
        let lost = acknowledged - thread.revision;
        warn!(thread = %thread.id, lost, "redis lost acknowledged writes: the thread gets a new epoch");
        let run = self.copies.repair(&thread.id);
        // Where the shared store falls silent here, the run sees to it later.
        if let Guarded::Answered(answer) =
            self.reachability.guard(self.shared.reincarnate(call, thread)).await
        {
            *thread = answer?.value;
            if let Some(run) = run {
                // A deletion names this epoch: what it deletes is not brought back.
                self.copies.rebase(run, thread);
            }
        }
        Ok(())
    }
}

impl<S: ThreadStore, C: ThreadCopies> ThreadStore for Fallback<S, C> {
    async fn create(&self, call: &Call, thread: &NewThread) -> Result<Answer<Appended>> {
        let shared = pin!(self.shared.create(call, thread));
        let local = async |call: Call| self.copies.create(&call, thread).await;
        self.choose(call, Some(&thread.id), shared, local, |copies, made| {
            copies.observe(Observed::Created(thread, made));
        })
        .await
    }

    async fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.get(call, id, renew));
        let local = async |call: Call| self.copies.get(&call, id, renew).await;
        self.choose(call, Some(id), shared, local, |copies, thread| copies.observe(Observed::Read(thread)))
            .await
    }

    async fn list(&self, call: &Call, query: &ThreadsQuery) -> Result<Answer<ThreadsPage>> {
        if self.reachability.is_reachable() && self.copies.is_creating(&query.owner) {
            return Err(Error::NeedsShared("a list of threads of which one is still to be merged"));
        }
        let shared = pin!(self.shared.list(call, query));
        let local = async |call: Call| self.copies.list(&call, query).await;
        self.choose(call, None, shared, local, |_, _| {}).await
    }

    async fn update(
        &self,
        call: &Call,
        id: &ThreadId,
        change: &ThreadChange,
        guard: &Guard,
    ) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.update(call, id, change, guard));
        let local = async |call: Call| self.copies.update(&call, id, change, guard).await;
        self.choose(call, Some(id), shared, local, |copies, thread| copies.observe(Observed::Changed(thread)))
            .await
    }

    async fn delete(&self, call: &Call, id: &ThreadId, guard: &Guard) -> Result<Answer<()>> {
        let shared = pin!(self.shared.delete(call, id, guard));
        let local = async |call: Call| self.copies.delete(&call, id, guard).await;
        self.choose(call, Some(id), shared, local, |copies, ()| copies.observe(Observed::Gone(id))).await
    }

    async fn touch(&self, call: &Call, id: &ThreadId, ttl: Option<Ttl>) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.touch(call, id, ttl));
        let local = async |call: Call| self.copies.touch(&call, id, ttl).await;
        self.choose(call, Some(id), shared, local, |copies, thread| copies.observe(Observed::Read(thread)))
            .await
    }

    async fn append(&self, call: &Call, append: &Append) -> Result<Answer<Appended>> {
        let shared = pin!(self.shared.append(call, append));
        let local = async |call: Call| self.copies.append(&call, append).await;
        self.choose(call, Some(&append.id), shared, local, |copies, made| {
            copies.observe(Observed::Appended(append, made));
        })
        .await
    }

    async fn messages(&self, call: &Call, query: &MessagesQuery) -> Result<Answer<MessagesPage>> {
        let shared = pin!(self.shared.messages(call, query));
        let local = async |call: Call| self.copies.messages(&call, query).await;
        self.choose(call, Some(&query.id), shared, local, |copies, page| {
            copies.observe(Observed::Messages(query, page));
        })
        .await
    }

    async fn context(&self, call: &Call, query: &ContextQuery) -> Result<Answer<Context>> {
        let shared = pin!(self.shared.context(call, query));
        let local = async |call: Call| self.copies.context(&call, query).await;
        self.choose(call, Some(&query.id), shared, local, |copies, context| {
            copies.observe(Observed::Context(context));
        })
        .await
    }

    async fn update_message(&self, call: &Call, update: &MessageUpdate) -> Result<Answer<UpdatedMessage>> {
        let shared = pin!(self.shared.update_message(call, update));
        let local = async |call: Call| self.copies.update_message(&call, update).await;
        self.choose(call, Some(&update.id), shared, local, |copies, updated| {
            copies.observe(Observed::MessageUpdated(updated));
        })
        .await
    }

    async fn truncate(&self, call: &Call, id: &ThreadId, cut: Cut, guard: &Guard) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.truncate(call, id, cut, guard));
        let local = async |call: Call| self.copies.truncate(&call, id, cut, guard).await;
        self.choose(call, Some(id), shared, local, |copies, thread| {
            copies.observe(Observed::Truncated(cut, thread));
        })
        .await
    }

    async fn fork(&self, call: &Call, fork: &Fork) -> Result<Answer<Thread>> {
        let shared = pin!(self.shared.fork(call, fork));
        let local = async |call: Call| self.copies.fork(&call, fork).await;
        self.choose(call, Some(&fork.source), shared, local, |copies, thread| {
            copies.observe(Observed::Read(thread));
        })
        .await
    }

    async fn reincarnate(&self, call: &Call, thread: &Thread) -> Result<Answer<Thread>> {
        self.shared.reincarnate(call, thread).await
    }

    async fn replay(&self, call: &Call, replay: &Replay) -> Result<Replayed> {
        self.shared.replay(call, replay).await
    }

    async fn follow(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Answer<Followed>> {
        let shared = pin!(self.shared.follow(call, id, since));
        let local = async |call: Call| self.copies.follow(&call, id, since).await;
        self.choose(call, Some(id), shared, local, |copies, followed| match followed {
            Followed::Found(found) => match page_of(since, found) {
                Some((query, page)) => copies.observe(Observed::Messages(&query, &page)),
                None => copies.observe(Observed::Read(&found.thread)),
            },
            Followed::Gone { .. } => copies.observe(Observed::Gone(id)),
        })
        .await
    }

    /// Sweeps the shared store while it is reachable, and the copies always.
    async fn sweep(&self) -> Result<Swept> {
        let copies = self.copies.sweep().await?;
        match self.reachability.guard(self.shared.sweep()).await {
            Guarded::Answered(swept) => swept,
            Guarded::Lost => Ok(copies),
        }
    }
}

/// What a watcher is told, as a page of messages up to the thread's end; none if it is not just that.
fn page_of(since: &Since, found: &Found) -> Option<(MessagesQuery, MessagesPage)> {
    let after_seq = match since {
        Since::Seq(after) => *after,
        Since::Told(Place { position, .. }) => {
            let is_same = position.epoch == found.thread.epoch && found.newest_change <= position.revision;
            is_same.then_some(position.seq)?
        }
    };
    if found.more || after_seq > found.thread.last_seq {
        return None;
    }
    let query = MessagesQuery {
        id: found.thread.id.clone(),
        after_seq,
        before_seq: 0,
        descending: false,
        limit: MAX_FOLLOWED,
        cursor: None,
        renew: false,
    };
    let page = MessagesPage { thread: found.thread.clone(), messages: found.messages.clone(), more: false };
    Some((query, page))
}
