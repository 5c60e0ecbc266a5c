//! The changes that were read of late, of all breakers together, so that watchers who are a little behind are told each.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::breakers::{ModelKey, Position, Transition};

/// Changes that are kept.
const KEPT: usize = 16_384;
/// A watcher that is behind by more changes of one breaker begins again from the present.
pub(super) const MOST_BEHIND: usize = 256;

/// The newest changes of each breaker, contiguous up to where it was read last.
#[derive(Debug, Default)]
pub(super) struct History {
    changes: HashMap<ModelKey, VecDeque<Arc<Transition>>>,
    /// Whose change is the oldest, and so on; may name some that have gone since.
    order: VecDeque<ModelKey>,
}

impl History {
    /// Adds what was read of a breaker that stands at `position` now. What came before stays if this follows upon it.
    pub(super) fn extend(&mut self, key: &ModelKey, position: &Position, newest: Vec<Transition>) {
        let changes = self.changes.entry(key.clone()).or_default();
        let last = changes.back().map(|last| last.position.clone());
        let is_new = |change: &&Transition| match &last {
            Some(last) if last.epoch == position.epoch => change.position.generation > last.generation,
            Some(_) | None => true,
        };
        let first = newest.iter().find(is_new).map(|first| first.position.generation);
        let follows = last.is_some_and(|last| {
            last.epoch == position.epoch
                && first.is_none_or(|first| first == last.generation.saturating_add(1))
        });
        if !follows {
            changes.clear();
        }
        let newer = newest
            .into_iter()
            .filter(|change| first.is_some_and(|first| change.position.generation >= first));
        for change in newer {
            changes.push_back(Arc::new(change));
            self.order.push_back(key.clone());
        }
        while self.order.len() > KEPT {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(key) = self.order.pop_front() else { return };
        if let Some(changes) = self.changes.get_mut(&key) {
            changes.pop_front();
            if changes.is_empty() {
                self.changes.remove(&key);
            }
        }
    }

    /// The change that led to where a breaker was read last.
    pub(super) fn last(&self, key: &ModelKey, position: Option<&Position>) -> Option<Arc<Transition>> {
        let last = self.changes.get(key)?.back()?;
        (Some(&last.position) == position).then(|| Arc::clone(last))
    }

    /// The changes after a place up to another, if all of them are kept.
    pub(super) fn after(
        &self,
        key: &ModelKey,
        after: &Position,
        generation: i64,
    ) -> Option<Vec<Arc<Transition>>> {
        let changes = self.changes.get(key)?;
        let is_newer = |change: &&Arc<Transition>| {
            change.position.generation > after.generation && change.position.generation <= generation
        };
        let newer: Vec<_> = changes.iter().filter(is_newer).map(Arc::clone).collect();
        let is_whole = usize::try_from(generation.saturating_sub(after.generation))
            .is_ok_and(|missing| missing == newer.len());
        (is_whole && newer.len() <= MOST_BEHIND).then_some(newer)
    }

    /// Forgets the changes of other breakers.
    pub(super) fn retain(&mut self, stays: impl Fn(&ModelKey) -> bool) {
        self.changes.retain(|key, _| stays(key));
        self.order.retain(stays);
    }
}
