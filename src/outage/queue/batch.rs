//! One pending batch: the writes that wait for one thread, and what it does at each outcome of its replay.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    clock::{Timestamp, fresh_id_at},
    memory::footprint::{self, THREAD_OVERHEAD, Tally},
    threads::{
        Digest, Message, MessageId, Owner, Thread, ThreadId, Ttl,
        replay::{
            BatchId, Done, MAX_REPLAY, MAX_REPLAY_BYTES, Origin, ParkedBatch, PendingMessage, Record, Replay,
        },
    },
};

/// Whose writes a batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    /// Those that memory accepted for the batch's thread.
    Accepted,
    /// Those that memory accepted for another thread, which Redis has for another owner.
    Moved,
    /// Those that Redis had acknowledged before: memory does not answer for the thread.
    Repair,
}

/// Whether the thread is to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Creation {
    /// Redis has it, as far as this process knows.
    None,
    /// Memory created it; somebody else may have created it, too.
    Accepted,
    /// Redis does not have it: the next step creates it.
    Due,
}

/// A renewal of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Renewal {
    /// The new time to live, if there is one.
    ttl: Option<Ttl>,
}

/// Why a batch could not be replayed, and when the replay is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parked {
    reason: String,
    again: Instant,
}

/// The writes that wait for one thread.
#[derive(Debug, Clone)]
pub(in crate::outage) struct PendingBatch {
    /// The thread as it was before.
    pub(super) origin: Arc<Origin>,
    /// Messages, in order.
    entries: VecDeque<PendingMessage>,
    /// The bytes of memory that they take.
    weight: u64,
    /// The last renewal of the thread, if somebody renewed it.
    renewal: Option<Renewal>,
    /// Not to be replayed before.
    held_until: Option<Instant>,
    parked: Option<Parked>,
    ownership: Ownership,
    creation: Creation,
    /// Whether the messages that Redis lost are among the entries already.
    has_lost: bool,
    /// Whether Redis took every message so far just behind the messages that were there before.
    is_clean: bool,
    began: Timestamp,
}

impl PendingBatch {
    /// A batch without writes.
    pub(super) fn of(origin: Arc<Origin>, creates: bool, now: Timestamp) -> Self {
        Self {
            origin,
            entries: VecDeque::new(),
            weight: 0,
            renewal: None,
            held_until: None,
            parked: None,
            ownership: Ownership::Accepted,
            creation: if creates { Creation::Accepted } else { Creation::None },
            has_lost: false,
            is_clean: true,
            began: now,
        }
    }

    /// A batch for messages to append again that Redis had acknowledged before.
    pub(super) fn repairing(origin: Arc<Origin>, now: Timestamp) -> Self {
        Self { ownership: Ownership::Repair, ..Self::of(origin, false, now) }
    }

    pub(in crate::outage) fn is_repair(&self) -> bool {
        self.ownership == Ownership::Repair
    }

    /// Messages, creation and renewal.
    pub(super) fn count(&self) -> u64 {
        let others = u64::from(self.creation != Creation::None) + u64::from(self.renewal.is_some());
        u64::try_from(self.entries.len()).unwrap_or(u64::MAX) + others
    }

    /// The bytes of memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        THREAD_OVERHEAD + footprint::of_profile(&self.origin.thread.profile) + self.weight
    }

    /// Takes in a renewal. A renewal without a new time to live leaves the time to live that waits.
    pub(super) fn renew(&mut self, ttl: Option<Ttl>) {
        self.renewal = Some(Renewal { ttl: ttl.or_else(|| self.ttl()) });
    }

    /// The new time to live that waits.
    fn ttl(&self) -> Option<Ttl> {
        self.renewal.and_then(|renewal| renewal.ttl)
    }

    /// Takes in messages behind those that wait.
    pub(super) fn push(&mut self, entries: impl IntoIterator<Item = PendingMessage>) {
        for entry in entries {
            self.weight += Tally::of(&entry.message).memory;
            self.entries.push_back(entry);
        }
    }

    /// The messages that wait.
    pub(super) fn entries(&self) -> impl Iterator<Item = &PendingMessage> {
        self.entries.iter()
    }

    /// When the first of the writes was accepted.
    pub(super) fn oldest(&self) -> Timestamp {
        self.entries.front().map_or(self.began, |entry| entry.time)
    }

    /// Whether memory created its thread for this owner, and the thread is to be merged soon.
    pub(super) fn creates_for(&self, owner: &Owner) -> bool {
        let is_owner = self.origin.thread.profile.owner.as_ref() == Some(owner);
        is_owner && self.creation != Creation::None && !self.is_parked()
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// Is not replayed before a moment, nor before those that were given earlier.
    pub(super) fn hold(&mut self, until: Option<Instant>) {
        self.held_until = self.held_until.max(until);
    }

    /// When it may be replayed; none for at any time.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held_until.max(self.parked.as_ref().map(|parked| parked.again))
    }

    /// Puts it aside; says whether it was not yet, or for another reason.
    pub(super) fn park(&mut self, reason: String, again: Instant) -> bool {
        let is_new = self.parked.as_ref().is_none_or(|parked| parked.reason != reason);
        self.parked = Some(Parked { reason, again });
        is_new
    }

    pub(super) fn as_parked(&self) -> Option<ParkedBatch> {
        let reason = self.parked.as_ref()?.reason.clone();
        Some(ParkedBatch { thread: self.origin.thread.id.clone(), entries: self.count(), reason })
    }

    /// The next step.
    pub(super) fn step(&self) -> Replay {
        let mut bytes = 0;
        let fits = |entry: &&PendingMessage| {
            bytes += entry.message.payload.len();
            bytes <= MAX_REPLAY_BYTES
        };
        let mut entries: Vec<_> = self.entries.iter().take(MAX_REPLAY).take_while(fits).cloned().collect();
        if entries.is_empty() {
            entries.extend(self.entries.front().cloned());
        }
        Replay {
            origin: Arc::clone(&self.origin),
            entries,
            creates: self.creation == Creation::Due,
            ttl: self.ttl(),
            is_repair: self.is_repair(),
        }
    }

    /// Notes that Redis has a step, and the thread as it is then. Answers whether nothing waits any more.
    pub(in crate::outage) fn take_done(&mut self, step: &Replay, done: &Done) -> bool {
        let Thread { epoch, revision, last_seq, .. } = &done.thread;
        let was = &self.origin.thread;
        // A renewal alone is no revision: a higher revision then tells of somebody else's change.
        let is_write = !step.entries.is_empty() || step.creates;
        self.is_clean &= *revision == was.revision + i64::from(is_write)
            && done.previous_last_seq == was.last_seq
            && (*epoch == was.epoch || step.creates)
            && !done.duplicates.contains(&true);
        self.entries.drain(..step.entries.len());
        self.weight -= weigh(&step.entries);
        if self.renewal == Some(Renewal { ttl: step.ttl }) {
            self.renewal = None;
        }
        self.creation = Creation::None;
        self.change_thread(|thread| {
            thread.epoch.clone_from(epoch);
            (thread.revision, thread.last_seq) = (*revision, *last_seq);
        });
        self.entries.is_empty() && self.renewal.is_none()
    }

    /// Whether the thread in Redis is just as the copy has it.
    pub(in crate::outage) fn is_clean(&self) -> bool {
        self.is_clean && self.ownership != Ownership::Moved
    }

    /// Whether the writes go to another thread than they were accepted for.
    pub(in crate::outage) fn is_moved(&self) -> bool {
        self.ownership == Ownership::Moved
    }

    /// Creates the thread in the next step, with the messages that are known of it before all others. Where Redis had the
    /// thread before, this is another incarnation, under one epoch however often the step is tried: if the thread is
    /// deleted meanwhile, the deletion holds for the writes that wait, too.
    ///
    /// Answers false where that cannot be: a renewal alone makes no thread, and a repair's messages went with theirs.
    pub(in crate::outage) fn create_anew(&mut self, known: Vec<PendingMessage>, now: Timestamp) -> bool {
        if !self.is_moved() {
            self.put_before(known);
        }
        if self.is_repair() || (self.entries.is_empty() && self.creation == Creation::None) {
            return false;
        }
        if self.origin.thread.revision > 0 {
            let epoch = fresh_id_at(now);
            self.change_thread(|thread| (thread.epoch, thread.revision) = (epoch, 0));
        }
        self.creation = Creation::Due;
        true
    }

    /// Puts the acknowledged messages that Redis lost before all others, once.
    pub(in crate::outage) fn restore_lost(&mut self, acknowledged: impl FnOnce() -> Vec<PendingMessage>) {
        if !std::mem::replace(&mut self.has_lost, true) {
            self.put_before(acknowledged());
            // Redis may have lost changes as well, which are not made again.
            self.is_clean = false;
        }
    }

    /// Puts messages before all others, but for those that wait already.
    fn put_before(&mut self, missing: Vec<PendingMessage>) {
        self.is_clean &= missing.is_empty();
        let waiting: HashSet<_> = self.entries.iter().map(|entry| entry.message.id.clone()).collect();
        let missing: Vec<_> =
            missing.into_iter().filter(|entry| !waiting.contains(&entry.message.id)).collect();
        self.weight += weigh(&missing);
        for entry in missing.into_iter().rev() {
            self.entries.push_front(entry);
        }
    }

    /// Moves the writes to another thread, since Redis has theirs for an owner for whom they were not accepted. The other
    /// thread's id is always the same, so that a repeat finds it. Answers what became of the writes; fails with the
    /// reason for which they cannot be moved.
    pub(in crate::outage) fn move_to_another_thread(&mut self) -> Result<String, String> {
        let Thread { id, epoch, .. } = &self.origin.thread;
        let Ok(other) = ThreadId::parse("id", &format!("{id}~{epoch}")) else {
            return Err(
                "redis has a thread of another owner, and there is no id for one beside it".to_owned()
            );
        };
        if self.is_moved() {
            return Err(format!("{id} belongs to another owner, too"));
        }
        self.ownership = Ownership::Moved;
        let reason = format!("became {other}, since redis has a thread of another owner");
        self.change_thread(|thread| (thread.id, thread.revision, thread.last_seq) = (other, 0, 0));
        Ok(reason)
    }

    /// Gives a message another id, since Redis has other content under its id. The other id is always the same for the
    /// same content, so that a repeat finds it. Answers what became of the message; fails with the reason for which it
    /// can have no other id.
    pub(in crate::outage) fn rename_message(&mut self, used: &MessageId) -> Result<String, String> {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.message.id == *used) else {
            return Err(format!("message id {used} is not among the waiting ones"));
        };
        let Ok(id) = MessageId::parse("id", &format!("{used}~{}", ulid_of(entry.digest))) else {
            return Err(format!("redis has another message {used}, and there is no id beside it"));
        };
        let reason = format!("message {used} became {id}, since redis has another message of that id");
        let longer = id.as_str().len() - used.as_str().len();
        let size = entry.message.size.saturating_add(u32::try_from(longer).unwrap_or_default());
        let renamed = Message { id, size, ..Message::clone(&entry.message) };
        self.weight = self.weight + Tally::of(&renamed).memory - Tally::of(&entry.message).memory;
        entry.message = Arc::new(renamed);
        self.is_clean = false;
        Ok(reason)
    }

    /// Goes on in the epoch that the thread has now.
    pub(in crate::outage) fn rebase(&mut self, thread: &Thread) {
        let (epoch, revision) = (thread.epoch.clone(), thread.revision);
        self.change_thread(|thread| (thread.epoch, thread.revision) = (epoch, revision));
    }

    fn change_thread(&mut self, change: impl FnOnce(&mut Thread)) {
        change(&mut Arc::make_mut(&mut self.origin).thread);
    }

    /// What the journal file holds of it.
    pub(super) fn records(&self, batch: BatchId) -> Vec<Record> {
        let origin = Arc::clone(&self.origin);
        let mut records = vec![Record::Began { batch, origin, creates: self.creation != Creation::None }];
        if !self.entries.is_empty() {
            records.push(Record::Accepted { batch, entries: self.entries.iter().cloned().collect() });
        }
        records.extend(self.renewal.map(|Renewal { ttl }| Record::Touched { batch, ttl }));
        records
    }
}

fn weigh(entries: &[PendingMessage]) -> u64 {
    entries.iter().map(|entry| Tally::of(&entry.message).memory).sum()
}

/// A digest in the form of a ULID: 26 characters of Crockford's Base32.
fn ulid_of(digest: Digest) -> ulid::Ulid {
    ulid::Ulid(u128::from_be_bytes(digest.0))
}
