//! What the journal file holds of the queue, and what the next process reads back at its start.

use std::sync::Arc;

use tokio::time::Instant;

use super::{PendingBatch, Queue};
use crate::{
    clock::Timestamp,
    outage::file::FileJournal,
    threads::replay::{BatchId, Origin, PendingMessage, Receipt, Record},
};

/// The file is written anew when it holds more than twice what waits and so many bytes.
const SLACK: u64 = 4 << 20;

impl Queue {
    /// Writes what waits to a file, too, from now on.
    pub(in crate::outage) fn write_to(&mut self, file: FileJournal) {
        drop(file.replace(self.records()));
        self.file = Some(file);
    }

    /// Answers once every write that was accepted so far is in the file.
    pub(in crate::outage) fn receipt(&self) -> Option<Receipt> {
        self.write(Vec::new())
    }

    /// Has records written behind the others. Answers once they are in the file.
    pub(super) fn write(&self, records: Vec<Record>) -> Option<Receipt> {
        let file = self.file.as_ref()?;
        // Records that could not be written before are written with the rest. While that may not be tried, the append fails.
        let replaces = file.has_failed() && file.may_replace();
        Some(if replaces { file.replace(self.records()) } else { file.append(records) })
    }

    /// Tries again to write what could not be written before.
    pub(in crate::outage) fn mend(&self) {
        if self.file.as_ref().is_some_and(FileJournal::has_failed) {
            drop(self.receipt());
        }
    }

    /// What the file has to hold: all batches but the repairs, since Redis had acknowledged their messages.
    fn records(&self) -> Vec<Record> {
        let written = self.batches.iter().filter(|(_, batch)| !batch.is_repair());
        written.flat_map(|(id, batch)| batch.records(*id)).collect()
    }

    /// Takes in the records of a journal file. Answers, for each batch that memory is to answer for, its thread and messages.
    /// Until `held_until`, writes of the former process may still happen in Redis.
    pub(in crate::outage) fn restore(
        &mut self,
        records: Vec<Record>,
        held_until: Instant,
        now: Timestamp,
    ) -> Vec<(Arc<Origin>, Vec<PendingMessage>)> {
        for record in records {
            match record {
                Record::Began { batch: id, origin, creates } => {
                    self.last = self.last.max(id.0);
                    let mut batch = PendingBatch::of(origin, creates, now);
                    batch.hold(Some(held_until));
                    self.insert(id, batch);
                }
                Record::Accepted { batch, entries } => {
                    self.change(batch, |batch| batch.push(entries));
                }
                Record::Touched { batch, ttl } => {
                    self.change(batch, |batch| batch.renew(ttl));
                }
                Record::Settled { batch } => drop(self.remove(batch)),
            }
        }
        for (id, batch) in &self.batches {
            self.active.insert(batch.origin.thread.id.clone(), *id);
        }
        let active = self.active.values().filter_map(|id| self.batches.get(id));
        active.map(|batch| (Arc::clone(&batch.origin), batch.entries().cloned().collect())).collect()
    }

    /// Notes that a batch is over. Nobody waits for the note: what the file holds too much is replayed once more, which
    /// changes nothing.
    pub(super) fn forget(&self, batch: BatchId, is_repair: bool) {
        let Some(file) = &self.file else { return };
        let holds_too_much = file.has_failed()
            || file.bytes() > self.bytes.saturating_mul(2).saturating_add(SLACK)
            || self.batches.is_empty();
        if holds_too_much && file.may_replace() {
            drop(file.replace(self.records()));
        } else if !is_repair {
            drop(file.append(vec![Record::Settled { batch }]));
        }
    }
}
