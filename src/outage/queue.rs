//! The writes that only memory has, until Redis has them too. All that was accepted for one thread, in order, is a pending
//! batch; `batch` says what each outcome of its replay means for it, `records` what the journal file holds of it.
//!
//! No write leaves a batch before Redis said that it has the write, or said why it never can. Writes that would exceed the
//! bounds are refused before they are accepted.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::file::FileJournal;
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    threads::{
        Owner, Thread, ThreadId, Ttl,
        replay::{BatchId, JournalStatus, Origin, ParkedBatch, PendingMessage, Receipt, Record, Replay},
    },
};

mod batch;
mod records;
#[cfg(test)]
mod tests;

pub(super) use batch::PendingBatch;

/// A parked batch is tried again after this time, and whenever Redis returns.
const RETRY: Duration = Duration::from_secs(10);
/// The queue tells what became of so many batches.
const NOTES: usize = 100;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct JournalBounds {
    /// Bytes of memory.
    pub max_bytes: u64,
    /// Messages, creations and renewals.
    pub max_entries: u64,
}

/// A write that memory accepted.
#[derive(Debug)]
pub(super) enum Write {
    /// A thread with its first messages.
    Create(Vec<PendingMessage>),
    /// Messages.
    Append(Vec<PendingMessage>),
    /// A renewal, with a new time to live if one is given.
    Renew(Option<Ttl>),
}

/// All pending batches.
#[derive(Debug)]
pub(crate) struct Queue {
    batches: BTreeMap<BatchId, PendingBatch>,
    /// The batch of each thread that memory answers for.
    active: HashMap<ThreadId, BatchId>,
    last: u64,
    entries: u64,
    bytes: u64,
    bounds: JournalBounds,
    repaired: u64,
    /// What became of batches that could not be merged as they were, newest last.
    notes: VecDeque<ParkedBatch>,
    file: Option<FileJournal>,
}

impl Queue {
    /// Nothing waits yet.
    pub(super) fn new(bounds: JournalBounds) -> Self {
        Self {
            batches: BTreeMap::new(),
            active: HashMap::new(),
            last: 0,
            entries: 0,
            bytes: 0,
            bounds,
            repaired: 0,
            notes: VecDeque::new(),
            file: None,
        }
    }

    /// Whether memory answers for this thread, since writes of it wait.
    pub(super) fn is_waiting(&self, id: &ThreadId) -> bool {
        self.active.contains_key(id)
    }

    /// Refuses writes for which there is no room.
    pub(super) fn admit(&self, entries: u64, bytes: u64) -> Result<()> {
        let JournalBounds { max_bytes, max_entries } = self.bounds;
        if self.bytes.saturating_add(bytes) > max_bytes {
            return Err(Error::JournalFull { limit: max_bytes, what: "bytes" });
        }
        if self.entries.saturating_add(entries) > max_entries {
            return Err(Error::JournalFull { limit: max_entries, what: "entries" });
        }
        Ok(())
    }

    /// Takes in a write. `origin` is the thread as it was before the first write that waits for it. The write is not
    /// replayed before `held_until`: until then a first attempt may still happen in Redis.
    pub(super) fn accept(
        &mut self,
        origin: Origin,
        write: Write,
        held_until: Option<Instant>,
        now: Timestamp,
    ) -> Option<Receipt> {
        let mut records = Vec::new();
        let id = if let Some(id) = self.active.get(&origin.thread.id) {
            *id
        } else {
            let (origin, creates) = (Arc::new(origin), matches!(write, Write::Create(_)));
            let id = self.begin(PendingBatch::of(Arc::clone(&origin), creates, now));
            self.active.insert(origin.thread.id.clone(), id);
            records.push(Record::Began { batch: id, origin, creates });
            id
        };
        self.change(id, |batch| {
            batch.hold(held_until);
            match &write {
                Write::Create(entries) | Write::Append(entries) => batch.push(entries.iter().cloned()),
                Write::Renew(ttl) => batch.renew(*ttl),
            }
        });
        match write {
            Write::Create(entries) | Write::Append(entries) if entries.is_empty() => {}
            Write::Create(entries) | Write::Append(entries) => {
                records.push(Record::Accepted { batch: id, entries });
            }
            Write::Renew(ttl) => records.push(Record::Touched { batch: id, ttl }),
        }
        self.write(records)
    }

    /// Appends again what Redis may have lost of a thread's acknowledged messages. One repair of a thread goes on at a time;
    /// answers its batch, if messages are known that Redis could have lost.
    pub(super) fn repair(
        &mut self,
        origin: Origin,
        entries: Vec<PendingMessage>,
        now: Timestamp,
    ) -> Option<BatchId> {
        let is_repaired =
            |batch: &PendingBatch| batch.is_repair() && batch.origin.thread.id == origin.thread.id;
        if let Some((id, _)) = self.batches.iter().find(|(_, batch)| is_repaired(batch)) {
            return Some(*id);
        }
        if entries.is_empty() {
            return None;
        }
        let mut batch = PendingBatch::repairing(Arc::new(origin), now);
        batch.push(entries);
        Some(self.begin(batch))
    }

    fn begin(&mut self, batch: PendingBatch) -> BatchId {
        self.last += 1;
        let id = BatchId(self.last);
        self.insert(id, batch);
        id
    }

    fn insert(&mut self, id: BatchId, batch: PendingBatch) {
        self.entries += batch.count();
        self.bytes += batch.bytes();
        self.batches.insert(id, batch);
    }

    fn remove(&mut self, id: BatchId) -> Option<PendingBatch> {
        let batch = self.batches.remove(&id)?;
        self.entries -= batch.count();
        self.bytes -= batch.bytes();
        Some(batch)
    }

    /// Changes a batch and keeps the sums.
    pub(super) fn change<T>(
        &mut self,
        id: BatchId,
        change: impl FnOnce(&mut PendingBatch) -> T,
    ) -> Option<T> {
        let mut batch = self.remove(id)?;
        let changed = change(&mut batch);
        self.insert(id, batch);
        Some(changed)
    }

    /// The batches that may be replayed now, those of one thread together and in order; `all` counts in those that were
    /// parked a moment ago.
    pub(crate) fn due(&self, now: Instant, all: bool) -> Vec<Vec<BatchId>> {
        let mut threads: HashMap<&ThreadId, Vec<BatchId>> = HashMap::new();
        let is_due =
            |batch: &PendingBatch| batch.due().is_none_or(|at| now >= at || (all && batch.is_parked()));
        for (id, batch) in self.batches.iter().filter(|(_, batch)| is_due(batch)) {
            threads.entry(&batch.origin.thread.id).or_default().push(*id);
        }
        let mut due: Vec<_> = threads.into_values().collect();
        due.sort_unstable();
        due
    }

    /// How long until a batch may be replayed; none when nothing waits.
    pub(super) fn next_due(&self, now: Instant) -> Option<Duration> {
        let wait =
            |batch: &PendingBatch| batch.due().map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        self.batches.values().map(wait).min()
    }

    /// Whether a batch waits that is not parked.
    pub(super) fn is_pending(&self) -> bool {
        self.batches.values().any(|batch| !batch.is_parked())
    }

    /// Whether a thread of this owner waits for its creation, that is not parked.
    pub(super) fn is_creating(&self, owner: &Owner) -> bool {
        self.batches.values().any(|batch| batch.creates_for(owner))
    }

    /// The next step of a batch's replay; none when nothing of it is left.
    pub(super) fn step(&self, id: BatchId) -> Option<Replay> {
        self.batches.get(&id).map(PendingBatch::step)
    }

    /// Goes on with a batch in the epoch that its thread has now.
    pub(super) fn rebase(&mut self, id: BatchId, thread: &Thread) {
        self.change(id, |batch| batch.rebase(thread));
    }

    /// Whether memory answers for the batch's thread because of this batch.
    pub(super) fn is_active(&self, id: BatchId, thread: &ThreadId) -> bool {
        self.active.get(thread) == Some(&id)
    }

    /// Whether a batch holds what Redis had acknowledged before.
    pub(super) fn is_repair(&self, id: BatchId) -> bool {
        self.batches.get(&id).is_some_and(PendingBatch::is_repair)
    }

    /// Counts messages that Redis had lost and has again.
    pub(super) fn count_repaired(&mut self, thread: &ThreadId, messages: u64) {
        if messages > 0 {
            self.repaired += messages;
            warn!(%thread, messages, "messages that redis had lost were appended again");
        }
    }

    /// Puts a batch aside: it cannot be replayed for now. Memory goes on to answer for its thread, so that later writes stay
    /// behind it.
    pub(super) fn park(&mut self, id: BatchId, reason: &str, now: Instant) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        let (thread, entries) = (batch.origin.thread.id.clone(), batch.count());
        if batch.park(reason.to_owned(), now + RETRY) {
            warn!(%thread, entries, reason, "writes accepted in the outage cannot be merged for now: they are kept");
        }
    }

    /// Lets the calls of a thread go to Redis again.
    pub(super) fn retire(&mut self, id: BatchId, thread: &ThreadId) {
        if self.is_active(id, thread) {
            self.active.remove(thread);
        }
    }

    /// Ends a batch of which nothing waits any more.
    pub(super) fn finish(&mut self, id: BatchId, thread: &ThreadId) {
        let Some(batch) = self.remove(id) else { return };
        self.retire(id, thread);
        if batch.is_parked() {
            info!(%thread, "writes that could not be merged before are merged");
        }
        self.forget(id, batch.is_repair());
    }

    /// Notes, for people, what became of writes that could not be merged as they were.
    pub(super) fn note(&mut self, thread: &ThreadId, entries: u64, reason: String) {
        warn!(%thread, entries, reason, "writes accepted in the outage could not be merged as they were");
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(ParkedBatch { thread: thread.clone(), entries, reason });
    }

    /// Messages, creation and renewal of a batch.
    pub(super) fn entries_of(&self, id: BatchId) -> u64 {
        self.batches.get(&id).map_or(0, PendingBatch::count)
    }

    /// What waits, for people.
    pub(super) fn status(&self) -> JournalStatus {
        let parked =
            self.batches.values().filter_map(PendingBatch::as_parked).chain(self.notes.iter().cloned());
        JournalStatus {
            entries: self.entries,
            bytes: self.bytes,
            oldest: self.batches.values().map(PendingBatch::oldest).min(),
            parked: parked.collect(),
            lost_writes_repaired: self.repaired,
        }
    }
}
