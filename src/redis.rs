//! Redis as a store. Every write is one script, so it is all or nothing; every script may be sent twice, so a lost
//! connection is retried; nothing waits longer than the caller's deadline or the configured bound.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bb8_redis::redis::{ErrorKind, InfoDict, RedisError, ServerErrorKind, cmd};
use tokio::time::Instant;

use crate::{
    call::Call,
    clock::{Clock, Timestamp},
    diagnostics::{RedisKind, RedisStatus},
    error::{BoxError, Error, Result},
    settings::RedisSettings,
};

mod append;
mod breaker_list;
mod breaker_reply;
mod breakers;
mod dialer;
mod entry;
mod fields;
mod follow;
mod fork;
mod index;
mod keys;
mod list;
mod notifications;
mod pool;
mod read;
mod replay;
mod reply;
mod run;
mod scripts;
mod threads;

pub use breakers::RedisBreakers;
pub use notifications::{Notifications, Ring};
pub use threads::RedisThreads;

/// What a greeting of Redis told.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// How long a command and its answer took.
    pub round_trip: Duration,
    /// Its version, as it says itself.
    pub server_version: String,
    /// What it evicts when its memory is full, as `noeviction` or `volatile-ttl`.
    pub eviction_policy: String,
}

/// A connection to Redis, shared by everything that uses it.
#[derive(Debug, Clone)]
pub struct Redis {
    pool: Arc<pool::Pool>,
    keys: keys::Keys,
    clock: Arc<dyn Clock>,
    /// What is known of the server.
    status: Arc<Mutex<RedisStatus>>,
}

impl Redis {
    /// Prepares connections without waiting for them. Fails on settings that can never work.
    pub fn new(settings: &RedisSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        let pool = Arc::new(pool::Pool::new(settings, Arc::clone(&clock))?);
        let status = RedisStatus { url: settings.endpoint.to_string(), ..RedisStatus::default() };
        let (keys, status) = (keys::Keys::new(&settings.key_prefix), Arc::new(Mutex::new(status)));
        Ok(Self { pool, keys, clock, status })
    }

    /// The clock of Redis, as far as it is known from its replies.
    pub fn clock(&self) -> RedisClock {
        RedisClock(Arc::clone(&self.pool))
    }

    /// What is known of the server but for why it cannot be used.
    pub fn status(&self) -> RedisStatus {
        self.lock().clone()
    }

    /// How long after it was sent a write without deadline may still happen, at most: scripts refuse later ones.
    pub fn latest_write(&self) -> Duration {
        self.pool.latest_write()
    }

    /// Pings, and asks for version and time; gives up after `limit`.
    pub async fn greet(&self, limit: Duration) -> Result<Greeting> {
        let started = Instant::now();
        self.pool
            .run_probe(limit, |mut connection| async move {
                cmd("PING").query_async::<String>(&mut connection).await
            })
            .await?;
        let round_trip = started.elapsed();
        let (info, time) = self
            .pool
            .run_probe(limit, |mut connection| async move {
                let info: InfoDict = cmd("INFO").query_async(&mut connection).await?;
                let time: (i64, i64) = cmd("TIME").query_async(&mut connection).await?;
                Ok((info, time))
            })
            .await?;
        self.pool.learn_time(Timestamp::from_millis(time.0 * 1000 + time.1 / 1000));
        self.learn(&info);
        self.lock().round_trip = Some(round_trip);
        let told = |name: &str| info.get(name).unwrap_or_else(|| "unknown".to_owned());
        Ok(Greeting {
            round_trip,
            server_version: told("redis_version"),
            eviction_policy: told("maxmemory_policy"),
        })
    }

    /// Asks the server who it is, since after an outage it may be another one; gives up after `limit`.
    pub async fn recognise(&self, limit: Duration) -> Result<()> {
        let call = Call::default().until(Instant::now() + limit);
        let info = self.query(&call, "info", cmd("INFO").arg("server")).await?;
        self.learn(&info);
        Ok(())
    }

    fn learn(&self, info: &InfoDict) {
        let mut status = self.lock();
        status.server_version = info.get("redis_version").unwrap_or_default();
        status.kind = match info.get::<String>("redis_mode").as_deref() {
            Some("standalone") => RedisKind::Standalone,
            Some("cluster") => RedisKind::Cluster,
            _ => RedisKind::Unknown,
        };
    }

    fn lock(&self) -> MutexGuard<'_, RedisStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a short-lived key, since a server that answers reads may still refuse writes. Memory at its limit is no
    /// outage.
    pub async fn probe(&self, limit: Duration) -> Result<()> {
        let key = self.keys.probe();
        let began = Instant::now();
        let written = self
            .pool
            .run_probe(limit, |mut connection| {
                let mut set = cmd("SET");
                set.arg(&key).arg(1).arg("PX").arg(60_000);
                async move { set.query_async::<()>(&mut connection).await }
            })
            .await;
        if !matches!(written, Ok(()) | Err(Error::RedisOutOfMemory)) {
            return written;
        }
        self.lock().round_trip = Some(began.elapsed());
        Ok(())
    }
}

/// The clock of Redis: this machine's, corrected by what the last reply told.
#[derive(Debug, Clone)]
pub struct RedisClock(Arc<pool::Pool>);

impl Clock for RedisClock {
    fn now(&self) -> Timestamp {
        self.0.redis_now()
    }
}

/// Whether the server lives but takes no writes at the moment.
fn refuses_writes(error: &RedisError) -> bool {
    const CODES: [&str; 8] =
        ["READONLY", "MISCONF", "NOREPLICAS", "BUSY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN", "LOADING"];
    // The text of an error whose code the client knows does not have the code.
    let is_code = error.code().is_some_and(|code| CODES.contains(&code));
    let text = error.to_string();
    is_code || CODES.iter().any(|code| text.contains(&format!("{code} ")))
}

/// Says what an error of the client or the server means. In Redis 6.2 an error inside a script is told in its text.
fn to_error(error: RedisError) -> Error {
    let text = error.to_string();
    let cause = |error: RedisError| -> BoxError { error.into() };
    let refused = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::RESP3NotSupported
        | ErrorKind::Server(ServerErrorKind::NoPerm) => Error::Misconfigured(cause(error)),
        _ if refused(&["NOAUTH", "WRONGPASS", "NOPERM", "invalid password", "invalid username-password"]) => {
            Error::Misconfigured(cause(error))
        }
        _ if text.contains("OOM") && text.contains("command not allowed") => Error::RedisOutOfMemory,
        _ if refused(&["WRONGTYPE"]) => Error::Corrupt { key: String::new(), seq: 0 },
        _ if refuses_writes(&error) => Error::Unreachable(cause(error)),
        ErrorKind::Io => Error::Unreachable(cause(error)),
        _ if error.is_timeout() || error.is_connection_dropped() || error.is_unrecoverable_error() => {
            Error::Unreachable(cause(error))
        }
        _ => Error::Internal(cause(error)),
    }
}
