//! Which threads are watched, and who wants to hear that one of them changed.
//!
//! A bell is coalescing: however often it rings while its listener is busy, the listener looks once. Rings may be lost
//! and rings may be for nothing; a listener reads what there is.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::ThreadId;

/// The bells of watched threads.
#[derive(Debug)]
pub struct ThreadBells {
    bells: Mutex<HashMap<ThreadId, watch::Sender<()>>>,
    /// Told when the set of watched threads changes.
    changed: watch::Sender<()>,
}

/// One listener's bell of a thread. The thread is watched until the last of them is dropped.
#[derive(Debug)]
pub struct ThreadBell {
    bells: Arc<ThreadBells>,
    id: ThreadId,
    rings: watch::Receiver<()>,
}

impl ThreadBells {
    /// No thread is watched.
    pub fn new() -> Self {
        Self { bells: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// Watches a thread.
    pub fn listen(self: &Arc<Self>, id: &ThreadId) -> ThreadBell {
        let rings = match self.lock().entry(id.clone()) {
            Entry::Occupied(known) => known.get().subscribe(),
            Entry::Vacant(new) => {
                let rings = new.insert(watch::Sender::new(())).subscribe();
                self.changed.send_replace(());
                rings
            }
        };
        ThreadBell { bells: Arc::clone(self), id: id.clone(), rings }
    }

    /// Rings for a thread, if it is watched.
    pub fn ring(&self, id: &ThreadId) {
        if let Some(bell) = self.lock().get(id) {
            bell.send_replace(());
        }
    }

    /// Rings for every watched thread.
    pub fn ring_all(&self) {
        for bell in self.lock().values() {
            bell.send_replace(());
        }
    }

    /// The watched threads.
    pub fn watched(&self) -> HashSet<ThreadId> {
        self.lock().keys().cloned().collect()
    }

    /// Tells when the set of watched threads changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ThreadId, watch::Sender<()>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ThreadBells {
    fn default() -> Self {
        Self::new()
    }
}

impl ThreadBell {
    /// Waits until the bell has rung since it was last heard. May be dropped at any time; no ring is lost by that.
    pub async fn rang(&mut self) {
        // The sender lives as long as the thread is watched, and so at least as long as this.
        if self.rings.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for ThreadBell {
    fn drop(&mut self) {
        let mut bells = self.bells.lock();
        // This receiver is still one of them.
        if bells.get(&self.id).is_some_and(|bell| bell.receiver_count() <= 1) {
            bells.remove(&self.id);
            self.bells.changed.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn rings_are_coalesced_and_each_listener_hears_them() {
        let bells = Arc::new(ThreadBells::new());
        let id = ThreadId::parse("id", "a").unwrap();
        let (mut one, mut other) = (bells.listen(&id), bells.listen(&id));
        assert!(one.rang().now_or_never().is_none());
        bells.ring(&id);
        bells.ring(&id);
        assert!(one.rang().now_or_never().is_some());
        assert!(one.rang().now_or_never().is_none());
        bells.ring_all();
        assert!(one.rang().now_or_never().is_some());
        assert!(other.rang().now_or_never().is_some());
    }

    #[test]
    fn a_thread_is_watched_until_its_last_listener_is_gone() {
        let bells = Arc::new(ThreadBells::new());
        let (id, changes) = (ThreadId::parse("id", "a").unwrap(), bells.changes());
        let (one, other) = (bells.listen(&id), bells.listen(&id));
        assert!(changes.has_changed().unwrap());
        drop(one);
        assert_eq!(bells.watched(), HashSet::from([id]));
        drop(other);
        assert!(bells.watched().is_empty());
    }
}
