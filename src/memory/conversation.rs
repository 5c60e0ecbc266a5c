//! One thread where memory is the only truth: a value without lock or clock, that keeps the same rules in the same
//! order as the scripts of the Redis store.

use std::collections::VecDeque;

use super::{
    batch,
    footprint::{self, Room, THREAD_OVERHEAD, Tally},
    history::History,
    ids::{MessageIds, Use},
    log::{self, Log, as_i64},
    page,
};
use crate::{
    clock::Timestamp,
    error::{Error, Result},
    threads::{
        Append, Appended, AppendedMessage, Context, ContextQuery, IDS_GENERATION, Limits, MessagesPage,
        MessagesQuery, NewMessage, NewThread, Owner, Parent, Profile, REQUESTS_KEPT, RequestId, Thread,
        ThreadId, Ttl,
    },
};

mod edit;
mod follow;
#[cfg(test)]
mod tests;

/// What may happen to a thread while a write looks at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Of one thread.
    pub(crate) limits: Limits,
    /// In the whole store.
    pub(crate) room: Room,
}

/// Which kind of write a request id was given for; the same id may serve several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Update,
    Truncate,
    MessageUpdate,
}

/// Which request made a thread; the same id in a request of the other kind is another request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Creator {
    /// A creation.
    Create(RequestId),
    /// A fork.
    Fork(RequestId),
}

/// One incarnation of a thread.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) thread: Thread,
    pub(crate) log: Log,
    pub(crate) ids: MessageIds,
    /// The last writes that named a request id, oldest first.
    requests: VecDeque<(Kind, RequestId)>,
    pub(crate) created_by: Option<Creator>,
    /// What watchers are told beside appends.
    history: History,
}

impl Conversation {
    /// A thread with a log of its messages, of which nothing else is known.
    pub(crate) fn known(thread: Thread, log: Log) -> Self {
        Self {
            thread,
            log,
            ids: MessageIds::default(),
            requests: VecDeque::new(),
            created_by: None,
            history: History::default(),
        }
    }

    /// Begins a thread without messages.
    fn begin(
        id: ThreadId,
        profile: Profile,
        created_by: Option<Creator>,
        epoch: String,
        now: Timestamp,
    ) -> Self {
        let mut conversation = Self::known(Thread::new(id, profile, epoch, now), Log::whole());
        conversation.created_by = created_by;
        conversation.renew(now);
        conversation
    }

    /// Creates a thread with its first messages.
    pub(crate) fn create(
        new: &NewThread,
        epoch: String,
        limits: Limits,
        now: Timestamp,
    ) -> Result<(Self, Appended)> {
        let mut conversation = Self::begin(
            new.id.clone(),
            new.profile.clone(),
            new.request_id.clone().map(Creator::Create),
            epoch,
            now,
        );
        let verdicts = batch::judge(&new.messages, 0, |_| None)?;
        let fresh = batch::fresh(&new.messages, &verdicts);
        Tally::of_all(fresh.iter().map(|(new, _)| &new.message)).admit(&conversation.thread, limits)?;
        conversation.push(&new.messages, &verdicts, now);
        let thread = conversation.thread.clone();
        Ok((conversation, Appended { thread, previous_last_seq: 0, messages: verdicts }))
    }

    /// Answers the creation of a thread that exists: as before if it is the same request, else not at all.
    pub(crate) fn repeat_creation(&self, new: &NewThread) -> Result<Appended> {
        if !self.was_created_by(new.request_id.clone().map(Creator::Create).as_ref()) {
            return Err(Error::ThreadExists { id: new.id.to_string() });
        }
        let messages = batch::judge_repeat(new, |id| self.ids.find(id))?;
        Ok(Appended { thread: self.thread.clone(), previous_last_seq: self.thread.last_seq, messages })
    }

    /// Whether the request made this thread.
    pub(crate) fn was_created_by(&self, creator: Option<&Creator>) -> bool {
        creator.is_some() && creator == self.created_by.as_ref()
    }

    /// The thread as it is.
    pub(crate) fn thread(&self) -> &Thread {
        &self.thread
    }

    /// The bytes of memory that it takes.
    pub(crate) fn footprint(&self) -> u64 {
        let requests: usize =
            self.requests.iter().map(|(kind, id)| size_of_val(kind) + id.as_str().len()).sum();
        THREAD_OVERHEAD
            + footprint::of_profile(&self.thread.profile)
            + self.log.tally().memory
            + self.ids.memory()
            + footprint::bytes(requests)
            + self.history.memory()
    }

    /// Appends messages, all or none, and renews.
    pub(crate) fn append(&mut self, append: &Append, bounds: Bounds, now: Timestamp) -> Result<Appended> {
        self.check_owner(append.owner.as_ref())?;
        let previous_last_seq = self.thread.last_seq;
        let verdicts = batch::judge(&append.messages, previous_last_seq, |id| self.ids.find(id))?;
        let fresh = batch::fresh(&append.messages, &verdicts);
        if !fresh.is_empty() {
            self.check_etag(append.etag.as_deref())?;
            let added = Tally::of_all(fresh.iter().map(|(new, _)| &new.message));
            added.admit(&self.thread, bounds.limits)?;
            let ids: u64 = fresh.iter().map(|(new, _)| footprint::of_id(&new.message.id)).sum();
            bounds.room.admit(added.memory + ids)?;
            self.push(&append.messages, &verdicts, now);
            self.revise(now);
        }
        self.renew(now);
        Ok(Appended { thread: self.thread.clone(), previous_last_seq, messages: verdicts })
    }

    /// Writes what was judged, and trims.
    fn push(&mut self, messages: &[NewMessage], verdicts: &[AppendedMessage], now: Timestamp) {
        for (new, seq) in batch::fresh(messages, verdicts) {
            self.log.push(log::stored(&new.message, seq, now));
            self.ids.insert(new.message.id.clone(), Use { seq, digest: new.digest });
            self.thread.last_seq = seq;
        }
        let trim = self.thread.profile.trim;
        self.log.trim(trim);
        self.count();
        let size = self.thread.message_count.max(trim.max_messages).max(as_i64(IDS_GENERATION));
        let log = &self.log;
        self.ids.rotate(usize::try_from(size).unwrap_or(usize::MAX), |seq| log.find(seq).is_some());
    }

    /// Pages through messages.
    pub(crate) fn messages(&mut self, query: &MessagesQuery, now: Timestamp) -> Result<MessagesPage> {
        if query.cursor.as_ref().is_some_and(|cursor| cursor.local) {
            return Err(Error::TokenStale);
        }
        let window = page::window(query, &self.thread)?;
        if query.renew {
            self.renew(now);
        }
        let (messages, more) = page::take(self.log.range(window), query);
        Ok(MessagesPage { thread: self.thread.clone(), messages, more })
    }

    /// Reads the newest messages that fit.
    pub(crate) fn context(&mut self, query: &ContextQuery, now: Timestamp) -> Result<Context> {
        let chosen = self.log.context(query.budget, true);
        let messages = chosen.ok_or_else(|| Error::Internal("a whole thread has a context".into()))?;
        if query.renew {
            self.renew(now);
        }
        Ok(Context { thread: self.thread.clone(), messages })
    }

    /// Renews, with a new time to live if one is given.
    pub(crate) fn touch(&mut self, ttl: Option<Ttl>, now: Timestamp) {
        if let Some(ttl) = ttl {
            self.thread.profile.ttl = ttl;
        }
        self.renew(now);
    }

    /// Copies the thread up to a message, 0 for all, into an independent one.
    pub(crate) fn fork(
        &self,
        at_seq: i64,
        id: ThreadId,
        created_by: Option<Creator>,
        epoch: String,
        now: Timestamp,
    ) -> Result<Self> {
        let last_seq = self.thread.last_seq;
        if at_seq > last_seq {
            return Err(Error::SeqOutOfRange { field: "at_seq", last_seq });
        }
        let last_seq = if at_seq == 0 { last_seq } else { at_seq };
        let mut copy = Self::begin(id, self.thread.profile.clone(), created_by, epoch, now);
        copy.thread.parent = Some(Parent { thread_id: self.thread.id.clone(), seq: last_seq });
        copy.thread.last_seq = last_seq;
        copy.log = self.log.up_to(last_seq);
        for stored in copy.log.range(0..i64::MAX) {
            let id = &stored.message.id;
            if let Some(used) = self.ids.find(id) {
                copy.ids.insert(id.clone(), used);
            }
        }
        copy.count();
        Ok(copy)
    }

    /// Refuses an owner that is not the thread's; none stands for any.
    pub(crate) fn check_owner(&self, owner: Option<&Owner>) -> Result<()> {
        if owner.is_some() && owner != self.thread.profile.owner.as_ref() {
            return Err(Error::OwnerMismatch { id: self.thread.id.to_string() });
        }
        Ok(())
    }

    /// Compares the etag given, if one is, with the thread's.
    pub(crate) fn check_etag(&self, given: Option<&str>) -> Result<()> {
        let current = self.thread.etag();
        if given.is_none_or(|given| given == current) { Ok(()) } else { Err(Error::EtagMismatch { current }) }
    }

    fn was_requested(&self, kind: Kind, request: Option<&RequestId>) -> bool {
        request.is_some_and(|request| self.requests.iter().any(|(k, known)| *k == kind && known == request))
    }

    fn remember_request(&mut self, kind: Kind, request: Option<&RequestId>) {
        let Some(request) = request else { return };
        if self.requests.len() == REQUESTS_KEPT {
            self.requests.pop_front();
        }
        self.requests.push_back((kind, request.clone()));
    }

    /// Makes a write visible: the next revision, as of now.
    pub(crate) fn revise(&mut self, now: Timestamp) {
        self.thread.revision += 1;
        self.thread.update_time = now;
    }

    /// Lets the thread live for one time to live from now on.
    pub(crate) fn renew(&mut self, now: Timestamp) {
        let profile = &self.thread.profile;
        self.thread.expire_time = (!profile.pinned).then(|| now.plus(profile.ttl.as_duration()));
    }

    /// Brings the counters up to the log.
    fn count(&mut self) {
        let tally = self.log.tally();
        self.thread.message_count = tally.count;
        self.thread.size_bytes = tally.bytes;
        self.thread.token_count = tally.tokens;
        self.thread.first_seq = self.log.first_seq();
    }
}
