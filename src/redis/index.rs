//! The indexes of threads, by owner and by expiry, and the sweep.
//!
//! They live in other slots than the threads, so no script changes both. An index entry is written before its thread
//! is created and removed only where a look has shown that the thread is gone: an entry without thread is harmless, a
//! thread without entry would be invisible. To spare an index write on each append, an entry may lag behind.

use std::time::Duration;

use bb8_redis::redis::{Script, cmd};
use tracing::{debug, warn};

use super::{
    keys::{Keys, SHARDS},
    reply::Reply,
    scripts,
    threads::RedisThreads,
};
use crate::{
    call::Call,
    clock::{Timestamp, fresh_id},
    error::{Error, Result},
    threads::{Profile, Swept, Thread, ThreadId},
};

/// An index may lag behind a thread's last activity by as much.
pub(super) const LAG: Duration = Duration::from_mins(1);
/// A creation happens within this time of its index entry, or not at all.
const CREATION: Duration = Duration::from_secs(5);
/// An entry without thread is removed when it is older than this: no creation can be under way then.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// How long an instance sweeps before it must show that it lives.
const LEASE: Duration = Duration::from_mins(1);
/// Entries looked at in one round trip.
pub(super) const BATCH: usize = 100;

impl RedisThreads {
    /// Writes the index entries of a thread about to be created; answers the conditions of the creation, which must
    /// not happen when somebody may have taken the entries for orphans.
    pub(super) async fn index_before_creation(
        &self,
        call: &Call,
        id: &ThreadId,
        profile: &Profile,
    ) -> Result<Call> {
        let latest = tokio::time::Instant::now() + CREATION;
        let call = call.until(latest);
        let expiry = if profile.pinned { "+inf".to_owned() } else { format!("+{}", profile.ttl.as_millis()) };
        let (shard, member) = expiring_entry(&self.redis.keys, id, profile);
        self.write_index(&call, shard, &member, &expiry, "").await?;
        if let Some(owner) = &profile.owner {
            self.write_index(&call, self.redis.keys.owner(owner), id.as_str(), "+0", "GT").await?;
        }
        Ok(call)
    }

    /// Brings the index up to a thread. A failure is only told: the next activity, list or sweep makes up for it.
    pub(super) async fn index(&self, call: &Call, thread: &Thread) {
        let expiry = thread.expire_time.map_or_else(|| "+inf".to_owned(), |at| at.as_millis().to_string());
        let (shard, member) = expiring_entry(&self.redis.keys, &thread.id, &thread.profile);
        let mut written = self.write_index(call, shard, &member, &expiry, "").await;
        if let (Ok(()), Some(owner)) = (&written, &thread.profile.owner) {
            let score = thread.update_time.as_millis().to_string();
            let key = self.redis.keys.owner(owner);
            written = self.write_index(call, key, thread.id.as_str(), &score, "GT").await;
        }
        if let Err(error) = written {
            debug!(%error, "could not bring the index of threads up to date");
        }
    }

    async fn write_index(
        &self,
        call: &Call,
        key: String,
        member: &str,
        score: &str,
        flag: &str,
    ) -> Result<()> {
        self.run_plain(call, "index", &scripts::INDEX, &key, &[member, score, flag]).await.map(drop)
    }

    /// Runs a script on one key that is not a thread's.
    pub(super) async fn run_plain(
        &self,
        call: &Call,
        operation: &'static str,
        script: &Script,
        key: &str,
        arguments: &[&str],
    ) -> Result<bool> {
        let mut invocation = script.key(key);
        for argument in arguments {
            invocation.arg(*argument);
        }
        let mut reply = Reply::new(self.redis.invoke(call, operation, &invocation).await?);
        reply.text()?;
        reply.int()?;
        if reply.len() == 0 { Ok(true) } else { reply.flag() }
    }

    /// Whether a score is so old that no creation which wrote it can be under way.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit 53 bits")]
    pub(super) fn is_old(&self, score: f64) -> bool {
        score + (GRACE.as_millis() as f64) < self.redis.pool.redis_now().as_millis() as f64
    }

    /// Reads up to [`BATCH`] entries of an index in a range of scores, `skip` left out.
    pub(super) async fn read_index(
        &self,
        call: &Call,
        key: &str,
        command: &'static str,
        range: [&str; 2],
        skip: usize,
    ) -> Result<Vec<(String, f64)>> {
        let mut command = cmd(command);
        command.arg(key).arg(&range).arg("WITHSCORES").arg("LIMIT").arg(skip).arg(BATCH);
        self.redis.query(call, "read index", &command).await
    }

    /// After a deletion: lets the next sweep look at the thread's entries, which only it may remove.
    pub(super) async fn index_deletion(&self, call: &Call, id: &ThreadId, owner: &str) {
        let shard = self.redis.keys.expiring(Keys::shard_of(id));
        if let Err(error) = self.write_index(call, shard, &format!("{owner} {id}"), "+0", "").await {
            debug!(%error, "could not bring the index of threads up to date");
        }
    }

    /// Removes what expired threads left in the indexes and repairs lost expiries; one instance at a time.
    pub(super) async fn sweep_index(&self) -> Result<Swept> {
        let call = Call::default();
        let lease = self.redis.keys.sweep_lease();
        let token = fresh_id(&self.redis.clock);
        let life = LEASE.as_millis().to_string();
        let mut take = cmd("SET");
        take.arg(&lease).arg(&token).arg("NX").arg("PX").arg(&life);
        let lease_taken: Option<String> = self.redis.query(&call, "sweep lease", &take).await?;
        let mut swept = Swept::default();
        if lease_taken.is_none() {
            return Ok(swept);
        }
        for shard in 0..SHARDS {
            self.sweep_shard(&call, shard, &mut swept).await?;
            if !self.run_plain(&call, "sweep lease", &scripts::LEASE, &lease, &[&token, &life]).await? {
                return Ok(swept);
            }
        }
        self.run_plain(&call, "sweep lease", &scripts::LEASE, &lease, &[&token, "0"]).await?;
        Ok(swept)
    }

    async fn sweep_shard(&self, call: &Call, shard: u32, swept: &mut Swept) -> Result<()> {
        let key = self.redis.keys.expiring(shard);
        let now = self.redis.pool.redis_now().as_millis().to_string();
        let mut skip = 0;
        loop {
            let entries = self.read_index(call, &key, "ZRANGEBYSCORE", ["-inf", &now], skip).await?;
            for (member, score) in &entries {
                if !self.sweep_entry(call, &key, member, *score, swept).await? {
                    skip += 1;
                }
            }
            if entries.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Looks at one due entry; answers whether it is out of the way.
    async fn sweep_entry(
        &self,
        call: &Call,
        key: &str,
        member: &str,
        score: f64,
        swept: &mut Swept,
    ) -> Result<bool> {
        let read = score.to_string();
        let Some((owner, Ok(id))) =
            member.split_once(' ').map(|(owner, id)| (owner, ThreadId::parse("id", id)))
        else {
            return self.run_plain(call, "unindex", &scripts::REINDEX, key, &[member, &read, ""]).await;
        };
        let keys = self.redis.keys.thread(&id);
        let mut reply = match self.run(call, "check", &scripts::CHECK, &id, &keys, |_| {}).await {
            Ok(reply) => reply,
            Err(error @ Error::Corrupt { .. }) => {
                warn!(%error, "could not sweep a thread");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let expire_time: Option<Timestamp> = reply.expiry()?;
        let (is_there, was_repaired) = (reply.flag()?, reply.flag()?);
        if is_there {
            swept.repaired += u64::from(was_repaired);
            let expiry = expire_time.map_or_else(|| "+inf".to_owned(), |at| at.as_millis().to_string());
            return self.run_plain(call, "reindex", &scripts::REINDEX, key, &[member, &read, &expiry]).await;
        }
        if !self.is_old(score) {
            return Ok(false);
        }
        if let Ok(owner) = crate::threads::Owner::parse("owner", owner) {
            self.unindex_owner(call, &self.redis.keys.owner(&owner), id.as_str()).await?;
        }
        let removed = self.run_plain(call, "unindex", &scripts::REINDEX, key, &[member, &read, ""]).await?;
        swept.removed += u64::from(removed);
        Ok(removed)
    }

    /// Removes an entry whose thread is not there, or is another owner's, once no creation can be under way.
    pub(super) async fn unindex(&self, call: &Call, key: &str, member: &str, score: f64) -> Result<()> {
        if self.is_old(score) {
            let read = score.to_string();
            self.run_plain(call, "unindex", &scripts::REINDEX, key, &[member, &read, ""]).await?;
        }
        Ok(())
    }

    async fn unindex_owner(&self, call: &Call, key: &str, id: &str) -> Result<()> {
        let mut find = cmd("ZSCORE");
        find.arg(key).arg(id);
        match self.redis.query(call, "read index", &find).await? {
            Some(score) => self.unindex(call, key, id, score).await,
            None => Ok(()),
        }
    }
}

/// Where and as what a thread is indexed by expiry.
fn expiring_entry(keys: &Keys, id: &ThreadId, profile: &Profile) -> (String, String) {
    let owner = profile.owner.as_ref().map_or("", |owner| owner.as_str());
    (keys.expiring(Keys::shard_of(id)), format!("{owner} {id}"))
}
