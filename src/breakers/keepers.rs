//! The keepers of all breakers that this process knows: the bounds on their number, their deadlines, and the work that
//! waits.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::warn;

use self::watchers::Watchers;
use super::{
    BreakerSettings, ModelKey, View,
    keeper::{Keeper, Knowledge, LastView, LastViews, ReadFrom},
    store::{InForce, StoredSettings},
};

mod following;
#[cfg(test)]
mod tests;
mod watchers;

pub(super) use watchers::Watcher;

/// Keepers that nothing depends on: so many are remembered, and at most twice as many.
const REMEMBERED: usize = 10_000;
/// Deadlines at most. Beyond that a change by time alone waits for the next call on the breaker.
const MOST_DEADLINES: usize = 100_000;

type Configured = dyn Fn(&ModelKey) -> Arc<BreakerSettings> + Send + Sync;

/// What this process knows of all breakers.
pub(super) struct Keepers {
    /// The settings of a key for which the store has none.
    configured: Box<Configured>,
    map: Mutex<KeeperMap>,
    /// Notified when there is another first deadline.
    first_deadline: Notify,
}

#[derive(Debug, Default)]
struct KeeperMap {
    keepers: HashMap<ModelKey, Keeper>,
    /// Uses of keepers so far.
    uses: u64,
    /// Keepers that were left when room was made last.
    left: usize,
    deadlines: BTreeSet<(Instant, ModelKey)>,
    /// Breakers whose deadline has passed.
    due: VecDeque<ModelKey>,
    /// Breakers that wait to be read, perhaps with some that need not be read any more.
    stale: VecDeque<ModelKey>,
    /// Breakers that could not be read.
    unread: Vec<ModelKey>,
    /// How many breakers are followed.
    followed: usize,
    /// Reads so far.
    reads: u64,
    /// Whose change is the oldest that is kept, and so on; perhaps with some that are not kept any more.
    changes: VecDeque<ModelKey>,
    watchers: Watchers,
    /// Whether the list of all breakers must be read, since wake-ups of new ones may have been lost.
    needs_list: bool,
}

/// What is to be done for a breaker.
#[derive(Debug)]
pub(super) enum Work {
    /// Its deadline has passed: time alone may have changed it.
    Due(ModelKey),
    /// It may have changed since it was read.
    Stale(ModelKey, ReadFrom),
}

impl Keepers {
    /// No keepers yet. `configured` gives the settings of a key for which the store has none.
    pub(super) fn new(
        configured: impl Fn(&ModelKey) -> Arc<BreakerSettings> + Send + Sync + 'static,
    ) -> Self {
        Self { configured: Box::new(configured), map: Mutex::default(), first_deadline: Notify::new() }
    }

    /// The settings that are in force, as far as this process knows: the configured policy, until the store says
    /// otherwise.
    pub(super) fn in_force(&self, key: &ModelKey) -> InForce {
        self.with(key, |keeper| keeper.in_force.get_or_insert_with(|| self.configured(key)).clone())
    }

    /// Notes the settings that are in force by the store's answer; none for the configured policy.
    pub(super) fn learn(&self, key: &ModelKey, stored: Option<StoredSettings>) -> InForce {
        let in_force = match stored {
            Some(StoredSettings { settings: Some(settings), revision }) => {
                InForce { settings: Arc::new(settings), revision: revision.as_str().into() }
            }
            Some(StoredSettings { settings: None, revision }) => {
                warn!(breaker = %key, "stored settings cannot be read: the configured policy holds");
                InForce { revision: revision.as_str().into(), ..self.configured(key) }
            }
            None => self.configured(key),
        };
        self.with(key, |keeper| keeper.in_force = Some(in_force.clone()));
        in_force
    }

    fn configured(&self, key: &ModelKey) -> InForce {
        InForce { settings: (self.configured)(key), revision: "".into() }
    }

    /// Notes a view that has arrived, and in how long time alone may change the breaker. Says whether there is something
    /// to read that there was not before.
    pub(super) fn note(&self, key: &ModelKey, view: &View, deadline: Option<Duration>) -> bool {
        let mut map = self.lock();
        let keeper = map.keeper(key);
        LastView::update(&mut keeper.last, view);
        let is_expected = keeper.expects(&view.snapshot.position);
        self.set_deadline(&mut map, key, deadline);
        !is_expected && map.wake(key)
    }

    /// The last view of each breaker.
    pub(super) fn last_views(&self) -> LastViews {
        let map = self.lock();
        map.keepers.iter().filter_map(|(key, keeper)| Some((key.clone(), keeper.last.clone()?))).collect()
    }

    /// Works on the keeper of a breaker.
    pub(super) fn with<T>(&self, key: &ModelKey, work: impl FnOnce(&mut Keeper) -> T) -> T {
        work(self.lock().keeper(key))
    }

    /// Forgets all breakers. Watchers stay, and reports that wait.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Has a breaker looked at in so long, or sooner where it has an earlier deadline.
    pub(super) fn schedule(&self, key: &ModelKey, wait: Duration) {
        self.set_deadline(&mut self.lock(), key, Some(wait));
    }

    fn set_deadline(&self, map: &mut KeeperMap, key: &ModelKey, wait: Option<Duration>) {
        let at = wait.and_then(|wait| Instant::now().checked_add(wait));
        if at.is_some_and(|at| map.set_deadline(key, at)) {
            self.first_deadline.notify_one();
        }
    }

    /// Waits until deadlines pass, and says how many breakers are due for that; may be dropped at any time.
    pub(super) async fn pass_deadlines(&self) -> usize {
        loop {
            let passed = self.lock().pass_deadlines(Instant::now());
            match passed {
                Ok(count) => return count,
                Err(None) => self.first_deadline.notified().await,
                Err(Some(first)) => tokio::select! {
                    () = sleep_until(first) => {}
                    () = self.first_deadline.notified() => {}
                },
            }
        }
    }

    /// Takes the next work: first what is due.
    pub(super) fn next_work(&self) -> Option<Work> {
        self.lock().next_work()
    }

    /// Whether work waits.
    pub(super) fn has_work(&self) -> bool {
        let map = self.lock();
        !(map.due.is_empty() && map.stale.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, KeeperMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keepers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keepers").field("map", &self.map).finish_non_exhaustive()
    }
}

impl KeeperMap {
    /// The keeper of a breaker, made where there is none, as the one used last.
    fn keeper(&mut self, key: &ModelKey) -> &mut Keeper {
        let room = REMEMBERED + self.left.max(REMEMBERED);
        if self.keepers.len() >= room && !self.keepers.contains_key(key) {
            self.make_room();
        }
        self.uses += 1;
        let keeper = self.keepers.entry(key.clone()).or_default();
        keeper.used = self.uses;
        keeper
    }

    /// Forgets, of the keepers that nothing depends on, those that were used least recently.
    fn make_room(&mut self) {
        let spare = self.keepers.values().filter(|keeper| keeper.is_spare());
        let mut uses: Vec<u64> = spare.map(|keeper| keeper.used).collect();
        if let Some(surplus) = uses.len().checked_sub(REMEMBERED).filter(|surplus| *surplus > 0) {
            let (_, first_kept, _) = uses.select_nth_unstable(surplus);
            let first_kept = *first_kept;
            self.keepers.retain(|_, keeper| !keeper.is_spare() || keeper.used >= first_kept);
        }
        self.left = self.keepers.len();
    }

    fn clear(&mut self) {
        let Self { keepers, uses, reads, watchers, .. } = std::mem::take(self);
        let reports = keepers.into_iter().filter_map(|(key, keeper)| Some((key, keeper.reports?)));
        let keepers = reports.map(|(key, reports)| (key, Keeper::of_reports(reports))).collect();
        *self = Self { keepers, uses, reads, watchers, ..Self::default() };
    }

    /// Gives a breaker a deadline, unless it has an earlier one; says whether that is the first deadline of all.
    fn set_deadline(&mut self, key: &ModelKey, at: Instant) -> bool {
        let deadline = self.keeper(key).deadline;
        match deadline {
            Some(earlier) if earlier <= at => return false,
            Some(later) => {
                self.deadlines.remove(&(later, key.clone()));
            }
            None if self.deadlines.len() >= MOST_DEADLINES => return false,
            None => {}
        }
        self.keeper(key).deadline = Some(at);
        self.deadlines.insert((at, key.clone()));
        self.deadlines.first().is_some_and(|(first, _)| *first == at)
    }

    /// Queues the breakers whose deadline has passed, and counts them; if none has, tells the first deadline.
    fn pass_deadlines(&mut self, now: Instant) -> Result<usize, Option<Instant>> {
        let mut count = 0;
        while self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.deadlines.pop_first() else { break };
            if let Some(keeper) = self.keepers.get_mut(&key) {
                keeper.deadline = None;
            }
            self.due.push_back(key);
            count += 1;
        }
        if count > 0 { Ok(count) } else { Err(self.deadlines.first().map(|(at, _)| *at)) }
    }

    fn next_work(&mut self) -> Option<Work> {
        if let Some(key) = self.due.pop_front() {
            return Some(Work::Due(key));
        }
        while let Some(key) = self.stale.pop_front() {
            if let Some(keeper) =
                self.keepers.get_mut(&key).filter(|keeper| keeper.knowledge == Knowledge::Stale)
            {
                self.reads += 1;
                let from = keeper.begin_read(self.reads);
                return Some(Work::Stale(key, from));
            }
        }
        None
    }
}
