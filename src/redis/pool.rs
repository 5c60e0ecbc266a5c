//! Connections to Redis: pooled by bb8, shared by cloning, and never trusted once something went wrong on them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use bb8_redis::{
    bb8,
    redis::{RedisError, RedisResult, aio::MultiplexedConnection},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use super::{
    dialer::{Dialer, Handle},
    refuses_writes, to_error,
};
use crate::{
    call::Call,
    clock::{Clock, Timestamp},
    error::{Error, Result},
    settings::RedisSettings,
};

/// How long a dial may be tried anew before its failure counts. The pool dials by itself, in no caller's path.
const CHECKOUT: Duration = Duration::from_millis(250);
/// How long after a caller's deadline a write may still begin, by the clock of Redis.
const LATE: Duration = Duration::from_secs(1);
/// A connection on which a caller waited in vain for so long is not used again.
const SUSPECT: Duration = Duration::from_millis(200);

/// While an attempt waits for its reply. Callers give up by dropping the attempt: if it had waited for long, the
/// connection may be one that swallows everything, and is not used again.
struct Suspicion {
    broken: Option<Arc<AtomicBool>>,
    began: Instant,
}

impl Suspicion {
    fn of(handle: &Handle) -> Self {
        Self { broken: Some(Arc::clone(&handle.broken)), began: Instant::now() }
    }

    /// The reply came.
    fn dispel(mut self) {
        self.broken = None;
    }
}

impl Drop for Suspicion {
    fn drop(&mut self) {
        if let Some(broken) = self.broken.take()
            && self.began.elapsed() >= SUSPECT
        {
            broken.store(true, Ordering::Release);
        }
    }
}

/// The pool, and what is learnt from every reply.
pub(super) struct Pool {
    handles: bb8::Pool<Dialer>,
    size: u32,
    /// For probes alone, so that a probe never waits behind callers.
    probe: Mutex<Option<Handle>>,
    prober: Dialer,
    command_timeout: Duration,
    clock: Arc<dyn Clock>,
    /// The clock of Redis less ours, in ms, as of the last reply.
    clock_offset: AtomicI64,
}

impl Pool {
    /// A pool that fills itself in the background; this does not wait for Redis.
    pub(super) fn new(settings: &RedisSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        let handles = bb8::Pool::builder()
            .max_size(settings.pool_size)
            .min_idle(settings.pool_size)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(CHECKOUT)
            .build_unchecked(Dialer::new(settings)?);
        Ok(Self {
            handles,
            size: settings.pool_size,
            probe: Mutex::new(None),
            prober: Dialer::new(settings)?,
            command_timeout: settings.command_timeout,
            clock,
            clock_offset: AtomicI64::new(0),
        })
    }

    /// Runs one operation on a connection, within the caller's deadline and the configured bound. It is repeated when
    /// a connection turns out dead, so `attempt` must be safe to repeat.
    pub(super) async fn run<T, F, Fut>(&self, call: &Call, operation: &'static str, attempt: F) -> Result<T>
    where
        F: Fn(MultiplexedConnection) -> Fut + Send,
        Fut: Future<Output = RedisResult<T>> + Send,
        T: Send,
    {
        let started = Instant::now();
        let result = match timeout_at(self.bound(call, started), self.attempt_until_heard(attempt)).await {
            Ok(result) => result,
            Err(_) if call.deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                Err(Error::DeadlineExceeded)
            }
            Err(_) => Err(Error::TimedOut(self.command_timeout)),
        };
        let duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match &result {
            Ok(_) => debug!(operation, duration_us, "redis answered"),
            Err(error) => debug!(operation, duration_us, %error, "redis failed"),
        }
        result
    }

    fn bound(&self, call: &Call, now: Instant) -> Instant {
        [call.deadline, call.bound].into_iter().flatten().fold(now + self.command_timeout, Instant::min)
    }

    /// The call, with this process's own bound on all the commands that it takes together.
    pub(super) fn bounded(&self, call: &Call) -> Call {
        call.until(Instant::now() + self.command_timeout)
    }

    /// Goes on to another connection when one turns out dead, each of them once and then a new one; tries once more
    /// when the server takes no writes, since another connection may lead to one that does.
    async fn attempt_until_heard<T, F, Fut>(&self, attempt: F) -> Result<T>
    where
        F: Fn(MultiplexedConnection) -> Fut + Send,
        Fut: Future<Output = RedisResult<T>> + Send,
        T: Send,
    {
        let mut attempts = 0;
        loop {
            // The checkout ends here: the connection is shared, so that no caller waits for another's reply.
            let handle = match self.handles.get().await {
                Ok(handle) => handle.clone(),
                Err(bb8::RunError::User(error)) => return Err(to_error(error)),
                // Whether Redis can be reached at all is found out elsewhere, which ends this wait.
                Err(bb8::RunError::TimedOut) => continue,
            };
            let suspicion = Suspicion::of(&handle);
            let answer = handle.run(&attempt).await;
            suspicion.dispel();
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let is_dead = (error.is_io_error() || error.is_unrecoverable_error()) && !error.is_timeout();
            let is_refused = refuses_writes(&error);
            if is_dead || is_refused || error.is_timeout() {
                handle.broken.store(true, Ordering::Release);
            }
            attempts += 1;
            let most = if is_dead { self.size + 1 } else { u32::from(is_refused) };
            if attempts > most {
                return Err(to_error(error));
            }
        }
    }

    /// Runs one operation on the probe's own connection, which is dialled anew if it was lost.
    pub(super) async fn run_probe<T, F, Fut>(&self, limit: Duration, attempt: F) -> Result<T>
    where
        F: Fn(MultiplexedConnection) -> Fut + Send,
        Fut: Future<Output = RedisResult<T>> + Send,
    {
        let mut kept = self.probe.lock().await;
        let probe = async {
            if let Some(handle) = kept.take()
                && !handle.broken.load(Ordering::Acquire)
                && let Ok(value) = handle.run(&attempt).await
            {
                return Ok((handle, value));
            }
            let anew = async || {
                let handle = self.prober.dial().await?;
                let value = handle.run(&attempt).await?;
                Ok((handle, value))
            };
            match anew().await {
                // One lost connection is no outage, not even one that was just dialled.
                Err(error) if RedisError::is_connection_dropped(&error) => anew().await,
                other => other,
            }
        };
        let (handle, value) = timeout(limit, probe)
            .await
            .map_err(|_| Error::TimedOut(limit))?
            .map_err(|error: RedisError| to_error(error))?;
        *kept = Some(handle);
        Ok(value)
    }

    /// The latest moment, by the clock of Redis, at which a write of this call may begin: an abandoned command may
    /// still run when a frozen Redis thaws.
    pub(super) fn not_after(&self, call: &Call) -> Timestamp {
        let now = Instant::now();
        let left = self.bound(call, now).saturating_duration_since(now);
        self.redis_now().plus(left + LATE)
    }

    /// How long after it was sent a write without deadline may still happen.
    pub(super) fn latest_write(&self) -> Duration {
        self.command_timeout + LATE
    }

    /// The present moment by the clock of Redis, as far as it is known.
    pub(super) fn redis_now(&self) -> Timestamp {
        let offset = self.clock_offset.load(Ordering::Relaxed);
        Timestamp::from_millis(self.clock.now().as_millis() + offset)
    }

    /// Notes what Redis said the time is.
    pub(super) fn learn_time(&self, redis_now: Timestamp) {
        let offset = redis_now.as_millis() - self.clock.now().as_millis();
        self.clock_offset.store(offset, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("state", &self.handles.state()).finish_non_exhaustive()
    }
}
