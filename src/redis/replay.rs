//! Replays writes that a process accepted without Redis, by the script that appends.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    entry,
    fields::profile_fields,
    reply::Reply,
    run::refusal,
    scripts,
    threads::{RedisThreads, add_message},
};
use crate::{
    call::{Answer, Call},
    clock::fresh_id,
    error::{Error, Result},
    threads::{
        MessageId, Profile, SharedThreads, Thread,
        replay::{Done, Origin, Replay, Replayed},
    },
};

impl SharedThreads for RedisThreads {
    async fn reincarnate(&self, call: &Call, thread: &Thread) -> Result<Answer<Thread>> {
        let keys = self.redis.keys.thread(&thread.id);
        let mut reply = self
            .run(call, "reincarnate", &scripts::REINCARNATE, &thread.id, &keys, |script| {
                script.arg(&thread.epoch).arg(thread.revision).arg(fresh_id(&self.redis.clock));
            })
            .await?;
        let expire_time = reply.expiry()?;
        reply.fields()?.thread(&thread.id, &keys[0], expire_time).map(Answer::shared)
    }

    async fn replay(&self, call: &Call, replay: &Replay) -> Result<Replayed> {
        let Thread { id, profile, .. } = &replay.origin.thread;
        if !replay.creates {
            return self.replay_as(call, replay, "replay", Vec::new()).await;
        }
        let ttl = replay.ttl.unwrap_or(profile.ttl);
        let profile = Profile { ttl, ..profile.clone() };
        let call = &self.index_before_creation(call, id, &profile).await?;
        let fields = self.fields_of(&replay.origin, &profile);
        self.replay_as(call, replay, "revive", fields).await
    }
}

impl RedisThreads {
    /// The fields of a thread that is created with what was accepted for it. One that memory created keeps the epoch it
    /// was given there, so that a deletion of it is a deletion of what waits; one that was in Redis before begins anew.
    fn fields_of(&self, origin: &Origin, profile: &Profile) -> Vec<(&'static str, String)> {
        let is_new = origin.thread.revision == 0;
        let epoch = if is_new { origin.thread.epoch.clone() } else { fresh_id(&self.redis.clock) };
        let mut fields = profile_fields(profile);
        fields.push(("epoch", epoch));
        fields.push(("created", origin.thread.create_time.as_millis().to_string()));
        if let Some(request) = &origin.created_by {
            fields.push(("create_request", format!("create:{request}")));
        }
        if let Some(parent) = &origin.thread.parent {
            fields.push(("parent", parent.thread_id.to_string()));
            fields.push(("parent_seq", parent.seq.to_string()));
        }
        fields
    }

    async fn replay_as(
        &self,
        call: &Call,
        replay: &Replay,
        mode: &str,
        fields: Vec<(&'static str, String)>,
    ) -> Result<Replayed> {
        let origin = &*replay.origin;
        let keys = self.redis.keys.thread(&origin.thread.id);
        let known = known(replay).to_string();
        let entries: Vec<Bytes> = replay
            .entries
            .iter()
            .map(|waiting| {
                let mut stored = BytesMut::new();
                stored.put_i64(waiting.time.as_millis());
                stored.put_slice(&entry::encode(&waiting.message));
                stored.freeze()
            })
            .collect();
        let (word, _, mut said) = self
            .redis
            .run_script(call, "replay", &scripts::APPEND, &keys, |script| {
                self.begin_append(script, [mode, "", "", &known], &fields);
                for (waiting, entry) in replay.entries.iter().zip(&entries) {
                    add_message(script, &waiting.message, &waiting.digest, entry);
                }
            })
            .await?;
        match word.as_str() {
            "OK" => self.done(call, origin, &keys[0], replay.entries.len(), &mut said).await,
            "ABSENT" => Ok(Replayed::Absent),
            "DROPPED" => Ok(Replayed::Deleted),
            "OWNER" => Ok(Replayed::OtherOwner),
            "REUSED" => {
                let id = MessageId::parse("id", &said.text()?);
                id.map(Replayed::Reused).map_err(|violation| Error::Invalid(vec![violation]))
            }
            "BEHIND" => {
                let expire_time = said.expiry()?;
                let thread = said.fields()?.thread(&origin.thread.id, &keys[0], expire_time)?;
                Ok(Replayed::Behind(Box::new(thread)))
            }
            other => Err(refusal(other, &mut said, &origin.thread.id)?),
        }
    }

    async fn done(
        &self,
        call: &Call,
        origin: &Origin,
        key: &str,
        count: usize,
        reply: &mut Reply,
    ) -> Result<Replayed> {
        let expire_time = reply.expiry()?;
        let previous_last_seq = reply.int()?;
        let index_is_due = reply.flag()?;
        let (_seqs, mut duplicates) = (reply.list()?, reply.list()?);
        let duplicates = (0..count).map(|_| duplicates.flag()).collect::<Result<_>>()?;
        let thread = reply.fields()?.thread(&origin.thread.id, key, expire_time)?;
        if index_is_due {
            self.index(call, &thread).await;
        }
        Ok(Replayed::Done(Box::new(Done { thread, previous_last_seq, duplicates })))
    }
}

/// What the script is told of the thread.
fn known(replay: &Replay) -> serde_json::Value {
    let Origin { thread: Thread { epoch, revision, profile, .. }, any_owner, .. } = &*replay.origin;
    let mut known = serde_json::json!({ "epoch": epoch, "revision": revision });
    if let Some(known) = known.as_object_mut() {
        if !any_owner {
            let owner = profile.owner.as_ref().map_or("", |owner| owner.as_str());
            known.insert("owner".into(), owner.into());
        }
        if replay.is_repair {
            known.insert("repair".into(), true.into());
        }
        if let Some(ttl) = replay.ttl {
            known.insert("ttl".into(), ttl.as_millis().into());
        }
    }
    known
}
