//! What this process remembers of keys: the settings that were last in force, the calls that it rejected, and how the
//! breaker was seen last.
//!
//! All of it may be forgotten at any time: a store says when settings are outdated, rejections are a count for people,
//! and a breaker that was not seen begins CLOSED in an outage. So it is bounded by forgetting, and cheap.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::warn;

use crate::breakers::{
    BreakerSettings, ModelKey, Position, View,
    outage::{Sighting, Sightings},
    store::{StoredSettings, Terms},
};

/// Keys remembered at least; at most twice as many.
const KEYS: usize = 10_000;

type Configured = dyn Fn(&ModelKey) -> Arc<BreakerSettings> + Send + Sync;

pub(super) struct Known {
    /// The settings of a key that none are stored for.
    configured: Box<Configured>,
    /// Keys used since the last change of the guard, and those used before and not since.
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    young: HashMap<ModelKey, Key>,
    old: HashMap<ModelKey, Key>,
}

#[derive(Debug)]
struct Key {
    terms: Terms,
    /// Calls rejected since the breaker stood there.
    rejected: (Position, i64),
    seen: Option<Sighting>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl Known {
    pub(super) fn new(
        configured: impl Fn(&ModelKey) -> Arc<BreakerSettings> + Send + Sync + 'static,
    ) -> Self {
        Self { configured: Box::new(configured), keys: Mutex::default() }
    }

    /// Forgets all keys.
    pub(super) fn clear(&self) {
        *self.lock() = Keys::default();
    }

    /// The settings that are known of a key: the configured policy, until a store said otherwise.
    pub(super) fn terms(&self, key: &ModelKey) -> Terms {
        self.with(key, |known| known.terms.clone())
    }

    /// Notes the settings that a store says are in force; none for the configured policy.
    pub(super) fn learn(&self, key: &ModelKey, stored: Option<StoredSettings>) -> Terms {
        let terms = match stored {
            Some(StoredSettings { settings: Some(settings), revision }) => {
                Terms { settings: Arc::new(settings), revision: revision.as_str().into() }
            }
            Some(StoredSettings { settings: None, revision }) => {
                warn!(breaker = %key, "stored settings cannot be read: the configured policy holds");
                Terms { revision: revision.as_str().into(), ..self.configured(key) }
            }
            None => self.configured(key),
        };
        self.with(key, |known| known.terms = terms.clone());
        terms
    }

    /// Forgets a key.
    pub(super) fn forget(&self, key: &ModelKey) {
        let mut keys = self.lock();
        keys.young.remove(key);
        keys.old.remove(key);
    }

    /// Notes how a breaker was seen.
    pub(super) fn see(&self, key: &ModelKey, view: &View) {
        self.with(key, |known| Sighting::note(&mut known.seen, view));
    }

    /// How all breakers were seen last.
    pub(super) fn sightings(&self) -> Sightings {
        let keys = self.lock();
        let all = keys.old.iter().chain(&keys.young);
        all.filter_map(|(key, known)| Some((key.clone(), known.seen.clone()?))).collect()
    }

    /// Counts a call that was rejected where the breaker stood.
    pub(super) fn count_rejection(&self, key: &ModelKey, position: &Position) {
        self.with(key, |known| {
            if known.rejected.0 != *position {
                known.rejected = (position.clone(), 0);
            }
            known.rejected.1 += 1;
        });
    }

    /// Calls rejected since the breaker stood there.
    pub(super) fn rejected(&self, key: &ModelKey, position: &Position) -> i64 {
        self.with(key, |known| if known.rejected.0 == *position { known.rejected.1 } else { 0 })
    }

    fn with<T>(&self, key: &ModelKey, act: impl FnOnce(&mut Key) -> T) -> T {
        let mut keys = self.lock();
        if let Some(known) = keys.young.get_mut(key) {
            return act(known);
        }
        let new = || Key { terms: self.configured(key), rejected: (Position::default(), 0), seen: None };
        let mut known = keys.old.remove(key).unwrap_or_else(new);
        let acted = act(&mut known);
        if keys.young.len() >= KEYS {
            keys.old = std::mem::take(&mut keys.young);
        }
        keys.young.insert(key.clone(), known);
        acted
    }

    fn configured(&self, key: &ModelKey) -> Terms {
        Terms { settings: (self.configured)(key), revision: "".into() }
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
