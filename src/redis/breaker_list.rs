//! The list of breakers that have a state, in a slot of its own.
//!
//! A key is listed before it gets a state, and taken off only by a script that finds it as it was read, so that no state is
//! ever without its place in the list.

use std::time::Duration;

use bb8_redis::redis::{Value, cmd, pipe};

use super::{RedisBreakers, breaker_reply as told, run::millis, scripts};
use crate::{
    breakers::{
        ModelKey,
        store::{Glance, Listed},
    },
    call::Call,
    clock::Timestamp,
    error::Result,
};

/// Keys read at once, so that no list holds up Redis for long.
const CHUNK: usize = 1000;

impl RedisBreakers {
    /// Lists a key that is about to get a state, or to change.
    pub(super) async fn list_before(&self, call: &Call, key: &ModelKey) -> Result<()> {
        let now = self.redis.pool.redis_now().as_millis();
        let mut add = cmd("ZADD");
        add.arg(self.redis.keys.breakers()).arg(now).arg(key.as_str());
        self.redis.query(call, "list breaker", &add).await
    }

    /// Whether a key is in the list.
    pub(super) async fn is_listed(&self, call: &Call, key: &ModelKey) -> Result<bool> {
        let mut score = cmd("ZSCORE");
        score.arg(self.redis.keys.breakers()).arg(key.as_str());
        let found: Option<f64> = self.redis.query(call, "find breaker", &score).await?;
        Ok(found.is_some())
    }

    /// The keys that were listed anew in the last so long.
    pub(super) async fn read_changed(&self, call: &Call, within: Duration) -> Result<Vec<ModelKey>> {
        let mut range = cmd("ZRANGEBYSCORE");
        let ago = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let first = self.redis.pool.redis_now().as_millis().saturating_sub(ago);
        range.arg(self.redis.keys.breakers()).arg(first).arg("+inf");
        let names: Vec<Vec<u8>> = self.redis.query(call, "list changed breakers", &range).await?;
        Ok(names.iter().filter_map(|name| parse(name)).collect())
    }

    /// Looks at many breakers with few round trips.
    pub(super) async fn read_glances(&self, call: &Call, keys: &[ModelKey]) -> Result<Vec<Option<Glance>>> {
        let mut glances = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let mut reads = pipe();
            for key in chunk {
                let [state, ..] = self.redis.keys.breaker(key);
                // One of the wrong type must not hide the others.
                reads.cmd("HMGET").arg(state).arg(told::GLANCE).ignore_errors();
            }
            let reads = &reads;
            let told: Vec<Value> = self
                .redis
                .pool
                .run(call, "glance at breakers", |mut connection| async move {
                    reads.query_async(&mut connection).await
                })
                .await?;
            glances.extend(told.into_iter().map(told::glance));
        }
        Ok(glances)
    }

    /// The whole list by key.
    pub(super) async fn read_list(&self, call: &Call) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        loop {
            let mut range = cmd("ZRANGE");
            let first = listed.len();
            range.arg(self.redis.keys.breakers()).arg(first).arg(first + CHUNK - 1).arg("WITHSCORES");
            let names: Vec<(Vec<u8>, f64)> = self.redis.query(call, "list breakers", &range).await?;
            let count = names.len();
            listed.extend(names);
            if count < CHUNK {
                break;
            }
        }
        // What somebody else put there is no key of ours. One that changed meanwhile may have been read twice.
        let read =
            |(name, score): (Vec<u8>, f64)| Some(Listed { key: parse(&name)?, changed: moment(score) });
        let mut listed: Vec<Listed> = listed.into_iter().filter_map(read).collect();
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(b.changed.cmp(&a.changed)));
        listed.dedup_by(|later, first| later.key == first.key);
        Ok(listed)
    }

    /// Takes a key off the list if it still stands there as it was read, for so long at least.
    pub(super) async fn take_off_list(&self, call: &Call, listed: &Listed, since: Duration) -> Result<()> {
        let mut invocation = scripts::BREAKER_UNLIST.prepare_invoke();
        invocation.key(self.redis.keys.breakers());
        invocation.arg(listed.key.as_str()).arg(listed.changed.as_millis());
        invocation.arg(millis(since));
        self.redis.invoke(call, "unlist breaker", &invocation).await
    }
}

fn parse(name: &[u8]) -> Option<ModelKey> {
    ModelKey::parse("model_key", std::str::from_utf8(name).ok()?).ok()
}

#[expect(clippy::cast_possible_truncation, reason = "scores are ms, far below 2^53")]
fn moment(score: f64) -> Timestamp {
    Timestamp::from_millis(score as i64)
}
