//! The journal: writes that only memory has, run by run, until Redis has them too. A run is what was accepted for one
//! thread, in order; `run` tells what one does at each outcome of its replay.
//!
//! Nothing that was accepted leaves a run before Redis said that it has it, or said why it never can. What would exceed
//! the bounds is refused before it is accepted.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    threads::{
        Owner, Thread, ThreadId,
        replay::{
            Entry, JournalFile, JournalStatus, Origin, ParkedRun, Receipt, Record, Replay, Replayed, RunId,
        },
    },
};

mod records;
mod run;
#[cfg(test)]
mod tests;

pub(super) use run::Touch;

use run::{Next, Run};

/// A parked run is tried again after this time, and whenever Redis returns.
const RETRY: Duration = Duration::from_secs(10);
/// What became of so many runs is told.
const NOTES: usize = 100;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct JournalBounds {
    /// Bytes of memory.
    pub max_bytes: u64,
    /// Messages, creations and renewals.
    pub max_entries: u64,
}

/// All runs.
#[derive(Debug)]
pub(super) struct Journal {
    runs: BTreeMap<RunId, Run>,
    /// The run that memory answers for, of each thread that has one.
    active: HashMap<ThreadId, RunId>,
    last: u64,
    entries: u64,
    bytes: u64,
    bounds: JournalBounds,
    repaired: u64,
    /// What became of runs that could not be merged as they were, newest last.
    notes: VecDeque<ParkedRun>,
    file: Option<Arc<dyn JournalFile>>,
}

impl Journal {
    /// Nothing waits yet.
    pub(super) fn new(bounds: JournalBounds) -> Self {
        Self {
            runs: BTreeMap::new(),
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

    /// Whether writes of this thread wait that memory answers for.
    pub(super) fn is_waiting(&self, id: &ThreadId) -> bool {
        self.active.contains_key(id)
    }

    /// Refuses what there is no room for.
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

    /// Takes in what was accepted for a thread: messages, perhaps none, its creation, or a renewal. `origin` is the thread
    /// as it was before the first of what waits for it.
    pub(super) fn accept(&mut self, accepted: Accepted, now: Timestamp) -> Option<Receipt> {
        let Accepted { origin, creates, entries, touch, held_until } = accepted;
        let mut records = Vec::new();
        let id = if let Some(id) = self.active.get(&origin.thread.id) {
            *id
        } else {
            let origin = Arc::new(origin);
            let id = self.begin(Run::of(Arc::clone(&origin), creates, now));
            self.active.insert(origin.thread.id.clone(), id);
            records.push(Record::Began { run: id, origin, creates });
            id
        };
        self.change(id, |run| {
            run.push(entries.iter().cloned());
            if let Some(touch) = touch {
                run.renew(touch);
            }
            run.hold(held_until, now);
        });
        if !entries.is_empty() {
            records.push(Record::Accepted { run: id, entries });
        }
        if let Some(Touch(ttl)) = touch {
            records.push(Record::Touched { run: id, ttl });
        }
        self.write(records)
    }

    /// Appends again what Redis may have lost of what it had acknowledged for a thread. Once at a time for each thread;
    /// answers the run that does so, if anything is known that could be lost.
    pub(super) fn repair(&mut self, origin: Origin, entries: Vec<Entry>, now: Timestamp) -> Option<RunId> {
        let is_repaired = |run: &Run| run.is_repair() && run.origin.thread.id == origin.thread.id;
        if let Some((id, _)) = self.runs.iter().find(|(_, run)| is_repaired(run)) {
            return Some(*id);
        }
        if entries.is_empty() {
            return None;
        }
        let mut run = Run::repairing(Arc::new(origin), now);
        run.push(entries);
        Some(self.begin(run))
    }

    fn begin(&mut self, run: Run) -> RunId {
        self.last += 1;
        let id = RunId(self.last);
        self.insert(id, run);
        id
    }

    fn insert(&mut self, id: RunId, run: Run) {
        self.entries += run.count();
        self.bytes += run.bytes();
        self.runs.insert(id, run);
    }

    fn remove(&mut self, id: RunId) -> Option<Run> {
        let run = self.runs.remove(&id)?;
        self.entries -= run.count();
        self.bytes -= run.bytes();
        Some(run)
    }

    /// Changes a run and keeps the sums.
    fn change<T>(&mut self, id: RunId, change: impl FnOnce(&mut Run) -> T) -> Option<T> {
        let mut run = self.remove(id)?;
        let changed = change(&mut run);
        self.insert(id, run);
        Some(changed)
    }

    /// The runs that may be replayed now, those of one thread together and in order; `all` counts in those that were
    /// parked a moment ago.
    pub(super) fn due(&mut self, now: Timestamp, all: bool) -> Vec<Vec<RunId>> {
        for run in self.runs.values_mut() {
            run.limit_wait(now, RETRY);
        }
        let mut threads: HashMap<&ThreadId, Vec<RunId>> = HashMap::new();
        let is_due = |run: &Run| run.due().is_none_or(|at| now >= at || (all && run.is_parked()));
        for (id, run) in self.runs.iter().filter(|(_, run)| is_due(run)) {
            threads.entry(&run.origin.thread.id).or_default().push(*id);
        }
        let mut due: Vec<_> = threads.into_values().collect();
        due.sort_unstable();
        due
    }

    /// How long until a run that waits for its time may be replayed.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Duration> {
        let wait = |run: &Run| run.due().map_or(Duration::ZERO, |at| at.since(now));
        // So soon it is seen that the clock stepped back.
        self.runs.values().map(wait).min().map(|wait| wait.min(RETRY))
    }

    /// Whether something waits that is not parked.
    pub(super) fn is_pending(&self) -> bool {
        self.runs.values().any(|run| !run.is_parked())
    }

    /// Whether a thread of this owner waits for its creation, that is not parked.
    pub(super) fn is_creating(&self, owner: &Owner) -> bool {
        self.runs.values().any(|run| run.creates_for(owner))
    }

    /// The next step of a run; none when it is over.
    pub(super) fn step(&self, id: RunId) -> Option<Replay> {
        self.runs.get(&id).map(Run::step)
    }

    /// Notes what a step came to. `base` gives what a copy knows of the thread: for one that is gone every message, else
    /// those that Redis had acknowledged.
    pub(super) fn settle(
        &mut self,
        id: RunId,
        step: &Replay,
        replayed: Replayed,
        base: impl FnOnce(Base) -> Vec<Entry>,
        now: Timestamp,
    ) -> Settled {
        let mut repaired = 0;
        let Some(next) = self.change(id, |run| run.settle(step, replayed, base, &mut repaired, now)) else {
            return Settled::Over;
        };
        let thread = &step.origin.thread.id;
        if repaired > 0 {
            self.repaired += repaired;
            warn!(%thread, messages = repaired, "messages that redis had lost were appended again");
        }
        match next {
            Next::Step => Settled::GoesOn,
            Next::Reincarnate(thread) => Settled::Lost(thread),
            Next::Became(reason) => {
                self.note(thread, 1, reason);
                Settled::GoesOn
            }
            Next::Moved(reason) => {
                self.note(thread, self.entries_of(id), reason);
                self.retire(id, thread);
                Settled::Moved
            }
            Next::Dropped(reason) => {
                let was_active = self.active.get(thread) == Some(&id);
                self.note(thread, self.entries_of(id), reason);
                self.finish(id, thread);
                if was_active { Settled::Dropped } else { Settled::Over }
            }
            Next::Over => {
                self.finish(id, thread);
                Settled::Over
            }
            Next::Parked(reason) => {
                self.park(id, &reason, now);
                Settled::Over
            }
            Next::Merged { thread: merged, is_clean } => {
                let was_active = self.active.get(thread) == Some(&id);
                self.finish(id, thread);
                if was_active { Settled::Merged { thread: merged, is_clean } } else { Settled::Over }
            }
        }
    }

    fn entries_of(&self, id: RunId) -> u64 {
        self.runs.get(&id).map_or(0, Run::count)
    }

    /// Goes on with a run in the epoch that its thread has now.
    pub(super) fn rebase(&mut self, id: RunId, epoch: &str, revision: i64) {
        self.change(id, |run| run.rebase(epoch, revision));
    }

    /// Puts a run aside: it cannot be replayed for now. Memory goes on to answer for its thread, so that what is accepted
    /// after it stays behind it.
    pub(super) fn park(&mut self, id: RunId, reason: &str, now: Timestamp) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let (thread, entries) = (run.origin.thread.id.clone(), run.count());
        if run.park(reason.to_owned(), now.plus(RETRY)) {
            warn!(%thread, entries, reason, "writes accepted in the outage cannot be merged for now: they are kept");
        }
    }

    /// Lets the calls of a thread go to Redis again.
    fn retire(&mut self, id: RunId, thread: &ThreadId) {
        if self.active.get(thread) == Some(&id) {
            self.active.remove(thread);
        }
    }

    fn finish(&mut self, id: RunId, thread: &ThreadId) {
        let Some(run) = self.remove(id) else { return };
        self.retire(id, thread);
        if run.is_parked() {
            info!(%thread, "writes that could not be merged before are merged");
        }
        self.forget(id, run.is_repair());
    }

    fn note(&mut self, thread: &ThreadId, entries: u64, reason: String) {
        warn!(%thread, entries, reason, "writes accepted in the outage could not be merged as they were");
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(ParkedRun { thread: thread.clone(), entries, reason });
    }

    /// What waits, for people.
    pub(super) fn status(&self) -> JournalStatus {
        let parked = self.runs.values().filter_map(Run::as_parked).chain(self.notes.iter().cloned());
        JournalStatus {
            entries: self.entries,
            bytes: self.bytes,
            oldest: self.runs.values().map(Run::oldest).min(),
            parked: parked.collect(),
            lost_writes_repaired: self.repaired,
        }
    }
}

/// What a step of a replay means for the copy of the thread.
#[derive(Debug)]
pub(super) enum Settled {
    /// Nothing yet.
    GoesOn,
    /// Redis lost writes, and the thread needs another epoch before the next step.
    Lost(Thread),
    /// The next steps are another thread's: nothing waits for this one any more.
    Moved,
    /// Nothing waits any more, and Redis does not have it.
    Dropped,
    /// Redis has all of it; `is_clean`: just as the copy has it.
    Merged {
        /// The thread.
        thread: Thread,
        /// Whether the places of waiting messages are their seqs.
        is_clean: bool,
    },
    /// Nothing: the copy does not wait for this run.
    Over,
}

/// What was accepted for a thread.
#[derive(Debug)]
pub(super) struct Accepted {
    /// The thread before.
    pub(super) origin: Origin,
    /// Whether memory created it.
    pub(super) creates: bool,
    /// Messages.
    pub(super) entries: Vec<Entry>,
    /// Its renewal by a caller.
    pub(super) touch: Option<Touch>,
    /// Not to be replayed before: a first attempt may still happen until then.
    pub(super) held_until: Timestamp,
}

/// What is wanted of the copy of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    /// Every message that is known.
    All,
    /// The messages that Redis acknowledged to this process.
    Acknowledged,
}
