//! What this process knows of the breakers that it follows, and the fan-out of their changes to watchers.
//!
//! A ring says that a breaker may have changed. Then it is read back, by one read at a time, and what was read is told to
//! every watcher of it. Rings that come meanwhile are coalesced into one more read.
//!
//! Nothing is queued for a watcher but the names of breakers that have news for it. When it asks, it is told what lies
//! between its own place in each breaker's history and the present: the changes, if the feed still has them, else one
//! resync. So a watcher that does not ask costs the room of those names, sees no change twice or out of order, and holds
//! up nobody.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::{
    ModelKey, Position, Transition, View,
    store::{Followed, Glance, Terms},
    watch::Interest,
};

mod history;
mod record;
#[cfg(test)]
mod tests;
mod watcher;

use history::History;
use record::{Phase, Record};
pub use watcher::{News, Watcher};

/// Breakers followed for the sake of admission at most; watchers may make it more.
const MOST_WANTED: usize = 50_000;

/// A breaker as it was read back.
#[derive(Debug)]
pub struct Seen {
    /// How it stood.
    pub view: View,
    /// The settings in force.
    pub terms: Terms,
    /// Where it stood; shared with watchers.
    pub position: Arc<Position>,
    /// When the answer arrived.
    pub read: Instant,
    /// The era of the doorbell in which it was asked for.
    pub era: u64,
    /// When the state is going to be gone, by this process's clock; none: it does not expire, or there is none.
    pub expires: Option<Instant>,
    /// Whether the last state that was here expired; only where there is none now.
    pub has_expired: bool,
}

impl Seen {
    /// The view with the present time of the store, as far as it is known: never later than it is.
    pub fn present(&self) -> View {
        let mut view = self.view.clone();
        view.now = view.now.plus(self.read.elapsed());
        view
    }
}

/// What became of a breaker that was to be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It was read.
    Read,
    /// It holds what cannot be read, now and later.
    Damaged,
    /// The store did not answer.
    Failed,
}

/// A read-back that is to be made.
#[derive(Debug)]
pub struct Job {
    /// Of which breaker.
    pub key: ModelKey,
    /// Where it stood when it was read last.
    pub after: Option<Arc<Position>>,
    /// The change that led there, if it is known.
    pub last: Option<Arc<Transition>>,
}

/// What is known of breakers, and who wants to know.
#[derive(Debug, Default)]
pub struct Feed {
    state: Mutex<State>,
    /// Whether nothing is followed and nobody watches: then rings cost next to nothing.
    is_busy: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<ModelKey, Record>,
    /// Breakers to be read back, first come first served.
    queue: VecDeque<ModelKey>,
    history: History,
    watchers: Vec<Weak<Watcher>>,
    watched: Watched,
    /// Whether the list of all breakers is to be read, since rings of new ones may have been lost.
    wants_list: bool,
}

/// What is watched, by anybody. It may be of watchers that have gone since it was gathered.
#[derive(Debug, Default)]
struct Watched {
    keys: HashSet<ModelKey>,
    prefixes: HashSet<String>,
}

impl Watched {
    fn add(&mut self, interest: &Interest) {
        self.keys.extend(interest.keys.iter().cloned());
        self.prefixes.extend(interest.prefix.clone());
    }

    fn includes(&self, key: &ModelKey) -> bool {
        self.keys.contains(key) || self.prefixes.iter().any(|prefix| key.as_str().starts_with(prefix))
    }
}

impl Feed {
    /// Notes that a breaker may have changed. Says whether there is something to read that there was not before.
    pub fn ring(&self, key: &ModelKey) -> bool {
        self.is_busy() && self.lock().ring(key)
    }

    /// Notes that any breaker may have changed, and ones may have come that are not known.
    pub fn ring_all(&self) {
        let mut state = self.lock();
        state.wants_list = true;
        let keys: Vec<_> = state.records.keys().cloned().collect();
        for key in &keys {
            state.ring(key);
        }
    }

    /// Notes where a breaker was seen to stand. Says whether that is news that is to be read back.
    pub fn notice(&self, key: &ModelKey, position: &Position) -> bool {
        if !self.is_busy() {
            return false;
        }
        let mut state = self.lock();
        let is_known = state.records.get(key).is_some_and(|record| match record.phase {
            Phase::Queued | Phase::RungAgain | Phase::Failed => true,
            // A read that is under way may have begun before this was so.
            Phase::Settled | Phase::Reading => {
                record.seen.as_ref().is_some_and(|seen| *seen.position == *position)
            }
        });
        !is_known && state.ring(key)
    }

    /// Takes the next read-back that is to be made.
    pub fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let key = state.queue.pop_front()?;
            let Some(record) = state.records.get_mut(&key) else { continue };
            record.begin_read();
            let after = record.seen.as_ref().map(|seen| Arc::clone(&seen.position));
            let last = state.history.last(&key, after.as_deref());
            return Some(Job { key, after, last });
        }
    }

    /// Notes what was read back, in the era in which it was asked for, and tells the watchers.
    pub fn read(&self, key: &ModelKey, followed: Followed, terms: Terms, era: u64) {
        let mut state = self.lock();
        let State { records, history, .. } = &mut *state;
        let Some(record) = records.get_mut(key) else { return };
        let is_news = record.install(key, followed, terms, era, history);
        record.settle(Look::Read);
        state.requeue(key);
        if is_news {
            state.tell(key);
        }
    }

    /// Notes that a breaker could not be read back. One that may be read later is, once somebody rings again.
    pub fn fail(&self, key: &ModelKey, look: Look) {
        let mut state = self.lock();
        if let Some(record) = state.records.get_mut(key) {
            record.settle(look);
        }
        state.requeue(key);
    }

    /// Rings for those that could not be read.
    pub fn retry(&self) {
        let mut state = self.lock();
        let failed =
            |(key, record): (&ModelKey, &Record)| (record.phase == Phase::Failed).then(|| key.clone());
        let failed: Vec<_> = state.records.iter().filter_map(failed).collect();
        for key in &failed {
            state.ring(key);
        }
    }

    /// A breaker as it was read, if nothing has rung for it since; whether rings are to be trusted is another question.
    /// It is followed from now on, as long as it is asked for.
    pub fn settled(&self, key: &ModelKey) -> Option<Arc<Seen>> {
        let state = self.lock();
        let record = state.records.get(key)?;
        record.is_wanted.store(true, Ordering::Relaxed);
        record.seen.as_ref().filter(|_| record.phase == Phase::Settled).map(Arc::clone)
    }

    /// Follows a breaker for the sake of admission, and reads it again where it was not read in this era: what was is never
    /// current any more. Says whether there is something to read.
    pub fn want(&self, key: &ModelKey, era: u64) -> bool {
        let mut state = self.lock();
        if let Some(record) = state.records.get(key) {
            let is_outdated =
                record.phase == Phase::Settled && record.seen.as_ref().is_some_and(|seen| seen.era != era);
            return is_outdated && state.ring(key);
        }
        if state.records.len() >= MOST_WANTED {
            return false;
        }
        self.is_busy.store(true, Ordering::Release);
        state.follow(key);
        true
    }

    /// Has a breaker read back from now on, and tells when it was; unless it is settled and was read within `recent`.
    pub fn look(&self, key: &ModelKey, recent: Duration) -> Option<oneshot::Receiver<Look>> {
        let mut state = self.lock();
        self.is_busy.store(true, Ordering::Release);
        let is_recent = |record: &Record| {
            let seen = record.seen.as_ref().filter(|_| record.phase == Phase::Settled);
            seen.is_some_and(|seen| seen.read.elapsed() <= recent)
        };
        if state.records.get(key).is_some_and(is_recent) {
            return None;
        }
        state.follow(key);
        state.records.get_mut(key).map(Record::wait)
    }

    /// The breaker as it was read last.
    pub fn seen(&self, key: &ModelKey) -> Option<Arc<Seen>> {
        self.lock().records.get(key)?.seen.clone()
    }

    /// Watches breakers until the watcher is dropped.
    pub fn watch(&self, interest: Interest) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher::new(interest));
        let mut state = self.lock();
        state.watchers.retain(|known| known.strong_count() > 0);
        state.watchers.push(Arc::downgrade(&watcher));
        state.watched.add(&watcher.interest);
        self.is_busy.store(true, Ordering::Release);
        watcher
    }

    /// What to tell of a breaker to one who was told up to `told`; none: nothing yet.
    pub fn news(&self, key: &ModelKey, told: Option<&Arc<Position>>) -> News {
        let state = self.lock();
        let Some(record) = state.records.get(key) else {
            // What is watched stays, unless it is no more.
            return if told.is_some() { News::Removed(false) } else { News::None };
        };
        let Some(seen) = &record.seen else { return News::None };
        watcher::news(seen, told, |after| state.history.after(key, after, seen.position.generation))
    }

    /// What was read of the followed breakers, to see by a glance whether they have changed.
    pub fn followed(&self) -> Vec<(ModelKey, Glance)> {
        let state = self.lock();
        let settled = state.records.iter().filter(|(_, record)| record.phase == Phase::Settled);
        let seen = settled.filter_map(|(key, record)| Some((key, record.seen.as_ref()?)));
        seen.map(|(key, seen)| (key.clone(), Glance::from(&seen.view.snapshot))).collect()
    }

    /// Of these keys, those that are not followed although somebody watches them.
    pub fn unfollowed(&self, keys: impl IntoIterator<Item = ModelKey>) -> Vec<ModelKey> {
        let state = self.lock();
        let is_new = |key: &ModelKey| !state.records.contains_key(key) && state.is_watched(key);
        keys.into_iter().filter(is_new).collect()
    }

    /// Whether anything is followed or watched.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Whether a breaker waits to be read back.
    pub fn has_jobs(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    /// Whether the list of all breakers is to be read, since rings of new ones may have been lost.
    pub fn wants_list(&self) -> bool {
        self.lock().wants_list
    }

    /// Notes that the list was read.
    pub fn has_list(&self) {
        self.lock().wants_list = false;
    }

    /// Stops following what nobody watches and nobody asked for since this was called last, and what is no more unless
    /// somebody names it.
    pub fn prune(&self) {
        let mut state = self.lock();
        let State { records, history, watchers, watched, .. } = &mut *state;
        watchers.retain(|known| known.strong_count() > 0);
        *watched = Watched::default();
        for watcher in watchers.iter().filter_map(Weak::upgrade) {
            watched.add(&watcher.interest);
        }
        let stays = |key: &ModelKey, record: &mut Record| {
            let is_wanted = record.is_wanted.swap(false, Ordering::Relaxed);
            // One that somebody names is looked for where nothing rings, also while there is none.
            let is_watched = watched.keys.contains(key) || !record.is_gone() && watched.includes(key);
            is_wanted || !record.is_idle() || is_watched
        };
        records.retain(stays);
        history.retain(|key| records.contains_key(key));
        let is_busy = !state.records.is_empty() || !state.watchers.is_empty();
        self.is_busy.store(is_busy, Ordering::Release);
    }

    /// Forgets all breakers; watchers stay.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.records.clear();
        state.queue.clear();
        state.history = History::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_watched(&self, key: &ModelKey) -> bool {
        self.watched.includes(key)
    }

    /// Queues a breaker that is followed, or that a watcher wants to have followed.
    fn ring(&mut self, key: &ModelKey) -> bool {
        (self.records.contains_key(key) || self.is_watched(key)) && self.follow(key)
    }

    /// Queues a breaker; says whether that is a new read.
    fn follow(&mut self, key: &ModelKey) -> bool {
        let record = self.records.entry(key.clone()).or_default();
        let is_new = record.ring();
        if is_new {
            self.queue.push_back(key.clone());
        }
        is_new
    }

    /// Queues a breaker that was rung for while it was read.
    fn requeue(&mut self, key: &ModelKey) {
        if self.records.get(key).is_some_and(|record| record.phase == Phase::Queued) {
            self.queue.push_back(key.clone());
        }
    }

    /// Tells the watchers of a breaker that there is news of it.
    fn tell(&self, key: &ModelKey) {
        for watcher in self.watchers.iter().filter_map(Weak::upgrade) {
            if watcher.interest.includes(key) {
                watcher.tell(key);
            }
        }
    }
}
