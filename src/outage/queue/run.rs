//! One run: what waits for one thread, and what it does at each outcome of its replay.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Base;
use crate::{
    clock::{Timestamp, fresh_id_at},
    memory::footprint::{self, THREAD_OVERHEAD, Tally},
    threads::{
        Digest, Message, MessageId, Owner, Thread, ThreadId, Ttl,
        replay::{Entry, MAX_REPLAY, MAX_REPLAY_BYTES, Origin, ParkedRun, Record, Replay, Replayed, RunId},
    },
};

/// What is done about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It is replayed as soon as it may be.
    Active,
    /// It could not be replayed for this reason; it is tried again then.
    Parked { reason: String, again: Timestamp },
}

/// Whose writes a run holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Those that memory accepted for its thread.
    Accepted,
    /// The same, but it goes to another thread than they were accepted for.
    Moved,
    /// Those that Redis had acknowledged before: memory does not answer for its thread.
    Repair,
}

/// A renewal, with a new time to live if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::outage) struct Touch(pub(in crate::outage) Option<Ttl>);

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
    pub(super) touch: Option<Touch>,
    /// Not to be replayed before; so long after a write was accepted, at most.
    held_until: Timestamp,
    hold: Duration,
    state: State,
    kind: Kind,
    creation: Creation,
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
    /// Nothing, and nobody misses anything.
    Over,
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
            hold: Duration::ZERO,
            state: State::Active,
            kind: Kind::Accepted,
            creation: if is_creation { Creation::Accepted } else { Creation::None },
            has_lost: false,
            is_clean: true,
            began: now,
        }
    }

    /// Messages to append again that Redis had acknowledged before.
    pub(super) fn repairing(origin: Arc<Origin>, now: Timestamp) -> Self {
        Self { kind: Kind::Repair, ..Self::of(origin, false, now) }
    }

    pub(super) fn is_repair(&self) -> bool {
        self.kind == Kind::Repair
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

    /// Takes in a renewal. One without a new time to live leaves the one that waits as it is.
    pub(super) fn renew(&mut self, Touch(ttl): Touch) {
        let known = self.touch.and_then(|Touch(ttl)| ttl);
        self.touch = Some(Touch(ttl.or(known)));
    }

    /// Takes in messages behind those that wait.
    pub(super) fn push(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.weight += Tally::of(&entry.message).memory;
            self.entries.push_back(entry);
        }
    }

    /// The messages that wait.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// When the first of what waits was accepted.
    pub(super) fn oldest(&self) -> Timestamp {
        self.entries.front().map_or(self.began, |entry| entry.time)
    }

    /// Whether memory created it, for this owner, and that is to be merged soon.
    pub(super) fn creates_for(&self, owner: &Owner) -> bool {
        let is_owner = self.origin.thread.profile.owner.as_ref() == Some(owner);
        is_owner && self.creation != Creation::None && !self.is_parked()
    }

    pub(super) fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked { .. })
    }

    /// Lets it wait for no longer than these, where the clock stepped back since it was told how long.
    pub(super) fn limit_wait(&mut self, now: Timestamp, retry: Duration) {
        if let State::Parked { again, .. } = &mut self.state {
            *again = (*again).min(now.plus(retry));
        }
        self.held_until = self.held_until.min(now.plus(self.hold));
    }

    /// Is not replayed before a moment, as seen from now, nor before those that were given earlier.
    pub(super) fn hold(&mut self, until: Timestamp, now: Timestamp) {
        self.held_until = self.held_until.max(until);
        self.hold = self.hold.max(until.since(now));
    }

    /// When it may be replayed; none for at any time.
    pub(super) fn due(&self) -> Option<Timestamp> {
        match self.state {
            State::Parked { again, .. } => Some(again.max(self.held_until)),
            State::Active if self.held_until == Timestamp::default() => None,
            State::Active => Some(self.held_until),
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
            is_repair: self.kind == Kind::Repair,
        }
    }

    /// Decides what a step's outcome means.
    pub(super) fn settle(
        &mut self,
        step: &Replay,
        replayed: Replayed,
        base: impl FnOnce(Base) -> Vec<Entry>,
        repaired: &mut u64,
        now: Timestamp,
    ) -> Next {
        match replayed {
            // What was acknowledged of a thread that is gone is gone with it.
            Replayed::Absent | Replayed::Deleted if self.kind == Kind::Repair => Next::Over,
            Replayed::Done { thread, previous_last_seq, duplicates, .. } => {
                let is_back = |(entry, is_duplicate): &(&Entry, &bool)| entry.is_repair && !**is_duplicate;
                *repaired += step.entries.iter().zip(&duplicates).filter(is_back).map(|_| 1).sum::<u64>();
                // A renewal alone is no revision: another one tells of somebody else's change.
                let is_write = !step.entries.is_empty() || step.creates;
                self.is_clean &= thread.revision == self.origin.thread.revision + i64::from(is_write)
                    && previous_last_seq == self.origin.thread.last_seq
                    && (thread.epoch == self.origin.thread.epoch || step.creates)
                    && !duplicates.contains(&true);
                self.take_done(step, thread)
            }
            Replayed::Absent => {
                if self.kind != Kind::Moved {
                    let missing = base(Base::All);
                    if missing.is_empty() && self.entries.is_empty() && self.creation == Creation::None {
                        // There is nothing to make it from but that it was there.
                        return Next::Dropped("dropped: a renewal of a thread that is gone".to_owned());
                    }
                    self.put_before(missing);
                }
                self.begin_anew(now);
                Next::Step
            }
            Replayed::Behind(thread) => {
                if !std::mem::replace(&mut self.has_lost, true) {
                    let missing = base(Base::Acknowledged);
                    self.put_before(missing);
                    // Changes may be lost as well, which are not made again.
                    self.is_clean = false;
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
            Next::Merged { thread, is_clean: self.is_clean && self.kind != Kind::Moved }
        } else {
            Next::Step
        }
    }

    /// Creates the thread in the next step. Where Redis had it before, that is another incarnation, under one epoch
    /// however often the step is tried: if it is deleted meanwhile, the deletion holds for what waits, too.
    fn begin_anew(&mut self, now: Timestamp) {
        if self.origin.thread.revision > 0 {
            let epoch = fresh_id_at(now);
            self.change_thread(|thread| (thread.epoch, thread.revision) = (epoch, 0));
        }
        self.creation = Creation::Due;
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
        if std::mem::replace(&mut self.kind, Kind::Moved) == Kind::Moved {
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
