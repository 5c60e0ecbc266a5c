//! Lists an owner's threads by their true last activity, from an index whose scores may lag.

use std::{cmp::Reverse, collections::HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::warn;

use super::{
    index::{BATCH, GRACE, LAG},
    threads::RedisThreads,
};
use crate::{
    call::Call,
    clock::Timestamp,
    error::{Error, Result},
    threads::{Thread, ThreadId, ThreadStore, ThreadsPage, ThreadsQuery},
};

/// Threads looked at concurrently.
const LOOKS: usize = 32;

impl RedisThreads {
    /// A page of threads, newest activity first. Scores lag by [`LAG`] at most and hardly lead, so entries are read
    /// until none further down can belong before the last of the page.
    pub(super) async fn list_by_activity(&self, call: &Call, query: &ThreadsQuery) -> Result<ThreadsPage> {
        let call = &self.redis.pool.bounded(call);
        let key = self.redis.keys.owner(&query.owner);
        // A creation that lost a race may have moved an entry ahead of its thread, by less than GRACE.
        let mut highest = query.cursor.as_ref().map_or_else(
            || "+inf".to_owned(),
            |cursor| cursor.update_time.plus(GRACE).as_millis().to_string(),
        );
        let mut found: Vec<Thread> = Vec::new();
        let mut seen = HashSet::new();
        let mut skip = 0;
        loop {
            let entries = self.read_index(call, &key, "ZREVRANGEBYSCORE", [&highest, "-inf"], skip).await?;
            let looks: Vec<_> = entries
                .iter()
                .filter(|(member, _)| seen.insert(member.clone()))
                .map(|(member, score)| self.look(call, query, &key, member, *score))
                .collect();
            let threads: Vec<Option<Thread>> = stream::iter(looks).buffered(LOOKS).try_collect().await?;
            found.extend(threads.into_iter().flatten());
            found.sort_by_cached_key(order);

            let Some((_, lowest)) = entries.last().filter(|_| entries.len() == BATCH) else { break };
            if found.get(query.limit).is_some_and(|next| is_beyond_lag(next, *lowest)) {
                break;
            }
            // Others move entries meanwhile, so the walk goes on by score; by place only where one fills a batch.
            let next = lowest.to_string();
            if next == highest {
                skip += entries.len();
            } else {
                (highest, skip) = (next, 0);
            }
        }
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        Ok(ThreadsPage { threads: found, more })
    }

    /// Looks at a thread that an index names; none if it does not belong into the rest of the list.
    async fn look(
        &self,
        call: &Call,
        query: &ThreadsQuery,
        key: &str,
        member: &str,
        score: f64,
    ) -> Result<Option<Thread>> {
        let Ok(id) = ThreadId::parse("id", member) else { return Ok(None) };
        match self.get(call, &id, false).await {
            Ok(answer) => {
                let thread = answer.value;
                let is_of_owner = thread.profile.owner.as_ref() == Some(&query.owner);
                let is_due = query.cursor.as_ref().is_none_or(|cursor| {
                    order(&thread) > (Reverse(cursor.update_time), Reverse(cursor.id.clone()))
                });
                if !is_of_owner {
                    self.unindex(call, key, member, score).await?;
                }
                Ok((is_of_owner && is_due).then_some(thread))
            }
            Err(Error::ThreadNotFound { .. }) => {
                self.unindex(call, key, member, score).await?;
                Ok(None)
            }
            Err(error @ Error::Corrupt { .. }) => {
                warn!(%error, "left a thread out of a list");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Newest activity first, then by id.
fn order(thread: &Thread) -> (Reverse<Timestamp>, Reverse<ThreadId>) {
    (Reverse(thread.update_time), Reverse(thread.id.clone()))
}

/// Whether no thread with a score of at most `lowest` can be as recent as this one.
#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit 53 bits")]
fn is_beyond_lag(thread: &Thread, lowest: f64) -> bool {
    thread.update_time.as_millis() as f64 > lowest + LAG.as_millis() as f64
}
