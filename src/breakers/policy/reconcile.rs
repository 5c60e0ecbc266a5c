//! What becomes of a trip that memory made in an outage, once the shared store answers again.

use super::{begins, mode};
use crate::{
    breakers::{Mode, ModelKey, Outcome, Position, Reason, State, View, store::Change},
    clock::Timestamp,
};

/// A breaker that memory opened in an outage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    /// The breaker's key.
    pub key: ModelKey,
    /// The position of the shared breaker in its last view before the outage; the default where there was none.
    pub base: Position,
    /// Until when it is OPEN.
    pub open_until: Timestamp,
    /// Times opened since it was last CLOSED, this time included.
    pub attempts: u32,
    /// The outcome that caused it, as far as it is known.
    pub outcome: Option<Outcome>,
    /// The detail of the report with that outcome.
    pub detail: String,
}

impl Trip {
    /// Whether a shared breaker at this position has changed since its last view before the outage, so that others know
    /// better. A breaker of generation 0 has never changed, whoever made it.
    pub fn is_outdated_at(&self, position: &Position) -> bool {
        position.generation > 0 && *position != self.base
    }
}

/// The change that opens a breaker for what is left of a trip. None where the breaker knows better: it changed since it
/// was seen before the outage, an operator decides, it is OPEN already, or the time of the trip is over.
///
/// A trial that still goes on as it was seen does not know better: the trip is what came of it here.
pub fn reconciled(view: &View, trip: &Trip) -> Option<Change> {
    let snapshot = &view.snapshot;
    let is_decided = mode(view) != Mode::Automatic || snapshot.state == State::Open;
    let left = trip.open_until.since(view.now);
    if trip.is_outdated_at(&snapshot.position) || is_decided || left.is_zero() {
        return None;
    }
    let (open_for, attempts, outcome, detail) =
        (Some(left), trip.attempts, trip.outcome, trip.detail.clone());
    Some(Change { open_for, attempts, outcome, detail, ..begins(view, State::Open, Reason::Reconciled) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::breakers::{ModeOverride, Snapshot, store::Begins};

    const NOW: Timestamp = Timestamp::from_millis(1_763_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(epoch: &str, generation: i64) -> Position {
        Position { epoch: epoch.into(), generation }
    }

    /// A trip of 10 s more, of a breaker that was seen there.
    fn trip(base: Position) -> Trip {
        let (key, detail) = (ModelKey::parse("", "m").unwrap(), "503".to_owned());
        let (open_until, outcome) = (NOW.plus(10 * SECOND), Some(Outcome::Overloaded));
        Trip { key, base, open_until, attempts: 3, outcome, detail }
    }

    fn view(position: Position, state: State) -> View {
        View { now: NOW, snapshot: Snapshot { position, state, ..Snapshot::default() }, ..View::default() }
    }

    #[test]
    fn a_breaker_that_is_as_it_was_seen_opens_for_what_is_left() {
        for state in [State::Closed, State::HalfOpen] {
            let change = reconciled(&view(at("e", 4), state), &trip(at("e", 4))).unwrap();
            assert_eq!((change.expected, change.from, change.to), (at("e", 4), state, State::Open));
            assert_eq!((change.reason, change.begins), (Reason::Reconciled, Begins::State));
            assert_eq!((change.open_for, change.attempts), (Some(10 * SECOND), 3));
            assert_eq!((change.outcome, change.detail.as_str()), (Some(Outcome::Overloaded), "503"));
        }
    }

    #[test]
    fn one_that_is_not_there_or_never_changed_opens() {
        for base in [Position::default(), at("e", 0), at("lost", 7)] {
            assert!(reconciled(&View { now: NOW, ..View::default() }, &trip(base.clone())).is_some());
            assert!(reconciled(&view(at("e", 0), State::Closed), &trip(base)).is_some());
        }
    }

    #[test]
    fn one_that_changed_since_or_was_never_seen_here_knows_better() {
        for base in [at("e", 3), at("e", 5), at("f", 4), Position::default()] {
            assert_eq!(reconciled(&view(at("e", 4), State::Closed), &trip(base)), None);
        }
    }

    #[test]
    fn one_that_is_open_or_that_an_operator_decides_on_is_left_alone() {
        let here = at("e", 4);
        assert_eq!(reconciled(&view(here.clone(), State::Open), &trip(here.clone())), None);
        let mut overridden = view(here.clone(), State::Closed);
        let (reason, actor, set_time) = (String::new(), String::new(), NOW);
        overridden.snapshot.mode = Mode::Disabled;
        overridden.snapshot.mode_override = Some(ModeOverride { reason, actor, set_time, expire_time: None });
        assert_eq!(reconciled(&overridden, &trip(here)), None);
    }

    #[test]
    fn a_trip_whose_time_is_over_changes_nothing() {
        let mut over = trip(Position::default());
        over.open_until = NOW;
        assert_eq!(reconciled(&View { now: NOW, ..View::default() }, &over), None);
    }
}
