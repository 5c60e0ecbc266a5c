//! Keeps what is known of breakers true. A breaker is *fresh* until something says that it may have changed; then it is
//! *stale*, and is read back. When its deadline passes it is *due*, and the change that time brings is offered.
//!
//! Whoever reads a breaker back also sees what only a reader can see: that somebody changed the breaker by hand, or that the
//! store lost changes. That is offered as a change like any other, so it happens once for the fleet.

use std::{sync::atomic::Ordering, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Engine;
use crate::{
    breakers::{
        BreakerStore, ModelKey, View,
        keeper::{ReadFrom, ReadResult},
        keepers::Work,
        policy::{self, Cause},
        store::{Followed, InForce},
    },
    call::Call,
    error::{Error, Result},
};

/// Breakers that are worked on at once.
const WORKERS: usize = 32;
/// Changes read with a breaker at most: whoever is behind by more begins again from the present.
const NEWEST: usize = 256;
/// How long after the store failed a change is offered again.
const RETRY: Duration = Duration::from_secs(2);
/// How long after the end of a state the breaker is read, so that the state is gone by then.
const AFTER_EXPIRY: Duration = Duration::from_millis(2);

impl<S: BreakerStore> Engine<S> {
    /// Makes the changes that are due by time alone, and asks the store for changes that woke nobody up, until the token is
    /// cancelled.
    pub async fn run(&self, token: CancellationToken) {
        let keep_deadlines = async {
            loop {
                let due = self.0.keepers.pass_deadlines().await;
                self.start_workers(due);
            }
        };
        tokio::select! {
            () = token.cancelled() => {}
            () = keep_deadlines => {}
            () = self.poll() => {}
        }
    }

    /// Notes that a breaker may have changed.
    pub fn wake(&self, key: &ModelKey) {
        if self.0.keepers.wake(key) {
            self.start_workers(1);
        }
    }

    /// Notes that any breaker may have changed, and that there may be new ones.
    pub fn wake_all(&self) {
        self.0.keepers.wake_all();
        self.0.poll_now.notify_one();
        self.start_workers(WORKERS);
    }

    /// Notes a view that has arrived. What is new to watchers is read back, and a change by time alone gets a deadline.
    pub(super) fn note(&self, key: &ModelKey, view: &View, in_force: &InForce) {
        if self.0.keepers.note(key, view, time_left(view, in_force)) {
            self.start_workers(1);
        }
    }

    /// Starts more tasks that do the work that waits, as far as there are not enough.
    pub(super) fn start_workers(&self, wanted: usize) {
        for _ in 0..wanted.min(WORKERS) {
            if self.0.shutdown.is_triggered() || !self.adds_worker() {
                return;
            }
            let engine = self.clone();
            self.0.shutdown.spawn("keep breakers", async move { engine.work().await });
        }
    }

    fn adds_worker(&self) -> bool {
        let one_more = |workers| (workers < WORKERS).then_some(workers + 1);
        self.0.workers.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    async fn work(&self) {
        loop {
            while let Some(work) = self.0.keepers.next_work().filter(|_| !self.0.shutdown.is_triggered()) {
                match work {
                    Work::Due(key) => self.change_by_time(&key).await,
                    Work::Stale(key, from) => self.read_back(&key, from).await,
                }
            }
            self.0.workers.fetch_sub(1, Ordering::AcqRel);
            // Whoever queued work just now may have found workers enough.
            let goes_on = self.0.keepers.has_work() && !self.0.shutdown.is_triggered();
            if !goes_on || !self.adds_worker() {
                return;
            }
        }
    }

    /// Offers the change that time brings to a breaker which is due; whoever in the fleet is first makes it.
    async fn change_by_time(&self, key: &ModelKey) {
        let call = Call::default();
        let changed = async {
            let load = async |in_force: InForce| self.0.store.load(&call, key, &in_force, false).await;
            let ((view, _), in_force) = self.with_settings(key, load).await?;
            if time_left(&view, &in_force).is_some_and(|left| left.is_zero()) {
                self.bring_up_to_date(&call, key, (view, in_force), Cause::default()).await?;
            } else {
                self.note(key, &view, &in_force);
            }
            Ok::<_, Error>(())
        };
        match changed.await {
            Ok(()) => self.wake(key),
            // A breaker that is damaged would be due again at once.
            Err(error @ (Error::Corrupt { .. } | Error::Internal(_))) => {
                debug!(breaker = %key, %error, "a change that time brings cannot be made");
            }
            Err(error) => {
                debug!(breaker = %key, %error, "a change that time brings could not be made yet");
                self.0.keepers.schedule(key, RETRY);
            }
        }
    }

    /// Reads a breaker which is stale.
    async fn read_back(&self, key: &ModelKey, from: ReadFrom) {
        let (era, number) = (self.era(), from.number);
        match self.follow(key, &from).await {
            Ok((followed, in_force)) => {
                let expiry = followed.expires_in.map(|left| left + AFTER_EXPIRY);
                let deadline = time_left(&followed.view, &in_force).into_iter().chain(expiry).min();
                self.0.keepers.finish_read(key, number, (followed, in_force, era), deadline);
            }
            Err(error @ (Error::Corrupt { .. } | Error::Internal(_))) => {
                warn!(breaker = %key, %error, "a followed breaker cannot be read");
                self.0.keepers.fail_read(key, number, ReadResult::Damaged);
            }
            Err(error) => {
                debug!(breaker = %key, %error, "a followed breaker could not be read back yet");
                self.0.keepers.fail_read(key, number, ReadResult::Failed);
            }
        }
    }

    /// Reads a breaker until its state is what its history says.
    async fn follow(&self, key: &ModelKey, from: &ReadFrom) -> Result<(Followed, InForce)> {
        let (call, after) = (Call::default(), from.after.as_deref());
        for _ in 0..super::ATTEMPTS {
            let follow =
                async |in_force: InForce| self.0.store.follow(&call, key, &in_force, after, NEWEST).await;
            let (followed, in_force) = self.with_settings(key, follow).await?;
            let (view, newest) = (&followed.view, followed.newest.last());
            // As many changes as were lost may have been made since, by those who did not know of the lost ones.
            let is_another = from.last.as_ref().is_some_and(|last| {
                followed.newest.iter().any(|found| found.position == last.position && *found != **last)
            });
            let ahead = newest.and_then(|newest| policy::lost(view, &newest.position, false));
            let lost = after.and_then(|after| policy::lost(view, after, is_another)).or(ahead);
            let by_hand = || policy::taken_over(view, &in_force.settings, newest, rand::random());
            let Some(change) = lost.or_else(by_hand) else { return Ok((followed, in_force)) };
            match self.offer(&call, key, in_force.clone(), &change).await {
                Ok((true, ..)) => {
                    warn!(breaker = %key, reason = change.detail, "a breaker was not as its history says");
                }
                Ok((false, ..)) => {}
                // Watchers are told what is there all the same.
                Err(error) if !error.allows_fallback() => {
                    debug!(breaker = %key, %error, "a breaker is not as its history says, which cannot be told yet");
                    self.0.keepers.schedule(key, RETRY);
                    return Ok((followed, in_force));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::BreakerChanged { key: key.to_string() })
    }

    /// The era of the doorbell; always the same where this process alone makes changes.
    pub(super) fn era(&self) -> u64 {
        self.0.doorbell.as_ref().map_or(0, |doorbell| doorbell.era())
    }

    /// Whether a reading of an era is current as long as the breaker is fresh.
    pub(super) fn is_trusted(&self, era: u64) -> bool {
        self.0.doorbell.as_ref().is_some_and(|doorbell| doorbell.is_trusted() && doorbell.era() == era)
    }
}

/// In how long time alone may change a breaker.
fn time_left(view: &View, in_force: &InForce) -> Option<Duration> {
    policy::deadline(view, &in_force.settings).map(|deadline| deadline.since(view.now))
}
