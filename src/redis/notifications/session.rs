//! One connection, from its subscriptions to its loss.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    future::{Future, ready},
    io,
    sync::Arc,
    time::Duration,
};

use bb8_redis::redis::{ErrorKind, RedisError, RedisResult, aio::MultiplexedConnection, cmd, pipe};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};

use super::{OnRing, Ring, Teller, channels::Channels, flags};
use crate::{
    redis::dialer::Handle,
    threads::{ThreadId, bells::ThreadBells},
};

/// How often this process rings itself.
const BEAT: Duration = Duration::from_secs(1);
/// How long any answer, and a ring of our own, may take.
const ANSWER: Duration = Duration::from_secs(1);
/// How long the hash with which this process rings itself outlives the process.
const KEPT: Duration = Duration::from_mins(1);
/// Threads subscribed to, or left, in one command.
const CHUNK: usize = 256;
const FLAGS: &str = "notify-keyspace-events";

/// Listens on one connection.
pub(super) struct Session<'a> {
    handle: Handle,
    channels: &'a Channels,
    threads: &'a Arc<ThreadBells>,
    on_ring: &'a OnRing,
    /// Told when this process heard itself on this connection.
    rung: watch::Receiver<()>,
    subscribed: HashSet<ThreadId>,
    /// The command that Redis refused when the flags were to be completed, and what it said.
    refusal: Option<(&'static str, String)>,
}

impl<'a> Session<'a> {
    /// Nothing is subscribed to yet.
    pub(super) fn new(
        handle: Handle,
        channels: &'a Channels,
        threads: &'a Arc<ThreadBells>,
        on_ring: &'a OnRing,
        rung: watch::Receiver<()>,
    ) -> Self {
        Self { handle, channels, threads, on_ring, rung, subscribed: HashSet::new(), refusal: None }
    }

    /// Subscribes and rings until the connection fails; says how it did. `written` is when this process last wrote the
    /// hash with which it rings itself, on this connection or an earlier one.
    pub(super) async fn run(mut self, written: &mut Option<Instant>, teller: &mut Teller) -> RedisError {
        let Err(error) = self.listen(written, teller).await;
        error
    }

    async fn listen(
        &mut self,
        written: &mut Option<Instant>,
        teller: &mut Teller,
    ) -> Result<Infallible, RedisError> {
        self.complete_flags().await?;
        let (probe, breakers) = (self.channels.probe(), self.channels.breakers());
        self.ask(async |mut connection| connection.subscribe(probe).await).await?;
        self.ask(async |mut connection| connection.psubscribe(breakers).await).await?;
        let mut changes = self.threads.changes();
        // Those that are watched already, before the first ring of our own is heard.
        while !self.follow_threads().await? {}
        let mut is_settled = true;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.handle.lost() => return Err(io::Error::from(io::ErrorKind::NotConnected).into()),
                _ = beat.tick() => self.ring(written, teller).await?,
                // The sender lives as long as this borrows it.
                _ = changes.changed(), if is_settled => is_settled = false,
                () = ready(()), if !is_settled => is_settled = self.follow_threads().await?,
            }
        }
    }

    /// Lets Redis publish what is needed, if it does not. Whoever has switched that off may do so again: it is not
    /// looked at until the next connection.
    async fn complete_flags(&mut self) -> RedisResult<()> {
        let found = match self.flags().await {
            Ok(found) => found,
            Err(error) if is_loss(&error) => return Err(error),
            Err(refusal) => {
                self.refusal = Some(("CONFIG GET", refusal.to_string()));
                return Ok(());
            }
        };
        let Some(completed) = flags::completed(&found) else { return Ok(()) };
        let mut set = cmd("CONFIG");
        set.arg("SET").arg(FLAGS).arg(completed);
        match self.ask(async |mut connection| set.query_async::<()>(&mut connection).await).await {
            Err(error) if is_loss(&error) => Err(error),
            Err(refusal) => {
                self.refusal = Some(("CONFIG SET", refusal.to_string()));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn flags(&self) -> RedisResult<String> {
        let mut get = cmd("CONFIG");
        get.arg("GET").arg(FLAGS);
        let told = self
            .ask(async |mut connection| get.query_async::<HashMap<String, String>>(&mut connection).await);
        // Empty where the setting is hidden: what is there would be lost if it were taken for no flags.
        told.await?
            .remove(FLAGS)
            .ok_or_else(|| (ErrorKind::UnexpectedReturnType, "it tells nothing of", FLAGS.into()).into())
    }

    /// Subscribes to threads that are watched and leaves those that are not, a part of them; says whether that was the
    /// last part. Each thread rings once when it is subscribed to: what happened before was not heard.
    async fn follow_threads(&mut self) -> RedisResult<bool> {
        let watched = self.threads.watched();
        let left: Vec<_> = self.subscribed.difference(&watched).take(CHUNK).cloned().collect();
        let new: Vec<_> = watched.difference(&self.subscribed).take(CHUNK).cloned().collect();
        let channels = |ids: &[ThreadId]| ids.iter().map(|id| self.channels.thread(id)).collect::<Vec<_>>();
        if !left.is_empty() {
            let channels = channels(&left);
            self.ask(async |mut connection| connection.unsubscribe(channels).await).await?;
        }
        if !new.is_empty() {
            let channels = channels(&new);
            self.ask(async |mut connection| connection.subscribe(channels).await).await?;
        }
        let is_last = left.len() < CHUNK && new.len() < CHUNK;
        for id in &left {
            self.subscribed.remove(id);
        }
        for id in new {
            self.subscribed.insert(id.clone());
            (self.on_ring)(Ring::Thread(id));
        }
        Ok(is_last)
    }

    /// Rings ourselves, and tells whether that was heard.
    async fn ring(&mut self, written: &mut Option<Instant>, teller: &mut Teller) -> RedisResult<()> {
        let sent = Instant::now();
        self.rung.mark_unchanged();
        let mut write = pipe();
        let (key, kept) = (self.channels.probe_key(), i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX));
        write.hset(key, "rings", 1).pexpire(key, kept);
        let rung = self.ask(async |mut connection| write.query_async::<(i64, i64)>(&mut connection).await);
        let added = match rung.await {
            Ok((added, _)) => added,
            Err(error) if is_full(&error) => {
                teller.is_deaf("redis is at its maxmemory and refuses to be rung");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        // Redis got the one before no earlier than it was sent: it cannot have expired yet.
        let is_young = written.is_some_and(|written| written.elapsed() < KEPT);
        let was_lost = added > 0 && is_young;
        *written = Some(sent);
        let is_heard = timeout_at(sent + ANSWER, self.rung.changed()).await.is_ok_and(|rung| rung.is_ok());
        if was_lost || (is_heard && !teller.has_rung()) {
            // Before the doorbell is trusted again.
            (self.on_ring)(Ring::Everything);
        }
        if is_heard {
            teller.rings(sent);
        } else {
            teller.is_deaf(&self.why_deaf().await?);
        }
        Ok(())
    }

    /// Says why our own ring was not heard, and what to do about it.
    async fn why_deaf(&self) -> RedisResult<String> {
        let needed = format!("{FLAGS} must contain {}", spaced(flags::NEEDED));
        if let Some(("CONFIG GET", refusal)) = &self.refusal {
            return Ok(format!(
                "{needed}, which must be set at the server: CONFIG GET was refused: {refusal}"
            ));
        }
        let found = match self.flags().await {
            Ok(found) => found,
            Err(error) if is_loss(&error) => return Err(error),
            Err(refusal) => return Ok(format!("{needed}: CONFIG GET was refused: {refusal}")),
        };
        let missing = spaced(&flags::missing(&found));
        Ok(match &self.refusal {
            _ if missing.is_empty() => {
                format!("this process does not hear itself, though {FLAGS} is {found:?}")
            }
            Some((command, refusal)) => format!(
                "{needed}, which must be set at the server: {found:?} lacks {missing}, and {command} was \
                 refused: {refusal}"
            ),
            None => format!("{needed}: it was changed to {found:?}, which lacks {missing}"),
        })
    }

    /// Runs one operation, within its bound.
    async fn ask<T, F, Fut>(&self, operation: F) -> RedisResult<T>
    where
        F: FnOnce(MultiplexedConnection) -> Fut,
        Fut: Future<Output = RedisResult<T>>,
    {
        match timeout(ANSWER, self.handle.run(operation)).await {
            Ok(reply) => reply,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }
}

/// Whether there was no answer at all.
fn is_loss(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
}

/// Whether Redis has no memory left to write with: it is there, and says so.
fn is_full(error: &RedisError) -> bool {
    error.to_string().contains("OOM")
}

fn spaced(flags: &str) -> String {
    flags.chars().map(String::from).collect::<Vec<_>>().join(" ")
}
