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
            Batch, Change, Changed, Followed, Glance, LeaseRequest, Leased, Listed, Recorded, Settled,
            Settlement, Terms, Told,
        },
    },
    call::{Call, Source},
    clock::{Clock, Timestamp, fresh_id},
    error::{Error, Result},
};

mod entry;
mod incarnation;
mod instances;
mod leases;
mod outage;
mod stock;
mod tally;
#[cfg(test)]
mod tests;
mod window;

use entry::Entry;
use stock::Stock;
use window::At;

/// Keeps breakers in this process's memory and nowhere else, at most so many. Where one more would be too many, the one
/// used least recently goes of those that are CLOSED without settings and override of their own; if there is none,
/// that is [`Error::StoreFull`].
pub struct MemoryBreakers<C> {
    clock: C,
    instance: Arc<str>,
    max_breakers: usize,
    stock: Mutex<Stock>,
}

impl<C> fmt::Debug for MemoryBreakers<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBreakers").field("max_breakers", &self.max_breakers).finish_non_exhaustive()
    }
}

impl<C: Clock> MemoryBreakers<C> {
    /// An empty store of at most so many breakers.
    pub fn new(clock: C, max_breakers: usize) -> Self {
        Self { clock, instance: "".into(), max_breakers, stock: Mutex::new(Stock::new(max_breakers)) }
    }

    /// The same, with the instance that the log names as the one that made a change.
    #[must_use]
    pub fn of_instance(self, instance: Arc<str>) -> Self {
        Self { instance, ..self }
    }

    /// How many breakers there are. Ones that expired count until the next call of any other method.
    pub fn len(&self) -> usize {
        lock(&self.stock).len()
    }

    /// Whether there is no breaker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Carries out one short step on what has not expired.
    fn step<T>(&self, call: &Call, step: impl FnOnce(&mut Stock, Timestamp) -> Result<T>) -> Result<T> {
        if call.require_shared {
            return Err(Error::NeedsShared("this call"));
        }
        let began = Instant::now();
        let result = {
            let mut stock = lock(&self.stock);
            // Read under the lock: a time read before another step's would look like a clock that went back.
            let now = self.clock.now();
            stock.reclaim(now);
            step(&mut stock, now)
        };
        // Which operation it was, the span around it tells.
        let duration_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &result {
            Ok(_) => debug!(duration_us, "memory answered"),
            Err(error) => debug!(duration_us, %error, "memory refused"),
        }
        result
    }

    /// Carries out one mechanism on one breaker, if the terms are those in force.
    fn tell<T>(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        mechanism: impl FnOnce(&mut Entry, At) -> T,
    ) -> Result<Told<T>> {
        self.step(call, |stock, now| {
            stock.with(key, now, |entry| {
                if !entry.goes_by(terms) {
                    return Told::Outdated(entry.settings().cloned());
                }
                Told::Done(mechanism(entry, At { now, window: terms.settings.window() }))
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
        terms: &Terms,
        with_history: bool,
    ) -> Result<Told<(View, History)>> {
        self.tell(call, key, terms, |entry, at| {
            let history = if with_history { entry.history() } else { History::default() };
            (entry.view(at), history)
        })
    }

    async fn record(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        batch: &Batch,
    ) -> Result<Told<Recorded>> {
        self.tell(call, key, terms, |entry, at| entry.record(batch, at, || self.epoch()))
    }

    async fn lease(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        request: LeaseRequest<'_>,
        (id, length): (&str, Duration),
    ) -> Result<Told<Leased>> {
        self.tell(call, key, terms, |entry, at| {
            entry.lease(request, (id, at.now.plus(length)), &terms.settings, at)
        })
    }

    async fn settle(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        settlement: &Settlement,
    ) -> Result<Told<Settled>> {
        self.tell(call, key, terms, |entry, at| entry.settle(settlement, &terms.settings, at))
    }

    async fn transition(
        &self,
        call: &Call,
        key: &ModelKey,
        terms: &Terms,
        change: &Change,
    ) -> Result<Told<Changed>> {
        self.tell(call, key, terms, |entry, at| entry.transition(change, &self.instance, at, || self.epoch()))
    }

    async fn configure(
        &self,
        call: &Call,
        key: &ModelKey,
        expected: &str,
        settings: Option<&BreakerSettings>,
    ) -> Result<bool> {
        self.step(call, |stock, now| {
            stock.with(key, now, |entry| entry.configure(expected, settings, || fresh_id(&self.clock)))
        })
    }

    async fn remove(&self, call: &Call, key: &ModelKey) -> Result<()> {
        self.step(call, |stock, _| {
            stock.remove(key);
            Ok(())
        })
    }

    async fn list(&self, call: &Call) -> Result<Vec<Listed>> {
        let mut listed = self.step(call, |stock, _| Ok(stock.list()))?;
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
        terms: &Terms,
        after: Option<&Position>,
        limit: usize,
    ) -> Result<Told<Followed>> {
        self.tell(call, key, terms, |entry, at| entry.follow(after, limit, at))
    }

    async fn glance(&self, call: &Call, keys: &[ModelKey]) -> Result<Vec<Option<Glance>>> {
        let glance = |stock: &Stock, key| Some(stock.find(key).map(Entry::glance).unwrap_or_default());
        self.step(call, |stock, _| Ok(keys.iter().map(|key| glance(stock, key)).collect()))
    }

    async fn list_changed(&self, call: &Call, within: Duration) -> Result<Vec<ModelKey>> {
        let listed = self.step(call, |stock, now| Ok((stock.list(), now)));
        let (listed, now) = listed?;
        let is_wanted = |listed: &Listed| listed.changed.plus(within) >= now;
        Ok(listed.into_iter().filter(is_wanted).map(|listed| listed.key).collect())
    }

    async fn log(&self, call: &Call, key: &ModelKey, after: i64, limit: usize) -> Result<Log> {
        self.step(call, |stock, _| {
            Ok(stock.find(key).map(|entry| entry.log(after, limit)).unwrap_or_default())
        })
    }
}
