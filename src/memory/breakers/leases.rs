//! The trial permits of one breaker in `HALF_OPEN`.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{
    breakers::{Disposition, store::SETTLED_KEPT},
    clock::Timestamp,
};

/// Leases with their ends, and what became of those that were settled.
#[derive(Debug, Default)]
pub(super) struct Leases {
    ends: HashMap<String, Timestamp>,
    settled: HashMap<String, Disposition>,
    /// Settled ids, oldest first.
    order: VecDeque<String>,
}

impl Leases {
    /// How many have not ended.
    pub(super) fn live(&self, now: Timestamp) -> i64 {
        let live = self.ends.values().filter(|end| **end > now).count();
        i64::try_from(live).unwrap_or(i64::MAX)
    }

    /// Removes those that ended and tells how many they were.
    pub(super) fn purge(&mut self, now: Timestamp) -> usize {
        let before = self.ends.len();
        self.ends.retain(|_, end| *end > now);
        before - self.ends.len()
    }

    /// When a lease that was not purged ends.
    pub(super) fn end(&self, id: &str) -> Option<Timestamp> {
        self.ends.get(id).copied()
    }

    /// Gives a lease, or a lease a new end.
    pub(super) fn put(&mut self, id: &str, end: Timestamp) {
        self.ends.insert(id.to_owned(), end);
    }

    /// What became of a lease that was settled.
    pub(super) fn settled(&self, id: &str) -> Option<Disposition> {
        self.settled.get(id).copied()
    }

    /// Ends a live lease for good; false if there is no such lease.
    pub(super) fn settle(&mut self, id: &str, disposition: Disposition) -> bool {
        let Some((id, _)) = self.ends.remove_entry(id) else { return false };
        self.order.push_back(id.clone());
        self.settled.insert(id, disposition);
        while self.order.len() > SETTLED_KEPT {
            let Some(oldest) = self.order.pop_front() else { break };
            self.settled.remove(&oldest);
        }
        true
    }

    /// Moves all ends back with the clock, also of those that ended: they must not live again.
    pub(super) fn shift(&mut self, back: Duration) {
        let back = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
        for end in self.ends.values_mut() {
            *end = Timestamp::from_millis(end.as_millis().saturating_sub(back));
        }
    }
}
