//! Memory in the place of a shared store while that is out of reach.

use super::{MemoryBreakers, entry::Entry, stock::Stock, window::At};
use crate::{
    breakers::{
        ModelKey, Position, View,
        keeper::LastView,
        outage::{StandIn, Trip},
        policy,
    },
    clock::{Clock, Timestamp},
    error::Result,
    memory::lock,
};

impl<C: Clock> MemoryBreakers<C> {
    fn put(&self, key: &ModelKey, put: impl FnOnce(&mut Entry, At)) -> Result<View> {
        let mut stock = lock(&self.stock);
        let now = self.clock.now();
        stock.reclaim(now);
        let at = At { now, window: None };
        let put = |entry: &mut Entry| {
            put(entry, at);
            entry.view(at)
        };
        stock.with(key, now, put)
    }
}

impl<C: Clock> StandIn for MemoryBreakers<C> {
    fn clear(&self) {
        *lock(&self.stock) = Stock::new(self.max_breakers);
    }

    fn take_over(&self, key: &ModelKey, seen: &LastView) -> Result<View> {
        self.put(key, |entry, at| entry.take_over(seen, at.now, || self.epoch()))
    }

    fn open_again(&self, trip: &Trip) -> Result<View> {
        self.put(&trip.key, |entry, at| {
            let view = entry.view(at);
            let here = Trip { base: view.snapshot.position.clone(), ..trip.clone() };
            if let Some(change) = policy::reconciled(&view, &here) {
                entry.transition(&change, &self.instance, at, || self.epoch());
            }
        })
    }

    fn trips(&self) -> Vec<Trip> {
        let (stock, now) = (lock(&self.stock), self.clock.now());
        stock.entries().filter_map(|(key, entry)| trip(key, entry, now)).collect()
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
