//! Breakers in an outage of the shared store: what memory adopts, what goes on in memory, and what is offered back.
//!
//! - When an outage begins, memory **adopts** each breaker that this process saw, as its last view describes it, unless that
//!   is a CLOSED breaker without override, which decides nothing. The times go on; counts and leases do not.
//! - During the outage memory **goes on** with these breakers, under epochs of its own and with the settings that were in
//!   force. What speaks for the whole fleet (settings, orders) is refused.
//! - When the outage ends, the trips that memory made are **offered** to the shared store, each once, by the same
//!   compare-and-set as every change. Everything else that memory decided is forgotten.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt, stream};
use tracing::{debug, info, warn};

use crate::{
    breakers::{
        BreakerStore, Engine, Mode, ModelKey, Snapshot, State, View,
        keeper::LastViews,
        policy::{self, Trip},
    },
    clock::Clock,
    error::Result,
    memory::MemoryBreakers,
    outage::{Guarded, Reachability},
};

/// Trips that are offered at once.
const OFFERS: usize = 16;

/// Hands breakers over between a shared store and memory.
#[derive(Debug)]
pub struct Handover<S, C> {
    shared: Engine<S>,
    local: Engine<MemoryBreakers<C>>,
    reachability: Arc<Reachability>,
    state: Mutex<HandoverState>,
}

#[derive(Debug)]
struct HandoverState {
    /// The last views of the shared breakers when the present outage began; none while there is no outage.
    outage: Option<LastViews>,
    /// Trips of past outages that the shared store has not decided on. If the shared store is lost again before it does,
    /// the next outage goes on with them.
    undecided: HashMap<ModelKey, Trip>,
}

impl<S: BreakerStore, C: Clock> Handover<S, C> {
    /// Hands over between these; an outage is under way if the shared store cannot be reached.
    pub fn new(shared: Engine<S>, local: Engine<MemoryBreakers<C>>, reachability: Arc<Reachability>) -> Self {
        let outage = (!reachability.is_reachable()).then(LastViews::new);
        let state = Mutex::new(HandoverState { outage, undecided: HashMap::new() });
        Self { shared, local, reachability, state }
    }

    /// Begins an outage, before memory is asked anything. An outage that goes on for another reason begins only once.
    pub fn begin(&self) {
        let mut state = self.lock();
        if state.outage.is_some() {
            return;
        }
        let views = self.shared.last_views();
        self.forget_local();
        let mut refused = 0;
        for (key, last) in views.iter().filter(|(_, last)| decides(&last.snapshot)) {
            refused += usize::from(!self.goes_on(key, self.local.store().adopt(key, last)));
        }
        for (key, trip) in state.undecided.drain() {
            let is_as_it_was =
                views.get(&key).is_none_or(|last| !trip.is_outdated_at(&last.snapshot.position));
            if is_as_it_was {
                refused += usize::from(!self.goes_on(&key, self.local.store().open_again(&trip)));
            }
        }
        if refused > 0 {
            warn!(refused, "local memory has no room for all breakers that are not CLOSED");
        }
        state.outage = Some(views);
    }

    /// Notes how a breaker goes on in memory, so that a change by time alone waits for no call; false where memory has no
    /// room for it.
    fn goes_on(&self, key: &ModelKey, view: Result<View>) -> bool {
        let Ok(view) = view else { return false };
        self.local.note_view(key, &view);
        true
    }

    fn forget_local(&self) {
        self.local.store().clear();
        self.local.forget();
    }

    /// Ends an outage, once calls go to the shared store again. The future offers the trips; callers do not wait for it.
    pub fn end(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<S, C> {
        let mut state = self.lock();
        let views = state.outage.take().unwrap_or_default();
        for trip in self.local.store().trips() {
            let base = views.get(&trip.key).map(|last| last.snapshot.position.clone());
            let trip = Trip { base: base.unwrap_or_default(), ..trip };
            state.undecided.insert(trip.key.clone(), trip);
        }
        self.forget_local();
        let offers: Vec<_> = state.undecided.values().cloned().collect();
        drop(state);
        let handover = Arc::clone(self);
        async move {
            let offer = async |trip| handover.offer(&trip).await;
            stream::iter(offers).for_each_concurrent(OFFERS, offer).await;
        }
    }

    /// Offers a trip, so that every instance leaves the model alone for what is left of its time. A breaker that somebody
    /// changed meanwhile stays as it is.
    async fn offer(&self, trip: &Trip) {
        let key = &trip.key;
        let change = self.shared.change(key, |view| policy::reconciled(view, trip));
        match self.reachability.guard(change).await {
            Guarded::Answered(Ok(true)) => info!(breaker = %key, "redis took over a trip of local memory"),
            Guarded::Answered(Ok(false)) => {
                debug!(breaker = %key, "a trip of local memory is over, or redis knows better");
            }
            Guarded::Answered(Err(error)) => {
                warn!(breaker = %key, %error, "a trip of local memory could not be offered to redis and is given up");
            }
            // The outage that begins has the trip already, or takes it.
            Guarded::Lost => return,
        }
        self.lock().undecided.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HandoverState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a breaker decides anything that a new one does not. Memory knows whether an override has ended.
fn decides(snapshot: &Snapshot) -> bool {
    snapshot.state != State::Closed || snapshot.mode != Mode::Automatic
}
