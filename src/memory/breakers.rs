//! Breakers in memory: the mechanisms, where Redis is switched off or out of reach, and no policy.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tracing::debug;

use super::lock;
use crate::{
    breakers::{
        BreakerSettings, BreakerStore, History, Log, ModelKey, Position, View,
        store::{
            Attempt, Batch, Change, Changed, Followed, Glance, InForce, LeaseRequest, Leased, Listed,
            Recorded, Settled, Settlement,
        },
    },
    call::{Call, Source},
    clock::{Clock, Timestamp, fresh_id},
    error::{Error, Result},
};

mod entry;
mod incarnation;
mod index;
mod instances;
mod leases;
mod outage;
mod tally;
#[cfg(test)]
mod tests;
mod window;

use entry::Entry;
use index::EntryIndex;
use window::At;

/// Keeps breakers in this process's memory and nowhere else, at most so many. Where one more would be too many, the one
/// used least recently goes of those that are CLOSED without settings and override of their own; if there is none,
/// that is [`Error::StoreFull`].
pub struct MemoryBreakers<C> {
    clock: C,
    instance: Arc<str>,
    max_breakers: usize,
    index: Mutex<EntryIndex>,
}

impl<C> fmt::Debug for MemoryBreakers<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBreakers").field("max_breakers", &self.max_breakers).finish_non_exhaustive()
    }
}

impl<C: Clock> MemoryBreakers<C> {
    /// An empty store of at most so many breakers.
    pub fn new(clock: C, max_breakers: usize) -> Self {
        Self { clock, instance: "".into(), max_breakers, index: Mutex::new(EntryIndex::new(max_breakers)) }
    }

    /// The same, with the instance that the log names as the one that made a change.
    #[must_use]
    pub fn of_instance(self, instance: Arc<str>) -> Self {
        Self { instance, ..self }
    }

    /// How many breakers there are. Ones that expired count until the next call of any other method.
    pub fn len(&self) -> usize {
        lock(&self.index).len()
    }

    /// Whether there is no breaker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Carries out one short step on what has not expired.
    fn step<T>(&self, call: &Call, step: impl FnOnce(&mut EntryIndex, Timestamp) -> Result<T>) -> Result<T> {
        if call.require_shared {
            return Err(Error::NeedsShared("this call"));
        }
        let began = Instant::now();
        let result = {
            let mut index = lock(&self.index);
            // Read under the lock: a time read before another step's would look like a clock that went back.
            let now = self.clock.now();
            index.reclaim(now);
            step(&mut index, now)
        };
        // Which operation it was, the span around it tells.
        let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &result {
            Ok(_) => debug!(duration_us, "memory answered"),
            Err(error) => debug!(duration_us, %error, "memory refused"),
        }
        result
    }

    /// Carries out one mechanism on one breaker, if the caller's settings are in force.
    fn tell<T>(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        mechanism: impl FnOnce(&mut Entry, At) -> T,
    ) -> Result<Attempt<T>> {
        self.step(call, |index, now| {
            index.with(key, now, |entry| {
                if !entry.goes_by(in_force) {
                    return Attempt::Outdated(entry.settings().cloned());
                }
                Attempt::Done(mechanism(entry, At { now, window: in_force.settings.window() }))
            })
        })
    }

    fn epoch(&self) -> String {
        format!("local-{}", fresh_id(&self.clock))
    }
}

impl<C: Clock> BreakerStore for MemoryBreakers<C> {
    fn source(&self) -> Source {
        Source::Local { as_of: None }
    }

    async fn load(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        with_history: bool,
    ) -> Result<Attempt<(View, History)>> {
        self.tell(call, key, in_force, |entry, at| {
            let history = if with_history { entry.history() } else { History::default() };
            (entry.view(at), history)
        })
    }

    async fn record(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        batch: &Batch,
    ) -> Result<Attempt<Recorded>> {
        self.tell(call, key, in_force, |entry, at| entry.record(batch, at, || self.epoch()))
    }

    async fn lease(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        request: LeaseRequest<'_>,
        (id, length): (&str, Duration),
    ) -> Result<Attempt<Leased>> {
        self.tell(call, key, in_force, |entry, at| {
            entry.lease(request, (id, at.now.plus(length)), &in_force.settings, at)
        })
    }

    async fn settle(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        settlement: &Settlement,
    ) -> Result<Attempt<Settled>> {
        self.tell(call, key, in_force, |entry, at| entry.settle(settlement, &in_force.settings, at))
    }

    async fn transition(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        change: &Change,
    ) -> Result<Attempt<Changed>> {
        self.tell(call, key, in_force, |entry, at| {
            entry.transition(change, &self.instance, at, || self.epoch())
        })
    }

    async fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        expected: &str,
        settings: Option<&BreakerSettings>,
    ) -> Result<bool> {
        self.step(call, |index, now| {
            index.with(key, now, |entry| entry.configure(expected, settings, || fresh_id(&self.clock)))
        })
    }

    async fn remove(&self, call: &Call, key: &ModelKey) -> Result<()> {
        self.step(call, |index, _| {
            index.remove(key);
            Ok(())
        })
    }

    async fn list(&self, call: &Call) -> Result<Vec<Listed>> {
        let mut listed = self.step(call, |index, _| Ok(index.list()))?;
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    async fn unlist(&self, call: &Call, _listed: &Listed) -> Result<()> {
        // The list is made of what there is: nothing is on it that expired.
        self.step(call, |_, _| Ok(()))
    }

    async fn follow(
        &self,
        call: &Call,
        key: &ModelKey,
        in_force: &InForce,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Attempt<Followed>> {
        self.tell(call, key, in_force, |entry, at| entry.follow(after, limit, at))
    }

    async fn glance(&self, call: &Call, keys: &[ModelKey]) -> Result<Vec<Option<Glance>>> {
        let glance = |index: &EntryIndex, key| Some(index.find(key).map(Entry::glance).unwrap_or_default());
        self.step(call, |index, _| Ok(keys.iter().map(|key| glance(index, key)).collect()))
    }

    async fn list_changed(&self, call: &Call, within: Duration) -> Result<Vec<ModelKey>> {
        let listed = self.step(call, |index, now| Ok((index.list(), now)));
        let (listed, now) = listed?;
        let is_wanted = |listed: &Listed| listed.changed.plus(within) >= now;
        Ok(listed.into_iter().filter(is_wanted).map(|listed| listed.key).collect())
    }

    async fn log(&self, call: &Call, key: &ModelKey, after: i64, limit: usize) -> Result<Log> {
        self.step(call, |index, _| {
            Ok(index.find(key).map(|entry| entry.log(after, limit)).unwrap_or_default())
        })
    }
}
