//! Runs scripts, and says what the refusals of those on threads mean.

use std::time::Duration;

use bb8_redis::redis::{
    Cmd, ErrorKind, FromRedisValue, Script, ScriptInvocation, ServerErrorKind, aio::MultiplexedConnection,
    pipe,
};

use super::{Redis, keys::BREAKER_TYPES, reply::Reply, threads::RedisThreads};
use crate::{
    breakers::ModelKey,
    call::Call,
    clock::Timestamp,
    error::{Error, Result},
    threads::ThreadId,
};

/// So often a script may be forgotten between being sent and being called.
const FORGOTTEN: usize = 3;

/// A length as scripts take it.
pub(super) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

impl RedisThreads {
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
        let (word, _, mut reply) = self.redis.run_script(call, operation, script, keys, arguments).await?;
        match word.as_str() {
            "OK" => Ok(reply),
            _ => Err(refusal(&word, &mut reply, id)?),
        }
    }
}

impl Redis {
    /// Runs one command.
    pub(super) async fn query<T: FromRedisValue + Send>(
        &self,
        call: &Call,
        operation: &'static str,
        command: &Cmd,
    ) -> Result<T> {
        let attempt =
            |mut connection: MultiplexedConnection| async move { command.query_async(&mut connection).await };
        self.pool.run(call, operation, attempt).await
    }

    /// Runs a script. The client sends the script again where the server has forgotten it. Somebody may make the server
    /// forget scripts just in between: then that is repeated.
    pub(super) async fn invoke<T: FromRedisValue + Send>(
        &self,
        call: &Call,
        operation: &'static str,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<T> {
        let attempt = |mut connection: MultiplexedConnection| async move {
            for _ in 0..FORGOTTEN {
                match invocation.invoke_async(&mut connection).await {
                    Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {}
                    result => return result,
                }
            }
            invocation.invoke_async(&mut connection).await
        };
        self.pool.run(call, operation, attempt).await
    }

    /// Runs a script that answers with a word and the present time. `arguments` adds what follows the latest moment at
    /// which to write. Answers the word, the time, and what follows.
    pub(super) async fn run_script(
        &self,
        call: &Call,
        operation: &'static str,
        script: &Script,
        keys: &[String],
        arguments: impl Fn(&mut ScriptInvocation<'_>) + Send + Sync,
    ) -> Result<(String, Timestamp, Reply)> {
        // A late answer tells the time of Redis; the second attempt goes by it.
        for _ in 0..2 {
            let not_after = self.pool.not_after(call);
            let mut invocation = script.prepare_invoke();
            for key in keys {
                invocation.key(key);
            }
            invocation.arg(not_after.as_millis());
            arguments(&mut invocation);
            let values = self.invoke(call, operation, &invocation).await;
            let mut reply = Reply::new(values.map_err(|error| name_key(error, keys))?);
            let (word, now) = (reply.text()?, reply.time()?);
            self.pool.learn_time(now);
            if word != "LATE" {
                return Ok((word, now, reply));
            }
        }
        Err(Error::TimedOut(Duration::ZERO))
    }

    /// Says which key of a breaker holds a value of the wrong type: Redis does not say it with its error.
    pub(super) async fn name_wrong_key(&self, call: &Call, key: &ModelKey, error: Error) -> Error {
        let Error::Corrupt { key: named, seq } = error else { return error };
        let (keys, mut types) = (self.keys.breaker(key), pipe());
        for key in &keys {
            types.cmd("TYPE").arg(key);
        }
        let types = &types;
        let asked = self.pool.run(call, "types of a breaker", |mut connection| async move {
            types.query_async::<Vec<String>>(&mut connection).await
        });
        let found = asked.await.unwrap_or_default();
        let is_wrong = |(found, right): (String, &str)| found != right && found != "none";
        let wrong = found.into_iter().zip(BREAKER_TYPES).position(is_wrong);
        let key = wrong.and_then(|wrong| keys.get(wrong)).cloned().unwrap_or(named);
        Error::Corrupt { key, seq }
    }
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
pub(super) fn refusal(word: &str, reply: &mut Reply, id: &ThreadId) -> Result<Error> {
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
