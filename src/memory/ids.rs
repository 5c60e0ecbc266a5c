//! Remembers which message ids a thread used, longer than it keeps the messages, in bounded memory.

use std::collections::HashMap;

use super::footprint;
use crate::threads::{Digest, MessageId};

/// What an id was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    /// The message's place.
    pub(crate) seq: i64,
    /// Its content.
    pub(crate) digest: Digest,
}

/// Message ids in two generations: when the present one is large enough it becomes the old one, and the former old
/// one is forgotten but for the ids of messages that are still stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct MessageIds {
    present: HashMap<MessageId, Use>,
    old: HashMap<MessageId, Use>,
    memory: u64,
}

impl MessageIds {
    /// Finds what an id was used for.
    pub(crate) fn find(&self, id: &MessageId) -> Option<Use> {
        self.present.get(id).or_else(|| self.old.get(id)).copied()
    }

    /// Remembers an id.
    pub(crate) fn insert(&mut self, id: MessageId, used: Use) {
        let memory = footprint::of_id(&id);
        if self.present.insert(id, used).is_none() {
            self.memory += memory;
        }
    }

    /// Begins a new generation if the present one has at least `size` ids.
    pub(crate) fn rotate(&mut self, size: usize, is_stored: impl Fn(i64) -> bool) {
        if self.present.len() < size {
            return;
        }
        let former = std::mem::replace(&mut self.old, std::mem::take(&mut self.present));
        for (id, used) in former {
            if is_stored(used.seq) {
                self.old.insert(id, used);
            } else {
                self.memory = self.memory.saturating_sub(footprint::of_id(&id));
            }
        }
    }

    /// The bytes of memory that the ids take.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}
