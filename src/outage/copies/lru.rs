//! All copies, the order of their last uses, and the memory that they take together.

use std::collections::{BTreeMap, HashMap};

use crate::{
    call::{Answer, Source},
    clock::Timestamp,
    error::{Error, Result},
    outage::copy::ThreadCopy,
    threads::ThreadId,
};

/// A single copy takes at most this part of the bytes, so that one long thread does not drive out all others.
const SHARE_OF_ONE: u64 = 4;

/// The copies; the one place that accounts for them. A copy is taken out, looked at or changed, and put back.
#[derive(Debug)]
pub(in crate::outage) struct Lru {
    copies: HashMap<ThreadId, LruEntry>,
    /// Copies that may be given up, by their last use.
    by_use: BTreeMap<u64, ThreadId>,
    uses: u64,
    used: u64,
    max_bytes: u64,
    max_threads: usize,
}

#[derive(Debug)]
struct LruEntry {
    copy: ThreadCopy,
    last_use: u64,
    footprint: u64,
}

impl Lru {
    pub(in crate::outage) fn new(max_bytes: u64, max_threads: usize) -> Self {
        Self { copies: HashMap::new(), by_use: BTreeMap::new(), uses: 0, used: 0, max_bytes, max_threads }
    }

    pub(in crate::outage) fn len(&self) -> usize {
        self.copies.len()
    }

    pub(in crate::outage) fn holds(&self, id: &ThreadId) -> bool {
        self.copies.contains_key(id)
    }

    /// Looks at a copy without using it.
    pub(in crate::outage) fn peek(&self, id: &ThreadId) -> Option<&ThreadCopy> {
        self.copies.get(id).map(|slot| &slot.copy)
    }

    /// Takes a copy out.
    pub(in crate::outage) fn take(&mut self, id: &ThreadId) -> Option<ThreadCopy> {
        let slot = self.copies.remove(id)?;
        self.used = self.used.saturating_sub(slot.footprint);
        self.by_use.remove(&slot.last_use);
        Some(slot.copy)
    }

    /// Puts a copy in, as the one used last, and gives up others while there are too many. One in which writes wait takes no
    /// room from the others: what waits has bounds of its own.
    pub(in crate::outage) fn put(&mut self, mut copy: ThreadCopy) {
        copy.shorten(self.max_bytes / SHARE_OF_ONE);
        let id = copy.thread().id.clone();
        let footprint = if copy.is_waiting() { 0 } else { copy.footprint() };
        self.uses += 1;
        self.used += footprint;
        if !copy.is_waiting() {
            self.by_use.insert(self.uses, id.clone());
        }
        self.copies.insert(id, LruEntry { copy, last_use: self.uses, footprint });
        while self.used > self.max_bytes || self.by_use.len() > self.max_threads {
            let Some((_, oldest)) = self.by_use.first_key_value() else { return };
            self.take(&oldest.clone());
        }
    }

    /// Asks a copy that has not expired, which counts as its use. Forgets an expired one unless writes wait in it.
    pub(in crate::outage) fn ask<T>(
        &mut self,
        id: &ThreadId,
        now: Timestamp,
        ask: impl FnOnce(&mut ThreadCopy) -> Result<T>,
    ) -> Result<Answer<T>> {
        let mut copy = self.take(id).ok_or(Error::NeedsShared("a thread that is not held in memory"))?;
        if copy.has_expired(now) {
            if copy.is_waiting() {
                self.put(copy);
            }
            return Err(Error::NeedsShared("a thread whose copy has expired"));
        }
        let result = ask(&mut copy);
        let as_of = copy.as_of();
        self.put(copy);
        result.map(|value| answer(value, as_of))
    }

    /// Takes in a thread that only memory has, if `fill` succeeds.
    pub(in crate::outage) fn accept<T>(
        &mut self,
        mut copy: ThreadCopy,
        fill: impl FnOnce(&mut ThreadCopy) -> Result<T>,
    ) -> Result<Answer<T>> {
        let value = fill(&mut copy)?;
        let as_of = copy.as_of();
        self.put(copy);
        Ok(answer(value, as_of))
    }

    /// The copies.
    pub(in crate::outage) fn iter(&self) -> impl Iterator<Item = &ThreadCopy> {
        self.copies.values().map(|slot| &slot.copy)
    }

    /// Forgets the copies that have expired, but for those in which writes wait, and counts them.
    pub(in crate::outage) fn sweep(&mut self, now: Timestamp) -> u64 {
        let is_due = |slot: &LruEntry| slot.copy.has_expired(now) && !slot.copy.is_waiting();
        let due: Vec<ThreadId> =
            self.copies.iter().filter(|(_, entry)| is_due(entry)).map(|(id, _)| id.clone()).collect();
        due.iter().filter_map(|id| self.take(id)).map(|_| 1).sum()
    }
}

#[cfg(test)]
impl Lru {
    /// Whether the running sums and orders are what a recount gives.
    pub(in crate::outage) fn is_balanced(&self) -> bool {
        let counted = self.copies.values().filter(|slot| !slot.copy.is_waiting());
        let used: u64 = counted.map(|slot| slot.copy.footprint()).sum();
        let idle = self.copies.values().filter(|slot| !slot.copy.is_waiting()).count();
        self.used == used && self.by_use.len() == idle && (self.used <= self.max_bytes || idle == 0)
    }
}

fn answer<T>(value: T, as_of: Timestamp) -> Answer<T> {
    Answer { value, source: Source::Local { as_of: Some(as_of) } }
}
