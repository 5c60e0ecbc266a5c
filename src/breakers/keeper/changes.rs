//! The newest changes of one breaker, so that watchers who are a little behind are told each of them.

use std::{collections::VecDeque, sync::Arc};

use crate::breakers::{Position, Transition};

/// A watcher that is behind by more changes of one breaker begins again from the present.
pub(in crate::breakers) const MOST_BEHIND: usize = 256;

/// The newest changes, contiguous up to where the breaker was read last.
#[derive(Debug, Default)]
pub(in crate::breakers) struct Changes(VecDeque<Arc<Transition>>);

impl Changes {
    /// Adds the changes that were read of a breaker which stands at `position`, and says how many. Older changes stay if
    /// these follow upon them.
    pub(in crate::breakers) fn extend(&mut self, position: &Position, newest: Vec<Transition>) -> usize {
        let last = self.0.back().map(|last| &last.position).filter(|last| last.epoch == position.epoch);
        let last = last.map(|last| last.generation);
        let is_new = |change: &Transition| last.is_none_or(|last| change.position.generation > last);
        let mut newer = newest.into_iter().skip_while(|change| !is_new(change)).peekable();
        let first = newer.peek().map(|first| first.position.generation);
        let follows = last.is_some_and(|last| first.is_none_or(|first| first == last.saturating_add(1)));
        if !follows {
            self.0.clear();
        }
        let kept = self.0.len();
        self.0.extend(newer.map(Arc::new));
        self.0.len() - kept
    }

    /// Drops the oldest change.
    pub(in crate::breakers) fn drop_oldest(&mut self) {
        self.0.pop_front();
    }

    /// The newest change, if it led to a position.
    pub(in crate::breakers) fn last_at(&self, position: &Position) -> Option<Arc<Transition>> {
        self.0.back().filter(|last| last.position == *position).map(Arc::clone)
    }

    /// The changes after a generation up to another, if all of them are kept.
    pub(in crate::breakers) fn between(&self, after: i64, last: i64) -> Option<Vec<Arc<Transition>>> {
        let is_wanted = |change: &&Arc<Transition>| {
            change.position.generation > after && change.position.generation <= last
        };
        let wanted: Vec<_> = self.0.iter().filter(is_wanted).map(Arc::clone).collect();
        let is_whole =
            usize::try_from(last.saturating_sub(after)).is_ok_and(|missing| missing == wanted.len());
        (is_whole && wanted.len() <= MOST_BEHIND).then_some(wanted)
    }
}
