//! Threads in Redis: one script an operation.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Redis,
    append::{AppendMode, Conditions},
    entry,
    fields::{change_fields, default_profile},
    read::{Read, ReadArguments},
    scripts,
};
use crate::{
    call::{Answer, Call},
    clock::fresh_id,
    error::{Error, Result},
    threads::{
        Append, Appended, Context, ContextQuery, Cut, DELETIONS_KEPT, Fork, Guard, Limits,
        MAX_INSTRUCTION_BYTES, MessageUpdate, MessagesPage, MessagesQuery, NewThread, REQUESTS_KEPT,
        RequestId, StoredMessage, Swept, TOMBSTONE_TTL, Thread, ThreadChange, ThreadId, ThreadStore,
        ThreadsPage, ThreadsQuery, Ttl, UpdatedMessage,
        watch::{CHANGES_KEPT, Followed, Since},
    },
};

pub(super) use super::append::add_message;

/// A message update reads, merges and replaces; so many times somebody else may come between.
const UPDATE_ATTEMPTS: u64 = 100;

/// Keeps threads in Redis, shared by every instance.
#[derive(Debug, Clone)]
pub struct RedisThreads {
    pub(super) redis: Redis,
    pub(super) limits: Limits,
}

impl RedisThreads {
    /// Threads behind a connection, each within `limits`.
    pub fn new(redis: Redis, limits: Limits) -> Self {
        Self { redis, limits }
    }
}

impl ThreadStore for RedisThreads {
    async fn create(&self, call: &Call, new: &NewThread) -> Result<Answer<Appended>> {
        let request = self.request("create", new.request_id.as_ref());
        // Only a thread that is not there is indexed before it is made.
        let none = Conditions::default();
        let repeated = self.append_as(call, &new.id, &new.messages, AppendMode::Repeat(&request), none).await;
        let outcome = match repeated {
            Err(Error::ThreadNotFound { .. }) => {
                let call = &self.index_before_creation(call, &new.id, &new.profile).await?;
                let mode = AppendMode::Create(&new.profile, &request);
                self.append_as(call, &new.id, &new.messages, mode, none).await?
            }
            other => other?,
        };
        Ok(Answer::shared(outcome.appended))
    }

    async fn get(&self, call: &Call, id: &ThreadId, renew: bool) -> Result<Answer<Thread>> {
        let arguments = ReadArguments { renew, ..ReadArguments::default() };
        let read = self.read(call, "get", id, arguments).await?;
        Ok(Answer::shared(read.thread))
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
                script.arg(TOMBSTONE_TTL.as_secs()).arg(DELETIONS_KEPT);
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
        let conditions = Conditions { owner: append.owner.as_ref(), etag: append.etag.as_deref() };
        let first = self.append_as(call, &append.id, &append.messages, AppendMode::Append, conditions).await;
        let outcome = match (first, append.create) {
            (Err(Error::ThreadNotFound { .. }), Some(ttl)) if append.etag.is_none() => {
                let profile = default_profile(append.owner.clone(), ttl);
                let call = &self.index_before_creation(call, &append.id, &profile).await?;
                let mode = AppendMode::Ensure(&profile);
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
        let Read { thread, mut reply, .. } = self.read(call, "messages", &query.id, arguments).await?;
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
        let call = &self.redis.pool.bounded(call);
        let etag = update.guard.etag.as_deref().unwrap_or_default();
        let request = self.request("message", update.guard.request_id.as_ref());
        for attempt in 0..UPDATE_ATTEMPTS {
            if attempt > 0 {
                // Others update the same message: let them pass, each by another time.
                let pause = Duration::from_micros(rand::random_range(0..=attempt * 200));
                sleep(pause).await;
            }
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
                let thread = fields.thread(&update.id, &keys[0], expire_time)?;
                let message = StoredMessage { seq, commit_time, provisional: false, message };
                return Ok(Answer::shared(UpdatedMessage { thread, message }));
            }
            let revised = (update.revise)(&message)?;
            let replaced = self
                .run(call, "replace message", &scripts::REPLACE_MESSAGE, &update.id, &keys, |script| {
                    script.arg(etag).arg(&request).arg(seq).arg(&old[..]).arg(entry::encode(&revised));
                    script.arg(self.limits.max_bytes).arg(MAX_INSTRUCTION_BYTES);
                    script.arg(REQUESTS_KEPT).arg(CHANGES_KEPT);
                })
                .await;
            let mut reply = match replaced {
                Err(Error::SourceChanged { .. }) => continue,
                other => other?,
            };
            let expire_time = reply.expiry()?;
            let thread = reply.fields()?.thread(&update.id, &keys[0], expire_time)?;
            let message = StoredMessage { seq, commit_time, provisional: false, message: revised.into() };
            return Ok(Answer::shared(UpdatedMessage { thread, message }));
        }
        Err(Error::SourceChanged { id: update.id.to_string() })
    }

    async fn truncate(&self, call: &Call, id: &ThreadId, cut: Cut, guard: &Guard) -> Result<Answer<Thread>> {
        let keys = self.redis.keys.thread(id);
        let request = self.request("truncate", guard.request_id.as_ref());
        let (word, n) = match cut {
            Cut::After(seq) => ("after", seq),
            Cut::KeepLast(count) => ("keep", count),
        };
        let mut reply = self
            .run(call, "truncate", &scripts::TRUNCATE, id, &keys, |script| {
                script.arg(guard.etag.as_deref().unwrap_or_default()).arg(&request).arg(word).arg(n);
                script.arg(REQUESTS_KEPT).arg(CHANGES_KEPT);
            })
            .await?;
        let expire_time = reply.expiry()?;
        reply.fields()?.thread(id, &keys[0], expire_time).map(Answer::shared)
    }

    async fn fork(&self, call: &Call, fork: &Fork) -> Result<Answer<Thread>> {
        self.copy(call, fork).await.map(Answer::shared)
    }

    async fn follow(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Answer<Followed>> {
        self.follow_thread(call, id, since).await.map(Answer::shared)
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
        let request =
            if is_write { self.request("update", guard.request_id.as_ref()) } else { String::new() };
        let mut reply = self
            .run(call, "update", &scripts::UPDATE, id, &keys, |script| {
                script.arg(guard.etag.as_deref().unwrap_or_default()).arg(&request).arg(u8::from(is_write));
                script.arg(REQUESTS_KEPT).arg(CHANGES_KEPT);
                for (name, value) in fields {
                    script.arg(*name).arg(value);
                }
            })
            .await?;
        let expire_time = reply.expiry()?;
        let index_is_due = reply.flag()?;
        let thread = reply.fields()?.thread(id, &keys[0], expire_time)?;
        if index_is_due {
            self.index(call, &thread).await;
        }
        Ok(thread)
    }

    /// The request as the thread remembers it. One of our own, where the caller gave none, makes our own retry safe.
    pub(super) fn request(&self, kind: &str, request: Option<&RequestId>) -> String {
        match request {
            Some(request) => format!("{kind}:{request}"),
            None => format!("{kind}:{}", fresh_id(&self.redis.clock)),
        }
    }
}
