//! The journal's file: what is written there, and what is read back at the start of the next process.

use std::sync::Arc;

use super::{Journal, Run, Touch};
use crate::{
    clock::Timestamp,
    threads::replay::{Entry, JournalFile, Origin, Receipt, Record, RunId},
};

/// The file is written anew when it holds more than twice what waits and so many bytes.
const SLACK: u64 = 4 << 20;

impl Journal {
    /// Writes what waits to a file, too, from now on.
    pub(in crate::outage) fn write_to(&mut self, file: Arc<dyn JournalFile>) {
        drop(file.replace(self.records()));
        self.file = Some(file);
    }

    /// Answers once what was accepted so far is in the file.
    pub(in crate::outage) fn receipt(&self) -> Option<Receipt> {
        self.write(Vec::new())
    }

    /// Has records written behind the others. Answers once they are in the file.
    pub(super) fn write(&self, records: Vec<Record>) -> Option<Receipt> {
        let file = self.file.as_ref()?;
        // What could not be written before is written with the rest. While that may not be tried, the append fails.
        let replaces = file.has_failed() && file.may_replace();
        Some(if replaces { file.replace(self.records()) } else { file.append(records) })
    }

    /// Tries again to write what could not be written before.
    pub(in crate::outage) fn mend(&self) {
        if let Some(file) = &self.file
            && file.has_failed()
        {
            drop(self.receipt());
        }
    }

    /// What the file has to say: all that waits but what Redis had acknowledged.
    fn records(&self) -> Vec<Record> {
        let written = self.runs.iter().filter(|(_, run)| !run.is_repair());
        written.flat_map(|(id, run)| run.records(*id)).collect()
    }

    /// Takes in what a journal file says. Answers, for each run that memory is to answer for, its thread and messages.
    pub(in crate::outage) fn restore(
        &mut self,
        records: Vec<Record>,
        (now, until): (Timestamp, Timestamp),
    ) -> Vec<(Arc<Origin>, Vec<Entry>)> {
        for record in records {
            match record {
                Record::Began { run, origin, creates } => {
                    self.last = self.last.max(run.0);
                    let mut began = Run::of(origin, creates, now);
                    began.hold(until, now);
                    self.insert(run, began);
                }
                Record::Accepted { run, entries } => {
                    self.change(run, |run| run.push(entries));
                }
                Record::Touched { run, ttl } => {
                    self.change(run, |run| run.renew(Touch(ttl)));
                }
                Record::Settled { run } => drop(self.remove(run)),
            }
        }
        for (id, run) in &self.runs {
            self.active.insert(run.origin.thread.id.clone(), *id);
        }
        let active = self.active.values().filter_map(|id| self.runs.get(id));
        active.map(|run| (Arc::clone(&run.origin), run.entries().cloned().collect())).collect()
    }

    /// Notes that a run is over. Nobody waits for this: what the file says too much is replayed once more, which changes
    /// nothing.
    pub(super) fn forget(&self, run: RunId, is_repair: bool) {
        let Some(file) = &self.file else { return };
        let says_too_much = file.has_failed()
            || file.bytes() > self.bytes.saturating_mul(2).saturating_add(SLACK)
            || self.runs.is_empty();
        if says_too_much && file.may_replace() {
            drop(file.replace(self.records()));
        } else if !is_repair {
            drop(file.append(vec![Record::Settled { run }]));
        }
    }
}
