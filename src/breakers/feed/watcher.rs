//! One who watches: which breakers have news for it, and what the news is.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use super::Seen;
use crate::breakers::{ModelKey, Position, Transition, watch::Interest};

/// One who watches breakers.
#[derive(Debug)]
pub struct Watcher {
    pub(super) interest: Interest,
    pending: Mutex<Pending>,
    rings: Notify,
}

/// Breakers with news, each once, in the order in which that came.
#[derive(Debug, Default)]
struct Pending {
    order: VecDeque<ModelKey>,
    names: HashSet<ModelKey>,
}

impl Watcher {
    pub(super) fn new(interest: Interest) -> Self {
        Self { interest, pending: Mutex::default(), rings: Notify::new() }
    }

    /// Notes that there is news of a breaker.
    pub(super) fn tell(&self, key: &ModelKey) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.names.insert(key.clone()) {
            pending.order.push_back(key.clone());
            self.rings.notify_one();
        }
    }

    /// Waits for a breaker that has news; may be dropped at any time.
    pub async fn next(&self) -> ModelKey {
        loop {
            if let Some(key) = self.take() {
                return key;
            }
            self.rings.notified().await;
        }
    }

    fn take(&self) -> Option<ModelKey> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let key = pending.order.pop_front()?;
        pending.names.remove(&key);
        Some(key)
    }
}

/// What to tell a watcher of one breaker.
#[derive(Debug)]
pub enum News {
    /// Nothing.
    None,
    /// These changes, after which it stands where the last one leads.
    Changes(Vec<Arc<Transition>>, Arc<Position>),
    /// Changes are missing, for this reason: what was seen is where to begin again.
    Resync(Arc<Seen>, &'static str),
    /// It is no more: whether it expired.
    Removed(bool),
    /// Nothing, but it stands here from now on.
    Stands(Arc<Position>),
}

/// What there is to tell of a breaker to one who was told up to `told`; `after` gives the changes from there to what
/// was seen, if they are all kept. Who was told nothing yet takes the breaker for one that was never seen.
pub(super) fn news(
    seen: &Arc<Seen>,
    told: Option<&Arc<Position>>,
    after: impl FnOnce(&Position) -> Option<Vec<Arc<Transition>>>,
) -> News {
    let (unborn, here) = (Arc::new(Position::default()), &seen.position);
    let told = told.unwrap_or(&unborn);
    if **told == **here {
        return News::None;
    }
    if **here == *unborn {
        return News::Removed(seen.has_expired);
    }
    if !told.epoch.is_empty() && told.epoch != here.epoch {
        return News::Resync(Arc::clone(seen), "it is another breaker by now: a new epoch began");
    }
    if told.generation == here.generation {
        // It was made, by a report, and has not changed.
        return News::Stands(Arc::clone(here));
    }
    if told.generation > here.generation {
        return News::Resync(Arc::clone(seen), "changes that were told are lost");
    }
    match after(told) {
        Some(changes) => News::Changes(changes, Arc::clone(here)),
        None => News::Resync(Arc::clone(seen), "changes in between are not kept any more"),
    }
}
