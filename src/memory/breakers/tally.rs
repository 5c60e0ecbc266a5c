//! What is counted of one breaker since its state began.

use std::time::Duration;

use super::{
    instances::{Failed, Instances, Recalled},
    window::{At, Held, Share},
};
use crate::{
    breakers::{
        Counts, Disposition, Pause, Window,
        store::{Batch, Group, RequestedPause},
    },
    clock::Timestamp,
};

/// The calls in the window, the row of failures up to now, and who reported them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    held: Held,
    run: i64,
    /// Calls counted so far, also those that fell out of the window.
    results: u64,
    /// Which of them succeeded last.
    success: u64,
    instances: Instances,
    last_failure: Option<Timestamp>,
    pause: Option<Pause>,
}

impl Tally {
    /// What is counted as of a moment.
    pub(super) fn counts(&self, at: At) -> Counts {
        let Share { calls, failures, slow } = self.held.totals(at);
        let run = if self.held.is_of(at.window) { self.run } else { 0 };
        Counts { calls, failures, slow, run }
    }

    /// Distinct instances whose last failure counts as of a moment.
    pub(super) fn reporters(&self, at: At) -> i64 {
        if !self.held.is_of(at.window) {
            return 0;
        }
        let held = u64::try_from(self.held.totals(at).calls).unwrap_or_default();
        self.instances.reporters(|failed| match at.window {
            None => failed.result > self.success,
            // As many as are held, which a window that has grown since does not know.
            Some(Window::Count(_)) => self.results - failed.result < held,
            Some(Window::Time(length)) => at.holds(length, failed.second),
        })
    }

    /// When the last failure was counted in this state.
    pub(super) fn last_failure(&self) -> Option<Timestamp> {
        self.last_failure
    }

    /// The pause that a provider still wants, where the latest write was at `seen`: its end goes back with the clock.
    pub(super) fn pause(&self, seen: Timestamp, now: Timestamp) -> Option<Pause> {
        let pause = self.pause.filter(|pause| pause.until > seen)?;
        Some(Pause { until: now.plus(pause.until.since(seen)), ..pause })
    }

    /// Moves the end of the pause back with the clock.
    pub(super) fn shift(&mut self, back: Duration) {
        let back = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
        if let Some(pause) = &mut self.pause {
            pause.until = Timestamp::from_millis(pause.until.as_millis().saturating_sub(back));
        }
    }

    /// What the instance's last batch came to, if this is that one or one before.
    pub(super) fn recall(&self, batch: &Batch) -> Option<Recalled<'_>> {
        self.instances.recall(batch)
    }

    /// Counts some groups of a batch and tells the longest row of failures that ended or went on in them.
    pub(super) fn record<'a>(
        &mut self,
        batch: (&Batch, &[Disposition]),
        groups: impl Iterator<Item = &'a Group>,
        at: At,
    ) -> i64 {
        self.fit(at);
        let mut longest_run = 0;
        let mut failed = None;
        for group in groups {
            for result in &group.results {
                if self.add(*result, at) {
                    longest_run = longest_run.max(self.run);
                    failed = Some(Failed { second: at.second(), result: self.results });
                }
            }
            self.request_pause(group.pause, at.now);
        }
        self.instances.remember(batch, longest_run, failed, at.now);
        longest_run
    }

    /// Counts trial calls that no batch brings.
    pub(super) fn count(&mut self, results: impl Iterator<Item = u8>, at: At) {
        self.fit(at);
        for result in results {
            self.add(result, at);
        }
    }

    /// Keeps the longest pause that a provider asks for.
    pub(super) fn request_pause(&mut self, pause: Option<RequestedPause>, now: Timestamp) {
        let Some(RequestedPause { length, outcome }) = pause else { return };
        let wanted = Pause { until: now.plus(length), outcome };
        if self.pause.is_none_or(|pause| pause.until < wanted.until) {
            self.pause = Some(wanted);
        }
    }

    /// Forgets all but which batches were counted.
    pub(super) fn empty(&mut self) {
        let mut instances = std::mem::take(&mut self.instances);
        instances.forget_failures();
        *self = Self { instances, ..Self::default() };
    }

    /// Puts what a time window held at `seen` into the second of `now`: the clock went back since.
    pub(super) fn gather(&mut self, seen: At, now: At) {
        self.held.gather(seen, now.second());
        self.instances.gather(now.second(), |failed| match seen.window {
            Some(Window::Time(length)) => seen.holds(length, failed.second),
            None | Some(Window::Count(_)) => true,
        });
    }

    fn fit(&mut self, at: At) {
        if !self.held.is_of(at.window) {
            self.run = 0;
            self.instances.forget_failures();
        }
        self.held.fit(at);
    }

    /// Counts one call and tells whether it failed.
    fn add(&mut self, result: u8, at: At) -> bool {
        let Some(share) = Share::of(result) else { return false };
        self.held.add(result, share, at);
        self.results += 1;
        let failed = share.failures > 0;
        if failed {
            self.run += 1;
            self.last_failure = Some(at.now);
        } else {
            self.run = 0;
            self.success = self.results;
        }
        failed
    }
}
