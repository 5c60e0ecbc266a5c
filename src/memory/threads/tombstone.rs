//! What is left of deleted threads.

use std::collections::VecDeque;

use crate::{
    clock::Timestamp,
    memory::footprint,
    threads::{DELETIONS_KEPT, RequestId},
};

/// What a deletion costs beside its texts.
const DELETION_OVERHEAD: u64 = 64;

/// Tells a deleted thread from one that never was, and a late retry of its deletion from a new one.
#[derive(Debug, Default)]
pub(super) struct Tombstone {
    /// Epoch of the deleted incarnation and request id of the deletion, oldest first.
    deletions: VecDeque<(String, Option<RequestId>)>,
    /// When it is forgotten.
    pub(super) expire_time: Timestamp,
}

impl Tombstone {
    /// Remembers one more deletion.
    pub(super) fn remember(&mut self, epoch: String, request: Option<RequestId>) {
        if self.deletions.len() == DELETIONS_KEPT {
            self.deletions.pop_front();
        }
        self.deletions.push_back((epoch, request));
    }

    /// Whether the request deleted the thread before.
    pub(super) fn is_of(&self, request: &RequestId) -> bool {
        self.deletions.iter().any(|(_, known)| known.as_ref() == Some(request))
    }

    /// Whether it is of an incarnation.
    pub(super) fn names(&self, epoch: &str) -> bool {
        self.deletions.iter().any(|(known, _)| known == epoch)
    }

    /// The bytes of memory that it takes; less than a thread.
    pub(super) fn footprint(&self) -> u64 {
        let text = |request: &Option<RequestId>| request.as_ref().map_or(0, |request| request.as_str().len());
        self.deletions
            .iter()
            .map(|(epoch, request)| DELETION_OVERHEAD + footprint::bytes(epoch.len() + text(request)))
            .sum()
    }
}
