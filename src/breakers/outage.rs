//! What breakers of memory take over from shared ones when an outage begins, and what they leave to them when it ends.

use super::{BreakerStore, ModelKey, Outcome, Position, View, keeper::LastView};
use crate::{clock::Timestamp, error::Result};

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
    fn take_over(&self, key: &ModelKey, last: &LastView) -> Result<View>;

    /// Opens a breaker as it was opened in an outage before, unless it is OPEN or its mode is not AUTOMATIC. Fails where
    /// there is no room. Answers how it stands then.
    fn open_again(&self, trip: &Trip) -> Result<View>;

    /// The breakers that are OPEN since they were opened here; what their `base` is, nobody knows here.
    fn trips(&self) -> Vec<Trip>;
}
