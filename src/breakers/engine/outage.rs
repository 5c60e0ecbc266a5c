//! Outages of a shared store: what its engine has seen goes to the engine that stands in for it, and the trips that were
//! made there come back.

use super::Engine;
use crate::{
    breakers::{
        BreakerStore,
        keeper::LastViews,
        outage::{StandIn, Trip},
        policy,
    },
    call::Call,
    error::{Error, Result},
};

impl<S: BreakerStore> Engine<S> {
    /// The breakers as they were seen last, by whatever call, report, timer or watch; of the keys used least recently
    /// nothing is known where there are more than 10,000.
    pub fn last_views(&self) -> LastViews {
        self.0.keepers.last_views()
    }

    /// Offers a trip of an outage, so that every instance leaves the model alone for what is left of its time. Says whether
    /// it came to that: a breaker that somebody changed meanwhile stays as it is.
    pub async fn reconcile(&self, trip: &Trip) -> Result<bool> {
        let (call, key) = (Call::default(), &trip.key);
        let (mut view, mut terms) = self.load(&call, key).await?;
        for _ in 0..super::ATTEMPTS {
            let Some(change) = policy::reconciled(&view, trip) else { return Ok(false) };
            let won;
            (won, view, terms) = self.offer(&call, key, terms, &change).await?;
            if won {
                return Ok(true);
            }
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }
}

impl<S: StandIn> Engine<S> {
    /// Begins an outage of the shared store with what was seen there, and with the trips that could not be offered after the
    /// outage before. Says how many breakers it had no room for.
    pub fn begin_outage(&self, views: &LastViews, trips: &[Trip]) -> usize {
        self.end_outage();
        let mut refused = 0;
        let mut begin = |key, view: Result<_>| match view {
            // What is due by time alone must not wait for a call.
            Ok(view) => self.note(key, &view, &self.0.keepers.terms(key)),
            Err(_) => refused += 1,
        };
        for (key, last) in views {
            begin(key, self.0.store.take_over(key, last));
        }
        for trip in trips {
            begin(&trip.key, self.0.store.open_again(trip));
        }
        refused
    }

    /// Ends an outage: forgets everything but the trips that are in force, which it answers without their `base`.
    pub fn end_outage(&self) -> Vec<Trip> {
        let trips = self.0.store.trips();
        self.0.store.clear();
        self.forget();
        trips
    }
}
