//! Drives the policy over a store: asks the store, offers the changes that are due, and replies to callers.
//!
//! Every instance that sees that a change is due offers the change. The store lets exactly one of them win, and the others
//! load the breaker again. Nothing is held across a model call.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::{
    BreakerStore, Breakers, ModelKey, Permit, Policies, Position, State, View,
    keeper::{Keeper, LastViews, Reading},
    keepers::Keepers,
    operations::{
        Acquire, AcquireFirst, Acquired, AcquiredFirst, Admission, Breaker, BreakersPage, BreakersQuery,
        Configure, Inspected, Order, Renewed, Report, Reported, TransitionsPage, TransitionsQuery,
    },
    policy::{self, Cause},
    store::{Attempt, Change, InForce, Listed},
    watch::Watch,
};
use crate::{
    call::{Answer, Call},
    doorbell::Doorbell,
    error::{Error, Result},
    shutdown::Shutdown,
};

mod admission;
mod keep;
mod operators;
mod poll;
mod reports;
mod watch;

pub use watch::EngineWatch;

/// How often others may change a breaker during one request.
const ATTEMPTS: usize = 32;
/// Breakers that are read at once for a list.
const LOADS: usize = 32;
/// Breakers that are read for one page of a list at most.
const MOST_LOADS: usize = 2000;

/// Breakers on a store. Clones are the same engine.
#[derive(Debug)]
pub struct Engine<S>(Arc<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    store: S,
    /// What this process knows of each breaker.
    keepers: Keepers,
    /// Whether notifications of changes arrive; none where this process alone makes changes.
    doorbell: Option<Arc<Doorbell>>,
    /// Tasks that keep what is known of breakers true.
    workers: AtomicUsize,
    /// Notified when the poller has something to do at once.
    poll_now: Notify,
    /// The name of this process in batches of reports.
    instance: Arc<str>,
    /// The number of the last batch of reports.
    batches: AtomicU64,
    shutdown: Shutdown,
}

impl<S> Clone for Engine<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: BreakerStore> Engine<S> {
    /// Breakers on `store`. `policies` hold where no settings are stored. `doorbell` says whether notifications of changes by
    /// others arrive; none where there are no others. `instance` names this process, with a new name at each start. Tasks
    /// run on `shutdown`. Nothing happens by itself unless [`Engine::run`] does.
    pub fn new(
        store: S,
        policies: Policies,
        instance: &str,
        doorbell: Option<Arc<Doorbell>>,
        shutdown: Shutdown,
    ) -> Self {
        Self::with(store, Keepers::new(move |key| policies.settings_of(key)), instance, doorbell, shutdown)
    }

    /// Breakers on `store` in the place of `shared`, by the settings that are in force there as far as these are known.
    pub fn in_place_of<T: BreakerStore>(shared: &Engine<T>, store: S) -> Self {
        let (in_force, instance, shutdown) = (shared.clone(), &*shared.0.instance, shared.0.shutdown.clone());
        let keepers = Keepers::new(move |key| in_force.0.keepers.in_force(key).settings);
        Self::with(store, keepers, instance, None, shutdown)
    }

    fn with(
        store: S,
        keepers: Keepers,
        instance: &str,
        doorbell: Option<Arc<Doorbell>>,
        shutdown: Shutdown,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            keepers,
            doorbell,
            workers: AtomicUsize::new(0),
            poll_now: Notify::new(),
            instance: instance.into(),
            batches: AtomicU64::new(0),
            shutdown,
        }))
    }

    /// The store below.
    pub fn store(&self) -> &S {
        &self.0.store
    }

    /// The last view of each breaker, whatever answer brought it. Of the keys that were used least recently there is none
    /// where there are more than 10,000.
    pub fn last_views(&self) -> LastViews {
        self.0.keepers.last_views()
    }

    /// Notes how a breaker stands, by somebody else's answer.
    pub fn note_view(&self, key: &ModelKey, view: &View) {
        self.note(key, view, &self.0.keepers.in_force(key));
    }

    /// Forgets all that this process knows of breakers.
    pub fn forget(&self) {
        self.0.keepers.clear();
    }

    /// Answers from the store.
    fn answer<T>(&self, value: T) -> Answer<T> {
        Answer { value, source: self.0.store.source() }
    }

    /// Runs a mechanism with the settings in force: the known ones, or those that the store replies with.
    async fn with_settings<T, F, Fut>(&self, key: &ModelKey, mechanism: F) -> Result<(T, InForce)>
    where
        F: Fn(InForce) -> Fut,
        Fut: Future<Output = Result<Attempt<T>>>,
    {
        let mut in_force = self.0.keepers.in_force(key);
        for _ in 0..ATTEMPTS {
            match mechanism(in_force.clone()).await? {
                Attempt::Done(value) => return Ok((value, in_force)),
                Attempt::Outdated(stored) => in_force = self.0.keepers.learn(key, stored),
            }
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    async fn load(&self, call: &Call, key: &ModelKey) -> Result<(View, InForce)> {
        let load = async |in_force: InForce| self.0.store.load(call, key, &in_force, false).await;
        let ((view, _), in_force) = self.with_settings(key, load).await?;
        self.note(key, &view, &in_force);
        Ok((view, in_force))
    }

    /// Offers a change that was decided by these settings. Returns the breaker afterwards, whoever changed it.
    async fn offer(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: InForce,
        change: &Change,
    ) -> Result<(bool, View, InForce)> {
        let changed = match self.0.store.transition(call, key, &in_force, change).await? {
            Attempt::Done(changed) => changed,
            Attempt::Outdated(stored) => {
                // The change was decided by settings that are not in force any more: it must be decided again.
                self.0.keepers.learn(key, stored);
                let (view, in_force) = self.load(call, key).await?;
                return Ok((false, view, in_force));
            }
        };
        let Change { from, to, mode, reason, .. } = change;
        let generation = changed.view.snapshot.position.generation;
        if changed.won {
            info!(breaker = %key, %from, %to, %mode, %reason, generation, "breaker changed");
        } else {
            debug!(breaker = %key, %to, %reason, generation, "breaker was changed by another first");
        }
        self.note(key, &changed.view, &in_force);
        Ok((changed.won, changed.view, in_force))
    }

    /// Offers the change that is decided by a view until it is made; false if none is to be made. Runs by no caller's
    /// deadline.
    pub async fn change(
        &self,
        key: &ModelKey,
        decide: impl Fn(&View) -> Option<Change> + Send,
    ) -> Result<bool> {
        let call = Call::default();
        let (mut view, mut in_force) = self.load(&call, key).await?;
        for _ in 0..ATTEMPTS {
            let Some(change) = decide(&view) else { return Ok(false) };
            let won;
            (won, view, in_force) = self.offer(&call, key, in_force, &change).await?;
            if won {
                return Ok(true);
            }
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    /// Offers what is due until nothing is.
    async fn bring_up_to_date(
        &self,
        call: &Call,
        key: &ModelKey,
        (mut view, mut in_force): (View, InForce),
        mut cause: Cause,
    ) -> Result<(View, InForce)> {
        for _ in 0..ATTEMPTS {
            let Some(change) = policy::due(&view, &in_force.settings, &cause, rand::random()) else {
                return Ok((view, in_force));
            };
            (_, view, in_force) = self.offer(call, key, in_force, &change).await?;
            // The cause led to this change, or to the change of another instance.
            cause = Cause { acquires: cause.acquires, ..Cause::default() };
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    fn describe(&self, key: &ModelKey, view: &View, in_force: &InForce) -> Breaker {
        let rejected = self.0.keepers.with(key, |keeper| keeper.rejected(&view.snapshot.position));
        policy::describe(key, view, &in_force.settings, rejected)
    }

    /// Describes a breaker as it was read back.
    fn describe_reading(&self, key: &ModelKey, reading: &Reading) -> Breaker {
        self.describe(key, &reading.present(), &reading.in_force)
    }

    /// Reads a breaker of the list; none if it has no state any more, or cannot be read: a damaged breaker must not hide the
    /// others.
    async fn read_listed(&self, call: &Call, listed: Listed) -> Result<Option<Breaker>> {
        let (view, in_force) = match self.load(call, &listed.key).await {
            Ok(read) => read,
            Err(error @ (Error::Corrupt { .. } | Error::Internal(_))) => {
                warn!(breaker = %listed.key, %error, "a listed breaker cannot be read");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if view.snapshot.position == Position::default() {
            // The breaker expired or was deleted by hand. If it stays on the list for now, the request has not failed.
            if let Err(error) = self.0.store.unlist(call, &listed).await {
                debug!(breaker = %listed.key, %error, "could not take an expired breaker off the list");
            }
            return Ok(None);
        }
        Ok(Some(self.describe(&listed.key, &view, &in_force)))
    }
}

impl<S: BreakerStore> Breakers for Engine<S> {
    type Watch = EngineWatch<S>;

    fn watch(&self, watch: Watch) -> Result<EngineWatch<S>> {
        Ok(EngineWatch::new(self.clone(), watch))
    }

    fn acquire_known(&self, acquire: &Acquire) -> Option<Answer<Acquired>> {
        let is_enough = acquire.admission == Admission::Cached;
        let known = if is_enough { self.admit_unasked(&acquire.key) } else { None };
        known.map(|known| self.answer(known))
    }

    async fn acquire(&self, call: &Call, acquire: &Acquire) -> Result<Answer<Acquired>> {
        Ok(self.answer(self.admit(call, acquire).await?))
    }

    async fn acquire_first(&self, call: &Call, first: &AcquireFirst) -> Result<Answer<AcquiredFirst>> {
        Ok(self.answer(self.admit_first(call, first).await?))
    }

    async fn renew(&self, call: &Call, permit: &Permit, length: Option<Duration>) -> Result<Answer<Renewed>> {
        Ok(self.answer(self.renew_lease(call, permit, length).await?))
    }

    async fn report(&self, _: &Call, report: Report) -> Result<Answer<Reported>> {
        let lease = report.permit.as_ref().and_then(|permit| permit.lease.as_ref());
        let reported = match lease.map(|lease| lease.id.clone()) {
            Some(lease) => self.settle_lease(report, lease).await?,
            None => self.enqueue(report).await?,
        };
        Ok(self.answer(reported))
    }

    async fn inspect(&self, call: &Call, key: &ModelKey) -> Result<Answer<Inspected>> {
        let load = async |in_force: InForce| self.0.store.load(call, key, &in_force, true).await;
        let ((view, history), in_force) = self.with_settings(key, load).await?;
        self.note(key, &view, &in_force);
        let breaker = self.describe(key, &view, &in_force);
        Ok(self.answer(Inspected { breaker, settings: in_force.settings, last_transition: history.last }))
    }

    async fn list(&self, call: &Call, query: &BreakersQuery) -> Result<Answer<BreakersPage>> {
        let listed = self.0.store.list(call).await?;
        let is_wanted = |listed: &Listed| {
            let is_after = query.after.as_ref().is_none_or(|after| listed.key > *after);
            is_after && listed.key.as_str().starts_with(&query.prefix)
        };
        let has_state = |state: State| query.states.is_empty() || query.states.contains(&state);
        let wanted: Vec<Listed> = listed.into_iter().filter(is_wanted).collect();
        // A page may be short where few breakers have the wanted state: no request reads more.
        let first = wanted.iter().take(MOST_LOADS).cloned();
        let reads = first.map(|listed| self.read_listed(call, listed));
        let mut reads = stream::iter(reads).buffered(LOADS).zip(stream::iter(&wanted));
        let (mut breakers, mut next) = (Vec::new(), None);
        while let Some((read, listed)) = reads.next().await {
            if breakers.len() == query.limit {
                break;
            }
            next = Some(listed.key.clone());
            breakers.extend(read?.filter(|breaker| has_state(breaker.state)));
        }
        drop(reads);
        let next = next.filter(|next| wanted.last().is_some_and(|last| last.key != *next));
        Ok(self.answer(BreakersPage { breakers, next }))
    }

    async fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        configure: &Configure,
    ) -> Result<Answer<Inspected>> {
        Ok(self.answer(self.store_settings(call, key, configure).await?))
    }

    async fn operate(&self, call: &Call, key: &ModelKey, order: &Order) -> Result<Answer<Breaker>> {
        Ok(self.answer(self.carry_out(call, key, order).await?))
    }

    async fn delete(&self, call: &Call, key: &ModelKey) -> Result<Answer<()>> {
        self.0.store.remove(call, key).await?;
        self.0.keepers.with(key, Keeper::forget);
        self.wake(key);
        Ok(self.answer(()))
    }

    async fn transitions(&self, call: &Call, query: &TransitionsQuery) -> Result<Answer<TransitionsPage>> {
        Ok(self.answer(self.read_log(call, query).await?))
    }
}
