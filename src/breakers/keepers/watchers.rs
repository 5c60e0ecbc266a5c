//! Those who watch breakers. Nothing is queued for a watcher but the names of breakers that have news for it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Notify;

use crate::breakers::{ModelKey, watch::Interest};

/// One who watches breakers.
#[derive(Debug)]
pub(in crate::breakers) struct Watcher {
    interest: Interest,
    pending: Mutex<Pending>,
    news: Notify,
}

/// Breakers with news, each once, in the order in which the news came.
#[derive(Debug, Default)]
struct Pending {
    order: VecDeque<ModelKey>,
    names: HashSet<ModelKey>,
}

impl Watcher {
    /// Notes that there is news of a breaker.
    fn notify(&self, key: &ModelKey) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.names.insert(key.clone()) {
            pending.order.push_back(key.clone());
            self.news.notify_one();
        }
    }

    /// Waits for a breaker that has news; may be dropped at any time.
    pub(in crate::breakers) async fn next(&self) -> ModelKey {
        loop {
            if let Some(key) = self.take() {
                return key;
            }
            self.news.notified().await;
        }
    }

    fn take(&self) -> Option<ModelKey> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let key = pending.order.pop_front()?;
        pending.names.remove(&key);
        Some(key)
    }
}

/// All watchers, with the keys and the prefixes that they watch. These may be of watchers that have gone since they were
/// gathered.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Weak<Watcher>>,
    keys: HashSet<ModelKey>,
    prefixes: HashSet<String>,
}

impl Watchers {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Adds a watcher, which stays until it is dropped.
    pub(super) fn add(&mut self, interest: Interest) -> Arc<Watcher> {
        self.all.retain(|watcher| watcher.strong_count() > 0);
        self.gather(&interest);
        let watcher = Arc::new(Watcher { interest, pending: Mutex::default(), news: Notify::new() });
        self.all.push(Arc::downgrade(&watcher));
        watcher
    }

    fn gather(&mut self, interest: &Interest) {
        self.keys.extend(interest.keys.iter().cloned());
        self.prefixes.extend(interest.prefix.clone());
    }

    /// Forgets watchers that have gone, with what they alone watched.
    pub(super) fn prune(&mut self) {
        let all = std::mem::take(self).all;
        for watcher in all.iter().filter_map(Weak::upgrade) {
            self.gather(&watcher.interest);
        }
        self.all = all;
        self.all.retain(|watcher| watcher.strong_count() > 0);
    }

    /// Whether somebody watches a breaker.
    pub(super) fn include(&self, key: &ModelKey) -> bool {
        self.name(key) || self.prefixes.iter().any(|prefix| key.as_str().starts_with(prefix))
    }

    /// Whether somebody watches a breaker by its name.
    pub(super) fn name(&self, key: &ModelKey) -> bool {
        self.keys.contains(key)
    }

    /// Tells those who watch a breaker that there is news of it.
    pub(super) fn notify(&self, key: &ModelKey) {
        let watchers = self.all.iter().filter_map(Weak::upgrade);
        for watcher in watchers.filter(|watcher| watcher.interest.includes(key)) {
            watcher.notify(key);
        }
    }
}
