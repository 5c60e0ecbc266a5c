//! One held thread: its metadata, an unbroken run of messages that ends at its last seq, and what was accepted in an
//! outage. Here is what it answers and accepts meanwhile.

use crate::{
    clock::Timestamp,
    error::{Error, Result},
    memory::{
        batch,
        footprint::{self, Room, THREAD_OVERHEAD, Tally},
        ids::{MessageIds, Use},
        log::{self, Log},
        page,
    },
    threads::{
        Append, Appended, AppendedMessage, Context, ContextQuery, Limits, MAX_BATCH_BYTES, MessagesPage,
        MessagesQuery, NewMessage, NewThread, RequestId, StoredMessage, Thread, Ttl,
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
    /// Time to live and expiry as Redis has them, once only memory was told of a renewal.
    pub(super) before_renewals: Option<(Ttl, Option<Timestamp>)>,
    /// How many messages only memory has; none when Redis has every write.
    waiting: Option<u64>,
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
            before_renewals: None,
            waiting: None,
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
        held.waiting = Some(0);
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

    /// Whether its time is over, as far as is known here.
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.thread.expire_time.is_some_and(|at| now >= at)
    }

    /// Whether it has writes that only memory has.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// How many messages only memory has; none when Redis has every write.
    pub(super) fn waiting(&self) -> Option<u64> {
        self.waiting
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

    /// Renews, with a new time to live if one is given, until Redis is told.
    pub(super) fn renew(&mut self, ttl: Option<Ttl>, now: Timestamp) {
        let profile = &mut self.thread.profile;
        self.before_renewals.get_or_insert((profile.ttl, self.thread.expire_time));
        if let Some(ttl) = ttl {
            profile.ttl = ttl;
        }
        self.thread.expire_time = (!profile.pinned).then(|| now.plus(profile.ttl.as_duration()));
    }

    /// Goes back to the expiry that Redis knows.
    pub(super) fn forget_renewals(&mut self) {
        if let Some((ttl, expire_time)) = self.before_renewals.take() {
            self.thread.profile.ttl = ttl;
            self.thread.expire_time = expire_time;
        }
    }

    /// Answers a creation: as before if it is the request that made this thread, else not at all.
    pub(super) fn repeat_creation(&self, new: &NewThread) -> Result<Appended> {
        if new.request_id.is_none() || new.request_id != self.created_by {
            return Err(Error::ThreadExists { id: new.id.to_string() });
        }
        let messages = batch::judge_repeat(new, |id| self.ids.find(id))?;
        Ok(self.appended(messages))
    }

    /// Appends provisional messages, all or none, and renews.
    pub(super) fn append(
        &mut self,
        append: &Append,
        limits: Limits,
        room: Room,
        now: Timestamp,
    ) -> Result<Appended> {
        if append.owner.is_some() && append.owner != self.thread.profile.owner {
            return Err(Error::OwnerMismatch { id: self.thread.id.to_string() });
        }
        self.add(&append.messages, limits, room, now)
    }

    /// Adds provisional messages, all or none, and renews.
    pub(super) fn add(
        &mut self,
        messages: &[NewMessage],
        limits: Limits,
        room: Room,
        now: Timestamp,
    ) -> Result<Appended> {
        self.check_comparable(messages)?;
        let last_place = self.log.last_seq().max(self.thread.last_seq);
        let verdicts = batch::judge(messages, last_place, |id| self.ids.find(id))?;
        let fresh = batch::fresh(messages, &verdicts);
        let added = Tally::of_all(fresh.iter().map(|(new, _)| &new.message));
        if added.count > 0 {
            added.admit(&self.thread, limits)?;
            let ids: u64 = fresh.iter().map(|(new, _)| footprint::of_id(&new.message.id)).sum();
            room.admit(added.memory + ids)?;
        }
        for (new, place) in fresh {
            self.log.push(StoredMessage { provisional: true, ..log::stored(&new.message, place, now) });
            self.ids.insert(new.message.id.clone(), Use { seq: place, digest: new.digest });
        }
        if added.count > 0 || self.thread.revision == 0 {
            self.count(added);
            self.thread.revision += 1;
            self.thread.update_time = now;
        }
        self.renew(None, now);
        Ok(self.appended(verdicts))
    }

    /// Refuses ids of messages that were read but not written here: without a digest nobody can tell whether their
    /// content is the same.
    fn check_comparable(&self, messages: &[NewMessage]) -> Result<()> {
        let unknown: std::collections::HashSet<_> =
            messages.iter().map(|new| &new.message.id).filter(|id| self.ids.find(id).is_none()).collect();
        if self.log.range(0..i64::MAX).any(|stored| unknown.contains(&stored.message.id)) {
            return Err(Error::NeedsShared("a message id that was used elsewhere"));
        }
        Ok(())
    }

    fn count(&mut self, added: Tally) {
        self.thread.message_count += added.count;
        self.thread.size_bytes += added.bytes;
        self.thread.token_count += added.tokens;
        let messages = u64::try_from(added.count).unwrap_or_default();
        self.waiting = Some(self.waiting.unwrap_or_default() + messages);
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
        let window = page::window(query, &self.thread)?;
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
        let last_seq = self.thread.last_seq;
        let new = match since {
            Since::Seq(after) if *after > last_seq => {
                return Err(Error::SeqOutOfRange { field: "after_seq", last_seq });
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

    /// Reads the newest messages that fit, if the whole thread is known: otherwise instructions may be missing.
    pub(super) fn context(&mut self, query: &ContextQuery, now: Timestamp) -> Result<Context> {
        let needs_shared = Error::NeedsShared("a context of messages that are not all held in memory");
        if self.known_from > 0 {
            return Err(needs_shared);
        }
        let messages = self.log.context(query.budget).ok_or(needs_shared)?;
        if query.renew {
            self.renew(None, now);
        }
        Ok(Context { thread: self.thread.clone(), messages })
    }
}
