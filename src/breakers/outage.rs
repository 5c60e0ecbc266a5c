//! What breakers of memory take over from shared ones when an outage begins, and what they leave to them when it ends.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{BreakerStore, ModelKey, Outcome, Position, Snapshot, View};
use crate::{clock::Timestamp, error::Result};

/// An answer may be overtaken by one that is later by less than this. One that is older by more is of a clock that went
/// back.
const LATEST: Duration = Duration::from_secs(10);

/// A shared breaker as this process saw it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When, by the clock of the shared store.
    pub at: Timestamp,
    /// How it stood; none where it had no stored state.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// Breakers as this process saw them last.
pub type Sightings = HashMap<ModelKey, Sighting>;

impl Sighting {
    /// Takes note of a view, unless a later one was noted already.
    pub fn note(noted: &mut Option<Self>, view: &View) {
        match noted {
            Some(noted) if noted.is_after(view) => {}
            // Most views say nothing new: these cost no allocation.
            Some(noted) if noted.snapshot.as_deref() == Some(&view.snapshot) => noted.at = view.now,
            _ => *noted = Some(Self::of(view)),
        }
    }

    fn of(view: &View) -> Self {
        let is_there = view.snapshot != Snapshot::default();
        Self { at: view.now, snapshot: is_there.then(|| Arc::new(view.snapshot.clone())) }
    }

    /// Whether a view that arrives now is older than this.
    fn is_after(&self, view: &View) -> bool {
        if self.at == view.now {
            let (here, there) = (self.position(), &view.snapshot.position);
            return here.epoch == there.epoch && here.generation > there.generation;
        }
        self.at > view.now && self.at.since(view.now) < LATEST
    }

    /// Where it stood; the default where it had no stored state.
    pub fn position(&self) -> Position {
        self.snapshot.as_ref().map(|snapshot| snapshot.position.clone()).unwrap_or_default()
    }
}

/// A breaker that memory opened in an outage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    /// Which.
    pub key: ModelKey,
    /// Where the shared breaker stood when this process saw it last before; the default where it never saw it.
    pub base: Position,
    /// Until when it is OPEN.
    pub open_until: Timestamp,
    /// Times opened since it was last CLOSED, this time included.
    pub attempts: u32,
    /// The outcome that caused it, as far as it is known.
    pub outcome: Option<Outcome>,
    /// What was said about that.
    pub detail: String,
}

impl Trip {
    /// Whether a shared breaker that stands there has changed since it was seen before the outage, so that others know
    /// better. One without generation has never changed, whoever made it.
    pub fn is_outdated_at(&self, position: &Position) -> bool {
        position.generation > 0 && *position != self.base
    }
}

/// A store that stands in for a shared one in its outages, one after the other.
pub trait StandIn: BreakerStore {
    /// Forgets every breaker.
    fn clear(&self);

    /// Takes over a breaker as it was seen, with the times that it had, under an epoch of its own; nothing where that has
    /// expired, or says no more than that of one never seen. Fails where there is no room. Answers how it stands then.
    fn take_over(&self, key: &ModelKey, seen: &Sighting) -> Result<View>;

    /// Opens a breaker as it was opened in an outage before, unless it is OPEN or its mode is not AUTOMATIC. Fails where
    /// there is no room. Answers how it stands then.
    fn open_again(&self, trip: &Trip) -> Result<View>;

    /// The breakers that are OPEN since they were opened here; what their `base` is, nobody knows here.
    fn trips(&self) -> Vec<Trip>;
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
        let mut noted = None;
        for view in views {
            Sighting::note(&mut noted, view);
        }
        noted?.snapshot.map(|snapshot| snapshot.position.generation)
    }

    #[test]
    fn the_latest_sight_counts_in_whatever_order_answers_arrive() {
        assert_eq!(known(&[view(5, "e", 1), view(9, "e", 2), view(7, "e", 1)]), Some(2));
        assert_eq!(known(&[view(5, "e", 2), view(5, "e", 1)]), Some(2), "in the same millisecond");
        assert_eq!(known(&[view(5, "e", 1), view(5, "e", 2)]), Some(2));
        assert_eq!(known(&[view(20_000, "e", 3), view(5_000, "e", 4)]), Some(4), "the clock went back");
    }

    #[test]
    fn one_that_is_no_more_is_not_seen_any_more() {
        assert_eq!(known(&[view(5, "e", 1), view(6, "", 0)]), None);
        assert_eq!(known(&[view(5, "e", 1), view(9, "", 0), view(7, "e", 1)]), None, "by a late answer");
        assert_eq!(known(&[view(5, "e", 9), view(6, "", 0), view(7, "f", 1)]), Some(1));
    }
}
