//! All breakers of the store, with those that may be dropped by their use, and all by when time changes them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::entry::Entry;
use crate::{
    breakers::{ModelKey, store::Listed},
    clock::Timestamp,
    error::{Error, Result},
};

/// A bounded number of entries.
#[derive(Debug)]
pub(super) struct EntryIndex {
    slots: HashMap<ModelKey, Slot>,
    /// Spare entries, those used least recently first. One may be spare no more because the clock went back.
    spare: BTreeMap<u64, ModelKey>,
    /// When to look at an entry again: never later than it expires or becomes spare, perhaps sooner.
    due: BTreeSet<(Timestamp, ModelKey)>,
    /// Uses so far.
    uses: u64,
    max: usize,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    used: u64,
    due: Option<Timestamp>,
}

impl EntryIndex {
    pub(super) fn new(max: usize) -> Self {
        Self { slots: HashMap::new(), spare: BTreeMap::new(), due: BTreeSet::new(), uses: 0, max }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Carries out a step on a key's entry, which is vacant where there is none. What the step leaves vacant is not
    /// kept; where there is no room for what it leaves in a vacant one, it did not happen.
    pub(super) fn with<T>(
        &mut self,
        key: &ModelKey,
        now: Timestamp,
        step: impl FnOnce(&mut Entry) -> T,
    ) -> Result<T> {
        self.uses += 1;
        if let Some(slot) = self.slots.get_mut(key) {
            let result = step(&mut slot.entry);
            self.spare.remove(&slot.used);
            slot.used = self.uses;
            self.place(key, now);
            return Ok(result);
        }
        let mut entry = Entry::default();
        let result = step(&mut entry);
        if !entry.is_vacant() {
            self.make_room(now)?;
            self.slots.insert(key.clone(), Slot { entry, used: self.uses, due: None });
            self.place(key, now);
        }
        Ok(result)
    }

    /// Puts an entry where it belongs after it, or the time, changed.
    fn place(&mut self, key: &ModelKey, now: Timestamp) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.entry.is_vacant() {
            self.remove(key);
            return;
        }
        if slot.entry.is_spare(now) {
            self.spare.insert(slot.used, key.clone());
        } else {
            self.spare.remove(&slot.used);
        }
        // A due time that moves on stays as it is until then: reports move it on all the time.
        let Some(due) = slot.entry.due(now).filter(|due| slot.due.is_none_or(|known| *due < known)) else {
            return;
        };
        if let Some(known) = slot.due.replace(due) {
            self.due.remove(&(known, key.clone()));
        }
        self.due.insert((due, key.clone()));
    }

    /// Drops the spare entry that was used least recently, if the store is full.
    fn make_room(&mut self, now: Timestamp) -> Result<()> {
        while self.slots.len() >= self.max {
            let limit = || u64::try_from(self.max).unwrap_or(u64::MAX);
            let (_, key) = self
                .spare
                .pop_first()
                .ok_or_else(|| Error::StoreFull { what: "breakers", limit: limit() })?;
            if self.slots.get(&key).is_some_and(|slot| slot.entry.is_spare(now)) {
                self.remove(&key);
            } else {
                self.place(&key, now);
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &ModelKey) {
        let Some(slot) = self.slots.remove(key) else { return };
        self.spare.remove(&slot.used);
        if let Some(due) = slot.due {
            self.due.remove(&(due, key.clone()));
        }
    }

    /// Removes what has expired; costs nothing when nothing has.
    pub(super) fn reclaim(&mut self, now: Timestamp) {
        while self.due.first().is_some_and(|(due, _)| now >= *due) {
            let Some((_, key)) = self.due.pop_first() else { return };
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.due = None;
                slot.entry.expire(now);
                self.place(&key, now);
            }
        }
    }

    /// Reads an entry without using it.
    pub(super) fn find(&self, key: &ModelKey) -> Option<&Entry> {
        self.slots.get(key).map(|slot| &slot.entry)
    }

    /// All entries, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&ModelKey, &Entry)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.entry))
    }

    /// All keys with state, in no order.
    pub(super) fn list(&self) -> Vec<Listed> {
        let listed = |(key, slot): (&ModelKey, &Slot)| {
            slot.entry.changed().map(|changed| Listed { key: key.clone(), changed })
        };
        self.slots.iter().filter_map(listed).collect()
    }
}

#[cfg(test)]
impl EntryIndex {
    /// Whether the orders are what a recount gives.
    pub(super) fn is_balanced(&self, now: Timestamp) -> bool {
        let holds = |key: &ModelKey, slot: &Slot| {
            let due = slot.entry.due(now);
            self.spare.get(&slot.used).is_some_and(|found| found == key) == slot.entry.is_spare(now)
                && due.is_none_or(|due| slot.due.is_some_and(|known| known <= due))
                && slot.due.is_none_or(|known| self.due.contains(&(known, key.clone())))
        };
        let spare = self.slots.values().filter(|slot| slot.entry.is_spare(now)).count();
        let due = self.slots.values().filter(|slot| slot.due.is_some()).count();
        self.slots.iter().all(|(key, slot)| holds(key, slot))
            && (spare, due) == (self.spare.len(), self.due.len())
    }
}
