//! The state machine, without IO, clock or chance: what it decides follows from what it is given alone.
//!
//! Stores know none of this. They say how a breaker stands at one moment (a [`View`]); [`due`] says what must change,
//! [`admission`] whether a call may be made, and the change takes effect if the breaker still stands there. What is
//! due follows from totals and times, never from having seen an event: if an instance dies before it offered a change,
//! the next call on any instance offers it.
//!
//! - CLOSED opens when a rule holds: failures in a row; the share of failures or of slow calls, once enough calls are
//!   in the window; a provider that asks for a pause. The longest of the reasons' durations counts.
//! - OPEN becomes HALF_OPEN when somebody acquires at `open_until` or later, or by itself then with
//!   `automatic_half_open`; or CLOSED where no trial calls are wanted. [`deadline`] says when to look again.
//! - HALF_OPEN closes or opens again by the results of its trial calls. The verdict is over N results (`trial_size`):
//!   OPEN as soon as failures or slow calls reach their share of N or a provider asks for a pause, CLOSED when N results
//!   are in.

use std::time::Duration;

use super::{
    BreakerSettings, Mode, ModelKey, Outcome, Position, Reason, RejectionReason, Snapshot, State, View,
    operations::{Acquired, Order, Ordered, Rejection},
    store::{Begins, Change, LeaseResult, RequestedPause},
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
};

/// The least that a late report moves the end of an open time by, where a tenth of its wish is not less.
const WORTHWHILE: Duration = Duration::from_secs(1);

/// What brought a view about, as far as it bears on what is due.
#[derive(Debug, Clone, Default)]
pub struct Cause {
    /// Whether a permit is wanted, so that an open time which has passed takes effect.
    pub acquires: bool,
    /// The longest row of failures among the reports that were just recorded.
    pub longest_run: i64,
    /// How the last of them that counts against the model went.
    pub outcome: Option<Outcome>,
    /// What was said about it.
    pub detail: String,
}

/// Who decides, at the view's moment.
fn mode(view: &View) -> Mode {
    view.snapshot.mode_at(view.now)
}

/// The change that must happen now, if one must. `chance` in [0, 1) is what jitter is made of.
pub fn due(view: &View, settings: &BreakerSettings, cause: &Cause, chance: f64) -> Option<Change> {
    if view.snapshot.mode != mode(view) {
        return Some(override_ended(view));
    }
    if view.snapshot.mode != Mode::Automatic {
        return None;
    }
    match view.snapshot.state {
        State::Closed => trip(view, settings, cause, chance),
        State::Open => leave_open(view, settings, cause),
        State::HalfOpen => verdict(view, settings, cause, chance),
    }
}

fn trip(view: &View, settings: &BreakerSettings, cause: &Cause, chance: f64) -> Option<Change> {
    let counts = &view.totals.counts;
    // One has seen any failure, even where stores have not looked for more, or all but the row of failures has aged.
    let is_seen_widely =
        settings.min_reporters <= 1 || view.totals.reporters >= i64::from(settings.min_reporters);
    let run = counts.run.max(cause.longest_run);
    let in_a_row = settings.consecutive_failures > 0 && run >= i64::from(settings.consecutive_failures);
    let has_quorum = counts.calls >= i64::from(settings.quorum());
    let fails = reaches(counts.failures, counts.calls, settings.failure_rate_percent);
    let is_slow = reaches(counts.slow, counts.calls, settings.slow_rate_percent);
    let reason = if in_a_row && is_seen_widely {
        Some(Reason::ConsecutiveFailures)
    } else if has_quorum && fails && is_seen_widely {
        Some(Reason::FailureRate)
    } else if has_quorum && is_slow {
        Some(Reason::SlowRate)
    } else {
        None
    };
    open(view, settings, reason, cause, chance)
}

fn leave_open(view: &View, settings: &BreakerSettings, cause: &Cause) -> Option<Change> {
    let (snapshot, until) = (&view.snapshot, open_until(&view.snapshot, settings));
    if view.now < snapshot.since {
        return Some(Change { open_for: Some(until.since(snapshot.since)), ..reanchored(view) });
    }
    if !(cause.acquires || settings.automatic_half_open) || view.now < until {
        return None;
    }
    match settings.half_open_permits {
        0 => Some(Change { attempts: 0, ..begins(view, State::Closed, Reason::OpenElapsed) }),
        _ => Some(begins(view, State::HalfOpen, Reason::OpenElapsed)),
    }
}

fn verdict(view: &View, settings: &BreakerSettings, cause: &Cause, chance: f64) -> Option<Change> {
    if view.now < view.snapshot.since {
        return Some(reanchored(view));
    }
    let results = &view.totals.counts;
    let size = trial_size(settings);
    let (has_failed, has_passed) = if settings.has_rate_rule() {
        let has_failed = reaches(results.failures, size, settings.failure_rate_percent)
            || reaches(results.slow, size, settings.slow_rate_percent);
        (has_failed, results.calls >= size || settings.half_open_permits == 0)
    } else {
        (results.failures > 0, results.calls >= i64::from(settings.half_open_permits))
    };
    let waited = view.now.since(view.snapshot.since);
    let reason = if has_failed {
        Some(Reason::TrialFailed)
    } else if !has_passed && settings.half_open_max_wait.is_some_and(|most| waited >= most) {
        Some(Reason::TrialTimedOut)
    } else {
        None
    };
    let (outcome, detail) = (cause.outcome, cause.detail.clone());
    let close =
        || Change { attempts: 0, outcome, detail, ..begins(view, State::Closed, Reason::TrialPassed) };
    open(view, settings, reason, cause, chance).or_else(|| has_passed.then(close))
}

/// The change to OPEN for a rule's reason, for a provider's wish, or for both.
fn open(
    view: &View,
    settings: &BreakerSettings,
    rule: Option<Reason>,
    cause: &Cause,
    chance: f64,
) -> Option<Change> {
    let wish = view.totals.pause.filter(|pause| settings.honor_retry_after && pause.until > view.now);
    let pause = wish.map(|wish| wish.until.since(view.now).min(settings.max_retry_after));
    let reason = rule.or_else(|| pause.map(|_| Reason::RetryAfter))?;
    let attempts = view.snapshot.attempts.saturating_add(1);
    let by_rule = rule.map(|_| backoff(settings, attempts, chance));
    let outcome = match rule {
        Some(Reason::TrialTimedOut) => None,
        Some(_) => cause.outcome,
        None => wish.map(|wish| wish.outcome),
    };
    let open_for = by_rule.max(pause);
    let detail = cause.detail.clone();
    Some(Change { open_for, attempts, outcome, detail, ..begins(view, State::Open, reason) })
}

/// How many results the verdict on a trial is over.
fn trial_size(settings: &BreakerSettings) -> i64 {
    i64::from(settings.quorum().min(settings.half_open_permits).max(1))
}

/// Whether `part` of `whole` is at least so many percent; a rule of 0 percent is off.
#[expect(clippy::cast_precision_loss, reason = "calls in a window are far fewer than 2^52")]
fn reaches(part: i64, whole: i64, percent: f64) -> bool {
    percent > 0.0 && part as f64 * 100.0 >= percent * whole as f64
}

/// How long the breaker stays open when it opens for this time in a row: `base * multiplier^(attempts - 1)`, more or
/// less the jitter, at most the cap.
fn backoff(settings: &BreakerSettings, attempts: u32, chance: f64) -> Duration {
    let cap = settings.max_open_duration().as_secs_f64();
    let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = settings.open_duration.as_secs_f64() * settings.backoff_multiplier.powi(exponent);
    let swing = 1.0 + settings.jitter_percent / 100.0 * (2.0 * chance - 1.0);
    let seconds = (grown.min(cap) * swing).min(cap);
    // Whole milliseconds, as everything that is stored.
    Duration::from_millis(Duration::from_secs_f64(seconds).as_millis().try_into().unwrap_or(u64::MAX))
        .max(Duration::from_millis(1))
}

/// When an OPEN breaker is due. A record that others wrote may say only when it opened.
fn open_until(snapshot: &Snapshot, settings: &BreakerSettings) -> Timestamp {
    snapshot.open_until.unwrap_or_else(|| snapshot.since.plus(settings.open_duration))
}

/// The change that a late report of the calls which led to this OPEN brings about: the longest of their wishes counts.
pub fn extension(
    view: &View,
    settings: &BreakerSettings,
    position: &Position,
    wish: &RequestedPause,
    detail: &str,
) -> Option<Change> {
    let snapshot = &view.snapshot;
    let led_here = snapshot.fence_before..snapshot.fence;
    let is_unborn = position.epoch.is_empty() && position.generation == 0;
    let may_extend = snapshot.state == State::Open
        && mode(view) == Mode::Automatic
        && settings.honor_retry_after
        && (position.epoch == snapshot.position.epoch || is_unborn)
        && led_here.contains(&position.generation)
        && wish.outcome.asks_for_pause();
    let length = wish.length.min(settings.max_retry_after);
    // Calls that fail one after the other ask for the same pause, each a little later: that is no change worth telling.
    let gain = view.now.plus(length).since(open_until(snapshot, settings));
    if !may_extend || gain < WORTHWHILE.min(length / 10).max(Duration::from_millis(1)) {
        return None;
    }
    let (open_for, outcome, detail) = (Some(length), Some(wish.outcome), detail.to_owned());
    Some(Change { open_for, outcome, detail, ..stays(view, Reason::Extended) })
}

/// The change to a trial: from OPEN, or out of an override that kept calls from being counted.
pub fn trial(key: &ModelKey, view: &View) -> Result<Change> {
    match (mode(view), view.snapshot.state) {
        (Mode::Automatic, State::Open) | (Mode::ForcedOpen | Mode::Disabled, _) => {
            Ok(begins(view, State::HalfOpen, Reason::OpenElapsed))
        }
        (Mode::Automatic, State::Closed | State::HalfOpen) | (Mode::MetricsOnly, _) => {
            Err(illegal(key, view, "a trial"))
        }
    }
}

/// The change that an operator orders; none if nothing is to change.
pub fn ordered(
    key: &ModelKey,
    view: &View,
    settings: &BreakerSettings,
    order: &Order,
) -> Result<Option<Change>> {
    let snapshot = &view.snapshot;
    let change = match order.what {
        Ordered::Trip(_) if mode(view) != Mode::Automatic => return Err(illegal(key, view, "TripBreaker")),
        Ordered::Trip(open_for) => {
            let open_for = Some(open_for.unwrap_or(settings.open_duration));
            match snapshot.state {
                State::Open => Change { open_for, ..stays(view, Reason::Tripped) },
                State::Closed | State::HalfOpen => {
                    let attempts = snapshot.attempts.saturating_add(1);
                    Change { open_for, attempts, ..begins(view, State::Open, Reason::Tripped) }
                }
            }
        }
        Ordered::Reset => Change { attempts: 0, ..begins(view, State::Closed, Reason::Reset) },
        Ordered::Override(Mode::Automatic, _) if snapshot.mode == Mode::Automatic => return Ok(None),
        Ordered::Override(mode, override_for) => {
            Change { mode, override_for, empties: true, ..stays(view, Reason::Override) }
        }
    };
    let (actor, detail, request) = (order.actor.clone(), order.reason.clone(), order.request_id.clone());
    Ok(Some(Change { actor, detail, request, ..change }))
}

fn illegal(key: &ModelKey, view: &View, what: &'static str) -> Error {
    Error::IllegalTransition { key: key.to_string(), mode: mode(view).as_str(), what }
}

/// When something is due by time alone, if nothing happens before.
pub fn deadline(view: &View, settings: &BreakerSettings) -> Option<Timestamp> {
    let snapshot = &view.snapshot;
    if snapshot.mode != Mode::Automatic {
        return snapshot.mode_override.as_ref().and_then(|stands| stands.expire_time);
    }
    match snapshot.state {
        State::Closed => None,
        State::Open => settings.automatic_half_open.then(|| open_until(snapshot, settings)),
        State::HalfOpen => settings.half_open_max_wait.map(|most| snapshot.since.plus(most)),
    }
}

fn override_ended(view: &View) -> Change {
    let detail = "the override ended".to_owned();
    Change { mode: Mode::Automatic, empties: true, detail, ..stays(view, Reason::Override) }
}

/// The state from now on, since the store's clock went back behind its beginning: what is counted from there would take
/// longer by as much.
fn reanchored(view: &View) -> Change {
    let detail = "the clock of the store went back".to_owned();
    Change { detail, reanchors: true, ..stays(view, Reason::Extended) }
}

/// A change to another state, or to the same one from its beginning.
fn begins(view: &View, to: State, reason: Reason) -> Change {
    Change { to, mode: Mode::Automatic, begins: Begins::State, empties: true, ..stays(view, reason) }
}

/// A change of mode or deadline alone.
fn stays(view: &View, reason: Reason) -> Change {
    let snapshot = &view.snapshot;
    Change {
        expected: snapshot.position.clone(),
        from: snapshot.state,
        to: snapshot.state,
        mode: mode(view),
        reason,
        begins: Begins::Nothing,
        empties: false,
        open_for: None,
        reanchors: false,
        attempts: snapshot.attempts,
        override_for: None,
        outcome: None,
        actor: String::new(),
        detail: String::new(),
        request: None,
    }
}

/// Whether a call may be made, where nothing is due. `lease` is what the store said to the wish for one.
pub fn admission(view: &View, settings: &BreakerSettings, lease: LeaseResult) -> Admission {
    let rejected = |reason, retry_after| Admission::Rejected { reason, retry_after };
    let snapshot = &view.snapshot;
    match (mode(view), snapshot.state) {
        (Mode::ForcedOpen, _) => {
            let ends = snapshot.mode_override.as_ref().and_then(|stands| stands.expire_time);
            rejected(RejectionReason::ForcedOpen, ends.map(|at| at.since(view.now)))
        }
        (Mode::Disabled | Mode::MetricsOnly, _) | (Mode::Automatic, State::Closed) => Admission::Free,
        (Mode::Automatic, State::Open) => {
            let left = open_until(snapshot, settings).since(view.now);
            rejected(RejectionReason::Open, Some(left))
        }
        (Mode::Automatic, State::HalfOpen) => match lease {
            LeaseResult::Live(until) => Admission::Leased(until),
            // Nobody knows when a trial ends. A retry that comes after its own report may not call again.
            LeaseResult::Full | LeaseResult::Settled | LeaseResult::Absent | LeaseResult::NotLeasing => {
                rejected(RejectionReason::NoPermitLeft, None)
            }
        },
    }
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may, without lease.
    Free,
    /// It may, under the lease that ends then.
    Leased(Timestamp),
    /// It may not.
    Rejected {
        /// Why.
        reason: RejectionReason,
        /// When to ask again; none if nobody knows.
        retry_after: Option<Duration>,
    },
}

impl Admission {
    /// The refusal of a key, if it is one.
    pub fn rejection(self, key: &ModelKey, state: State) -> Option<Rejection> {
        match self {
            Self::Free | Self::Leased(_) => None,
            Self::Rejected { reason, retry_after } => {
                Some(Rejection { key: key.clone(), state, reason, retry_after })
            }
        }
    }
}

impl From<Rejection> for Acquired {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

mod describe;
mod reconcile;
mod repair;
#[cfg(test)]
mod tests;

pub use describe::describe;
pub use reconcile::{Trip, reconciled};
pub use repair::{lost, taken_over};
