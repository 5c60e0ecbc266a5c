//! The last view of a breaker, whatever answer brought it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    breakers::{ModelKey, Snapshot, View},
    clock::Timestamp,
};

/// Answers overtake each other by less than this. An answer that is older by more comes from a clock that went back.
const LATEST: Duration = Duration::from_secs(10);

/// A breaker as the store described it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastView {
    /// When, by the clock of the store.
    pub at: Timestamp,
    /// The state; the default where the store has none.
    pub snapshot: Arc<Snapshot>,
}

/// The last view of each breaker.
pub type LastViews = HashMap<ModelKey, LastView>;

impl LastView {
    /// Replaces a last view by a view that has arrived, unless the last view is the later one.
    pub fn update(last: &mut Option<Self>, view: &View) {
        match last {
            Some(last) if last.is_after(view) => {}
            // Most views repeat the state: they cost no allocation.
            Some(last) if *last.snapshot == view.snapshot => last.at = view.now,
            _ => *last = Some(Self { at: view.now, snapshot: Arc::new(view.snapshot.clone()) }),
        }
    }

    /// Whether a view that has arrived is older than this one.
    fn is_after(&self, view: &View) -> bool {
        if self.at == view.now {
            let (here, there) = (&self.snapshot.position, &view.snapshot.position);
            return here.epoch == there.epoch && here.generation > there.generation;
        }
        self.at > view.now && self.at.since(view.now) < LATEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breakers::{Position, State};

    fn view(millis: i64, epoch: &str, generation: i64) -> View {
        let state = if epoch.is_empty() { State::Closed } else { State::Open };
        let position = Position { epoch: epoch.into(), generation };
        let snapshot = Snapshot { position, state, ..Snapshot::default() };
        View { now: Timestamp::from_millis(millis), snapshot, ..View::default() }
    }

    /// The generation that is known after these views arrived; 0 where there is no such breaker.
    fn known(views: &[View]) -> i64 {
        let mut last = None;
        for view in views {
            LastView::update(&mut last, view);
        }
        last.unwrap().snapshot.position.generation
    }

    #[test]
    fn the_latest_view_counts_in_whatever_order_answers_arrive() {
        assert_eq!(known(&[view(5, "e", 1), view(9, "e", 2), view(7, "e", 1)]), 2);
        assert_eq!(known(&[view(5, "e", 2), view(5, "e", 1)]), 2, "in the same millisecond");
        assert_eq!(known(&[view(5, "e", 1), view(5, "e", 2)]), 2);
        assert_eq!(known(&[view(20_000, "e", 3), view(5_000, "e", 4)]), 4, "the clock went back");
    }

    #[test]
    fn a_breaker_that_is_gone_is_not_known_any_more() {
        assert_eq!(known(&[view(5, "e", 1), view(6, "", 0)]), 0);
        assert_eq!(known(&[view(5, "e", 1), view(9, "", 0), view(7, "e", 1)]), 0, "by a late answer");
        assert_eq!(known(&[view(5, "e", 9), view(6, "", 0), view(7, "f", 1)]), 1);
    }
}
