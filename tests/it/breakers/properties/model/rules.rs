//! When the model's breaker changes, and how it is told.

use std::time::Duration;

use fusewire::{
    breakers::{BreakerSettings, Mode, Outcome, Position, Reason, State, Window, operations::Breaker},
    clock::Timestamp,
};

use super::{
    Model,
    life::{Cause, Life, window},
};

/// What has just been done to a breaker.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) acquires: bool,
    pub(super) longest_run: i64,
    pub(super) outcome: Option<Outcome>,
    pub(super) detail: String,
}

/// Calls that must be in the window for a rate.
fn quorum(settings: &BreakerSettings) -> i64 {
    match window(settings) {
        Some(Window::Count(size)) => settings.minimum_calls.min(size).into(),
        _ => settings.minimum_calls.into(),
    }
}

/// Results that the verdict on a trial is over.
fn trial_size(settings: &BreakerSettings) -> i64 {
    quorum(settings).min(settings.half_open_permits.into()).max(1)
}

/// Whether a share is reached; settings of stories are whole percents.
#[expect(clippy::cast_possible_truncation, reason = "whole percents")]
fn reaches(part: i64, whole: i64, percent: f64) -> bool {
    percent > 0.0 && part * 100 >= percent as i64 * whole
}

/// How long the breaker is open when it opens for this time in a row: each time longer, up to the longest.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small"
)]
fn backoff(settings: &BreakerSettings, attempts: u32) -> Duration {
    let most =
        settings.max_open_duration.unwrap_or_else(|| Duration::from_mins(10).max(settings.open_duration));
    let mut millis = settings.open_duration.as_millis() as f64;
    for _ in 1..attempts {
        millis = (millis * settings.backoff_multiplier).min(most.as_millis() as f64);
    }
    Duration::from_millis(millis.min(most.as_millis() as f64) as u64)
}

impl Model {
    /// Makes the change that is due, if one is.
    pub(super) fn change_if_due(&mut self, seen: &Seen) -> bool {
        let (settings, now) = (self.settings(), self.now);
        let Some(life) = &mut self.life else { return false };
        let cause = Cause { outcome: seen.outcome, detail: seen.detail.clone(), ..Cause::default() };
        if life.mode != life.decides(now) {
            life.end_override(now);
            return true;
        }
        if life.mode != Mode::Automatic {
            return false;
        }
        match life.state {
            State::Closed => {
                let counts = life.counts(&settings, now);
                let has_quorum = counts.calls >= quorum(&settings);
                let run = counts.run.max(seen.longest_run);
                let in_a_row = settings.consecutive_failures;
                let rule = if in_a_row > 0 && run >= in_a_row.into() {
                    Some(Reason::ConsecutiveFailures)
                } else if has_quorum && reaches(counts.failures, counts.calls, settings.failure_rate_percent)
                {
                    Some(Reason::FailureRate)
                } else if has_quorum && reaches(counts.slow, counts.calls, settings.slow_rate_percent) {
                    Some(Reason::SlowRate)
                } else {
                    None
                };
                life.open(rule, cause, (&settings, now))
            }
            State::Open => {
                if !seen.acquires || life.open_until.is_some_and(|until| now < until) {
                    return false;
                }
                let to = if settings.half_open_permits == 0 { State::Closed } else { State::HalfOpen };
                let cause = Cause::default();
                life.begin((to, Reason::OpenElapsed), None, cause, (&settings, now));
                true
            }
            State::HalfOpen => verdict(life, &settings, cause, now),
        }
    }

    /// Opens for longer, if a late report of a call that led to this OPEN asks for it.
    pub(super) fn prolong(&mut self, position: &Position, (length, outcome): (Duration, Outcome)) {
        let (settings, now) = (self.settings(), self.now);
        let Some(life) = &mut self.life else { return };
        let is_open = life.state == State::Open && life.decides(now) == Mode::Automatic;
        let is_ours = position.epoch == life.position.epoch || *position == Position::default();
        let led_here = (life.fences.1..life.fences.0).contains(&position.generation);
        // By a tenth of what it asks for, or a second.
        let least = (length / 10).clamp(Duration::from_millis(1), Duration::from_secs(1));
        let is_longer = life.open_until.is_none_or(|until| now.plus(length) >= until.plus(least));
        if is_open && is_ours && led_here && is_longer && settings.honor_retry_after {
            let (outcome, detail) = (Some(outcome), "why".to_owned());
            life.extend(Reason::Extended, length, Cause { outcome, detail, ..Cause::default() }, now);
        }
    }

    /// The breaker as callers are told of it.
    pub(super) fn describe(&self) -> Breaker {
        let (settings, now, key) = (self.settings(), self.now, self.key.clone());
        let rejected_calls = if self.rejected.0 == self.position() { self.rejected.1 } else { 0 };
        let none = Life::born(String::new(), now);
        let life = self.life.as_ref().unwrap_or(&none);
        let mode = life.decides(now);
        let (counts, quorum) = match life.state {
            State::Closed => (life.counts(&settings, now), quorum(&settings)),
            State::Open if life.attempts > 1 => (life.before, trial_size(&settings)),
            State::Open => (life.before, quorum(&settings)),
            State::HalfOpen => (life.counts(&settings, now), trial_size(&settings)),
        };
        #[expect(clippy::cast_precision_loss, reason = "few calls")]
        let rate = |part: i64| {
            (counts.calls > 0 && counts.calls >= quorum).then(|| part as f64 * 100.0 / counts.calls as f64)
        };
        let leases = life.leases.iter().filter(|(_, end)| *end > now).count();
        let taken = i64::try_from(leases).unwrap() + counts.calls;
        let left = i64::from(settings.half_open_permits) - taken;
        Breaker {
            key,
            state: life.state,
            mode,
            position: life.position.clone(),
            since: self.life.as_ref().map(|life| life.since),
            open_until: life.open_until,
            retry_after: life.open_until.map(|until| until.since(now)),
            failure_rate_percent: rate(counts.failures),
            slow_rate_percent: rate(counts.slow),
            counts,
            last_failure: life.last_failure(),
            rejected_calls,
            attempts: life.attempts,
            mode_override: life.mode_override.clone().filter(|_| mode != Mode::Automatic),
            permits_left: if life.leases_now(now) { left.max(0).try_into().unwrap() } else { 0 },
        }
    }
}

fn verdict(life: &mut Life, settings: &BreakerSettings, cause: Cause, now: Timestamp) -> bool {
    let results = life.counts(settings, now);
    let size = trial_size(settings);
    let (fails, slow) = (settings.failure_rate_percent, settings.slow_rate_percent);
    let (has_failed, has_passed) = if fails > 0.0 || slow > 0.0 {
        let has_failed = reaches(results.failures, size, fails) || reaches(results.slow, size, slow);
        (has_failed, results.calls >= size || settings.half_open_permits == 0)
    } else {
        (results.failures > 0, results.calls >= settings.half_open_permits.into())
    };
    let waited = now.since(life.since);
    if has_failed {
        life.open(Some(Reason::TrialFailed), cause, (settings, now))
    } else if has_passed {
        let opens = life.open(None, cause.clone(), (settings, now));
        if !opens {
            life.begin((State::Closed, Reason::TrialPassed), None, cause, (settings, now));
        }
        true
    } else if settings.half_open_max_wait.is_some_and(|most| waited >= most) {
        let cause = Cause { outcome: None, ..cause };
        life.open(Some(Reason::TrialTimedOut), cause, (settings, now))
    } else {
        life.open(None, cause, (settings, now))
    }
}

impl Life {
    /// Opens for a rule's reason, for a provider's wish, or for both: the longer of them counts.
    fn open(
        &mut self,
        rule: Option<Reason>,
        cause: Cause,
        (settings, now): (&BreakerSettings, Timestamp),
    ) -> bool {
        let wish = self.pause(now).filter(|_| settings.honor_retry_after);
        let pause = wish.map(|(end, _)| end.since(now).min(settings.max_retry_after));
        let by_rule = rule.map(|_| backoff(settings, self.attempts + 1));
        let Some(reason) = rule.or_else(|| wish.map(|_| Reason::RetryAfter)) else { return false };
        let outcome = if rule.is_some() { cause.outcome } else { wish.map(|(_, outcome)| outcome) };
        let cause = Cause { outcome, ..cause };
        self.begin((State::Open, reason), by_rule.max(pause), cause, (settings, now));
        true
    }

    /// Opens by an operator's order, for exactly so long.
    pub(super) fn trip(
        &mut self,
        length: Option<Duration>,
        cause: Cause,
        (settings, now): (&BreakerSettings, Timestamp),
    ) {
        let length = length.unwrap_or(settings.open_duration);
        if self.state == State::Open {
            self.extend(Reason::Tripped, length, cause, now);
        } else {
            self.begin((State::Open, Reason::Tripped), Some(length), cause, (settings, now));
        }
    }

    /// Closes by an operator's order.
    pub(super) fn reset(&mut self, cause: Cause, (settings, now): (&BreakerSettings, Timestamp)) {
        self.begin((State::Closed, Reason::Reset), None, cause, (settings, now));
    }
}
