//! The list of breakers that have a state, in a slot of its own.
//!
//! A key is listed before it gets a state, and taken off only by a script that finds it as it was read, so that no state is
//! ever without its place in the list.

use std::time::Duration;

use bb8_redis::redis::{Value, cmd};

use super::{RedisBreakers, scripts};
use crate::{
    breakers::{ModelKey, store::Listed},
    call::Call,
    clock::Timestamp,
    error::Result,
};

/// Keys read at once, so that no list holds up Redis for long.
const CHUNK: usize = 1000;

impl RedisBreakers {
    /// Lists a key that is about to get a state, or to change.
    pub(super) async fn list_before(&self, call: &Call, key: &ModelKey) -> Result<()> {
        let mut add = cmd("ZADD");
        let now = self.redis.pool.redis_now().as_millis();
        add.arg(self.redis.keys.breakers()).arg(now).arg(key.as_str());
        let add = &add;
        self.redis
            .pool
            .run(call, "list breaker", |mut connection| async move {
                add.query_async::<()>(&mut connection).await
            })
            .await
    }

    /// The place of a key in the list.
    pub(super) async fn find_listed(&self, call: &Call, key: &ModelKey) -> Result<Option<Listed>> {
        let mut score = cmd("ZSCORE");
        score.arg(self.redis.keys.breakers()).arg(key.as_str());
        let score = &score;
        let found: Option<f64> =
            self.redis
                .pool
                .run(call, "find breaker", |mut connection| async move {
                    score.query_async(&mut connection).await
                })
                .await?;
        Ok(found.map(|score| Listed { key: key.clone(), changed: millis(score) }))
    }

    /// The whole list by key.
    pub(super) async fn read_list(&self, call: &Call) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        loop {
            let mut range = cmd("ZRANGE");
            let first = listed.len();
            range.arg(self.redis.keys.breakers()).arg(first).arg(first + CHUNK - 1).arg("WITHSCORES");
            let range = &range;
            let names: Vec<(Vec<u8>, f64)> = self
                .redis
                .pool
                .run(call, "list breakers", |mut connection| async move {
                    range.query_async(&mut connection).await
                })
                .await?;
            let count = names.len();
            listed.extend(names);
            if count < CHUNK {
                break;
            }
        }
        // What somebody else put there is no key of ours. One that changed meanwhile may have been read twice.
        let parse = |(name, score): (Vec<u8>, f64)| {
            let key = ModelKey::parse("model_key", std::str::from_utf8(&name).ok()?).ok()?;
            Some(Listed { key, changed: millis(score) })
        };
        let mut listed: Vec<Listed> = listed.into_iter().filter_map(parse).collect();
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key).then(b.changed.cmp(&a.changed)));
        listed.dedup_by(|later, first| later.key == first.key);
        Ok(listed)
    }

    /// Takes a key off the list if it still stands there as it was read, for so long at least.
    pub(super) async fn take_off_list(&self, call: &Call, listed: &Listed, since: Duration) -> Result<()> {
        let mut invocation = scripts::BREAKER_UNLIST.prepare_invoke();
        invocation.key(self.redis.keys.breakers());
        invocation.arg(listed.key.as_str()).arg(listed.changed.as_millis());
        invocation.arg(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let invocation = &invocation;
        self.redis
            .pool
            .run(call, "unlist breaker", |mut connection| async move {
                invocation.invoke_async::<Value>(&mut connection).await
            })
            .await?;
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "scores are ms, far below 2^53")]
fn millis(score: f64) -> Timestamp {
    Timestamp::from_millis(score as i64)
}
