//! Breakers from one store to the other: at the beginning of an outage memory goes on from what was seen of the shared
//! ones, and at its end the shared ones are offered the trips that memory made.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream};
use tracing::{debug, info, warn};

use super::{Guarded, Reachability};
use crate::breakers::{
    BreakerStore, Engine, ModelKey,
    keeper::LastViews,
    outage::{StandIn, Trip},
};

/// Trips that are offered at once.
const OFFERS: usize = 16;

/// Hands breakers over between a shared store and the one that stands in for it.
#[derive(Debug)]
pub struct Handover<S, L> {
    shared: Engine<S>,
    local: Engine<L>,
    reachability: Arc<Reachability>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What had been seen of the shared breakers when the present outage began; none while there is no outage.
    outage: Option<LastViews>,
    /// Trips of past outages of which nobody has decided yet. Where Redis is lost again before that, the next outage goes
    /// on with them.
    undecided: HashMap<ModelKey, Trip>,
}

impl<S: BreakerStore, L: StandIn> Handover<S, L> {
    /// Hands over between these; what is known of the shared store decides whether there is an outage already.
    pub fn new(shared: Engine<S>, local: Engine<L>, reachability: Arc<Reachability>) -> Self {
        let outage = (!reachability.is_reachable()).then(LastViews::new);
        let state = Mutex::new(State { outage, undecided: HashMap::new() });
        Self { shared, local, reachability, state }
    }

    /// Has memory go on from what was seen of the shared breakers, before it is asked anything. An outage that goes on for
    /// another reason begins only once.
    pub fn begin(&self) {
        let mut state = self.lock();
        if state.outage.is_some() {
            return;
        }
        let seen = self.shared.last_views();
        let is_as_it_was = |trip: &Trip| {
            seen.get(&trip.key).is_none_or(|seen| !trip.is_outdated_at(&seen.snapshot.position))
        };
        let trips: Vec<_> = state.undecided.drain().map(|(_, trip)| trip).filter(is_as_it_was).collect();
        let refused = self.local.begin_outage(&seen, &trips);
        if refused > 0 {
            warn!(refused, "local memory has no room for all breakers that are not CLOSED");
        }
        state.outage = Some(seen);
    }

    /// Forgets what memory decided, once calls go to the shared store again, but for its trips: the future offers each of
    /// them to the shared store, once. Callers do not wait for that.
    pub fn end(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<S, L> {
        let mut state = self.lock();
        let seen = state.outage.take().unwrap_or_default();
        let trips = self.local.end_outage().into_iter().map(|trip| {
            let base = seen.get(&trip.key).map(|seen| seen.snapshot.position.clone()).unwrap_or_default();
            (trip.key.clone(), Trip { base, ..trip })
        });
        state.undecided.extend(trips);
        let offers: Vec<_> = state.undecided.values().cloned().collect();
        drop(state);
        let handover = Arc::clone(self);
        async move {
            let offer = async |trip| handover.offer(&trip).await;
            stream::iter(offers).for_each_concurrent(OFFERS, offer).await;
        }
    }

    async fn offer(&self, trip: &Trip) {
        let key = &trip.key;
        match self.reachability.guard(self.shared.reconcile(trip)).await {
            Guarded::Answered(Ok(true)) => info!(breaker = %key, "redis took over a trip of local memory"),
            Guarded::Answered(Ok(false)) => {
                debug!(breaker = %key, "a trip of local memory is over, or redis knows better");
            }
            Guarded::Answered(Err(error)) => {
                warn!(breaker = %key, %error, "a trip of local memory could not be offered to redis and is given up");
            }
            // The outage that begins has it already, or takes it.
            Guarded::Lost => return,
        }
        self.lock().undecided.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
