//! Breakers on a shared store, with breakers of this process for its outages: the same policy, under epochs of its own.
//!
//! [`handover`] says what memory adopts when an outage begins, what goes on in memory, and what is offered back.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{FallbackWatch, Guarded, Reachability, State, reachability::misconfigured};
use crate::{
    breakers::{
        Breakers, ModelKey, Permit,
        operations::{
            Acquire, AcquireFirst, Acquired, AcquiredFirst, Breaker, BreakersPage, BreakersQuery, Configure,
            Inspected, Order, Renewed, Report, Reported, TransitionsPage, TransitionsQuery,
        },
        watch::Watch,
    },
    call::{Answer, Call, Serving, Source},
    clock::{Clock, Timestamp},
    error::{Error, Result},
};

mod handover;

pub use handover::Handover;

/// Breakers of a shared store, or of memory while it is unreachable.
#[derive(Debug)]
pub struct FallbackBreakers<S, L> {
    shared: S,
    local: Arc<L>,
    reachability: Arc<Reachability>,
    serving: watch::Receiver<Serving>,
    clock: Arc<dyn Clock>,
    /// When the shared store answered last, in ms; 0: never.
    heard: AtomicI64,
}

impl<S: Breakers, L: Breakers> FallbackBreakers<S, L> {
    /// Puts `local` behind `shared`; `serving` says how this process serves, and `clock` is that of the shared store.
    pub fn new(
        shared: S,
        local: L,
        reachability: Arc<Reachability>,
        serving: watch::Receiver<Serving>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { shared, local: Arc::new(local), reachability, serving, clock, heard: AtomicI64::new(0) }
    }

    /// Asks the shared store, or memory if that is unreachable. A future that is moved into another takes its room twice:
    /// so the one is pinned where it is made, and the other, which is seldom needed, is made then.
    async fn choose<T, F>(
        &self,
        call: &Call,
        what: &'static str,
        shared: Pin<&mut impl Future<Output = Result<Answer<T>>>>,
        local: impl FnOnce() -> F,
    ) -> Result<Answer<T>>
    where
        F: Future<Output = Result<Answer<T>>>,
    {
        match self.reachability.guard(shared).await {
            Guarded::Answered(answer) => {
                if answer.is_ok() {
                    self.heard.store(self.clock.now().as_millis(), Ordering::Relaxed);
                }
                answer
            }
            Guarded::Lost if call.require_shared => Err(Error::NeedsShared(what)),
            Guarded::Lost => {
                let Answer { value, .. } = Box::pin(local()).await?;
                let as_of = Timestamp::from_millis(self.heard.load(Ordering::Relaxed));
                let as_of = if as_of == Timestamp::default() { self.clock.now() } else { as_of };
                Ok(Answer { value, source: Source::Local { as_of: Some(as_of) } })
            }
        }
    }

    /// Asks the shared store alone.
    async fn insist<T>(
        &self,
        what: &'static str,
        shared: impl Future<Output = Result<Answer<T>>>,
    ) -> Result<Answer<T>> {
        match self.reachability.guard(shared).await {
            Guarded::Answered(answer) => answer,
            Guarded::Lost => Err(Error::NeedsShared(what)),
        }
    }
}

impl<S: Breakers, L: Breakers> Breakers for FallbackBreakers<S, L> {
    type Watch = FallbackWatch<S::Watch, L>;

    /// Fails where no store answers before an operator has corrected the configuration: there would be nothing to tell.
    fn watch(&self, watch: Watch) -> Result<Self::Watch> {
        if let State::Misconfigured(reason) = &*self.reachability.watch().borrow() {
            return Err(misconfigured(reason));
        }
        let shared = self.shared.watch(watch.clone())?;
        Ok(FallbackWatch::new(shared, Arc::clone(&self.local), watch, self.serving.clone()))
    }

    fn acquire_known(&self, acquire: &Acquire) -> Option<Answer<Acquired>> {
        self.shared.acquire_known(acquire).filter(|_| self.reachability.is_reachable())
    }

    async fn acquire(&self, call: &Call, acquire: &Acquire) -> Result<Answer<Acquired>> {
        let shared = pin!(self.shared.acquire(call, acquire));
        self.choose(call, "acquire with require_shared", shared, || self.local.acquire(call, acquire)).await
    }

    async fn acquire_first(&self, call: &Call, first: &AcquireFirst) -> Result<Answer<AcquiredFirst>> {
        let shared = pin!(self.shared.acquire_first(call, first));
        self.choose(call, "acquire with require_shared", shared, || self.local.acquire_first(call, first))
            .await
    }

    async fn renew(&self, call: &Call, permit: &Permit, lease: Option<Duration>) -> Result<Answer<Renewed>> {
        let shared = pin!(self.shared.renew(call, permit, lease));
        self.choose(call, "a renewal", shared, || self.local.renew(call, permit, lease)).await
    }

    async fn report(&self, call: &Call, report: Report) -> Result<Answer<Reported>> {
        let shared = pin!(self.shared.report(call, report.clone()));
        self.choose(call, "a report", shared, || self.local.report(call, report)).await
    }

    async fn inspect(&self, call: &Call, key: &ModelKey) -> Result<Answer<Inspected>> {
        let shared = pin!(self.shared.inspect(call, key));
        self.choose(call, "a read with require_shared", shared, || self.local.inspect(call, key)).await
    }

    async fn list(&self, call: &Call, query: &BreakersQuery) -> Result<Answer<BreakersPage>> {
        let shared = pin!(self.shared.list(call, query));
        self.choose(call, "a list", shared, || self.local.list(call, query)).await
    }

    async fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        configure: &Configure,
    ) -> Result<Answer<Inspected>> {
        self.insist("a change of settings", self.shared.configure(call, key, configure)).await
    }

    async fn operate(&self, call: &Call, key: &ModelKey, order: &Order) -> Result<Answer<Breaker>> {
        self.insist("an operator's order", self.shared.operate(call, key, order)).await
    }

    async fn delete(&self, call: &Call, key: &ModelKey) -> Result<Answer<()>> {
        self.insist("a deletion", self.shared.delete(call, key)).await
    }

    async fn transitions(&self, call: &Call, query: &TransitionsQuery) -> Result<Answer<TransitionsPage>> {
        let shared = pin!(self.shared.transitions(call, query));
        self.choose(call, "a read with require_shared", shared, || self.local.transitions(call, query)).await
    }
}
