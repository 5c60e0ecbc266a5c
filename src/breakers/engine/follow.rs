//! Reads back the breakers that may have changed, and brings about what only whoever looks can see: that somebody
//! changed a breaker by hand, or that the store lost changes. The compare-and-set makes it happen once for the fleet.

use std::{sync::atomic::Ordering, time::Duration};

use tracing::{debug, warn};

use super::{Engine, lookout::RETRY};
use crate::{
    breakers::{
        BreakerStore, ModelKey, View,
        feed::{Job, Look},
        policy,
        store::{Followed, Terms},
    },
    call::Call,
    error::{Error, Result},
};

/// Breakers that are read back at once.
const READERS: usize = 32;
/// Changes read with a breaker at most: whoever is behind by more begins again from the present.
const NEWEST: usize = 256;
/// By how much a look at the end of a state is later than the end, so that it is gone by then.
const AFTER_EXPIRY: Duration = Duration::from_millis(2);

impl<S: BreakerStore> Engine<S> {
    /// Notes that a breaker may have changed.
    pub fn ring(&self, key: &ModelKey) {
        if self.0.feed.ring(key) {
            self.start_reading();
        }
    }

    /// Notes that any breaker may have changed, and new ones may have come.
    pub fn ring_all(&self) {
        self.0.feed.ring_all();
        self.0.lookout.notify_one();
        for _ in 0..READERS {
            self.start_reading();
        }
    }

    /// Takes note of how a breaker was seen: what is new to its watchers is read back, and what is due by time alone is
    /// not waited for in vain.
    pub(super) fn notice(&self, key: &ModelKey, view: &View, terms: &Terms) {
        self.0.keepers.note(key, view);
        if self.0.feed.notice(key, &view.snapshot.position) {
            self.start_reading();
        }
        if let Some(due) = policy::deadline(view, &terms.settings) {
            self.0.keepers.schedule(key, due.since(view.now));
        }
    }

    /// Starts one more task that reads back what is queued, unless there are enough.
    pub(super) fn start_reading(&self) {
        if self.0.shutdown.is_triggered() || !self.takes_reader() {
            return;
        }
        let engine = self.clone();
        self.0.shutdown.spawn("read back", async move { engine.read_queue().await });
    }

    fn takes_reader(&self) -> bool {
        let one_more = |readers| (readers < READERS).then_some(readers + 1);
        self.0.readers.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    async fn read_queue(&self) {
        loop {
            while let Some(job) = self.0.feed.next_job().filter(|_| !self.0.shutdown.is_triggered()) {
                self.read_back(job).await;
            }
            self.0.readers.fetch_sub(1, Ordering::AcqRel);
            // Whoever queued a breaker just now may have found readers enough.
            let goes_on = self.0.feed.has_jobs() && !self.0.shutdown.is_triggered();
            if !goes_on || !self.takes_reader() {
                return;
            }
        }
    }

    async fn read_back(&self, job: Job) {
        let (era, key) = (self.era(), &job.key);
        match self.follow(&job).await {
            Ok((followed, terms)) => {
                let (view, expires_in) = (&followed.view, followed.expires_in);
                self.0.keepers.note(key, view);
                let due = policy::deadline(view, &terms.settings).map(|due| due.since(view.now));
                let next = due.into_iter().chain(expires_in.map(|left| left + AFTER_EXPIRY)).min();
                if let Some(next) = next {
                    self.0.keepers.schedule(key, next);
                }
                self.0.feed.read(key, followed, terms, era);
            }
            Err(error @ (Error::Corrupt { .. } | Error::Internal(_))) => {
                warn!(breaker = %key, %error, "a followed breaker cannot be read");
                self.0.feed.fail(key, Look::Damaged);
            }
            Err(error) => {
                debug!(breaker = %key, %error, "a followed breaker could not be read back yet");
                self.0.feed.fail(key, Look::Failed);
            }
        }
    }

    /// Reads a breaker back until nothing is left that nobody has said yet.
    async fn follow(&self, Job { key, after, last }: &Job) -> Result<(Followed, Terms)> {
        let (call, after) = (Call::default(), after.as_deref());
        for _ in 0..super::ATTEMPTS {
            let follow = async |terms: Terms| self.0.store.follow(&call, key, &terms, after, NEWEST).await;
            let (followed, terms) = self.on_terms(key, follow).await?;
            let (view, newest) = (&followed.view, followed.newest.last());
            // As many changes as were lost may have been made since, by those who did not know of the lost ones.
            let is_another = last.as_ref().is_some_and(|last| {
                followed.newest.iter().any(|found| found.position == last.position && *found != **last)
            });
            let ahead = newest.and_then(|newest| policy::lost(view, &newest.position, false));
            let lost = after.and_then(|after| policy::lost(view, after, is_another)).or(ahead);
            let taken_over = || policy::taken_over(view, &terms.settings, newest, rand::random());
            let Some(change) = lost.or_else(taken_over) else { return Ok((followed, terms)) };
            match self.offer(&call, key, terms.clone(), &change).await {
                Ok((true, ..)) => {
                    warn!(breaker = %key, reason = change.detail, "a breaker was not as its history says");
                }
                Ok((false, ..)) => {}
                // Whoever watches is told what is there all the same.
                Err(error) if !error.allows_fallback() => {
                    debug!(breaker = %key, %error, "a breaker is not as its history says, which cannot be told yet");
                    self.0.keepers.schedule(key, RETRY);
                    return Ok((followed, terms));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    /// The era of the doorbell; always the same where nothing rings but this process itself.
    pub(super) fn era(&self) -> u64 {
        self.0.doorbell.as_ref().map_or(0, |doorbell| doorbell.era())
    }

    /// Whether what was read in an era is current as long as nothing rings.
    pub(super) fn is_trusted(&self, era: u64) -> bool {
        self.0.doorbell.as_ref().is_some_and(|doorbell| doorbell.is_trusted() && doorbell.era() == era)
    }
}
