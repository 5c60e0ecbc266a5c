//! The keepers of all breakers that this process knows, with the bounds on their number, and their deadlines.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{
    BreakerSettings, ModelKey, Position, View,
    keeper::{Keeper, LastView, LastViews},
    store::{StoredSettings, Terms},
};

/// Keepers that nothing depends on: so many are remembered, and at most twice as many.
const REMEMBERED: usize = 10_000;
/// Deadlines at most. Beyond that a change by time alone waits for the next call on the breaker.
const MOST_DEADLINES: usize = 100_000;

type Configured = dyn Fn(&ModelKey) -> Arc<BreakerSettings> + Send + Sync;

pub(super) struct Keepers {
    /// The settings of a key for which the store has none.
    configured: Box<Configured>,
    state: Mutex<All>,
    /// Notified when the first deadline changes.
    first_deadline: Notify,
}

#[derive(Debug)]
struct All {
    keepers: HashMap<ModelKey, Keeper>,
    deadlines: BTreeSet<(Instant, ModelKey)>,
    /// Uses of keepers so far.
    uses: u64,
    /// With so many keepers, those that were used least recently are forgotten.
    room: usize,
}

impl Default for All {
    fn default() -> Self {
        Self { keepers: HashMap::new(), deadlines: BTreeSet::new(), uses: 0, room: 2 * REMEMBERED }
    }
}

impl fmt::Debug for Keepers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keepers").finish_non_exhaustive()
    }
}

impl Keepers {
    pub(super) fn new(
        configured: impl Fn(&ModelKey) -> Arc<BreakerSettings> + Send + Sync + 'static,
    ) -> Self {
        Self { configured: Box::new(configured), state: Mutex::default(), first_deadline: Notify::new() }
    }

    /// The settings that are in force, as far as this process knows: the configured policy, until the store says
    /// otherwise.
    pub(super) fn terms(&self, key: &ModelKey) -> Terms {
        self.with(key, |keeper| keeper.terms.clone())
    }

    /// Notes the settings that are in force by the store's answer; none for the configured policy.
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
        self.with(key, |keeper| keeper.terms = terms.clone());
        terms
    }

    /// Notes a view that has arrived.
    pub(super) fn note(&self, key: &ModelKey, view: &View) {
        self.with(key, |keeper| LastView::update(&mut keeper.last, view));
    }

    /// The last view of each breaker.
    pub(super) fn last_views(&self) -> LastViews {
        let all = self.lock();
        all.keepers.iter().filter_map(|(key, keeper)| Some((key.clone(), keeper.last.clone()?))).collect()
    }

    /// Counts a call that was rejected at a position.
    pub(super) fn count_rejection(&self, key: &ModelKey, position: &Position) {
        self.with(key, |keeper| keeper.count_rejection(position));
    }

    /// The calls that were rejected at a position.
    pub(super) fn rejected(&self, key: &ModelKey, position: &Position) -> i64 {
        self.with(key, |keeper| keeper.rejected(position))
    }

    /// Forgets what was known of a breaker that was deleted.
    pub(super) fn forget(&self, key: &ModelKey) {
        let terms = self.configured(key);
        if let Some(keeper) = self.lock().keepers.get_mut(key) {
            keeper.reset(terms);
        }
    }

    /// Forgets all breakers.
    pub(super) fn clear(&self) {
        *self.lock() = All::default();
    }

    /// Has a breaker looked at in so long, or sooner where it has an earlier deadline.
    pub(super) fn schedule(&self, key: &ModelKey, wait: Duration) {
        let Some(at) = Instant::now().checked_add(wait) else { return };
        let mut all = self.lock();
        let before = self.keeper(&mut all, key).deadline;
        match before {
            Some(earlier) if earlier <= at => return,
            Some(later) => {
                all.deadlines.remove(&(later, key.clone()));
            }
            None if all.deadlines.len() >= MOST_DEADLINES => return,
            None => {}
        }
        self.keeper(&mut all, key).deadline = Some(at);
        all.deadlines.insert((at, key.clone()));
        if all.deadlines.first().is_some_and(|(first, _)| *first == at) {
            self.first_deadline.notify_one();
        }
    }

    /// Waits for the next breaker whose deadline passes; may be dropped at any time.
    pub(super) async fn next_due(&self) -> ModelKey {
        loop {
            match self.take_due() {
                Ok(key) => return key,
                Err(None) => self.first_deadline.notified().await,
                Err(Some(first)) => tokio::select! {
                    () = sleep_until(first) => {}
                    () = self.first_deadline.notified() => {}
                },
            }
        }
    }

    /// Takes a breaker whose deadline has passed, or tells the first deadline.
    fn take_due(&self) -> Result<ModelKey, Option<Instant>> {
        let mut all = self.lock();
        let first = all.deadlines.first().map(|(at, _)| *at).ok_or(None)?;
        if first > Instant::now() {
            return Err(Some(first));
        }
        let (_, key) = all.deadlines.pop_first().ok_or(None)?;
        if let Some(keeper) = all.keepers.get_mut(&key) {
            keeper.deadline = None;
        }
        Ok(key)
    }

    /// Works on a breaker's keeper, which is made where there is none.
    fn with<T>(&self, key: &ModelKey, work: impl FnOnce(&mut Keeper) -> T) -> T {
        let mut all = self.lock();
        let result = work(self.keeper(&mut all, key));
        all.make_room();
        result
    }

    fn keeper<'a>(&self, all: &'a mut All, key: &ModelKey) -> &'a mut Keeper {
        all.uses += 1;
        let keeper = all.keepers.entry(key.clone()).or_insert_with(|| Keeper::new(self.configured(key)));
        keeper.used = all.uses;
        keeper
    }

    fn configured(&self, key: &ModelKey) -> Terms {
        Terms { settings: (self.configured)(key), revision: "".into() }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    /// Forgets the keepers that were used least recently of those that nothing depends on, where there is no room.
    fn make_room(&mut self) {
        if self.keepers.len() <= self.room {
            return;
        }
        let spare = self.keepers.values().filter(|keeper| keeper.is_spare());
        let mut uses: Vec<u64> = spare.map(|keeper| keeper.used).collect();
        if let Some(surplus) = uses.len().checked_sub(REMEMBERED).filter(|surplus| *surplus > 0) {
            let (_, first_kept, _) = uses.select_nth_unstable(surplus);
            let first_kept = *first_kept;
            self.keepers.retain(|_, keeper| !keeper.is_spare() || keeper.used >= first_kept);
        }
        self.room = self.keepers.len() + REMEMBERED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keepers() -> Keepers {
        Keepers::new(|_| Arc::new(BreakerSettings::default()))
    }

    fn key(name: &str) -> ModelKey {
        ModelKey::parse("", name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_breaker_is_looked_at_once_at_the_earliest_of_its_deadlines() {
        let (keepers, began) = (keepers(), Instant::now());
        keepers.schedule(&key("late"), Duration::from_secs(9));
        keepers.schedule(&key("soon"), Duration::from_secs(5));
        keepers.schedule(&key("soon"), Duration::from_secs(3));
        keepers.schedule(&key("soon"), Duration::from_secs(7));
        assert_eq!((keepers.next_due().await, began.elapsed().as_secs()), (key("soon"), 3));
        let next = async { (keepers.next_due().await, began.elapsed().as_secs()) };
        let schedules = async { keepers.schedule(&key("now"), Duration::ZERO) };
        assert_eq!(tokio::join!(next, schedules).0, (key("now"), 3));
        assert_eq!((keepers.next_due().await, began.elapsed().as_secs()), (key("late"), 9));
    }

    #[tokio::test]
    async fn the_keepers_that_were_used_least_recently_are_forgotten_but_not_those_with_a_deadline() {
        let keepers = keepers();
        let due = key("due");
        keepers.schedule(&due, Duration::from_mins(1));
        for n in 0..5 * REMEMBERED {
            keepers.count_rejection(&key(&n.to_string()), &Position::default());
            keepers.count_rejection(&key("in-use"), &Position::default());
            assert!(keepers.lock().keepers.len() <= 2 * REMEMBERED + 1);
        }
        let all = keepers.lock();
        let is_kept = |key: &ModelKey| all.keepers.contains_key(key);
        assert!(is_kept(&due) && is_kept(&key("in-use")));
        let newest = 5 * REMEMBERED - (REMEMBERED - 2)..5 * REMEMBERED;
        assert!(newest.map(|n| key(&n.to_string())).all(|key| is_kept(&key)));
    }
}
