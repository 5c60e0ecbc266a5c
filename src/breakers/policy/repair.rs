//! Changes that make a breaker's history true again: others than this program wrote to the store, or it lost what it had.

use std::time::Duration;

use super::{backoff, open_until, stays};
use crate::breakers::{
    BreakerSettings, Mode, Position, Reason, Snapshot, State, Transition, View,
    store::{Begins, Change},
};

/// Whoever opens a breaker by hand opens it for so long at most: beyond lies what no clock can tell.
const LONGEST_BY_HAND: Duration = Duration::from_hours(24 * 365);

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
    let begins = if was.0 == to { Begins::Nothing } else { Begins::State };
    let attempts = match (to, begins.is_state()) {
        (State::Closed, _) => 0,
        (State::Open, true) => snapshot.attempts.saturating_add(1),
        (State::Open, false) | (State::HalfOpen, _) => snapshot.attempts,
    };
    // A record that others wrote says only when it opened.
    let is_foreign = snapshot.position == Position::default();
    let until = snapshot.open_until.or_else(|| is_foreign.then(|| open_until(snapshot, settings)));
    let open_for = until.map_or_else(|| backoff(settings, attempts, chance), |until| until.since(view.now));
    let open_for = open_for.min(LONGEST_BY_HAND);
    Some(Change {
        from: was.0,
        mode,
        begins,
        empties: begins.is_state() || was.1 != mode,
        open_for: (to == State::Open).then_some(open_for),
        attempts,
        detail: "changed by hand".to_owned(),
        ..stays(view, Reason::External)
    })
}

/// The change that begins another epoch where the store lost changes: `seen` is a place in the history that somebody was
/// told and that lies ahead of where the breaker stands now, or at which another change stands by now. Nothing that was
/// permitted or told of the lost part may be taken for what happens next.
pub fn lost(view: &View, seen: &Position, is_another: bool) -> Option<Change> {
    let Snapshot { position, mode, .. } = &view.snapshot;
    let is_ahead = seen.generation > position.generation;
    if position.epoch.is_empty() || seen.epoch != position.epoch || !(is_ahead || is_another) {
        return None;
    }
    let detail = format!("redis lost changes: it had told another generation {}", seen.generation);
    let stays = stays(view, Reason::External);
    Some(Change { mode: *mode, begins: Begins::Epoch, empties: true, detail, ..stays })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(1_763_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    /// A breaker that is as the newest change in its log left it: OPEN for 10 s more.
    fn opened() -> (View, Transition) {
        let position = Position { epoch: "e".into(), generation: 3 };
        let open_until = Some(NOW.plus(10 * SECOND));
        let newest = Transition {
            position: position.clone(),
            from: State::Closed,
            to: State::Open,
            mode: Mode::Automatic,
            time: NOW,
            reason: Reason::Tripped,
            outcome: None,
            actor: String::new(),
            detail: String::new(),
            instance: String::new(),
            open_until,
        };
        let snapshot = Snapshot {
            position,
            fence: 3,
            state: State::Open,
            attempts: 1,
            open_until,
            ..Snapshot::default()
        };
        (View { now: NOW, snapshot, ..View::default() }, newest)
    }

    fn repaired(view: &View, newest: Option<&Transition>) -> Option<Change> {
        taken_over(view, &BreakerSettings::default(), newest, 0.5)
    }

    #[test]
    fn what_is_as_the_log_says_is_left_alone() {
        let (view, newest) = opened();
        assert_eq!(repaired(&view, Some(&newest)), None);
        assert_eq!(repaired(&View::default(), None), None, "nor one never seen");
        assert_eq!(repaired(&view, None), None, "without its log nobody knows");
    }

    #[test]
    fn a_state_set_by_hand_begins_with_its_own_deadline_or_the_settings() {
        let (mut view, newest) = opened();
        view.snapshot.state = State::Closed;
        view.snapshot.open_until = None;
        let closed = repaired(&view, Some(&newest)).unwrap();
        assert_eq!((closed.from, closed.to, closed.reason), (State::Open, State::Closed, Reason::External));
        assert_eq!((closed.begins, closed.open_for, closed.attempts), (Begins::State, None, 0));
        let newest = Transition { to: State::Closed, open_until: None, ..newest };
        view.snapshot.state = State::Open;
        let open = repaired(&view, Some(&newest)).unwrap();
        assert_eq!((open.open_for, open.attempts), (Some(30 * SECOND), 2));
        view.snapshot.open_until = Some(NOW.plus(SECOND));
        assert_eq!(repaired(&view, Some(&newest)).unwrap().open_for, Some(SECOND));
    }

    #[test]
    fn a_deadline_or_a_mode_set_by_hand_begins_no_state() {
        let (mut view, newest) = opened();
        view.snapshot.open_until = Some(NOW.plus(60 * SECOND));
        let longer = repaired(&view, Some(&newest)).unwrap();
        assert_eq!((longer.begins, longer.open_for), (Begins::Nothing, Some(60 * SECOND)));
        view.snapshot.open_until = Some(Timestamp::from_millis(i64::MAX));
        assert_eq!(repaired(&view, Some(&newest)).unwrap().open_for, Some(LONGEST_BY_HAND));
        let (mut view, newest) = opened();
        view.snapshot.mode = Mode::ForcedOpen;
        let forced = repaired(&view, Some(&newest)).unwrap();
        assert_eq!((forced.mode, forced.begins, forced.empties), (Mode::ForcedOpen, Begins::Nothing, true));
    }

    #[test]
    fn a_record_that_others_wrote_is_taken_over_with_the_time_it_has_been_open() {
        let since = Timestamp::from_millis(NOW.as_millis() - 20_000);
        let snapshot = Snapshot { state: State::Open, since, ..Snapshot::default() };
        let view = View { now: NOW, snapshot, ..View::default() };
        let taken = repaired(&view, None).unwrap();
        assert_eq!((taken.from, taken.to, taken.expected), (State::Closed, State::Open, Position::default()));
        assert_eq!(taken.open_for, Some(10 * SECOND));
    }

    #[test]
    fn an_epoch_begins_where_changes_that_were_told_are_lost() {
        let (view, newest) = opened();
        let told =
            |epoch: &str, generation| lost(&view, &Position { epoch: epoch.into(), generation }, false);
        assert_eq!(lost(&view, &newest.position, false), None);
        assert!(lost(&view, &newest.position, true).is_some(), "it is not the change that was told");
        assert_eq!(told("e", 2), None);
        assert_eq!(told("other", 9), None);
        let change = told("e", 4).unwrap();
        assert_eq!((change.begins, change.from, change.to), (Begins::Epoch, State::Open, State::Open));
        assert_eq!((change.open_for, change.attempts), (None, 1), "it stays open as long as it was to be");
    }
}
