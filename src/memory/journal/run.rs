//! One run: what waits for one thread, and what it does at each outcome of its replay.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use super::Base;
use crate::{
    clock::Timestamp,
    memory::footprint::{self, THREAD_OVERHEAD, Tally},
    threads::{
        Digest, Message, MessageId, Thread, ThreadId, Ttl,
        journal::{Entry, MAX_REPLAY, MAX_REPLAY_BYTES, Origin, ParkedRun, Record, Replay, Replayed, RunId},
    },
};

/// What is done about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It is replayed as soon as it may be.
    Active,
    /// It could not be replayed for this reason; it is tried again then.
    Parked { reason: String, again: Timestamp },
    /// As active, of messages that Redis had acknowledged before.
    Repair,
}

/// A renewal, with a new time to live if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) struct Touch(pub(in crate::memory) Option<Ttl>);

/// Whether the thread is to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Creation {
    /// Redis has it, as far as is known.
    None,
    /// Memory created it; somebody else may have, too.
    Accepted,
    /// It is not there: the next step creates it.
    Due,
}

/// What waits for one thread.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// The thread as it was before.
    pub(super) origin: Arc<Origin>,
    /// Messages, in order.
    entries: VecDeque<Entry>,
    /// The bytes of memory that they take.
    weight: u64,
    /// The last renewal of the thread, if it was renewed.
    touch: Option<Touch>,
    /// Not to be replayed before.
    pub(super) held_until: Timestamp,
    pub(super) state: State,
    creation: Creation,
    /// Whether it goes to another thread than it was accepted for.
    is_moved: bool,
    /// Whether what Redis lost is among the messages already.
    has_lost: bool,
    /// Whether Redis took all so far just behind what was there before.
    is_clean: bool,
    began: Timestamp,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// The next step.
    Step,
    /// The thread needs another epoch first.
    Reincarnate(Thread),
    /// The next step, with something else than was accepted.
    Became(String),
    /// The next step, in another thread.
    Moved(String),
    /// Nothing: it can never be merged.
    Dropped(String),
    /// Nothing for now.
    Parked(String),
    /// Nothing: Redis has all of it.
    Merged { thread: Thread, is_clean: bool },
}

impl Run {
    /// A run of which nothing but the thread is known.
    pub(super) fn of(origin: Arc<Origin>, is_creation: bool, now: Timestamp) -> Self {
        Self {
            origin,
            entries: VecDeque::new(),
            weight: 0,
            touch: None,
            held_until: Timestamp::default(),
            state: State::Active,
            creation: if is_creation { Creation::Accepted } else { Creation::None },
            is_moved: false,
            has_lost: false,
            is_clean: true,
            began: now,
        }
    }

    /// Messages, creation and renewal.
    pub(super) fn count(&self) -> u64 {
        let others = u64::from(self.creation != Creation::None) + u64::from(self.touch.is_some());
        u64::try_from(self.entries.len()).unwrap_or(u64::MAX) + others
    }

    /// The bytes of memory that it takes.
    pub(super) fn bytes(&self) -> u64 {
        THREAD_OVERHEAD + footprint::of_profile(&self.origin.thread.profile) + self.weight
    }

    /// Takes in messages behind those that wait.
    pub(super) fn push(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.weight += Tally::of(&entry.message).memory;
            self.entries.push_back(entry);
        }
    }

    /// Takes in a renewal. One without a time to live leaves that of an earlier one in force.
    pub(super) fn touch(&mut self, Touch(ttl): Touch) {
        let earlier = self.touch.and_then(|Touch(ttl)| ttl);
        self.touch = Some(Touch(ttl.or(earlier)));
    }

    /// The messages that wait.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// When the first of what waits was accepted.
    pub(super) fn oldest(&self) -> Timestamp {
        self.entries.front().map_or(self.began, |entry| entry.time)
    }

    pub(super) fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked { .. })
    }

    /// When it may be replayed; none for at any time.
    pub(super) fn due(&self) -> Option<Timestamp> {
        match self.state {
            State::Parked { again, .. } => Some(again.max(self.held_until)),
            State::Active | State::Repair if self.held_until == Timestamp::default() => None,
            State::Active | State::Repair => Some(self.held_until),
        }
    }

    /// Puts it aside; says whether it was not yet, or for another reason.
    pub(super) fn park(&mut self, reason: String, again: Timestamp) -> bool {
        let is_new = !matches!(&self.state, State::Parked { reason: known, .. } if *known == reason);
        self.state = State::Parked { reason, again };
        is_new
    }

    pub(super) fn as_parked(&self) -> Option<ParkedRun> {
        let State::Parked { reason, .. } = &self.state else { return None };
        Some(ParkedRun {
            thread: self.origin.thread.id.clone(),
            entries: self.count(),
            reason: reason.clone(),
        })
    }

    /// The next step.
    pub(super) fn step(&self) -> Replay {
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
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
            ttl: self.touch.and_then(|Touch(ttl)| ttl),
        }
    }

    /// Decides what a step's outcome means.
    pub(super) fn settle(
        &mut self,
        step: &Replay,
        replayed: Replayed,
        base: impl FnOnce(Base) -> Vec<Entry>,
        repaired: &mut u64,
    ) -> Next {
        match replayed {
            Replayed::Done { thread, previous_last_seq, duplicates, .. } => {
                let is_back = |(entry, is_duplicate): &(&Entry, &bool)| entry.is_repair && !**is_duplicate;
                *repaired += step.entries.iter().zip(&duplicates).filter(is_back).map(|_| 1).sum::<u64>();
                let is_next = thread.revision == self.origin.thread.revision + 1 || step.entries.is_empty();
                self.is_clean &= is_next
                    && previous_last_seq == self.origin.thread.last_seq
                    && (thread.epoch == self.origin.thread.epoch || step.creates)
                    && !duplicates.contains(&true);
                self.take_done(step, thread)
            }
            Replayed::Absent => {
                if !self.is_moved {
                    let missing = base(Base::All);
                    self.put_before(missing);
                }
                self.creation = Creation::Due;
                Next::Step
            }
            Replayed::Behind(thread) => {
                if !std::mem::replace(&mut self.has_lost, true) {
                    let missing = base(Base::Acknowledged);
                    self.put_before(missing);
                }
                Next::Reincarnate(thread)
            }
            Replayed::Deleted => Next::Dropped("dropped: the thread was deleted".to_owned()),
            Replayed::OtherOwner => self.give_to_another_thread(),
            Replayed::Reused(id) => self.give_another_id(&id),
        }
    }

    fn take_done(&mut self, step: &Replay, thread: Thread) -> Next {
        self.entries.drain(..step.entries.len());
        self.weight -= weigh(&step.entries);
        if self.touch.is_some_and(|Touch(ttl)| ttl == step.ttl) {
            self.touch = None;
        }
        self.creation = Creation::None;
        let (epoch, revision, last_seq) = (thread.epoch.clone(), thread.revision, thread.last_seq);
        self.change_thread(|thread| {
            (thread.epoch, thread.revision, thread.last_seq) = (epoch, revision, last_seq);
        });
        if self.entries.is_empty() && self.touch.is_none() {
            Next::Merged { thread, is_clean: self.is_clean && !self.is_moved }
        } else {
            Next::Step
        }
    }

    /// Puts messages before all others, but for those that wait already.
    fn put_before(&mut self, missing: Vec<Entry>) {
        self.is_clean &= missing.is_empty();
        let waiting: HashSet<_> = self.entries.iter().map(|entry| entry.message.id.clone()).collect();
        let missing: Vec<_> =
            missing.into_iter().filter(|entry| !waiting.contains(&entry.message.id)).collect();
        self.weight += weigh(&missing);
        for entry in missing.into_iter().rev() {
            self.entries.push_front(entry);
        }
    }

    /// The thread has an owner who did not get these writes accepted. They become a thread of the one who did, always the
    /// same, so that a repeat finds it.
    fn give_to_another_thread(&mut self) -> Next {
        let Thread { id, epoch, .. } = &self.origin.thread;
        let Ok(other) = ThreadId::parse("id", &format!("{id}~{epoch}")) else {
            return Next::Parked(
                "redis has a thread of another owner, and there is no id for one beside it".to_owned(),
            );
        };
        if std::mem::replace(&mut self.is_moved, true) {
            return Next::Parked(format!("{id} belongs to another owner, too"));
        }
        let reason = format!("became {other}, since redis has a thread of another owner");
        self.change_thread(|thread| (thread.id, thread.revision, thread.last_seq) = (other, 0, 0));
        Next::Moved(reason)
    }

    /// The id stands for another content in Redis. The message is kept under another one, always the same for the same
    /// content, so that a repeat finds it.
    fn give_another_id(&mut self, used: &MessageId) -> Next {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.message.id == *used) else {
            return Next::Parked(format!("message id {used} is not among the waiting ones"));
        };
        let Ok(id) = MessageId::parse("id", &format!("{used}~{}", ulid_of(entry.digest))) else {
            return Next::Parked(format!("redis has another message {used}, and there is no id beside it"));
        };
        let reason = format!("message {used} became {id}, since redis has another message of that id");
        let longer = id.as_str().len() - used.as_str().len();
        let size = entry.message.size.saturating_add(u32::try_from(longer).unwrap_or_default());
        let renamed = Message { id, size, ..Message::clone(&entry.message) };
        self.weight = self.weight + Tally::of(&renamed).memory - Tally::of(&entry.message).memory;
        entry.message = Arc::new(renamed);
        self.is_clean = false;
        Next::Became(reason)
    }

    /// Goes on in the epoch that the thread has now.
    pub(super) fn rebase(&mut self, epoch: &str, revision: i64) {
        self.change_thread(|thread| (thread.epoch, thread.revision) = (epoch.to_owned(), revision));
    }

    fn change_thread(&mut self, change: impl FnOnce(&mut Thread)) {
        change(&mut Arc::make_mut(&mut self.origin).thread);
    }

    /// What a journal file has to say of it.
    pub(super) fn records(&self, run: RunId) -> Vec<Record> {
        let origin = Arc::clone(&self.origin);
        let mut records = vec![Record::Began { run, origin, creates: self.creation != Creation::None }];
        if !self.entries.is_empty() {
            records.push(Record::Accepted { run, entries: self.entries.iter().cloned().collect() });
        }
        records.extend(self.touch.map(|Touch(ttl)| Record::Touched { run, ttl }));
        records
    }
}

fn weigh(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| Tally::of(&entry.message).memory).sum()
}

/// A digest in the form of a ULID: 26 characters of Crockford's Base32.
fn ulid_of(digest: Digest) -> ulid::Ulid {
    ulid::Ulid(u128::from_be_bytes(digest.0))
}
