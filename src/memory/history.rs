//! The last changes of a thread that were no appends, for those who watch it.

use std::collections::VecDeque;

use super::footprint;
use crate::threads::watch::{CHANGES_KEPT, Change, Changed};

/// A bounded log of changes.
#[derive(Debug, Default)]
pub(super) struct History {
    changes: VecDeque<Change>,
    /// Revision of the newest.
    newest: i64,
}

impl History {
    /// Notes a change; the oldest is forgotten where there are too many.
    pub(super) fn note(&mut self, revision: i64, what: Changed) {
        if self.changes.len() == CHANGES_KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { revision, after: self.newest, what });
        self.newest = revision;
    }

    /// Revision of the newest change; 0 for none.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// The changes after a revision.
    pub(super) fn after(&self, revision: i64) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| change.revision > revision)
    }

    /// The bytes of memory that it takes.
    pub(super) fn memory(&self) -> u64 {
        footprint::bytes(self.changes.len() * size_of::<Change>())
    }
}
