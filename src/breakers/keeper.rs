//! What this process knows of one breaker.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{ModelKey, Position, Snapshot, View, store::Terms};
use crate::clock::Timestamp;

/// Answers overtake each other by less than this. An answer that is older by more comes from a clock that went back.
const LATEST: Duration = Duration::from_secs(10);

/// A breaker as the store described it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastView {
    /// When, by the clock of the store.
    pub at: Timestamp,
    /// The state; none where the store has none.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// The last view of each breaker.
pub type LastViews = HashMap<ModelKey, LastView>;

impl LastView {
    /// Replaces a last view by a view that has arrived, unless the last view is the later one.
    pub fn update(last: &mut Option<Self>, view: &View) {
        match last {
            Some(last) if last.is_after(view) => {}
            // Most views repeat the state: they cost no allocation.
            Some(last) if last.snapshot.as_deref() == Some(&view.snapshot) => last.at = view.now,
            _ => *last = Some(Self::of(view)),
        }
    }

    fn of(view: &View) -> Self {
        let has_state = view.snapshot != Snapshot::default();
        Self { at: view.now, snapshot: has_state.then(|| Arc::new(view.snapshot.clone())) }
    }

    /// Whether a view that has arrived is older than this one.
    fn is_after(&self, view: &View) -> bool {
        if self.at == view.now {
            let (here, there) = (self.position(), &view.snapshot.position);
            return here.epoch == there.epoch && here.generation > there.generation;
        }
        self.at > view.now && self.at.since(view.now) < LATEST
    }

    /// The position; the default where the store has no state.
    pub fn position(&self) -> Position {
        self.snapshot.as_ref().map(|snapshot| snapshot.position.clone()).unwrap_or_default()
    }
}

/// What this process knows of one breaker. A keeper that nothing depends on may be forgotten at any time: the store
/// says when settings are outdated, the count of rejected calls is for people, and a breaker without last view begins
/// CLOSED in an outage.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The settings in force, as far as this process knows.
    pub(super) terms: Terms,
    pub(super) last: Option<LastView>,
    /// Calls that were rejected at this position.
    rejected: (Position, i64),
    /// When time alone may change the breaker.
    pub(super) deadline: Option<Instant>,
    /// Grows with each use of any keeper.
    pub(super) used: u64,
}

impl Keeper {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, last: None, rejected: (Position::default(), 0), deadline: None, used: 0 }
    }

    /// Forgets what was known of a breaker that was deleted.
    pub(super) fn reset(&mut self, terms: Terms) {
        *self = Self { deadline: self.deadline, used: self.used, ..Self::new(terms) };
    }

    /// Counts a rejected call.
    pub(super) fn count_rejection(&mut self, position: &Position) {
        if self.rejected.0 != *position {
            self.rejected = (position.clone(), 0);
        }
        self.rejected.1 += 1;
    }

    /// The calls that were rejected at a position.
    pub(super) fn rejected(&self, position: &Position) -> i64 {
        if self.rejected.0 == *position { self.rejected.1 } else { 0 }
    }

    /// Whether nothing depends on this keeper.
    pub(super) fn is_spare(&self) -> bool {
        self.deadline.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breakers::State;

    fn view(millis: i64, epoch: &str, generation: i64) -> View {
        let state = if epoch.is_empty() { State::Closed } else { State::Open };
        let position = Position { epoch: epoch.into(), generation };
        let snapshot = Snapshot { position, state, ..Snapshot::default() };
        View { now: Timestamp::from_millis(millis), snapshot, ..View::default() }
    }

    /// The generation that is known after these views arrived; none where there is no such breaker.
    fn known(views: &[View]) -> Option<i64> {
        let mut last = None;
        for view in views {
            LastView::update(&mut last, view);
        }
        last?.snapshot.map(|snapshot| snapshot.position.generation)
    }

    #[test]
    fn the_latest_view_counts_in_whatever_order_answers_arrive() {
        assert_eq!(known(&[view(5, "e", 1), view(9, "e", 2), view(7, "e", 1)]), Some(2));
        assert_eq!(known(&[view(5, "e", 2), view(5, "e", 1)]), Some(2), "in the same millisecond");
        assert_eq!(known(&[view(5, "e", 1), view(5, "e", 2)]), Some(2));
        assert_eq!(known(&[view(20_000, "e", 3), view(5_000, "e", 4)]), Some(4), "the clock went back");
    }

    #[test]
    fn a_breaker_that_is_gone_is_not_known_any_more() {
        assert_eq!(known(&[view(5, "e", 1), view(6, "", 0)]), None);
        assert_eq!(known(&[view(5, "e", 1), view(9, "", 0), view(7, "e", 1)]), None, "by a late answer");
        assert_eq!(known(&[view(5, "e", 9), view(6, "", 0), view(7, "f", 1)]), Some(1));
    }
}
