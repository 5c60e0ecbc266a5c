//! One held thread: its metadata, an unbroken run of messages that ends at its last seq, and what was accepted in an
//! outage. Here is what it answers and accepts meanwhile.

use std::{collections::HashSet, sync::Arc};

use crate::outage::queue::{Base, Journal};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    memory::{
        batch,
        footprint::{self, THREAD_OVERHEAD, Tally},
        ids::{MessageIds, Use},
        log::{self, Log},
        page,
    },
    threads::{
        Append, Appended, AppendedMessage, Context, ContextQuery, Digest, IDS_GENERATION, Limits,
        MAX_BATCH_BYTES, Message, MessageId, MessagesPage, MessagesQuery, NewMessage, NewThread, RequestId,
        StoredMessage, Thread, Ttl,
        replay::{Entry, Origin},
        watch::{Followed, Found, MAX_FOLLOWED, Since},
    },
};

/// A copy of a thread. Its log holds, in this order, the run that Redis has too and the provisional messages, which
/// have places behind the thread's last seq.
#[derive(Debug)]
pub(super) struct HeldThread {
    /// As Redis said last, and what was accepted and renewed here since.
    pub(super) thread: Thread,
    /// When Redis said so.
    pub(super) as_of: Timestamp,
    pub(super) log: Log,
    /// From this seq on every stored message is in the log; 0 when all are, and the kept instructions are known.
    pub(super) known_from: i64,
    /// Ids that were used through this process.
    pub(super) ids: MessageIds,
    /// The request that created the thread, if it came through this process.
    pub(super) created_by: Option<RequestId>,
    /// Whether memory alone was told of a renewal.
    pub(super) is_renewed: bool,
    /// When Redis last acknowledged a write of this process.
    pub(super) wrote_at: Option<Timestamp>,
    /// Whether memory has writes that Redis has not.
    is_waiting: bool,
    /// Once it waits: ids of messages in the log that were not written here.
    foreign: HashSet<MessageId>,
    /// Once it waits: whether Redis told of a write that is not here, so that nothing is read from here.
    is_behind: bool,
    /// The epoch and revision that Redis acknowledged last.
    pub(super) acknowledged: (String, i64),
}

impl HeldThread {
    /// A copy of which nothing but the metadata is known.
    pub(super) fn of(thread: &Thread, now: Timestamp) -> Self {
        Self {
            thread: Thread { local: true, ..thread.clone() },
            as_of: now,
            log: Log::tail(),
            known_from: thread.last_seq.saturating_add(1),
            ids: MessageIds::default(),
            created_by: None,
            is_renewed: false,
            wrote_at: None,
            is_waiting: false,
            foreign: HashSet::new(),
            is_behind: false,
            acknowledged: (thread.epoch.clone(), thread.revision),
        }
    }

    /// A thread without messages that only memory has.
    pub(super) fn accept(new: &NewThread, epoch: String, now: Timestamp) -> Self {
        let thread = Thread {
            id: new.id.clone(),
            profile: new.profile.clone(),
            epoch,
            revision: 0,
            message_count: 0,
            first_seq: 0,
            last_seq: 0,
            token_count: 0,
            size_bytes: 0,
            parent: None,
            create_time: now,
            update_time: now,
            expire_time: None,
            local: true,
        };
        let mut held = Self::of(&thread, now);
        held.log = Log::whole();
        held.known_from = 0;
        held.created_by.clone_from(&new.request_id);
        held.is_waiting = true;
        held
    }

    /// The thread, provisional messages counted.
    pub(super) fn thread(&self) -> &Thread {
        &self.thread
    }

    /// When Redis last said what this copy knows.
    pub(super) fn as_of(&self) -> Timestamp {
        self.as_of
    }

    /// Notes what Redis said, where writes wait.
    pub(super) fn notice(&mut self, said: &Thread) {
        let (epoch, revision) = &self.acknowledged;
        self.is_behind |= said.epoch != *epoch || said.revision > *revision;
    }

    /// Refuses to be read from where Redis told of a write that is not here.
    pub(super) fn check_readable(&self) -> Result<()> {
        if self.is_behind {
            return Err(Error::NeedsShared("a thread that was written to both in redis and in memory"));
        }
        Ok(())
    }

    /// Whether its time is over, as far as is known here.
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.thread.expire_time.is_some_and(|at| now >= at)
    }

    /// Whether it has writes that only memory has.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Renews it on a caller's behalf, which waits until Redis is told.
    pub(super) fn touch(&mut self, ttl: Option<Ttl>, now: Timestamp) {
        self.note_foreign();
        self.renew(ttl, now);
        self.is_waiting = true;
    }

    /// The bytes of memory that it takes.
    pub(super) fn footprint(&self) -> u64 {
        THREAD_OVERHEAD
            + footprint::of_profile(&self.thread.profile)
            + self.log.tally().memory
            + self.ids.memory()
    }

    /// Gives up the oldest messages, and ids if need be, so that at most so many bytes are taken. Not when writes wait.
    pub(super) fn shorten(&mut self, most: u64) {
        if self.footprint() <= most || self.is_waiting() {
            return;
        }
        if self.footprint() - self.log.tally().memory > most {
            self.ids = MessageIds::default();
        }
        let others = self.footprint() - self.log.tally().memory;
        self.log.shorten(most.saturating_sub(others));
        let first = self.log.first_seq();
        self.known_from = if first == 0 { self.thread.last_seq.saturating_add(1) } else { first };
    }

    /// The thread as it is before writes begin to wait.
    pub(super) fn origin(&self) -> Origin {
        Origin { thread: self.thread.clone(), any_owner: false, created_by: self.created_by.clone() }
    }

    /// What a journal said of a thread, with nothing but the waiting messages known where Redis had others.
    pub(super) fn restored(origin: &Origin, entries: &[Entry], now: Timestamp) -> Self {
        let mut held = Self::of(&origin.thread, now);
        if origin.thread.message_count == 0 {
            held.log = Log::whole();
            held.known_from = 0;
        }
        held.created_by.clone_from(&origin.created_by);
        for (place, entry) in (origin.thread.last_seq + 1..).zip(entries) {
            let (seq, message) = (place, Arc::clone(&entry.message));
            held.count(Tally::of(&message));
            held.ids.insert(message.id.clone(), Use { seq, digest: entry.digest });
            held.log.push(StoredMessage { seq, commit_time: entry.time, provisional: true, message });
        }
        held.is_waiting = true;
        held.renew(None, now);
        held
    }

    /// What is known of the messages, to be replayed before those that wait.
    pub(super) fn base(&self, base: Base, digest_of: fn(&Message) -> Digest) -> Vec<Entry> {
        let entry = |stored: &StoredMessage| {
            let known = self.ids.find(&stored.message.id).map(|used| used.digest);
            let digest = match base {
                Base::All => known.unwrap_or_else(|| digest_of(&stored.message)),
                Base::Acknowledged => known?,
            };
            let (message, time) = (Arc::clone(&stored.message), stored.commit_time);
            Some(Entry { message, digest, time, is_repair: base == Base::Acknowledged })
        };
        let is_wanted = |stored: &&StoredMessage| base == Base::All || !stored.provisional;
        let mut known: Vec<_> = self.log.range(0..i64::MAX).filter(is_wanted).filter_map(entry).collect();
        if base == Base::Acknowledged {
            // Redis surely remembers the ids of these, so that none of them is there twice.
            known.drain(..known.len().saturating_sub(IDS_GENERATION / 2));
        }
        known
    }

    /// Nothing waits any more: Redis has all of it, just as it is here if `is_clean`.
    pub(super) fn merge(mut self, thread: &Thread, is_clean: bool, now: Timestamp) -> Self {
        if !is_clean {
            return Self::of(thread, now);
        }
        self.thread = Thread { local: true, ..thread.clone() };
        self.acknowledged = (thread.epoch.clone(), thread.revision);
        (self.as_of, self.wrote_at) = (now, Some(now));
        (self.is_waiting, self.is_renewed) = (false, false);
        self.foreign.clear();
        self.log.confirm();
        self.trim();
        if !self.agrees() {
            self.cut_run();
        }
        self
    }

    /// Renews, with a new time to live if one is given, until Redis is told.
    pub(super) fn renew(&mut self, ttl: Option<Ttl>, now: Timestamp) {
        let profile = &mut self.thread.profile;
        self.is_renewed = true;
        if let Some(ttl) = ttl {
            profile.ttl = ttl;
        }
        self.thread.expire_time = (!profile.pinned).then(|| now.plus(profile.ttl.as_duration()));
    }

    /// Whether memory alone knows of its last renewal.
    pub(super) fn is_renewed(&self) -> bool {
        self.is_renewed
    }

    /// Answers a creation: as before if it is the request that made this thread, else not at all.
    pub(super) fn repeat_creation(&self, new: &NewThread) -> Result<Appended> {
        if new.request_id.is_none() || new.request_id != self.created_by {
            return Err(Error::ThreadExists { id: new.id.to_string() });
        }
        let messages = batch::judge_repeat(new, |id| self.ids.find(id))?;
        Ok(self.appended(messages))
    }

    /// Appends provisional messages, all or none, and renews. Answers what is new, too.
    pub(super) fn append(
        &mut self,
        append: &Append,
        (limits, digest_of): (Limits, fn(&Message) -> Digest),
        journal: &Journal,
        now: Timestamp,
    ) -> Result<(Appended, Vec<Entry>)> {
        if append.owner.is_some() && append.owner != self.thread.profile.owner {
            return Err(Error::OwnerMismatch { id: self.thread.id.to_string() });
        }
        self.compare_with_foreign(&append.messages, digest_of)?;
        self.add(&append.messages, limits, journal, now)
    }

    /// Adds provisional messages, all or none, and renews. Answers what is new, too.
    pub(super) fn add(
        &mut self,
        messages: &[NewMessage],
        limits: Limits,
        journal: &Journal,
        now: Timestamp,
    ) -> Result<(Appended, Vec<Entry>)> {
        let last_place = self.log.last_seq().max(self.thread.last_seq);
        let verdicts = batch::judge(messages, last_place, |id| self.ids.find(id))?;
        let fresh = batch::fresh(messages, &verdicts);
        let added = Tally::of_all(fresh.iter().map(|(new, _)| &new.message));
        let is_new = added.count > 0 || self.thread.revision == 0;
        if added.count > 0 {
            added.admit(&self.thread, limits)?;
        }
        if is_new {
            let creation = if self.thread.revision == 0 { (1, self.footprint()) } else { (0, 0) };
            let count = u64::try_from(added.count).unwrap_or_default();
            journal.admit(count + creation.0, added.memory + creation.1)?;
        }
        let mut entries = Vec::with_capacity(fresh.len());
        for (new, place) in fresh {
            let stored = StoredMessage { provisional: true, ..log::stored(&new.message, place, now) };
            let message = Arc::clone(&stored.message);
            entries.push(Entry { message, digest: new.digest, time: now, is_repair: false });
            self.log.push(stored);
            self.ids.insert(new.message.id.clone(), Use { seq: place, digest: new.digest });
        }
        if is_new {
            self.count(added);
            self.thread.revision += 1;
            self.thread.update_time = now;
        }
        self.renew(None, now);
        Ok((self.appended(verdicts), entries))
    }

    /// Compares messages with those that were read under their ids but not written here: one may be a write of this
    /// process whose answer was lost and that a watcher was told of. Another content is not judged: the message may have
    /// been changed since.
    fn compare_with_foreign(
        &mut self,
        messages: &[NewMessage],
        digest_of: fn(&Message) -> Digest,
    ) -> Result<()> {
        self.note_foreign();
        for new in messages.iter().filter(|new| self.foreign.contains(&new.message.id)) {
            let is_same = |stored: &&StoredMessage| {
                stored.message.id == new.message.id && digest_of(&stored.message) == new.digest
            };
            let Some(seq) = self.log.range(0..i64::MAX).find(is_same).map(|stored| stored.seq) else {
                return Err(Error::NeedsShared("a message id that was used elsewhere"));
            };
            self.ids.insert(new.message.id.clone(), Use { seq, digest: new.digest });
        }
        Ok(())
    }

    /// Notes which messages were not written here, before writes begin to wait.
    fn note_foreign(&mut self) {
        if !self.is_waiting {
            let ids = self.log.range(0..i64::MAX).map(|stored| &stored.message.id);
            self.foreign = ids.filter(|id| self.ids.find(id).is_none()).cloned().collect();
        }
    }

    fn count(&mut self, added: Tally) {
        self.thread.message_count += added.count;
        self.thread.size_bytes += added.bytes;
        self.thread.token_count += added.tokens;
        self.is_waiting = true;
    }

    /// Answers a write; places behind the last seq are not seqs.
    fn appended(&self, mut messages: Vec<AppendedMessage>) -> Appended {
        let last_seq = self.thread.last_seq;
        for message in messages.iter_mut().filter(|message| message.seq > last_seq) {
            message.seq = 0;
            message.provisional = true;
        }
        Appended { thread: self.thread.clone(), previous_last_seq: last_seq, messages }
    }

    /// Pages through messages if every one that was asked for is known.
    pub(super) fn messages(&mut self, query: &MessagesQuery, now: Timestamp) -> Result<MessagesPage> {
        self.check_readable()?;
        // What lies beyond this copy may be in Redis.
        let window = page::window(query, &self.thread).map_err(|error| match error {
            Error::SeqOutOfRange { .. } => Error::NeedsShared("a page beyond what is held in memory"),
            error => error,
        })?;
        let (messages, more) =
            page::take(self.log.range(window.start.max(self.known_from)..window.end), query);
        // A descending page that ends within the run does not reach what is unknown.
        if window.start < self.known_from && !(query.descending && more) {
            return Err(Error::NeedsShared("a page of messages that are not all held in memory"));
        }
        if query.renew {
            self.renew(None, now);
        }
        Ok(MessagesPage { thread: self.thread.clone(), messages, more })
    }

    /// Tells one who begins to watch what Redis has, if that is known here, and everyone else what only memory has.
    pub(super) fn follow(&self, since: &Since, now: Timestamp) -> Result<Followed> {
        self.check_readable()?;
        let last_seq = self.thread.last_seq;
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
        let (messages, more) = page::fill(self.log.range(new), MAX_FOLLOWED, MAX_BATCH_BYTES);
        Ok(Followed::Found(Box::new(Found {
            now,
            thread: self.thread.clone(),
            listed_from: 0,
            last_stored: self.log.last_seq(),
            newest_change: 0,
            changes: Vec::new(),
            touched: Vec::new(),
            more_changes: false,
            messages,
            more,
        })))
    }

    /// Reads the newest messages that fit, if these and all instructions are known.
    pub(super) fn context(&mut self, query: &ContextQuery, now: Timestamp) -> Result<Context> {
        self.check_readable()?;
        let needs_shared = Error::NeedsShared("a context of messages that are not all held in memory");
        if !self.log.knows_instructions() {
            return Err(needs_shared);
        }
        let messages = self.log.context(query.budget, self.known_from == 0).ok_or(needs_shared)?;
        if query.renew {
            self.renew(None, now);
        }
        Ok(Context { thread: self.thread.clone(), messages })
    }
}
