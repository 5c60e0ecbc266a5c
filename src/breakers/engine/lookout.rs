//! What an engine does by itself: it makes the changes that time alone brings, and it looks for those that did not ring.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Engine;
use crate::{
    breakers::{
        BreakerStore, ModelKey,
        policy::{self, Cause},
        store::{Glance, Terms},
    },
    call::Call,
    doorbell::Notices,
    error::{Error, Result},
};

/// Breakers whose time has come that are looked at at once.
const AT_ONCE: usize = 32;
/// How long after the store failed a change that is due is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// How often it looks where nothing rings, and for what failed.
const TICK: Duration = Duration::from_secs(1);
/// How often it looks at the list of changed breakers while changes ring.
const BACKSTOP: Duration = Duration::from_secs(10);
/// How often it looks at everything while changes ring.
const EVERYTHING: Duration = Duration::from_mins(5);
/// By how much more than the time since its last look it looks back: the list is written before a change, and by the
/// clocks of others.
const OVERLAP: Duration = Duration::from_secs(5);
/// How often it stops following what nobody asks for.
const PRUNE: Duration = Duration::from_mins(1);

/// When the lookout did what last.
#[derive(Debug)]
struct Rounds {
    listed: Instant,
    glanced: Instant,
    pruned: Instant,
}

impl<S: BreakerStore> Engine<S> {
    /// Makes the changes that are due by time alone, and looks for changes that did not ring, until the token is
    /// cancelled.
    pub async fn run(&self, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.keep_time() => {}
            () = self.look_out() => {}
        }
    }

    async fn keep_time(&self) {
        let mut looks = FuturesUnordered::new();
        loop {
            tokio::select! {
                key = self.0.keepers.next_due(), if looks.len() < AT_ONCE => looks.push(self.elapse(key)),
                Some(()) = looks.next(), if !looks.is_empty() => {}
            }
        }
    }

    /// Makes the change of a breaker whose time has come; whoever is first in the fleet makes it.
    async fn elapse(&self, key: ModelKey) {
        let call = Call::default();
        let made = async {
            let load = async |terms: Terms| self.0.store.load(&call, &key, &terms, false).await;
            let ((view, _), terms) = self.on_terms(&key, load).await?;
            let is_due = policy::deadline(&view, &terms.settings).is_some_and(|due| view.now >= due);
            if is_due {
                self.bring_up_to_date(&call, &key, (view, terms), Cause::default()).await?;
            } else {
                self.notice(&key, &view, &terms);
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = made.await {
            debug!(breaker = %key, %error, "a change that time brings could not be made yet");
            // Nothing is new; and whoever read it back now would find it due, and be here again at once.
            if !matches!(error, Error::Corrupt { .. } | Error::Internal(_)) {
                self.0.keepers.schedule(&key, RETRY);
            }
            return;
        }
        self.ring(&key);
    }

    async fn look_out(&self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut rounds = Rounds { listed: now, glanced: now, pruned: now };
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.0.lookout.notified() => {}
            }
            match self.look(&mut rounds).await {
                Ok(()) => is_failing = false,
                Err(error) if !is_failing && !error.allows_fallback() => {
                    is_failing = true;
                    warn!(%error, "could not look for changed breakers");
                }
                Err(error) => debug!(%error, "could not look for changed breakers"),
            }
        }
    }

    /// One look at what did not ring, as far as it is time for it.
    async fn look(&self, rounds: &mut Rounds) -> Result<()> {
        let (call, feed) = (Call::default(), &self.0.feed);
        if rounds.pruned.elapsed() >= PRUNE {
            rounds.pruned = Instant::now();
            feed.prune();
        }
        if !feed.is_busy() {
            return Ok(());
        }
        feed.retry();
        let rings = self.0.doorbell.as_ref().is_some_and(|bell| bell.notices() == Notices::Keyspace);
        let (backstop, everything) = if rings { (BACKSTOP, EVERYTHING) } else { (TICK / 2, TICK / 2) };
        if feed.wants_list() {
            let listed = self.0.store.list(&call).await?;
            feed.has_list();
            self.ring_each(feed.unfollowed(listed.into_iter().map(|listed| listed.key)));
        }
        if rounds.listed.elapsed() >= backstop {
            let began = Instant::now();
            let changed = self.0.store.list_changed(&call, rounds.listed.elapsed() + OVERLAP).await?;
            rounds.listed = began;
            self.ring_each(changed);
        }
        if rounds.glanced.elapsed() >= everything {
            let began = Instant::now();
            self.glance(&call).await?;
            rounds.glanced = began;
        }
        self.start_reading();
        Ok(())
    }

    /// Rings for the followed breakers that are not as they were read.
    async fn glance(&self, call: &Call) -> Result<()> {
        let (keys, seen): (Vec<ModelKey>, Vec<Glance>) = self.0.feed.followed().into_iter().unzip();
        let glances = self.0.store.glance(call, &keys).await?;
        let changed = keys.into_iter().zip(seen).zip(glances);
        self.ring_each(
            changed.filter(|((_, seen), glance)| glance.as_ref() != Some(seen)).map(|((key, _), _)| key),
        );
        Ok(())
    }

    fn ring_each(&self, keys: impl IntoIterator<Item = ModelKey>) {
        for key in keys {
            self.ring(&key);
        }
    }
}
