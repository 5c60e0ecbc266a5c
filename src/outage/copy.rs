//! The copy of one thread: its metadata, an unbroken run of messages that ends at its last seq, and what was accepted in
//! an outage. This file holds what a copy answers and accepts; `learn` holds what answers of Redis teach it.

use std::{collections::HashSet, sync::Arc};

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    memory::{
        batch,
        conversation::{Conversation, Creator},
        footprint::Tally,
        ids::{MessageIds, Use},
        log::{self, Log},
        page,
    },
    outage::queue::Queue,
    threads::{
        Append, Appended, AppendedMessage, Context, ContextQuery, Digest, IDS_GENERATION, Limits,
        MAX_BATCH_BYTES, Message, MessageId, MessagesPage, MessagesQuery, NewMessage, NewThread,
        StoredMessage, Thread, Ttl,
        replay::{Origin, PendingMessage},
        watch::{Followed, Found, MAX_FOLLOWED, Since},
    },
};

mod learn;

pub(super) use learn::Observation;

/// A copy of a thread.
#[derive(Debug)]
pub(super) struct ThreadCopy {
    /// The thread as Redis described it last, and what this process accepted and renewed since. Its log holds, in this
    /// order, the run that Redis has too and the provisional messages, whose places are behind the thread's last seq. Its
    /// ids are those that were used through this process.
    conversation: Conversation,
    /// When Redis described it last.
    as_of: Timestamp,
    /// From this seq on every stored message is in the log; 0 when all are, and the kept instructions are known.
    known_from: i64,
    /// Whether memory created the thread.
    is_created_here: bool,
    /// Whether Redis was not told of a renewal yet.
    is_renewed: bool,
    /// When Redis last acknowledged a write of this process.
    wrote_at: Option<Timestamp>,
    local_writes: LocalWrites,
    /// Once writes wait: ids of messages in the log that this process did not write.
    foreign: HashSet<MessageId>,
    /// The epoch and revision that Redis acknowledged last.
    acknowledged: (String, i64),
}

/// Whether memory has writes that Redis has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LocalWrites {
    /// It has none.
    None,
    /// They wait to be merged.
    Waiting,
    /// They wait, and Redis told of a write that this copy lacks: nothing is read from it.
    Contradicted,
}

impl ThreadCopy {
    /// A copy that knows the metadata alone.
    pub(super) fn of(thread: &Thread, now: Timestamp) -> Self {
        Self {
            conversation: Conversation::known(Thread { local: true, ..thread.clone() }, Log::tail()),
            as_of: now,
            known_from: thread.last_seq.saturating_add(1),
            is_created_here: false,
            is_renewed: false,
            wrote_at: None,
            local_writes: LocalWrites::None,
            foreign: HashSet::new(),
            acknowledged: (thread.epoch.clone(), thread.revision),
        }
    }

    /// A thread without messages that only memory has.
    pub(super) fn create(new: &NewThread, epoch: String, now: Timestamp) -> Self {
        let mut thread = Thread::new(new.id.clone(), new.profile.clone(), epoch, now);
        // The revision of a thread that was never in Redis, and so of one that only memory has.
        (thread.revision, thread.local) = (0, true);
        let mut copy = Self::of(&thread, now);
        copy.knows_all();
        copy.conversation.created_by = new.request_id.clone().map(Creator::Create);
        copy.is_created_here = true;
        copy.note_local_write();
        copy
    }

    /// A copy of what the journal file has of a thread: of its messages those that wait, and no others.
    pub(super) fn restore(origin: &Origin, entries: &[PendingMessage], now: Timestamp) -> Self {
        let mut copy = Self::of(&origin.thread, now);
        if origin.thread.message_count == 0 {
            copy.knows_all();
        }
        copy.is_created_here = origin.thread.revision == 0;
        copy.conversation.created_by = origin.created_by.clone().map(Creator::Create);
        for (place, entry) in (origin.thread.last_seq + 1..).zip(entries) {
            let (seq, message) = (place, Arc::clone(&entry.message));
            copy.count(Tally::of(&message));
            copy.conversation.ids.insert(message.id.clone(), Use { seq, digest: entry.digest });
            copy.conversation.log.push(StoredMessage {
                seq,
                commit_time: entry.time,
                provisional: true,
                message,
            });
        }
        copy.note_local_write();
        copy.renew(None, now);
        copy
    }

    /// The log is the whole thread, which has no messages yet.
    fn knows_all(&mut self) {
        self.conversation.log = Log::whole();
        self.known_from = 0;
    }

    /// The thread, provisional messages counted.
    pub(super) fn thread(&self) -> &Thread {
        &self.conversation.thread
    }

    /// When Redis last described what this copy knows.
    pub(super) fn as_of(&self) -> Timestamp {
        self.as_of
    }

    /// The epoch and revision that Redis acknowledged last.
    pub(super) fn acknowledged(&self) -> &(String, i64) {
        &self.acknowledged
    }

    /// When Redis last acknowledged a write of this process.
    pub(super) fn wrote_at(&self) -> Option<Timestamp> {
        self.wrote_at
    }

    /// Whether memory alone knows of its last renewal.
    pub(super) fn is_renewed(&self) -> bool {
        self.is_renewed
    }

    /// Whether it has writes that Redis has not.
    pub(super) fn is_waiting(&self) -> bool {
        self.local_writes != LocalWrites::None
    }

    fn note_local_write(&mut self) {
        if !self.is_waiting() {
            self.local_writes = LocalWrites::Waiting;
        }
    }

    /// Whether its time is over, as far as this process knows.
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.thread().expire_time.is_some_and(|at| now >= at)
    }

    /// The bytes of memory that it takes.
    pub(super) fn footprint(&self) -> u64 {
        self.conversation.footprint()
    }

    /// Gives up the oldest messages, and ids if need be, so that the copy takes at most so many bytes. Not when writes wait.
    pub(super) fn shorten(&mut self, most: u64) {
        if self.footprint() <= most || self.is_waiting() {
            return;
        }
        let beside_messages = |copy: &Self| copy.footprint() - copy.conversation.log.tally().memory;
        if beside_messages(self) > most {
            self.conversation.ids = MessageIds::default();
        }
        let others = beside_messages(self);
        let log = &mut self.conversation.log;
        log.shorten(most.saturating_sub(others));
        let first = log.first_seq();
        self.known_from = if first == 0 { self.thread().last_seq.saturating_add(1) } else { first };
    }

    /// The thread as it is before writes begin to wait.
    pub(super) fn origin(&self) -> Origin {
        let created_by = match &self.conversation.created_by {
            Some(Creator::Create(request)) => Some(request.clone()),
            Some(Creator::Fork(_)) | None => None,
        };
        Origin { thread: self.thread().clone(), any_owner: false, created_by }
    }

    /// Every message that is known, to be replayed before those that wait.
    pub(super) fn known(&self, digest_of: fn(&Message) -> Digest) -> Vec<PendingMessage> {
        let ids = &self.conversation.ids;
        let entry = |stored: &StoredMessage| {
            let used = ids.find(&stored.message.id);
            let digest = used.map_or_else(|| digest_of(&stored.message), |used| used.digest);
            to_entry(stored, digest, false)
        };
        self.conversation.log.range(0..i64::MAX).map(entry).collect()
    }

    /// The messages that Redis acknowledged to this process, to be replayed where a failover may have lost them.
    pub(super) fn acknowledged_messages(&self) -> Vec<PendingMessage> {
        let ids = &self.conversation.ids;
        let entry = |stored: &StoredMessage| {
            ids.find(&stored.message.id).map(|used| to_entry(stored, used.digest, true))
        };
        let stored = self.conversation.log.range(0..i64::MAX).filter(|stored| !stored.provisional);
        let mut known: Vec<_> = stored.filter_map(entry).collect();
        // Redis surely remembers the ids of the newest ones, so that none of them is stored twice.
        known.drain(..known.len().saturating_sub(IDS_GENERATION / 2));
        known
    }

    /// Nothing waits any more: Redis has all of it, just as it is here if `is_clean`.
    pub(super) fn merge(mut self, thread: &Thread, is_clean: bool, now: Timestamp) -> Self {
        if !is_clean {
            return Self::of(thread, now);
        }
        self.describe(thread, now);
        self.wrote_at = Some(now);
        (self.local_writes, self.is_created_here) = (LocalWrites::None, false);
        self.foreign.clear();
        self.conversation.log.confirm();
        self.trim();
        if !self.agrees() {
            self.cut_run();
        }
        self
    }

    /// Renews, with a new time to live if one is given, until Redis is told.
    pub(super) fn renew(&mut self, ttl: Option<Ttl>, now: Timestamp) {
        self.is_renewed = true;
        self.conversation.touch(ttl, now);
    }

    /// Renews on a caller's behalf: the renewal waits until Redis is told.
    pub(super) fn touch(&mut self, ttl: Option<Ttl>, now: Timestamp) {
        self.note_foreign();
        self.renew(ttl, now);
        self.note_local_write();
    }

    /// Answers a creation: as before if it is the request that made this thread, else not at all.
    pub(super) fn repeat_creation(&self, new: &NewThread) -> Result<Appended> {
        self.conversation.repeat_creation(new).map(|repeated| self.appended(repeated.messages))
    }

    /// Appends provisional messages, all or none, and renews. Answers the new ones, too.
    pub(super) fn append(
        &mut self,
        append: &Append,
        (limits, digest_of): (Limits, fn(&Message) -> Digest),
        queue: &Queue,
        now: Timestamp,
    ) -> Result<(Appended, Vec<PendingMessage>)> {
        self.conversation.check_owner(append.owner.as_ref())?;
        self.compare_with_foreign(&append.messages, digest_of)?;
        self.add(&append.messages, limits, queue, now)
    }

    /// Adds provisional messages, all or none, and renews. Answers the new ones, too.
    pub(super) fn add(
        &mut self,
        messages: &[NewMessage],
        limits: Limits,
        queue: &Queue,
        now: Timestamp,
    ) -> Result<(Appended, Vec<PendingMessage>)> {
        let last_place = self.conversation.log.last_seq().max(self.thread().last_seq);
        let verdicts = batch::judge(messages, last_place, |id| self.conversation.ids.find(id))?;
        let fresh = batch::fresh(messages, &verdicts);
        let added = Tally::of_all(fresh.iter().map(|(new, _)| &new.message));
        let creates = self.is_created_here && self.thread().revision == 0;
        if added.count > 0 {
            added.admit(self.thread(), limits)?;
        }
        if added.count > 0 || creates {
            let creation = if creates { (1, self.footprint()) } else { (0, 0) };
            let count = u64::try_from(added.count).unwrap_or_default();
            queue.admit(count + creation.0, added.memory + creation.1)?;
        }
        let mut entries = Vec::with_capacity(fresh.len());
        for (new, place) in fresh {
            let stored = StoredMessage { provisional: true, ..log::stored(&new.message, place, now) };
            entries.push(to_entry(&stored, new.digest, false));
            self.conversation.log.push(stored);
            self.conversation.ids.insert(new.message.id.clone(), Use { seq: place, digest: new.digest });
        }
        if added.count > 0 || creates {
            self.count(added);
            self.conversation.revise(now);
        }
        self.renew(None, now);
        Ok((self.appended(verdicts), entries))
    }

    /// Compares messages with those that were read under their ids but not written by this process: one of them may be a
    /// write of this process whose answer was lost and that a watcher read. Another content is not judged: the message may
    /// have been changed since.
    fn compare_with_foreign(
        &mut self,
        messages: &[NewMessage],
        digest_of: fn(&Message) -> Digest,
    ) -> Result<()> {
        self.note_foreign();
        let Conversation { log, ids, .. } = &mut self.conversation;
        for new in messages.iter().filter(|new| self.foreign.contains(&new.message.id)) {
            let is_same = |stored: &&StoredMessage| {
                stored.message.id == new.message.id && digest_of(&stored.message) == new.digest
            };
            let Some(seq) = log.range(0..i64::MAX).find(is_same).map(|stored| stored.seq) else {
                return Err(Error::NeedsShared("a message id that was used elsewhere"));
            };
            ids.insert(new.message.id.clone(), Use { seq, digest: new.digest });
        }
        Ok(())
    }

    /// Notes which messages this process did not write, before writes begin to wait.
    fn note_foreign(&mut self) {
        if !self.is_waiting() {
            let Conversation { log, ids, .. } = &self.conversation;
            let stored = log.range(0..i64::MAX).map(|stored| &stored.message.id);
            self.foreign = stored.filter(|id| ids.find(id).is_none()).cloned().collect();
        }
    }

    fn count(&mut self, added: Tally) {
        let thread = &mut self.conversation.thread;
        thread.message_count += added.count;
        thread.size_bytes += added.bytes;
        thread.token_count += added.tokens;
        self.note_local_write();
    }

    /// Answers a write. A place behind the last seq is no seq.
    fn appended(&self, mut messages: Vec<AppendedMessage>) -> Appended {
        let last_seq = self.thread().last_seq;
        for message in messages.iter_mut().filter(|message| message.seq > last_seq) {
            message.seq = 0;
            message.provisional = true;
        }
        Appended { thread: self.thread().clone(), previous_last_seq: last_seq, messages }
    }

    /// Refuses to be read from where Redis told of a write that this copy lacks.
    fn check_readable(&self) -> Result<()> {
        if self.local_writes == LocalWrites::Contradicted {
            return Err(Error::NeedsShared("a thread that was written to both in redis and in memory"));
        }
        Ok(())
    }

    /// Reads the metadata.
    pub(super) fn get(&mut self, renew: bool, now: Timestamp) -> Result<Thread> {
        self.check_readable()?;
        if renew {
            self.renew(None, now);
        }
        Ok(self.thread().clone())
    }

    /// Pages through messages if every one that was asked for is known.
    pub(super) fn messages(&mut self, query: &MessagesQuery, now: Timestamp) -> Result<MessagesPage> {
        self.check_readable()?;
        let window = page::window(query, self.thread()).map_err(|error| match error {
            // What lies beyond this copy may be in Redis.
            Error::SeqOutOfRange { .. } => Error::NeedsShared("a page beyond what is held in memory"),
            error => error,
        })?;
        let known = self.conversation.log.range(window.start.max(self.known_from)..window.end);
        let (messages, more) = page::take(known, query);
        // A descending page that ends within the run does not reach what is unknown.
        if window.start < self.known_from && !(query.descending && more) {
            return Err(Error::NeedsShared("a page of messages that are not all held in memory"));
        }
        if query.renew {
            self.renew(None, now);
        }
        Ok(MessagesPage { thread: self.thread().clone(), messages, more })
    }

    /// Answers a watcher that begins with what Redis has, if that is known here, and every other watcher with what only
    /// memory has.
    pub(super) fn follow(&self, since: &Since, now: Timestamp) -> Result<Followed> {
        self.check_readable()?;
        let last_seq = self.thread().last_seq;
        let new = match since {
            Since::Seq(after) if *after > last_seq => {
                return Err(Error::NeedsShared("a watch from beyond what is held in memory"));
            }
            Since::Seq(after) if after.saturating_add(1) < self.known_from => {
                return Err(Error::NeedsShared("a watch of messages that are not all held in memory"));
            }
            Since::Seq(after) => after.saturating_add(1)..last_seq.saturating_add(1),
            Since::Told(place) => last_seq.max(place.provisional).saturating_add(1)..i64::MAX,
        };
        let (messages, more) = page::fill(self.conversation.log.range(new), MAX_FOLLOWED, MAX_BATCH_BYTES);
        Ok(Followed::Found(Box::new(Found {
            listed_from: 0,
            messages,
            more,
            ..self.conversation.found(now)
        })))
    }

    /// Reads the newest messages that fit, if these and all instructions are known.
    pub(super) fn context(&mut self, query: &ContextQuery, now: Timestamp) -> Result<Context> {
        self.check_readable()?;
        let needs_shared = Error::NeedsShared("a context of messages that are not all held in memory");
        let log = &self.conversation.log;
        if !log.knows_instructions() {
            return Err(needs_shared);
        }
        let messages = log.context(query.budget, self.known_from == 0).ok_or(needs_shared)?;
        if query.renew {
            self.renew(None, now);
        }
        Ok(Context { thread: self.thread().clone(), messages })
    }
}

fn to_entry(stored: &StoredMessage, digest: Digest, is_repair: bool) -> PendingMessage {
    PendingMessage { message: Arc::clone(&stored.message), digest, time: stored.commit_time, is_repair }
}
