//! Breakers that are followed: those that are watched, and those that admission asks for.
//!
//! A wake-up says that a breaker may have changed. The breaker is then read, by one read at a time, and every watcher of it
//! is told of the news. Wake-ups that come meanwhile are coalesced into one more read.
//!
//! When a watcher asks for the news, it is told what lies between the position up to which it was told and the reading:
//! the changes if they are all kept, else one resync. So a watcher that does not ask costs the room of names, sees no change
//! twice or out of order, and holds up nobody.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{KeeperMap, Keepers, Watcher};
use crate::breakers::{
    ModelKey, Position,
    keeper::{Keeper, Knowledge, LastView, News, ReadResult, Reading},
    store::{Followed, InForce},
    watch::Interest,
};

/// Breakers followed for the sake of admission at most; watchers may make it more.
const MOST_WANTED: usize = 50_000;
/// Changes that are kept of all breakers together.
const MOST_CHANGES: usize = 16_384;

impl Keepers {
    /// Notes that a breaker may have changed. Says whether there is something to read that there was not before.
    pub(in crate::breakers) fn wake(&self, key: &ModelKey) -> bool {
        self.lock().wake(key)
    }

    /// Notes that any breaker may have changed, and that there may be new ones.
    pub(in crate::breakers) fn wake_all(&self) {
        let mut map = self.lock();
        map.needs_list = true;
        let followed = map.keepers.iter().filter(|(_, keeper)| keeper.is_followed());
        let followed: Vec<_> = followed.map(|(key, _)| key.clone()).collect();
        for key in &followed {
            map.follow(key);
        }
    }

    /// Has the breakers read again that could not be read, and counts them.
    pub(in crate::breakers) fn retry(&self) -> usize {
        let mut map = self.lock();
        let mut unread = std::mem::take(&mut map.unread);
        unread.retain(|key| {
            let is_unread = |keeper: &Keeper| keeper.knowledge == Knowledge::Unread;
            map.keepers.get(key).is_some_and(is_unread) && map.follow(key)
        });
        unread.len()
    }

    /// Notes what a read found in an era, and in how long time alone may change that. Tells the watchers of news.
    pub(in crate::breakers) fn finish_read(
        &self,
        key: &ModelKey,
        number: u64,
        (followed, in_force, era): (Followed, InForce, u64),
        deadline: Option<Duration>,
    ) {
        let mut map = self.lock();
        let keeper = map.keeper(key);
        LastView::update(&mut keeper.last, &followed.view);
        if keeper.is_reading(number) {
            let (is_news, added) = keeper.install(followed, in_force, era);
            map.end_read(key, number, ReadResult::Done);
            map.keep_changes(key, added);
            if is_news {
                map.watchers.notify(key);
            }
        }
        self.set_deadline(&mut map, key, deadline);
    }

    /// Notes that a breaker could not be read. A read that failed is made again after the next wake-up.
    pub(in crate::breakers) fn fail_read(&self, key: &ModelKey, number: u64, result: ReadResult) {
        self.lock().end_read(key, number, result);
    }

    /// A breaker as it was read, if nothing says that it has changed since; whether wake-ups are to be trusted is another
    /// question. It stays followed as long as this is asked for.
    pub(in crate::breakers) fn fresh(&self, key: &ModelKey) -> Option<Arc<Reading>> {
        let mut map = self.lock();
        let keeper = map.keepers.get_mut(key)?;
        keeper.is_wanted = true;
        keeper.fresh().map(Arc::clone)
    }

    /// Follows a breaker for the sake of admission, and reads it again where it was not read in this era: a reading of
    /// another era is never current any more. Says whether there is something to read.
    pub(in crate::breakers) fn want(&self, key: &ModelKey, era: u64) -> bool {
        let mut map = self.lock();
        let has_room = map.followed < MOST_WANTED;
        let keeper = map.keeper(key);
        keeper.is_wanted = true;
        let is_outdated = keeper.fresh().is_some_and(|reading| reading.era != era);
        let is_new = !keeper.is_followed() && has_room;
        (is_outdated || is_new) && map.follow(key)
    }

    /// Has a breaker read from now on, and replies when it was; none where it is fresh and was read within `recent`.
    pub(in crate::breakers) fn read(
        &self,
        key: &ModelKey,
        recent: Duration,
    ) -> Option<oneshot::Receiver<ReadResult>> {
        let mut map = self.lock();
        let fresh = map.keepers.get(key).and_then(Keeper::fresh);
        if fresh.is_some_and(|reading| reading.read.elapsed() <= recent) {
            return None;
        }
        map.follow(key);
        let next = map.reads + 1;
        Some(map.keeper(key).wait_for(next))
    }

    /// Watches breakers until the watcher is dropped.
    pub(in crate::breakers) fn watch(&self, interest: Interest) -> Arc<Watcher> {
        self.lock().watchers.add(interest)
    }

    /// What there is to tell a watcher who was told of a breaker up to a position; none: nothing yet.
    pub(in crate::breakers) fn news(&self, key: &ModelKey, told: Option<&Arc<Position>>) -> News {
        let map = self.lock();
        match map.keepers.get(key).filter(|keeper| keeper.is_followed()) {
            Some(keeper) => keeper.news(told),
            // A watched breaker is followed, unless it is gone.
            None if told.is_some() => News::Removed(false),
            None => News::None,
        }
    }

    /// Whether nobody follows or watches a breaker.
    pub(in crate::breakers) fn is_idle(&self) -> bool {
        let map = self.lock();
        map.followed == 0 && map.watchers.is_empty()
    }

    /// The fresh breakers as they were read.
    pub(in crate::breakers) fn readings(&self) -> Vec<(ModelKey, Arc<Reading>)> {
        let map = self.lock();
        let fresh = |(key, keeper): (&ModelKey, &Keeper)| Some((key.clone(), Arc::clone(keeper.fresh()?)));
        map.keepers.iter().filter_map(fresh).collect()
    }

    /// Whether the list of all breakers must be read.
    pub(in crate::breakers) fn needs_list(&self) -> bool {
        self.lock().needs_list
    }

    /// Follows the watched breakers of the list of all, and counts those that were not followed.
    pub(in crate::breakers) fn note_list(&self, keys: impl IntoIterator<Item = ModelKey>) -> usize {
        let mut map = self.lock();
        map.needs_list = false;
        let mut follows = |key: &ModelKey| {
            let is_followed = map.keepers.get(key).is_some_and(Keeper::is_followed);
            !is_followed && map.watchers.include(key) && map.follow(key)
        };
        keys.into_iter().filter(|key| follows(key)).count()
    }

    /// Stops following the breakers that nobody watches and that nobody asked for since the last time; and those that are
    /// gone, unless somebody watches them by name: where nothing wakes up, these are looked for.
    pub(in crate::breakers) fn prune(&self) {
        let mut map = self.lock();
        let KeeperMap { keepers, changes, watchers, followed, .. } = &mut *map;
        watchers.prune();
        for (key, keeper) in keepers.iter_mut().filter(|(_, keeper)| keeper.is_followed()) {
            let is_gone = keeper.reading.as_ref().is_none_or(|reading| reading.is_gone());
            let is_watched = watchers.name(key) || !is_gone && watchers.include(key);
            if !std::mem::take(&mut keeper.is_wanted) && keeper.is_idle() && !is_watched {
                keeper.unfollow();
                *followed -= 1;
            }
        }
        changes.retain(|key| keepers.get(key).is_some_and(Keeper::is_followed));
        map.make_room();
    }
}

impl KeeperMap {
    /// Notes that a breaker may have changed, if it is followed or somebody watches it. Says whether it must be read that
    /// need not have been read before.
    pub(super) fn wake(&mut self, key: &ModelKey) -> bool {
        let is_followed = self.keepers.get(key).is_some_and(Keeper::is_followed);
        (is_followed || self.watchers.include(key)) && self.follow(key)
    }

    /// Follows a breaker, which may have changed.
    fn follow(&mut self, key: &ModelKey) -> bool {
        let keeper = self.keeper(key);
        let is_first = !keeper.is_followed();
        let is_new = keeper.wake();
        self.followed += usize::from(is_first);
        if is_new {
            self.stale.push_back(key.clone());
        }
        is_new
    }

    fn end_read(&mut self, key: &ModelKey, number: u64, result: ReadResult) {
        let Some(keeper) = self.keepers.get_mut(key).filter(|keeper| keeper.is_reading(number)) else {
            return;
        };
        keeper.end_read(number, result);
        if keeper.knowledge == Knowledge::Stale {
            self.stale.push_back(key.clone());
        } else if keeper.knowledge == Knowledge::Unread {
            self.unread.push(key.clone());
        }
    }

    /// Counts changes that were added, and drops the oldest of all where there are too many.
    fn keep_changes(&mut self, key: &ModelKey, added: usize) {
        self.changes.extend(std::iter::repeat_n(key.clone(), added));
        while self.changes.len() > MOST_CHANGES {
            let oldest = self.changes.pop_front();
            if let Some(keeper) = oldest.and_then(|oldest| self.keepers.get_mut(&oldest)) {
                keeper.changes.drop_oldest();
            }
        }
    }
}
