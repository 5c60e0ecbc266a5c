//! When to look at a breaker again although nothing has rung: something will be due by time alone.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::breakers::ModelKey;

/// Timers at most; beyond that a change is made by the next call on the breaker.
const MOST: usize = 100_000;

/// One timer a breaker.
#[derive(Debug, Default)]
pub(super) struct Timers {
    set: Mutex<Set>,
    /// Told when another timer becomes the first.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Set {
    due: BTreeSet<(Instant, ModelKey)>,
    by_key: HashMap<ModelKey, Instant>,
}

impl Timers {
    /// Looks at a breaker in so long, or sooner where a timer is set already.
    pub(super) fn set(&self, key: &ModelKey, wait: Duration) {
        let Some(at) = Instant::now().checked_add(wait) else { return };
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        match set.by_key.get(key).copied() {
            Some(known) if known <= at => return,
            Some(known) => {
                set.due.remove(&(known, key.clone()));
            }
            None if set.by_key.len() >= MOST => return,
            None => {}
        }
        set.by_key.insert(key.clone(), at);
        set.due.insert((at, key.clone()));
        if set.due.first().is_some_and(|(first, _)| *first == at) {
            self.changed.notify_one();
        }
    }

    /// Waits for the next breaker that is to be looked at; may be dropped at any time.
    pub(super) async fn next(&self) -> ModelKey {
        loop {
            match self.take() {
                Ok(key) => return key,
                Err(None) => self.changed.notified().await,
                Err(Some(first)) => tokio::select! {
                    () = sleep_until(first) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    /// Takes a breaker that is due, or tells when the first is.
    fn take(&self) -> Result<ModelKey, Option<Instant>> {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let first = set.due.first().map(|(at, _)| *at).ok_or(None)?;
        if first > Instant::now() {
            return Err(Some(first));
        }
        let (_, key) = set.due.pop_first().ok_or(None)?;
        set.by_key.remove(&key);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_breaker_is_looked_at_once_at_the_earliest_of_its_times() {
        let (timers, began) = (Timers::default(), Instant::now());
        let key = |name: &str| ModelKey::parse("", name).unwrap();
        timers.set(&key("late"), Duration::from_secs(9));
        timers.set(&key("soon"), Duration::from_secs(5));
        timers.set(&key("soon"), Duration::from_secs(3));
        timers.set(&key("soon"), Duration::from_secs(7));
        assert_eq!((timers.next().await, began.elapsed().as_secs()), (key("soon"), 3));
        let next = async { (timers.next().await, began.elapsed().as_secs()) };
        let sets = async { timers.set(&key("now"), Duration::ZERO) };
        assert_eq!(tokio::join!(next, sets).0, (key("now"), 3));
        assert_eq!((timers.next().await, began.elapsed().as_secs()), (key("late"), 9));
    }
}
