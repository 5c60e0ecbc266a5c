//! What a watcher of breakers believes after all that it was told, and whether it was told of every gap.

use std::{collections::BTreeMap, fmt};

use fusewire::grpc::proto::{
    Authority, Breaker, BreakerPosition, Mode, ServingMode, State, Transition, watch_breakers_response::Event,
};

use super::Told;

/// What a watcher believes of a breaker.
#[derive(Clone, PartialEq)]
pub(crate) struct Standing {
    pub(crate) epoch: String,
    pub(crate) generation: i64,
    pub(crate) state: State,
    pub(crate) mode: Mode,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, generation, state, mode } = self;
        write!(
            f,
            "{}/{generation} {state:?} {mode:?}",
            epoch.get(epoch.len().saturating_sub(6)..).unwrap_or("")
        )
    }
}

impl Standing {
    /// Whether who was told this knows all that there is to know. That a report made a breaker is not told: one of which
    /// nothing is known stands just as it began.
    pub(super) fn is_believed_by(&self, told: Option<&Self>) -> bool {
        match told.filter(|told| !told.epoch.is_empty()) {
            Some(told) => told == self,
            None => self.generation == 0,
        }
    }
}

impl From<&Breaker> for Standing {
    fn from(breaker: &Breaker) -> Self {
        let (epoch, generation) = (breaker.epoch.clone(), breaker.generation);
        Self { epoch, generation, state: breaker.state(), mode: breaker.mode() }
    }
}

impl From<&Transition> for Standing {
    fn from(transition: &Transition) -> Self {
        let (epoch, generation) = (transition.epoch.clone(), transition.generation);
        Self { epoch, generation, state: transition.to_state(), mode: transition.mode() }
    }
}

/// What a watcher was told, reckoned up.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) snapshots: usize,
    pub(crate) transitions: usize,
    pub(crate) removed: usize,
    /// Changes that began in another state than was told.
    pub(super) overtaken: usize,
    /// Of which breaker, and why.
    pub(crate) resyncs: Vec<(String, String)>,
    /// Where each breaker of Redis stands after all that.
    standing: BTreeMap<String, Standing>,
    /// Of those, the ones that must be told as they are before anything else is told of them.
    unsure: BTreeMap<String, Standing>,
    /// Where the breakers of memory stand, in this outage if it is one.
    local: BTreeMap<String, Standing>,
    is_synced: bool,
    /// How the instance was told to serve last.
    mode: ServingMode,
    is_outage: bool,
}

impl Account {
    /// Goes through what was told; the first gap that is not owned up to is an error.
    pub(super) fn of(began: &BTreeMap<String, BreakerPosition>, told: &[Told]) -> Result<Self, String> {
        let mut account = Self::default();
        for (key, BreakerPosition { epoch, generation }) in began {
            // What state it was in is not known.
            let standing = Standing {
                epoch: epoch.clone(),
                generation: *generation,
                state: State::Unspecified,
                mode: Mode::Unspecified,
            };
            account.standing.insert(key.clone(), standing.clone());
            account.local.insert(key.clone(), standing);
        }
        for (event, authority) in told {
            account.take(event, *authority)?;
        }
        Ok(account)
    }

    /// What the watcher believes of a breaker.
    pub(crate) fn stands(&self, key: &str) -> Option<&Standing> {
        self.standing.get(key).or_else(|| self.local.get(key))
    }

    fn take(&mut self, event: &Event, authority: Authority) -> Result<(), String> {
        let is_local = authority == Authority::Local;
        let standing = if is_local { &mut self.local } else { &mut self.standing };
        match event {
            Event::Snapshot(breaker) => {
                self.snapshots += 1;
                if self.is_synced || standing.contains_key(&breaker.model_key) {
                    return Err(format!("a snapshot where there should be none: {breaker:?}"));
                }
                standing.insert(breaker.model_key.clone(), breaker.into());
            }
            Event::Synced(_) if self.is_synced => return Err("synced twice".to_owned()),
            Event::Synced(_) => self.is_synced = true,
            Event::Transition(transition) => {
                self.transitions += 1;
                let key = &transition.model_key;
                if !is_local && self.unsure.contains_key(key) {
                    return Err(format!("no resync after the outage before {transition:?}"));
                }
                self.overtaken += usize::from(follows(standing.get(key), transition)?);
                standing.insert(key.clone(), transition.into());
            }
            Event::Resync(resync) => {
                let breaker = resync.breaker.as_ref().ok_or("a resync without breaker")?;
                self.resyncs.push((breaker.model_key.clone(), resync.why.clone()));
                standing.insert(breaker.model_key.clone(), breaker.into());
                if !is_local {
                    self.unsure.remove(&breaker.model_key);
                }
            }
            Event::Removed(removed) => {
                self.removed += 1;
                self.unsure.remove(&removed.model_key);
                let was = standing.remove(&removed.model_key);
                let is_there = was
                    .as_ref()
                    .is_some_and(|was| (&was.epoch, was.generation) == (&removed.epoch, removed.generation));
                // That a report made it is not told.
                let is_made = removed.generation == 0 && was.as_ref().is_none_or(|was| was.epoch.is_empty());
                if !is_there && !is_made {
                    return Err(format!("{removed:?} where it stood at {was:?}"));
                }
            }
            Event::ServingModeChanged(changed) => {
                if changed.mode() == std::mem::replace(&mut self.mode, changed.mode()) {
                    return Err(format!("twice {:?}", changed.mode()));
                }
                // What all share is told from the end of the outage on.
                if std::mem::replace(&mut self.is_outage, changed.mode() == ServingMode::Degraded) {
                    self.unsure = self.standing.clone();
                }
                self.local.clear();
            }
        }
        Ok(())
    }
}

/// Checks that a change is the next one; says whether the state before it was another than was told.
fn follows(was: Option<&Standing>, next: &Transition) -> Result<bool, String> {
    let is_first = |epoch: &str, generation| generation == 0 && (epoch.is_empty() || epoch == next.epoch);
    let is_next = match was {
        None => next.generation == 1,
        Some(was) if is_first(&was.epoch, was.generation) => next.generation == 1,
        Some(was) => was.epoch == next.epoch && was.generation + 1 == next.generation,
    };
    if !is_next {
        return Err(format!("a gap: after {was:?} came {next:?}"));
    }
    let state = was.map_or(State::Closed, |was| was.state);
    Ok(state != State::Unspecified && next.from_state() != state)
}
