//! Changes that make a breaker's history true again: others than this program wrote to the store, or it lost what it had.

use super::{backoff, open_until, stays};
use crate::breakers::{
    BreakerSettings, Mode, Position, Reason, Snapshot, State, Transition, View, store::Change,
};

/// The change that takes over what somebody did to the stored state by hand: what stands there is not what the newest
/// change in the log left. Without any change in the log it should be as that of a key never seen.
pub fn taken_over(
    view: &View,
    settings: &BreakerSettings,
    newest: Option<&Transition>,
    chance: f64,
) -> Option<Change> {
    let snapshot = &view.snapshot;
    if newest.map_or(0, |newest| newest.position.generation) != snapshot.position.generation {
        // The log was lost: nothing tells what should stand there.
        return None;
    }
    let was = newest
        .map_or((State::Closed, Mode::Automatic, None), |newest| (newest.to, newest.mode, newest.open_until));
    let (to, mode) = (snapshot.state, snapshot.mode);
    if was == (to, mode, snapshot.open_until) {
        return None;
    }
    let begins = was.0 != to;
    let attempts = match (to, begins) {
        (State::Closed, _) => 0,
        (State::Open, true) => snapshot.attempts.saturating_add(1),
        (State::Open, false) | (State::HalfOpen, _) => snapshot.attempts,
    };
    // A record that others wrote says only when it opened.
    let is_foreign = snapshot.position == Position::default();
    let until = snapshot.open_until.or_else(|| is_foreign.then(|| open_until(snapshot, settings)));
    let open_for = until.map_or_else(|| backoff(settings, attempts, chance), |until| until.since(view.now));
    Some(Change {
        from: was.0,
        mode,
        begins,
        empties: begins || was.1 != mode,
        open_for: (to == State::Open).then_some(open_for),
        attempts,
        detail: "changed by hand".to_owned(),
        ..stays(view, Reason::External)
    })
}

/// The change that begins another epoch where the store lost changes: `seen` is a place in the history that somebody was
/// told and that lies ahead of where the breaker stands now. Nothing that was permitted or told of the lost part may be
/// taken for what happens next.
pub fn lost(view: &View, seen: &Position) -> Option<Change> {
    let Snapshot { position, mode, .. } = &view.snapshot;
    if position.epoch.is_empty() || seen.epoch != position.epoch || seen.generation <= position.generation {
        return None;
    }
    let detail = format!("redis lost changes: it had told generation {}", seen.generation);
    let stays = stays(view, Reason::External);
    Some(Change { mode: *mode, begins: true, empties: true, begins_epoch: true, detail, ..stays })
}
