//! All threads of the store with their order by activity, their order by expiry, and what they take together.

use std::collections::{BTreeSet, HashMap};

use super::tombstone::Tombstone;
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    memory::{conversation::Conversation, footprint::Room, not_found},
    threads::{Owner, RequestId, TOMBSTONE_TTL, ThreadId, ThreadsPage, ThreadsQuery},
};

/// Threads and tombstones; the one place that accounts for them.
#[derive(Debug)]
pub(super) struct Stock {
    threads: HashMap<ThreadId, Conversation>,
    tombstones: HashMap<ThreadId, Tombstone>,
    by_owner: HashMap<Owner, BTreeSet<(Timestamp, ThreadId)>>,
    by_expiry: BTreeSet<(Timestamp, ThreadId)>,
    tombstones_by_expiry: BTreeSet<(Timestamp, ThreadId)>,
    used: u64,
    max_bytes: u64,
    /// Threads that expired and were removed since the last sweep.
    reclaimed: u64,
}

impl Stock {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            threads: HashMap::new(),
            tombstones: HashMap::new(),
            by_owner: HashMap::new(),
            by_expiry: BTreeSet::new(),
            tombstones_by_expiry: BTreeSet::new(),
            used: 0,
            max_bytes,
            reclaimed: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.threads.len()
    }

    /// How much everything may still grow.
    pub(super) fn room(&self) -> Room {
        Room::below(self.max_bytes, self.used, |limit| Error::StoreFull { what: "bytes", limit })
    }

    pub(super) fn find(&self, id: &ThreadId) -> Option<&Conversation> {
        self.threads.get(id)
    }

    /// Changes a thread and accounts for the change, whether or not it succeeded.
    pub(super) fn change<T>(
        &mut self,
        id: &ThreadId,
        change: impl FnOnce(&mut Conversation) -> Result<T>,
    ) -> Result<T> {
        let conversation = self.threads.get_mut(id).ok_or_else(|| not_found(id))?;
        let before = IndexPlace::of(conversation);
        let result = change(conversation);
        let after = IndexPlace::of(conversation);
        if before != after {
            self.leave(id, before);
            self.enter(id, after);
        }
        result
    }

    /// Adds a thread if there is room for it.
    pub(super) fn insert(&mut self, conversation: Conversation) -> Result<()> {
        self.room().admit(conversation.footprint())?;
        let id = conversation.thread().id.clone();
        self.enter(&id, IndexPlace::of(&conversation));
        self.threads.insert(id, conversation);
        Ok(())
    }

    fn remove(&mut self, id: &ThreadId) -> Option<Conversation> {
        let conversation = self.threads.remove(id)?;
        self.leave(id, IndexPlace::of(&conversation));
        Some(conversation)
    }

    fn enter(&mut self, id: &ThreadId, place: IndexPlace) {
        self.used += place.footprint;
        if let Some(at) = place.expire_time {
            self.by_expiry.insert((at, id.clone()));
        }
        if let Some(owner) = place.owner {
            self.by_owner.entry(owner).or_default().insert((place.update_time, id.clone()));
        }
    }

    fn leave(&mut self, id: &ThreadId, place: IndexPlace) {
        self.used = self.used.saturating_sub(place.footprint);
        if let Some(at) = place.expire_time {
            self.by_expiry.remove(&(at, id.clone()));
        }
        if let Some(owner) = place.owner
            && let Some(threads) = self.by_owner.get_mut(&owner)
        {
            threads.remove(&(place.update_time, id.clone()));
            if threads.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
    }

    /// Lists an owner's threads, newest activity first.
    pub(super) fn list(&self, query: &ThreadsQuery) -> ThreadsPage {
        let mut page = ThreadsPage { threads: Vec::new(), more: false };
        let Some(entries) = self.by_owner.get(&query.owner) else { return page };
        let entries = match &query.cursor {
            Some(cursor) => entries.range(..(cursor.update_time, cursor.id.clone())),
            None => entries.range::<(Timestamp, ThreadId), _>(..),
        };
        for conversation in entries.rev().filter_map(|(_, id)| self.threads.get(id)) {
            if page.threads.len() >= query.limit.max(1) {
                page.more = true;
                break;
            }
            page.threads.push(conversation.thread().clone());
        }
        page
    }

    /// Whether the request deleted the thread, or an earlier incarnation of it, before.
    pub(super) fn was_deleted_by(&self, id: &ThreadId, request: Option<&RequestId>) -> bool {
        request
            .is_some_and(|request| self.tombstones.get(id).is_some_and(|tombstone| tombstone.is_of(request)))
    }

    pub(super) fn has_tombstone(&self, id: &ThreadId) -> bool {
        self.tombstones.contains_key(id)
    }

    /// Whether this incarnation was deleted.
    pub(super) fn was_deleted(&self, id: &ThreadId, epoch: &str) -> bool {
        self.tombstones.get(id).is_some_and(|tombstone| tombstone.names(epoch))
    }

    /// Removes a thread and leaves a tombstone.
    pub(super) fn bury(&mut self, id: &ThreadId, request: Option<RequestId>, now: Timestamp) {
        let Some(conversation) = self.remove(id) else { return };
        let mut tombstone = self.take_tombstone(id).unwrap_or_default();
        tombstone.remember(conversation.thread().epoch.clone(), request);
        tombstone.expire_time = now.plus(TOMBSTONE_TTL);
        self.used += tombstone.footprint();
        self.tombstones_by_expiry.insert((tombstone.expire_time, id.clone()));
        self.tombstones.insert(id.clone(), tombstone);
    }

    fn take_tombstone(&mut self, id: &ThreadId) -> Option<Tombstone> {
        let tombstone = self.tombstones.remove(id)?;
        self.used = self.used.saturating_sub(tombstone.footprint());
        self.tombstones_by_expiry.remove(&(tombstone.expire_time, id.clone()));
        Some(tombstone)
    }

    /// Removes what has expired; costs nothing when nothing has.
    pub(super) fn reclaim(&mut self, now: Timestamp) {
        while let Some(id) = pop_due(&mut self.by_expiry, now) {
            self.remove(&id);
            self.reclaimed += 1;
        }
        while let Some(id) = pop_due(&mut self.tombstones_by_expiry, now) {
            self.take_tombstone(&id);
        }
    }

    /// Removes what has expired and counts the threads that went since the last sweep.
    pub(super) fn sweep(&mut self, now: Timestamp) -> u64 {
        self.reclaim(now);
        std::mem::take(&mut self.reclaimed)
    }
}

#[cfg(test)]
impl Stock {
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Whether the running sums and orders are what a recount gives.
    pub(super) fn is_balanced(&self) -> bool {
        let threads: u64 = self.threads.values().map(Conversation::footprint).sum();
        let tombstones: u64 = self.tombstones.values().map(Tombstone::footprint).sum();
        let owned = self.threads.values().filter(|thread| thread.thread().profile.owner.is_some()).count();
        let expiring = self.threads.values().filter(|thread| thread.thread().expire_time.is_some()).count();
        self.used == threads + tombstones
            && owned == self.by_owner.values().map(BTreeSet::len).sum::<usize>()
            && expiring == self.by_expiry.len()
            && self.tombstones.len() == self.tombstones_by_expiry.len()
    }
}

fn pop_due(by_expiry: &mut BTreeSet<(Timestamp, ThreadId)>, now: Timestamp) -> Option<ThreadId> {
    by_expiry.first().filter(|(at, _)| now >= *at)?;
    by_expiry.pop_first().map(|(_, id)| id)
}

/// Where a thread stands in the orders, and what it takes.
#[derive(Debug, PartialEq, Eq)]
struct IndexPlace {
    owner: Option<Owner>,
    update_time: Timestamp,
    expire_time: Option<Timestamp>,
    footprint: u64,
}

impl IndexPlace {
    fn of(conversation: &Conversation) -> Self {
        let thread = conversation.thread();
        Self {
            owner: thread.profile.owner.clone(),
            update_time: thread.update_time,
            expire_time: thread.expire_time,
            footprint: conversation.footprint(),
        }
    }
}
