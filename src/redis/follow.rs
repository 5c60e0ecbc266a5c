//! What happened to a thread since a watcher was told of it, from Redis.

use super::{reply::Reply, run::refusal, scripts, threads::RedisThreads};
use crate::{
    call::Call,
    clock::Timestamp,
    error::{Error, Result},
    threads::{
        MAX_BATCH_BYTES, ThreadId,
        watch::{Change, Changed, Followed, Found, MAX_FOLLOWED, Since},
    },
};

impl RedisThreads {
    /// Asks once.
    pub(super) async fn follow_thread(&self, call: &Call, id: &ThreadId, since: &Since) -> Result<Followed> {
        let keys = self.redis.keys.thread(id);
        let (epoch, revision, seq, listed_from) = match since {
            Since::Seq(after) => ("", 0, *after, 0),
            Since::Told(place) => {
                let told = &place.position;
                (told.epoch.as_str(), told.revision, told.seq, place.listed_from)
            }
        };
        let (word, now, mut reply) = self
            .redis
            .run_script(call, "follow", &scripts::FOLLOW, &keys, |script| {
                script.arg(epoch).arg(revision).arg(seq).arg(listed_from);
                script.arg(MAX_FOLLOWED).arg(MAX_BATCH_BYTES);
            })
            .await?;
        match word.as_str() {
            "OK" => self.found(id, now, reply).map(|found| Followed::Found(Box::new(found))),
            "GONE" => Ok(Followed::Gone { now, was_deleted: reply.flag()? }),
            _ => Err(refusal(&word, &mut reply, id)?),
        }
    }

    fn found(&self, id: &ThreadId, now: Timestamp, mut reply: Reply) -> Result<Found> {
        let [thread_key, messages_key, ..] = self.redis.keys.thread(id);
        let expire_time = reply.expiry()?;
        let fields = reply.fields()?;
        let thread = fields.thread(id, &thread_key, expire_time)?;
        let (newest_change, last_stored) = (reply.int()?, reply.int()?);
        let changes = changes(&mut reply.list()?)?;
        let touched = reply.messages(&messages_key)?.whole()?;
        let more_changes = reply.flag()?;
        let read = reply.messages(&messages_key)?;
        let more = match read.damaged {
            // What is before a damaged entry is told first.
            Some(damaged) if read.messages.is_empty() && changes.is_empty() => return Err(damaged),
            Some(_) => true,
            None => reply.flag()?,
        };
        Ok(Found {
            now,
            thread,
            listed_from: fields.int("first_seq"),
            last_stored: last_stored.max(0),
            newest_change,
            changes,
            touched,
            more_changes,
            messages: read.messages,
            more,
        })
    }
}

fn changes(list: &mut Reply) -> Result<Vec<Change>> {
    let mut changes = Vec::with_capacity(list.len() / 6);
    while list.len() > 0 {
        let (revision, after, kind) = (list.int()?, list.int()?, list.text()?);
        let (a, b, c) = (list.int()?, list.int()?, list.int()?);
        let what = match kind.as_str() {
            "thread" => Changed::Thread,
            "message" => Changed::Message(a),
            "truncated" => Changed::Truncated { first_seq: a, last_seq: b, listed_from: c },
            other => return Err(Error::Internal(format!("a script told a change {other:?}").into())),
        };
        changes.push(Change { revision, after, what });
    }
    Ok(changes)
}
