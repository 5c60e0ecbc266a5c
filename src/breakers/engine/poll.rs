//! Asks the store for changes of followed breakers that woke nobody up.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::Engine;
use crate::{
    breakers::{BreakerStore, ModelKey, store::Glance},
    call::Call,
    doorbell::Notices,
    error::Result,
};

/// How often the store is asked where notifications wake nobody up, and about what could not be read.
const TICK: Duration = Duration::from_secs(1);
/// How often the list of changed breakers is read while notifications arrive.
const BACKSTOP: Duration = Duration::from_secs(10);
/// How often every followed breaker is compared while notifications arrive.
const EVERYTHING: Duration = Duration::from_mins(5);
/// The list is read back to so long before the last time: it is written before a change, and by the clocks of others.
const OVERLAP: Duration = Duration::from_secs(5);
/// How often breakers that nobody asks for are followed no more.
const PRUNE: Duration = Duration::from_mins(1);

/// When what was done last.
#[derive(Debug)]
struct Rounds {
    listed: Instant,
    compared: Instant,
    pruned: Instant,
}

impl<S: BreakerStore> Engine<S> {
    pub(super) async fn poll(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut rounds = Rounds { listed: now, compared: now, pruned: now };
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.0.poll_now.notified() => {}
            }
            match self.poll_once(&mut rounds).await {
                Ok(()) => is_failing = false,
                Err(error) if !is_failing && !error.allows_fallback() => {
                    is_failing = true;
                    warn!(%error, "could not look for changed breakers");
                }
                Err(error) => debug!(%error, "could not look for changed breakers"),
            }
        }
    }

    /// Does what it is time for.
    async fn poll_once(&self, rounds: &mut Rounds) -> Result<()> {
        let (call, keepers) = (Call::default(), &self.0.keepers);
        if rounds.pruned.elapsed() >= PRUNE {
            rounds.pruned = Instant::now();
            keepers.prune();
        }
        if keepers.is_idle() {
            return Ok(());
        }
        self.start_workers(keepers.retry());
        let wakes = self.0.doorbell.as_ref().is_some_and(|bell| bell.notices() == Notices::Keyspace);
        let (backstop, everything) = if wakes { (BACKSTOP, EVERYTHING) } else { (TICK / 2, TICK / 2) };
        if keepers.needs_list() {
            let listed = self.0.store.list(&call).await?;
            self.start_workers(keepers.note_list(listed.into_iter().map(|listed| listed.key)));
        }
        if rounds.listed.elapsed() >= backstop {
            let began = Instant::now();
            for key in self.0.store.list_changed(&call, rounds.listed.elapsed() + OVERLAP).await? {
                self.wake(&key);
            }
            rounds.listed = began;
        }
        if rounds.compared.elapsed() >= everything {
            let began = Instant::now();
            self.compare(&call).await?;
            rounds.compared = began;
        }
        Ok(())
    }

    /// Wakes the fresh breakers that are not as they were read.
    async fn compare(&self, call: &Call) -> Result<()> {
        let (keys, readings): (Vec<ModelKey>, Vec<_>) = self.0.keepers.readings().into_iter().unzip();
        let glances = self.0.store.glance(call, &keys).await?;
        for ((key, reading), glance) in keys.iter().zip(readings).zip(glances) {
            if glance != Some(Glance::from(&reading.view.snapshot)) {
                self.wake(key);
            }
        }
        Ok(())
    }
}
