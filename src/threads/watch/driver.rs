//! Drives a watch: asks the store when something may have happened, and gives out the events one by one.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{Event, Followed, Found, Position, Since, Step, Told, Wakers, local, step, step::resync};
use crate::{
    call::{Answer, Call, ModeTeller, ServingMode, Source},
    clock::Timestamp,
    doorbell::{Doorbell, Notices},
    error::{Error, Result},
    threads::{ThreadBell, ThreadId, ThreadStore},
};

/// How often a watcher looks although nothing rang, where changes ring: a lost ring costs this much time.
const BACKSTOP: Duration = Duration::from_secs(10);
/// How often a watcher looks where changes do not ring.
const POLL: Duration = Duration::from_secs(1);
/// A look soon after one that failed; each further one comes after twice the time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Redis keeps a thread up to the end of the millisecond in which it expires.
const GRAIN: Duration = Duration::from_millis(2);
/// A thread that is gone so soon before it was due has expired: its time is read while a script runs, which takes some.
const TOLERANCE: Duration = Duration::from_secs(1);

const WAS_LOCAL: &str = "this instance served from its own memory for a while";

/// One watch of one thread. It holds at most one answer of the store, and does nothing while nobody asks for its next
/// event.
pub struct ThreadWatch<S> {
    store: Arc<S>,
    id: ThreadId,
    bell: ThreadBell,
    /// Held so that `notices` goes on.
    _doorbell: Arc<Doorbell>,
    notices: watch::Receiver<Notices>,
    modes: ModeTeller,
    since: Since,
    /// Whether it began after an event of an earlier watch.
    is_resumed: bool,
    pending: VecDeque<Told>,
    next: Next,
    is_synced: bool,
    /// Whether memory answered last in place of the shared store. It does so in an outage, and for a thread whose writes
    /// are still being merged after it.
    is_local: bool,
    life: Life,
}

/// When to look next.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// At once: the store has more to tell.
    Now,
    /// When something may have happened.
    Woken,
    /// After this time, since a look failed.
    Paused(Duration),
    /// Never.
    Ended,
}

/// When the thread expires, as far as is known.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// The watch has not seen it.
    Unseen,
    /// Not at all.
    Pinned,
    /// Then, which is `due` by this machine's clock.
    Until { at: Timestamp, due: Instant },
}

impl<S> fmt::Debug for ThreadWatch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadWatch")
            .field("id", &self.id)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

impl<S: ThreadStore> ThreadWatch<S> {
    /// Begins a watch with a first look, whose failures are the caller's: no such thread, a seq beyond it, no store that
    /// could say.
    pub async fn begin(
        store: Arc<S>,
        wakers: &Wakers,
        call: &Call,
        id: ThreadId,
        since: Since,
    ) -> Result<Self> {
        // It listens before it looks, so that nothing happens unheard in between.
        let bell = wakers.bells.listen(&id);
        let mut watch = Self {
            store,
            id,
            bell,
            _doorbell: Arc::clone(&wakers.doorbell),
            notices: wakers.doorbell.watch(),
            modes: ModeTeller::new(wakers.serving.clone()),
            is_resumed: matches!(since, Since::Told(_)),
            since,
            pending: VecDeque::new(),
            next: Next::Now,
            is_synced: false,
            is_local: false,
            life: Life::Unseen,
        };
        watch.look(call).await?;
        Ok(watch)
    }

    /// Waits for the next event; none after the last one, or after an error. May be dropped at any time: then nothing
    /// more may be asked of it.
    pub async fn next(&mut self) -> Option<Result<Told>> {
        loop {
            if let Some(told) = self.pending.pop_front() {
                return Some(Ok(told));
            }
            match self.next {
                Next::Now => {}
                Next::Woken => self.wait().await,
                Next::Paused(pause) => sleep(pause.mul_f64(rand::random_range(0.8..1.0))).await,
                Next::Ended => return None,
            }
            if let Err(error) = self.look(&Call::default()).await
                && let Err(error) = self.endure(error)
            {
                self.next = Next::Ended;
                return Some(Err(error));
            }
        }
    }

    /// Waits until something may have happened.
    async fn wait(&mut self) {
        let is_quiet = !self.is_local && *self.notices.borrow_and_update() == Notices::Keyspace;
        let tick = if is_quiet { BACKSTOP } else { POLL };
        let due = match self.life {
            Life::Until { due, .. } if !self.is_local => Some(due),
            Life::Until { .. } | Life::Unseen | Life::Pinned => None,
        };
        tokio::select! {
            () = self.bell.rang() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = sleep(tick) => {}
            // Where changes rang and do no more, something may have happened unheard.
            _ = self.notices.changed() => {}
            () = self.modes.changed() => {}
        }
    }

    /// Asks the store once, and keeps what is to be told.
    async fn look(&mut self, call: &Call) -> Result<()> {
        let Answer { value, source } = self.store.follow(call, &self.id, &self.since).await?;
        let is_local = matches!(source, Source::Local { as_of: Some(_) });
        let epoch = match &value {
            Followed::Found(found) => found.thread.epoch.clone(),
            Followed::Gone { .. } => String::new(),
        };
        self.tell_modes(is_local, source, &epoch);
        if self.is_local && !is_local && self.modes.told() == ServingMode::Degraded {
            // The shared store was heard before the process said that it is back, which it is about to: what it shares
            // comes after that.
            self.next = Next::Woken;
            return Ok(());
        }
        let was_local = std::mem::replace(&mut self.is_local, is_local);
        match value {
            Followed::Found(found) if is_local => self.tell_local(*found, source),
            Followed::Found(found) => self.tell_shared(*found, source, was_local),
            Followed::Gone { now, was_deleted } => self.end(now, was_deleted, source)?,
        }
        Ok(())
    }

    fn tell_shared(&mut self, found: Found, source: Source, was_local: bool) {
        self.life = match found.thread.expire_time {
            None => Life::Pinned,
            Some(at) => Life::Until { at, due: Instant::now() + at.since(found.now) + GRAIN },
        };
        let step = if was_local { resync(found, WAS_LOCAL) } else { step(&self.since, found) };
        self.tell(step, source);
        self.sync(source);
    }

    fn tell_local(&mut self, found: Found, source: Source) {
        let step = local::step(&self.since, found);
        self.tell(step, source);
        // Memory cannot tell what happened since an earlier watch.
        if !self.is_resumed {
            self.sync(source);
        }
    }

    fn tell(&mut self, step: Step, source: Source) {
        let Step { events, since, more } = step;
        self.pending.extend(events.into_iter().map(|(event, position)| Told { event, position, source }));
        self.since = since;
        self.next = if more { Next::Now } else { Next::Woken };
    }

    /// Says once that all there was has been told.
    fn sync(&mut self, source: Source) {
        if let Since::Told(place) = &self.since
            && !self.is_synced
            && matches!(self.next, Next::Woken)
        {
            self.is_synced = true;
            let position = place.position.clone();
            self.pending.push_back(Told { event: Event::Synced, position, source });
        }
    }

    /// Tells how this process serves, if that is another way than was told: before what an answer from there tells.
    fn tell_modes(&mut self, is_local: bool, source: Source, epoch: &str) {
        let position = match &self.since {
            Since::Told(place) => place.position.clone(),
            Since::Seq(seq) => Position { epoch: epoch.to_owned(), revision: 0, seq: *seq },
        };
        for mode in self.modes.news(is_local) {
            let source = if mode == ServingMode::Degraded { Source::Local { as_of: None } } else { source };
            let event = Event::ModeChanged(mode);
            self.pending.push_back(Told { event, position: position.clone(), source });
        }
    }

    /// Ends the watch of a thread that is not there (any more), with why, as far as that is known.
    fn end(&mut self, now: Timestamp, was_deleted: bool, source: Source) -> Result<()> {
        let id = || self.id.to_string();
        let Since::Told(place) = &self.since else { return Err(Error::ThreadNotFound { id: id() }) };
        let event = match self.life {
            _ if was_deleted => Event::Deleted,
            Life::Unseen => Event::Expired,
            Life::Until { at, .. } if now.plus(TOLERANCE) >= at => Event::Expired,
            Life::Until { .. } | Life::Pinned => return Err(Error::ThreadLost { id: id() }),
        };
        let position = place.position.clone();
        self.pending.push_back(Told { event, position, source });
        self.next = Next::Ended;
        Ok(())
    }

    /// Decides what a failed look means for a watch that has begun: it goes on where a later one may succeed.
    fn endure(&mut self, error: Error) -> Result<()> {
        match error {
            // An outage, and memory holds no copy. There is nothing to tell but that.
            Error::NeedsShared(_) => {
                self.tell_modes(true, Source::Local { as_of: None }, "");
                self.is_local = true;
                self.next = Next::Woken;
                Ok(())
            }
            Error::TimedOut(_)
            | Error::Unreachable(_)
            | Error::Misconfigured(_)
            | Error::DeadlineExceeded
            | Error::RedisOutOfMemory => {
                self.tell_modes(false, Source::Shared, "");
                self.next = Next::Paused(match self.next {
                    Next::Paused(pause) => (pause * 2).min(LONGEST_PAUSE),
                    Next::Now | Next::Woken | Next::Ended => SHORTEST_PAUSE,
                });
                Ok(())
            }
            error => Err(error),
        }
    }
}
