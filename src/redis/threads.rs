//! Threads in Redis: one script an operation.

use std::{collections::BTreeMap, time::Duration};

use bb8_redis::redis::{Script, ScriptInvocation, Value};

use super::{
    Redis, entry,
    keys::ThreadKeys,
    reply::{Fields, Reply},
    scripts,
};
use crate::{
    call::{Answer, Call},
    clock::{Timestamp, fresh_id},
    error::{Error, Result},
    threads::{
        Append, Appended, AppendedMessage, Context, ContextQuery, Cut, Fork, Guard, IDS_GENERATION, Limits,
        MAX_BATCH_BYTES, MAX_INSTRUCTION_BYTES, MAX_INSTRUCTIONS, MessageUpdate, MessagesPage, MessagesQuery,
        NewMessage, NewThread, Owner, Profile, StoredMessage, Swept, TOMBSTONE_TTL, Thread, ThreadChange,
        ThreadId, ThreadStore, ThreadsPage, ThreadsQuery, Ttl, UpdatedMessage,
        context::{self, Tail},
    },
};

/// A message update reads, merges and replaces; so many times somebody else may come between.
const UPDATE_ATTEMPTS: usize = 16;

/// Keeps threads in Redis, shared by every instance.
#[derive(Debug, Clone)]
pub struct RedisThreads {
    pub(super) redis: Redis,
    pub(super) limits: Limits,
}

/// How an append treats a thread that is or is not there.
#[derive(Clone, Copy)]
enum Mode<'a> {
    /// It must be there.
    Append,
    /// It is created if there is none.
    Ensure(&'a Profile),
    /// It must not be there, unless the same request made it.
    Create(&'a Profile, &'a str),
}

/// What an append says about the index on top.
struct Outcome {
    appended: Appended,
    index_is_due: bool,
}

impl RedisThreads {
    /// Threads behind a connection, each within `limits`.
    pub fn new(redis: Redis, limits: Limits) -> Self {
        Self { redis, limits }
    }

    /// Runs a script on a thread. `arguments` adds what follows the latest moment at which to write.
    pub(super) async fn run(
        &self,
        call: &Call,
        operation: &'static str,
        script: &Script,
        id: &ThreadId,
        keys: &[String],
        arguments: impl Fn(&mut ScriptInvocation<'_>) + Send + Sync,
    ) -> Result<Reply> {
        // A late answer tells the time of Redis; the second attempt goes by it.
        for _ in 0..2 {
            let not_after = self.redis.pool.not_after(call);
            let mut invocation = script.prepare_invoke();
            for key in keys {
                invocation.key(key);
            }
            invocation.arg(not_after.as_millis());
            arguments(&mut invocation);
            let invocation = &invocation;
            let values: Vec<Value> = self
                .redis
                .pool
                .run(call, operation, |mut connection| async move {
                    invocation.invoke_async(&mut connection).await
                })
                .await
                .map_err(|error| name_key(error, keys))?;
            let mut reply = Reply::new(values);
            let word = reply.text()?;
            self.redis.pool.learn_time(reply.time()?);
            match word.as_str() {
                "OK" => return Ok(reply),
                "LATE" => {}
                _ => return Err(refusal(&word, &mut reply, id)?),
            }
        }
        Err(Error::TimedOut(Duration::ZERO))
    }

    async fn append_as(
        &self,
        call: &Call,
        id: &ThreadId,
        messages: &[NewMessage],
        mode: Mode<'_>,
        conditions: (Option<&Owner>, Option<&str>),
    ) -> Result<Outcome> {
        let keys = self.redis.keys.thread(id);
        let (owner, etag) = conditions;
        let (word, profile, request) = match mode {
            Mode::Append => ("append", None, ""),
            Mode::Ensure(profile) => ("ensure", Some(profile), ""),
            Mode::Create(profile, request) => ("create", Some(profile), request),
        };
        let fields = profile.map_or_else(Vec::new, |profile| {
            let mut fields = profile_fields(profile);
            fields.push(("epoch", fresh_id(&self.redis.clock)));
            fields.push(("create_request", request.to_owned()));
            fields
        });
        let entries: Vec<Vec<u8>> = messages.iter().map(|new| entry::encode(&new.message)).collect();
        let mut reply = self
            .run(call, "append", &scripts::APPEND, id, &keys, |script| {
                script.arg(word).arg(etag.unwrap_or_default()).arg(owner.map_or("", Owner::as_str));
                script.arg(self.limits.max_messages).arg(self.limits.max_bytes);
                script.arg(MAX_INSTRUCTIONS).arg(MAX_INSTRUCTION_BYTES).arg(IDS_GENERATION).arg(request);
                script.arg(fields.len() * 2);
                for (name, value) in &fields {
                    script.arg(*name).arg(value);
                }
                for (new, entry) in messages.iter().zip(&entries) {
                    let message = &new.message;
                    script.arg(message.id.as_str()).arg(new.digest.to_string());
                    script.arg(u8::from(message.role.is_instruction()));
                    script.arg(message.tokens).arg(message.size).arg(entry);
                }
            })
            .await?;
        let expire_time = reply.expiry()?;
        let previous_last_seq = reply.int()?;
        let index_is_due = reply.flag()?;
        let (mut seqs, mut duplicates) = (reply.list()?, reply.list()?);
        let messages = messages
            .iter()
            .map(|new| {
                Ok(AppendedMessage {
                    id: new.message.id.clone(),
                    seq: seqs.int()?,
                    duplicate: duplicates.flag()?,
                    provisional: false,
                })
            })
            .collect::<Result<_>>()?;
        let thread = thread_of(&reply.fields()?, id, &keys, expire_time)?;
        Ok(Outcome { appended: Appended { thread, previous_last_seq, messages }, index_is_due })
    }

    /// Reads a thread, and messages as `arguments` say: all that [`scripts::READ`] takes from the renewal on.
    async fn read(
        &self,
        call: &Call,
        operation: &'static str,
        id: &ThreadId,
        arguments: ReadArguments<'_>,
    ) -> Result<(Thread, Reply)> {
        let keys = self.redis.keys.thread(id);
        let mut reply = self
            .run(call, operation, &scripts::READ, id, &keys, |script| {
                script.arg(u8::from(arguments.renew)).arg(arguments.epoch).arg(arguments.revision);
                script.arg(arguments.after).arg(arguments.before).arg(u8::from(arguments.descending));
                script.arg(arguments.limit).arg(MAX_BATCH_BYTES).arg(arguments.max_tokens);
                script.arg(u8::from(arguments.with_instructions));
            })
            .await?;
        let expire_time = reply.expiry()?;
        let thread = thread_of(&reply.fields()?, id, &keys, expire_time)?;
        Ok((thread, reply))
    }

    /// Reads the newest messages, further and further back, until the window's choice is certain.
    async fn select_context(&self, call: &Call, query: &ContextQuery) -> Result<Context> {
        let key = self.redis.keys.thread(&query.id)[1].clone();
        let budget = query.budget;
        let mut slice = match usize::try_from(budget.max_messages) {
            Ok(0) | Err(_) => 1000,
            Ok(wanted) => wanted.saturating_add(8),
        };
        let mut tail: Vec<StoredMessage> = Vec::new();
        let mut instructions = Vec::new();
        let mut seen: Option<Thread> = None;
        loop {
            let before = tail.first().map_or(0, |oldest| oldest.seq);
            let arguments = ReadArguments {
                renew: query.renew && seen.is_none(),
                epoch: seen.as_ref().map_or("", |thread| thread.epoch.as_str()),
                revision: seen.as_ref().map_or(0, |thread| thread.revision),
                before,
                descending: true,
                limit: slice,
                max_tokens: budget.max_tokens,
                with_instructions: seen.is_none(),
                ..ReadArguments::default()
            };
            let (thread, mut reply) = match self.read(call, "context", &query.id, arguments).await {
                // Somebody wrote between two slices: begin again with what is there now.
                Err(Error::TokenStale) => {
                    (tail, seen) = (Vec::new(), None);
                    continue;
                }
                other => other?,
            };
            let mut older = reply.messages(&key)?.whole()?;
            let more = reply.flag()?;
            if seen.is_none() {
                instructions = reply.messages(&key)?.whole()?;
                instructions.sort_by_key(|kept| kept.seq);
            }
            older.reverse();
            older.append(&mut tail);
            tail = older;
            let choice = context::select(
                Tail {
                    messages: &tail,
                    instructions: &instructions,
                    is_whole: !more,
                    head_was_cut: tail.first().is_some_and(|oldest| oldest.seq > 1),
                },
                budget,
            );
            if let Some(messages) = choice {
                return Ok(Context { thread, messages });
            }
            seen = Some(thread);
            slice = slice.saturating_mul(2);
        }
    }
}

/// What to read of a thread; by default the thread alone.
#[derive(Clone, Copy, Default)]
struct ReadArguments<'a> {
    renew: bool,
    epoch: &'a str,
    revision: i64,
    after: i64,
    before: i64,
    descending: bool,
    limit: usize,
    max_tokens: i64,
    with_instructions: bool,
}

impl ThreadStore for RedisThreads {
    async fn create(&self, call: &Call, new: &NewThread) -> Result<Answer<Appended>> {
        // A request id of our own makes our own retry safe.
        let request = match &new.request_id {
            Some(request) => request.to_string(),
            None => fresh_id(&self.redis.clock),
        };
        let call = &self.index_before_creation(call, &new.id, &new.profile).await?;
        let mode = Mode::Create(&new.profile, &request);
        let outcome = self.append_as(call, &new.id, &new.messages, mode, (None, None)).await?;
        Ok(Answer::shared(outcome.appended))
    }

    async fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        let arguments = ReadArguments { renew, ..ReadArguments::default() };
        let (thread, _) = self.read(call, "get", id, arguments).await?;
        Ok(Answer::shared(thread))
    }

    async fn list(&self, call: &Call, query: &ThreadsQuery) -> Result<Answer<ThreadsPage>> {
        self.list_by_activity(call, query).await.map(Answer::shared)
    }

    async fn update(
        &self,
        call: &Call,
        id: &ThreadId,
        change: &ThreadChange,
        guard: &Guard,
    ) -> Result<Answer<Thread>> {
        self.change(call, id, guard, true, &change_fields(change)).await.map(Answer::shared)
    }

    async fn delete(&self, call: &Call, id: &ThreadId, guard: &Guard) -> Result<Answer<()>> {
        let keys = self.redis.keys.thread(id);
        let request = match &guard.request_id {
            Some(request) => request.to_string(),
            None => fresh_id(&self.redis.clock),
        };
        let mut reply = self
            .run(call, "delete", &scripts::DELETE, id, &keys, |script| {
                script.arg(guard.etag.as_deref().unwrap_or_default()).arg(&request);
                script.arg(TOMBSTONE_TTL.as_secs());
            })
            .await?;
        let (epoch, owner) = (reply.text()?, reply.text()?);
        if !epoch.is_empty() {
            self.index_deletion(call, id, &owner).await;
        }
        Ok(Answer::shared(()))
    }

    async fn touch(&self, call: &Call, id: &ThreadId, ttl: Option<Ttl>) -> Result<Answer<Thread>> {
        let Some(ttl) = ttl else { return self.get(call, id, true).await };
        let fields = [("ttl", ttl.as_millis().to_string())];
        self.change(call, id, &Guard::default(), false, &fields).await.map(Answer::shared)
    }

    async fn append(&self, call: &Call, append: &Append) -> Result<Answer<Appended>> {
        let conditions = (append.owner.as_ref(), append.etag.as_deref());
        let first = self.append_as(call, &append.id, &append.messages, Mode::Append, conditions).await;
        let outcome = match (first, append.create) {
            (Err(Error::ThreadNotFound { .. }), Some(ttl)) if append.etag.is_none() => {
                let profile = default_profile(append.owner.clone(), ttl);
                let call = &self.index_before_creation(call, &append.id, &profile).await?;
                let mode = Mode::Ensure(&profile);
                self.append_as(call, &append.id, &append.messages, mode, conditions).await?
            }
            (other, _) => other?,
        };
        if outcome.index_is_due {
            self.index(call, &outcome.appended.thread).await;
        }
        Ok(Answer::shared(outcome.appended))
    }

    async fn messages(&self, call: &Call, query: &MessagesQuery) -> Result<Answer<MessagesPage>> {
        let (mut after, mut before, mut epoch) = (query.after_seq, query.before_seq, "");
        if let Some(cursor) = &query.cursor {
            if cursor.local {
                return Err(Error::TokenStale);
            }
            epoch = &cursor.epoch;
            if query.descending { before = cursor.seq } else { after = cursor.seq }
        }
        let arguments = ReadArguments {
            renew: query.renew,
            epoch,
            after,
            before,
            descending: query.descending,
            limit: query.limit,
            ..ReadArguments::default()
        };
        let (thread, mut reply) = self.read(call, "messages", &query.id, arguments).await?;
        let read = reply.messages(&self.redis.keys.thread(&query.id)[1])?;
        let more = reply.flag()?;
        let (messages, more) = match read.damaged {
            // The page ends before a damaged entry; one that begins there fails.
            Some(damaged) if read.messages.is_empty() => return Err(damaged),
            Some(_) => (read.messages, true),
            None => (read.messages, more),
        };
        Ok(Answer::shared(MessagesPage { thread, messages, more }))
    }

    async fn context(&self, call: &Call, query: &ContextQuery) -> Result<Answer<Context>> {
        self.select_context(call, query).await.map(Answer::shared)
    }

    async fn update_message(&self, call: &Call, update: &MessageUpdate) -> Result<Answer<UpdatedMessage>> {
        let keys = self.redis.keys.thread(&update.id);
        let etag = update.guard.etag.as_deref().unwrap_or_default();
        let request = self.request("message", &update.guard);
        for _ in 0..UPDATE_ATTEMPTS {
            let mut found = self
                .run(call, "find message", &scripts::FIND_MESSAGE, &update.id, &keys, |script| {
                    script.arg(etag).arg(&request).arg(update.message_id.as_str());
                })
                .await
                .map_err(|error| match error {
                    Error::MessageNotFound { thread, .. } => {
                        Error::MessageNotFound { thread, id: update.message_id.to_string() }
                    }
                    other => other,
                })?;
            let expire_time = found.expiry()?;
            let fields = found.fields()?;
            let repeated = found.flag()?;
            let (seq, old) = (found.int()?, found.bytes()?);
            let (commit_time, message) =
                entry::decode(old.clone()).ok_or_else(|| Error::Corrupt { key: keys[1].clone(), seq })?;
            if repeated {
                let thread = thread_of(&fields, &update.id, &keys, expire_time)?;
                let message = StoredMessage { seq, commit_time, provisional: false, message };
                return Ok(Answer::shared(UpdatedMessage { thread, message }));
            }
            let revised = (update.revise)(&message)?;
            let replaced = self
                .run(call, "replace message", &scripts::REPLACE_MESSAGE, &update.id, &keys, |script| {
                    script.arg(etag).arg(&request).arg(seq).arg(&old[..]).arg(entry::encode(&revised));
                    script.arg(self.limits.max_bytes).arg(MAX_INSTRUCTION_BYTES);
                })
                .await;
            let mut reply = match replaced {
                Err(Error::SourceChanged { .. }) => continue,
                other => other?,
            };
            let expire_time = reply.expiry()?;
            let thread = thread_of(&reply.fields()?, &update.id, &keys, expire_time)?;
            let message = StoredMessage { seq, commit_time, provisional: false, message: revised.into() };
            return Ok(Answer::shared(UpdatedMessage { thread, message }));
        }
        Err(Error::SourceChanged { id: update.id.to_string() })
    }

    async fn truncate(&self, call: &Call, id: &ThreadId, cut: Cut, guard: &Guard) -> Result<Answer<Thread>> {
        let keys = self.redis.keys.thread(id);
        let request = self.request("truncate", guard);
        let (word, n) = match cut {
            Cut::After(seq) => ("after", seq),
            Cut::KeepLast(count) => ("keep", count),
        };
        let mut reply = self
            .run(call, "truncate", &scripts::TRUNCATE, id, &keys, |script| {
                script.arg(guard.etag.as_deref().unwrap_or_default()).arg(&request).arg(word).arg(n);
            })
            .await?;
        let expire_time = reply.expiry()?;
        thread_of(&reply.fields()?, id, &keys, expire_time).map(Answer::shared)
    }

    async fn fork(&self, call: &Call, fork: &Fork) -> Result<Answer<Thread>> {
        self.copy(call, fork).await.map(Answer::shared)
    }

    async fn sweep(&self) -> Result<Swept> {
        self.sweep_index().await
    }
}

impl RedisThreads {
    async fn change(
        &self,
        call: &Call,
        id: &ThreadId,
        guard: &Guard,
        is_write: bool,
        fields: &[(&'static str, String)],
    ) -> Result<Thread> {
        let keys = self.redis.keys.thread(id);
        let request = if is_write { self.request("update", guard) } else { String::new() };
        let mut reply = self
            .run(call, "update", &scripts::UPDATE, id, &keys, |script| {
                script.arg(guard.etag.as_deref().unwrap_or_default()).arg(&request).arg(u8::from(is_write));
                for (name, value) in fields {
                    script.arg(*name).arg(value);
                }
            })
            .await?;
        let expire_time = reply.expiry()?;
        let index_is_due = reply.flag()?;
        let thread = thread_of(&reply.fields()?, id, &keys, expire_time)?;
        if index_is_due {
            self.index(call, &thread).await;
        }
        Ok(thread)
    }

    /// The request as the thread remembers it. One of our own, where the caller gave none, makes our own retry safe.
    fn request(&self, kind: &str, guard: &Guard) -> String {
        match &guard.request_id {
            Some(request) => format!("{kind}:{request}"),
            None => format!("{kind}:{}", fresh_id(&self.redis.clock)),
        }
    }
}

/// A thread that an append creates.
fn default_profile(owner: Option<Owner>, ttl: Ttl) -> Profile {
    let (title, labels) = (String::new(), BTreeMap::new());
    Profile { owner, title, labels, ttl, pinned: false, trim: crate::threads::Trim::default() }
}

/// The fields of a new thread's hash that callers choose.
pub(super) fn profile_fields(profile: &Profile) -> Vec<(&'static str, String)> {
    let change = ThreadChange {
        title: Some(profile.title.clone()),
        labels: Some(profile.labels.clone()),
        ttl: Some(profile.ttl),
        pinned: Some(profile.pinned),
        trim: Some(profile.trim),
    };
    let mut fields = change_fields(&change);
    fields.push(("owner", profile.owner.as_ref().map(Owner::to_string).unwrap_or_default()));
    fields
}

fn change_fields(change: &ThreadChange) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    if let Some(title) = &change.title {
        fields.push(("title", title.clone()));
    }
    if let Some(labels) = &change.labels {
        fields.push(("labels", serde_json::json!(labels).to_string()));
    }
    if let Some(ttl) = change.ttl {
        fields.push(("ttl", ttl.as_millis().to_string()));
    }
    if let Some(pinned) = change.pinned {
        fields.push(("pinned", u8::from(pinned).to_string()));
    }
    if let Some(trim) = change.trim {
        fields.push(("trim_messages", trim.max_messages.to_string()));
        fields.push(("trim_bytes", trim.max_bytes.to_string()));
    }
    fields
}

/// The thread in an answer; `keys` are named when something in it is damaged.
pub(super) fn thread_of(
    fields: &Fields,
    id: &ThreadId,
    keys: &ThreadKeys,
    expire_time: Option<Timestamp>,
) -> Result<Thread> {
    fields.thread(id, &keys[0], expire_time)
}

/// Says which key holds a value of the wrong type.
fn name_key(error: Error, keys: &[String]) -> Error {
    match (error, keys.first()) {
        (Error::Corrupt { key, seq }, Some(first)) if key.is_empty() => {
            Error::Corrupt { key: first.clone(), seq }
        }
        (error, _) => error,
    }
}

/// Says why a script wrote nothing.
fn refusal(word: &str, reply: &mut Reply, id: &ThreadId) -> Result<Error> {
    let id = id.to_string();
    Ok(match word {
        "ABSENT" => Error::ThreadNotFound { id },
        "EXISTS" => Error::ThreadExists { id },
        "DELETED" => Error::ThreadDeleted { id },
        "OWNER" => Error::OwnerMismatch { id },
        "REUSED" => Error::MessageIdReused { id: reply.text()? },
        "ETAG" => Error::EtagMismatch { current: reply.text()? },
        "NO_MESSAGE" => Error::MessageNotFound { thread: id, id: String::new() },
        "STALE" => Error::TokenStale,
        "CHANGED" | "LOST" => Error::SourceChanged { id },
        "CORRUPT" => Error::Corrupt { key: reply.text()?, seq: 0 },
        "LIMIT" => {
            let what = match reply.text()?.as_str() {
                "messages" => "messages",
                "bytes" => "bytes",
                _ => "bytes of instructions",
            };
            Error::ThreadLimit { id, what, limit: reply.int()? }
        }
        "RANGE" => {
            let field = match reply.text()?.as_str() {
                "after_seq" => "after_seq",
                "before_seq" => "before_seq",
                _ => "at_seq",
            };
            Error::SeqOutOfRange { field, last_seq: reply.int()? }
        }
        other => Error::Internal(format!("a script answered {other:?}").into()),
    })
}
