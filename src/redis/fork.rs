//! Copies a thread. Source and copy live in different slots, so no script spans both: slices are read pinned to one
//! version of the source, gathered under keys of their own that expire, and made a thread by one script at the end.

use std::{collections::HashMap, time::Duration};

use bb8_redis::redis::Value;
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    entry,
    fields::{Fields, profile_fields},
    reply::Reply,
    scripts,
    threads::RedisThreads,
};
use crate::{
    call::Call,
    clock::fresh_id,
    error::{Error, Result},
    threads::{Fork, Thread},
};

/// A source that changes while it is read is read anew so often.
const ATTEMPTS: usize = 3;
/// Messages in one slice at most.
const SLICE: i64 = 500;
/// How long an unfinished copy stays, in seconds.
const STAGING_TTL: u64 = 60;

/// What was copied so far.
#[derive(Default)]
struct CopyTotals {
    first_slot: i64,
    slots: i64,
    count: i64,
    tokens: i64,
    bytes: i64,
    kept: HashMap<i64, (i64, i64)>,
    system_bytes: i64,
}

/// One slice of the source.
struct Slice {
    thread: Thread,
    fields: Fields,
    from: i64,
    slots: Vec<Bytes>,
    ids: Vec<Bytes>,
    instructions: Vec<(i64, Bytes)>,
}

impl RedisThreads {
    /// Makes the copy, or answers the one that the same request made.
    pub(super) async fn copy(&self, call: &Call, fork: &Fork) -> Result<Thread> {
        let request = self.request("fork", fork.request_id.as_ref());
        let call = &call.until(Instant::now() + Duration::from_secs(STAGING_TTL));
        if let Some(copy) = self.made_before(call, fork, &request).await? {
            return Ok(copy);
        }
        for _ in 0..ATTEMPTS {
            match self.copy_once(call, fork, &request).await {
                Err(Error::TokenStale | Error::SourceChanged { .. }) => {}
                other => return other,
            }
        }
        Err(Error::SourceChanged { id: fork.source.to_string() })
    }

    /// The copy that the same request made before, also when the source is gone since.
    async fn made_before(&self, call: &Call, fork: &Fork, request: &str) -> Result<Option<Thread>> {
        let keys = self.redis.keys.thread(&fork.id);
        match self.read_fields(call, &fork.id).await {
            Ok((fields, expire_time)) if fields.text("create_request") == Some(request) => {
                fields.thread(&fork.id, &keys[0], expire_time).map(Some)
            }
            Ok(_) => Err(Error::ThreadExists { id: fork.id.to_string() }),
            Err(Error::ThreadNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn copy_once(&self, call: &Call, fork: &Fork, request: &str) -> Result<Thread> {
        let staging = self.redis.keys.staging(&fork.id, &fresh_id(&self.redis.clock));
        let first = self.read_slice(call, fork, None, 0).await?;
        let end = if fork.at_seq == 0 { first.thread.last_seq } else { fork.at_seq };
        let mut totals = CopyTotals { first_slot: first.from.min(end + 1), ..CopyTotals::default() };
        let mut slice = self.stage(call, &staging, first, &mut totals).await?;
        let profile = slice.thread.profile.clone();
        while totals.first_slot + totals.slots <= end {
            let next = totals.first_slot + totals.slots;
            let read = self.read_slice(call, fork, Some((&slice, end)), next).await?;
            slice = self.stage(call, &staging, read, &mut totals).await?;
        }
        let call = &self.index_before_creation(call, &fork.id, &profile).await?;
        let mut fields = profile_fields(&profile);
        let mut put = |name, value: String| fields.push((name, value));
        put("epoch", fresh_id(&self.redis.clock));
        put("create_request", request.to_owned());
        put("parent", fork.source.to_string());
        put("parent_seq", end.to_string());
        put("revision", 1.to_string());
        put("last_seq", end.to_string());
        for (name, value) in totals.fields() {
            put(name, value.to_string());
        }
        self.finish(call, fork, request, &staging, totals.slots, &fields).await
    }

    async fn read_slice(
        &self,
        call: &Call,
        fork: &Fork,
        pinned: Option<(&Slice, i64)>,
        from: i64,
    ) -> Result<Slice> {
        let keys = self.redis.keys.thread(&fork.source);
        let (epoch, edited, to) = pinned.map_or(("", 0, fork.at_seq), |(first, end)| {
            (first.thread.epoch.as_str(), first.fields.int("edited"), end)
        });
        let mut reply = self
            .run(call, "fork read", &scripts::FORK_READ, &fork.source, &keys, |script| {
                script.arg(epoch).arg(edited).arg(from).arg(to).arg(SLICE);
            })
            .await?;
        let expire_time = reply.expiry()?;
        let fields = reply.fields()?;
        let thread = fields.thread(&fork.source, &keys[0], expire_time)?;
        let from = reply.int()?;
        let (mut slots, mut ids, mut system) = (reply.list()?, reply.list()?, reply.list()?);
        let mut instructions = Vec::new();
        let all = |list: &mut Reply| (0..list.len()).map(|_| list.bytes()).collect::<Result<Vec<_>>>();
        let (slots, ids) = (all(&mut slots)?, all(&mut ids)?);
        while system.len() > 0 {
            instructions.push((system.int()?, system.bytes()?));
        }
        Ok(Slice { thread, fields, from, slots, ids, instructions })
    }

    /// Adds a slice to the copy in the making; a damaged entry ends the copying.
    async fn stage(
        &self,
        call: &Call,
        staging: &[String; 3],
        slice: Slice,
        totals: &mut CopyTotals,
    ) -> Result<Slice> {
        let [_, messages_key, system_key, ..] = self.redis.keys.thread(&slice.thread.id);
        let damaged = |key: &str, seq| Error::Corrupt { key: key.to_owned(), seq };
        totals.slots += i64::try_from(slice.slots.len()).unwrap_or_default();
        for (seq, slot) in (slice.from..).zip(&slice.slots).filter(|(_, slot)| !slot.is_empty()) {
            let (_, message) = entry::decode(slot.clone()).ok_or_else(|| damaged(&messages_key, seq))?;
            totals.count += 1;
            totals.tokens += i64::from(message.tokens);
            totals.bytes += i64::from(message.size);
        }
        let first_listed = slice.fields.int("first_seq");
        for (seq, instruction) in &slice.instructions {
            let (_, message) =
                entry::decode(instruction.clone()).ok_or_else(|| damaged(&system_key, *seq))?;
            let (tokens, size) = (i64::from(message.tokens), i64::from(message.size));
            totals.system_bytes += size;
            if *seq < first_listed {
                totals.kept.insert(*seq, (tokens, size));
            }
        }
        let invocation = {
            let mut invocation = scripts::FORK_WRITE.prepare_invoke();
            for key in staging {
                invocation.key(key);
            }
            invocation.arg(STAGING_TTL).arg(slice.slots.len()).arg(slice.instructions.len() * 2);
            for slot in &slice.slots {
                invocation.arg(&slot[..]);
            }
            for (seq, instruction) in &slice.instructions {
                invocation.arg(*seq).arg(&instruction[..]);
            }
            for id in &slice.ids {
                invocation.arg(&id[..]);
            }
            invocation
        };
        let _: Value = self.redis.invoke(call, "fork write", &invocation).await?;
        Ok(slice)
    }

    async fn finish(
        &self,
        call: &Call,
        fork: &Fork,
        request: &str,
        staging: &[String; 3],
        slots: i64,
        fields: &[(&'static str, String)],
    ) -> Result<Thread> {
        let thread_keys = self.redis.keys.thread(&fork.id);
        let keys: Vec<String> = thread_keys.iter().chain(staging).cloned().collect();
        let mut reply = self
            .run(call, "fork finish", &scripts::FORK_FINISH, &fork.id, &keys, |script| {
                script.arg(slots).arg(request);
                for (name, value) in fields {
                    script.arg(*name).arg(value);
                }
            })
            .await?;
        let expire_time = reply.expiry()?;
        reply.fields()?.thread(&fork.id, &thread_keys[0], expire_time)
    }
}

impl CopyTotals {
    /// The counters of the copy.
    fn fields(&self) -> [(&'static str, i64); 8] {
        let kept = i64::try_from(self.kept.len()).unwrap_or_default();
        let (tokens, bytes) =
            self.kept.values().fold((0, 0), |(tokens, bytes), (t, b)| (tokens + t, bytes + b));
        [
            ("first_seq", self.first_slot),
            ("count", self.count + kept),
            ("tokens", self.tokens + tokens),
            ("bytes", self.bytes + bytes),
            ("system_bytes", self.system_bytes),
            ("kept", kept),
            ("kept_first", self.kept.keys().min().copied().unwrap_or_default()),
            ("kept_bytes", bytes),
        ]
    }
}
