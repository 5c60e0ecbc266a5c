//! A breaker as it is told to people.

use super::{mode, open_until, trial_size};
use crate::{
    breakers::{BreakerSettings, Counts, Mode, ModelKey, State, View, operations::Breaker},
    clock::Timestamp,
};

/// Tells a breaker as it stands.
pub fn describe(key: &ModelKey, view: &View, settings: &BreakerSettings, rejected_calls: i64) -> Breaker {
    let View { now, snapshot, totals } = view;
    let mode = mode(view);
    // OPEN counts nothing: what opened it is more use than zeros.
    let (counts, quorum) = match snapshot.state {
        State::Closed => (totals.counts, i64::from(settings.quorum())),
        State::Open if snapshot.attempts > 1 => (snapshot.before, trial_size(settings)),
        State::Open => (snapshot.before, i64::from(settings.quorum())),
        State::HalfOpen => (totals.counts, trial_size(settings)),
    };
    let is_open = snapshot.state == State::Open;
    let until = is_open.then(|| open_until(snapshot, settings));
    let taken = totals.leases + totals.counts.calls;
    let budget = match (mode, snapshot.state) {
        (Mode::Automatic, State::HalfOpen) => i64::from(settings.half_open_permits) - taken,
        _ => 0,
    };
    Breaker {
        key: key.clone(),
        state: snapshot.state,
        mode,
        position: snapshot.position.clone(),
        since: (snapshot.since != Timestamp::default()).then_some(snapshot.since),
        open_until: until,
        retry_after: until.map(|until| until.since(*now)),
        failure_rate_percent: rate(counts.failures, &counts, quorum),
        slow_rate_percent: rate(counts.slow, &counts, quorum),
        counts,
        last_failure: totals.last_failure.or(snapshot.last_failure),
        rejected_calls,
        attempts: snapshot.attempts,
        mode_override: snapshot.mode_override.clone().filter(|_| mode != Mode::Automatic),
        permits_left: u32::try_from(budget.max(0)).unwrap_or(u32::MAX),
    }
}

#[expect(clippy::cast_precision_loss, reason = "calls in a window are far fewer than 2^52")]
fn rate(part: i64, counts: &Counts, quorum: i64) -> Option<f64> {
    (counts.calls >= quorum && counts.calls > 0).then(|| part as f64 * 100.0 / counts.calls as f64)
}
