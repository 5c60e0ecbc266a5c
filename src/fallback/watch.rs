//! One watch of breakers through outages: it stays open, says when memory answers, and begins again from what the
//! shared store says once that answers again.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    sync::Arc,
};

use tokio::sync::watch;

use super::{State, reachability::misconfigured};
use crate::{
    breakers::{
        Breakers, ModelKey, Position,
        operations::Following,
        watch::{Event, Removed, Watch},
    },
    call::{Answer, ServingMode, Source},
    error::Result,
};

/// A watch on breakers of a shared store, or of memory while that is unreachable.
#[derive(Debug)]
pub struct FallbackWatch<W, L: Breakers> {
    shared: W,
    local: Arc<L>,
    watch: Watch,
    state: watch::Receiver<State>,
    /// The watch on memory, in an outage.
    outage: Option<L::Watch>,
    is_synced: bool,
    /// Where memory's breakers were told to stand, in this outage.
    told: BTreeMap<ModelKey, Position>,
}

impl<W: Following, L: Breakers> FallbackWatch<W, L> {
    /// Fails where no store answers before an operator has corrected the configuration: there would be nothing to tell.
    pub(super) fn new(shared: W, local: Arc<L>, watch: Watch, state: watch::Receiver<State>) -> Result<Self> {
        if let State::Misconfigured(reason) = &*state.borrow() {
            return Err(misconfigured(reason));
        }
        let mut new =
            Self { shared, local, watch, state, outage: None, is_synced: false, told: BTreeMap::new() };
        if new.is_outage() {
            new.leave()?;
        }
        Ok(new)
    }

    fn is_outage(&mut self) -> bool {
        matches!(*self.state.borrow_and_update(), State::Unreachable(_))
    }

    /// Goes over to memory.
    fn leave(&mut self) -> Result<()> {
        // Memory cannot tell what was missed, and that it does not have a breaker does not mean that it is no more: where
        // the watch was to go on is left to Redis.
        let watch = Watch { resume: HashMap::new(), ..self.watch.clone() };
        // Whoever was told everything already is told of memory's breakers only what changes.
        let watch = if self.is_synced { watch.of_changes() } else { watch };
        self.outage = Some(self.local.watch(watch)?);
        Ok(())
    }

    /// Notes what is told of a breaker of memory. It ends with the outage, and Redis may know nothing of it.
    fn note(&mut self, event: &Event) {
        let (key, position) = match event {
            Event::Snapshot(breaker) | Event::Resync(breaker, _) => (&breaker.key, &breaker.position),
            Event::Changed(key, transition) => (key, &transition.position),
            Event::Removed(removed) => {
                self.told.remove(&removed.key);
                return;
            }
            Event::Synced | Event::ModeChanged(_) => return,
        };
        if *position != Position::default() {
            self.told.insert(key.clone(), position.clone());
        }
    }
}

/// Why everything is told once more after an outage.
const RETURNED: &str = "redis was unreachable: this is the state that all instances share";

impl<W: Following, L: Breakers> Following for FallbackWatch<W, L> {
    async fn next(&mut self) -> Answer<Event> {
        loop {
            match (self.is_outage(), self.outage.is_some()) {
                (true, false) if self.leave().is_ok() => {
                    let value = Event::ModeChanged(ServingMode::Degraded);
                    return Answer { value, source: Source::Local { as_of: None } };
                }
                (false, true) => {
                    if let Some((key, position)) = self.told.pop_first() {
                        let value = Event::Removed(Removed { key, position, expired: false });
                        return Answer { value, source: Source::Local { as_of: None } };
                    }
                    self.outage = None;
                    self.shared.begin_again(RETURNED);
                    return Answer::shared(Event::ModeChanged(ServingMode::Shared));
                }
                (true, _) | (false, false) => {}
            }
            let event = async {
                match &mut self.outage {
                    Some(local) => local.next().await,
                    None => self.shared.next().await,
                }
            };
            let answer = tokio::select! {
                changed = self.state.changed() => match changed {
                    Ok(()) => continue,
                    // Reachability lives as long as the process serves.
                    Err(_) => pending().await,
                },
                answer = event => answer,
            };
            if self.outage.is_some() {
                self.note(&answer.value);
            }
            if answer.value != Event::Synced {
                return answer;
            }
            // What was told once is not told again after an outage.
            if !std::mem::replace(&mut self.is_synced, true) {
                return answer;
            }
        }
    }

    fn begin_again(&mut self, why: &'static str) {
        self.shared.begin_again(why);
    }
}
