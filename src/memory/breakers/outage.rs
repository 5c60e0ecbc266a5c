//! What memory does in an outage of a shared store: it adopts breakers, and tells which of them it opened.

use super::{MemoryBreakers, entry::Entry, index::EntryIndex, window::At};
use crate::{
    breakers::{
        ModelKey, Position, View,
        keeper::LastView,
        policy::{self, Trip},
    },
    clock::{Clock, Timestamp},
    error::Result,
    memory::lock,
};

impl<C: Clock> MemoryBreakers<C> {
    /// Forgets every breaker.
    pub fn clear(&self) {
        *lock(&self.index) = EntryIndex::new(self.max_breakers);
    }

    /// Adopts a breaker of the shared store, with the times that it had, under an epoch of its own; not where that has
    /// expired, or is CLOSED without override. Fails where there is no room. Returns how the breaker stands then.
    pub fn adopt(&self, key: &ModelKey, last: &LastView) -> Result<View> {
        self.put(key, |entry, at| entry.adopt(last, at.now, || self.epoch()))
    }

    /// Opens a breaker as it was opened in an outage before, unless it is OPEN or its mode is not AUTOMATIC. Fails where
    /// there is no room. Returns how the breaker stands then.
    pub fn open_again(&self, trip: &Trip) -> Result<View> {
        self.put(&trip.key, |entry, at| {
            let view = entry.view(at);
            let here = Trip { base: view.snapshot.position.clone(), ..trip.clone() };
            if let Some(change) = policy::reconciled(&view, &here) {
                entry.transition(&change, &self.instance, at, || self.epoch());
            }
        })
    }

    /// The breakers that are OPEN since they were opened here, without their `base`.
    pub fn trips(&self) -> Vec<Trip> {
        let (index, now) = (lock(&self.index), self.clock.now());
        index.entries().filter_map(|(key, entry)| trip(key, entry, now)).collect()
    }

    fn put(&self, key: &ModelKey, put: impl FnOnce(&mut Entry, At)) -> Result<View> {
        let mut index = lock(&self.index);
        let now = self.clock.now();
        index.reclaim(now);
        let at = At { now, window: None };
        let put = |entry: &mut Entry| {
            put(entry, at);
            entry.view(at)
        };
        index.with(key, now, put)
    }
}

fn trip(key: &ModelKey, entry: &Entry, now: Timestamp) -> Option<Trip> {
    let (snapshot, opening) = entry.opening(now)?;
    let (outcome, detail) =
        opening.map(|opening| (opening.outcome, opening.detail.clone())).unwrap_or_default();
    Some(Trip {
        key: key.clone(),
        base: Position::default(),
        open_until: snapshot.open_until?,
        attempts: snapshot.attempts,
        outcome,
        detail,
    })
}
