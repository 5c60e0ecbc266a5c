//! All copies, which of them was used longest ago, and what they take together.

use std::collections::{BTreeMap, HashMap};

use super::copy::HeldThread;
use crate::{
    call::{Answer, Source},
    clock::Timestamp,
    error::{Error, Result},
    threads::ThreadId,
};

/// A single copy takes at most this part of the bytes, so that one long thread does not drive out all others.
const SHARE_OF_ONE: u64 = 4;

/// The copies; the one place that accounts for them. A copy is taken out, looked at or changed, and put back.
#[derive(Debug)]
pub(super) struct Stock {
    held: HashMap<ThreadId, Entry>,
    /// Copies that may be given up, by their last use.
    by_use: BTreeMap<u64, ThreadId>,
    uses: u64,
    used: u64,
    max_bytes: u64,
    max_threads: usize,
}

#[derive(Debug)]
struct Entry {
    held: HeldThread,
    last_use: u64,
    footprint: u64,
}

impl Stock {
    pub(super) fn new(max_bytes: u64, max_threads: usize) -> Self {
        Self { held: HashMap::new(), by_use: BTreeMap::new(), uses: 0, used: 0, max_bytes, max_threads }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn holds(&self, id: &ThreadId) -> bool {
        self.held.contains_key(id)
    }

    /// Looks at a copy without using it.
    pub(super) fn peek(&self, id: &ThreadId) -> Option<&HeldThread> {
        self.held.get(id).map(|entry| &entry.held)
    }

    /// Takes a copy out.
    pub(super) fn take(&mut self, id: &ThreadId) -> Option<HeldThread> {
        let entry = self.held.remove(id)?;
        self.used = self.used.saturating_sub(entry.footprint);
        self.by_use.remove(&entry.last_use);
        Some(entry.held)
    }

    /// Puts a copy in, as the one used last, and gives up others while there are too many. One in which writes wait takes no
    /// room from the others: what waits has bounds of its own.
    pub(super) fn put(&mut self, mut held: HeldThread) {
        held.shorten(self.max_bytes / SHARE_OF_ONE);
        let id = held.thread().id.clone();
        let footprint = if held.is_waiting() { 0 } else { held.footprint() };
        self.uses += 1;
        self.used += footprint;
        if !held.is_waiting() {
            self.by_use.insert(self.uses, id.clone());
        }
        self.held.insert(id, Entry { held, last_use: self.uses, footprint });
        while self.used > self.max_bytes || self.by_use.len() > self.max_threads {
            let Some((_, oldest)) = self.by_use.first_key_value() else { return };
            self.take(&oldest.clone());
        }
    }

    /// Asks a copy that has not expired, which counts as its use. Forgets an expired one unless writes wait in it.
    pub(super) fn ask<T>(
        &mut self,
        id: &ThreadId,
        now: Timestamp,
        ask: impl FnOnce(&mut HeldThread) -> Result<T>,
    ) -> Result<Answer<T>> {
        let mut held = self.take(id).ok_or(Error::NeedsShared("a thread that is not held in memory"))?;
        if held.has_expired(now) {
            if held.is_waiting() {
                self.put(held);
            }
            return Err(Error::NeedsShared("a thread whose copy has expired"));
        }
        let result = ask(&mut held);
        let as_of = held.as_of();
        self.put(held);
        result.map(|value| answer(value, as_of))
    }

    /// Takes in a thread that only memory has, if `fill` succeeds.
    pub(super) fn accept<T>(
        &mut self,
        mut held: HeldThread,
        fill: impl FnOnce(&mut HeldThread) -> Result<T>,
    ) -> Result<Answer<T>> {
        let value = fill(&mut held)?;
        let as_of = held.as_of();
        self.put(held);
        Ok(answer(value, as_of))
    }

    /// The copies.
    pub(super) fn iter(&self) -> impl Iterator<Item = &HeldThread> {
        self.held.values().map(|entry| &entry.held)
    }

    /// Forgets the copies that have expired, but for those in which writes wait, and counts them.
    pub(super) fn sweep(&mut self, now: Timestamp) -> u64 {
        let is_due = |entry: &Entry| entry.held.has_expired(now) && !entry.held.is_waiting();
        let due: Vec<ThreadId> =
            self.held.iter().filter(|(_, entry)| is_due(entry)).map(|(id, _)| id.clone()).collect();
        due.iter().filter_map(|id| self.take(id)).map(|_| 1).sum()
    }
}

#[cfg(test)]
impl Stock {
    /// Whether the running sums and orders are what a recount gives.
    pub(super) fn is_balanced(&self) -> bool {
        let counted = self.held.values().filter(|entry| !entry.held.is_waiting());
        let used: u64 = counted.map(|entry| entry.held.footprint()).sum();
        let idle = self.held.values().filter(|entry| !entry.held.is_waiting()).count();
        self.used == used && self.by_use.len() == idle && (self.used <= self.max_bytes || idle == 0)
    }
}

fn answer<T>(value: T, as_of: Timestamp) -> Answer<T> {
    Answer { value, source: Source::Local { as_of: Some(as_of) } }
}
