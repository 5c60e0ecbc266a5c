//! What watchers of breakers ask for, and what they are told.

use std::{collections::HashMap, sync::Arc};

use super::{ModelKey, Position, Transition, operations::Breaker};
use crate::call::ServingMode;

/// The most keys that one watch may name.
pub const MAX_WATCHED: usize = 1000;

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Which breakers.
    pub interest: Interest,
    /// Where to go on, by key: such a key gets its missed changes instead of a snapshot.
    pub resume: HashMap<ModelKey, Position>,
    /// Set for one who has been told already how breakers stand in another store, with the reason for people: those that are
    /// in this one are told as resyncs, and nothing is synced.
    pub goes_on: Option<&'static str>,
}

impl Watch {
    /// The same, for one who has been told already how breakers stand in another store.
    #[must_use]
    pub fn going_on(self, why: &'static str) -> Self {
        Self { goes_on: Some(why), ..self }
    }
}

/// Which breakers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interest {
    /// These, whether they exist or not; in order, each once.
    pub keys: Vec<ModelKey>,
    /// And those that begin so; none: no others. The empty prefix is all.
    pub prefix: Option<String>,
}

impl Interest {
    /// Whether a breaker is one of them.
    pub fn includes(&self, key: &ModelKey) -> bool {
        self.prefix.as_ref().is_some_and(|prefix| key.as_str().starts_with(prefix))
            || self.keys.binary_search(key).is_ok()
    }
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A breaker as it was when the watch began.
    Snapshot(Box<Breaker>),
    /// Every snapshot and every missed change has been told.
    Synced,
    /// A breaker changed. Changes of one epoch are told in order, each once, without gaps.
    Changed(ModelKey, Arc<Transition>),
    /// Changes may be missing: begin again from this. With the reason, for people.
    Resync(Box<Breaker>, &'static str),
    /// A breaker is no more.
    Removed(Removed),
    /// This instance serves in another mode.
    ModeChanged(ServingMode),
}

/// A breaker that is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Which.
    pub key: ModelKey,
    /// Where it stood last, as far as it was told.
    pub position: Position,
    /// Whether it expired; else it was deleted.
    pub expired: bool,
}
