//! Merges what memory accepted once the shared store serves again, and tells how this process serves meanwhile.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Fallback, Guarded, State};
use crate::{
    call::{Call, Serving, ServingMode},
    clock::Clock,
    error::Result,
    threads::{
        ContextQuery, SharedThreads, Thread, ThreadId, ThreadStore,
        context::Budget,
        replay::{BatchId, JournalStatus, Replay, Replayed},
    },
};

/// Threads that are looked at or replayed at once.
const AT_ONCE: usize = 16;
/// So often a replay that Redis does not answer is tried before its batch is parked.
const ATTEMPTS: u32 = 3;
/// A write that Redis acknowledged within this time before an outage may be lost: the replica that is the primary now may
/// not have it.
const UNCERTAIN: Duration = Duration::from_mins(1);

/// Messages that are read back of a thread whose copy was forgotten.
const READ_BACK: i64 = 100;

/// Tells how this process serves.
struct ModeSwitch {
    serving: watch::Sender<Serving>,
    clock: Arc<dyn Clock>,
}

impl ModeSwitch {
    fn tell(&self, mode: ServingMode) {
        let since = self.clock.now();
        self.serving.send_if_modified(|serving| {
            let is_new = serving.mode != mode;
            if is_new {
                match mode {
                    // Reachability has said why.
                    ServingMode::Degraded | ServingMode::Local => {}
                    ServingMode::Reconciling => {
                        info!("reconciling: what memory accepted is merged into redis");
                    }
                    ServingMode::Shared => info!("serving from redis"),
                }
                *serving = Serving { mode, since };
            }
            is_new
        });
    }
}

impl<S: SharedThreads> Fallback<S> {
    /// Merges what waits whenever the shared store can be asked, until the token ends it. Tells each change of mode:
    /// DEGRADED while it cannot, RECONCILING until everything is merged or put aside, then SHARED. May be dropped at any
    /// time: what was not merged yet waits on.
    pub async fn reconcile(
        &self,
        serving: watch::Sender<Serving>,
        clock: Arc<dyn Clock>,
        token: CancellationToken,
    ) {
        let mut has_returned = serving.borrow().mode == ServingMode::Degraded;
        let mode = ModeSwitch { serving, clock };
        let mut state = self.reachability.watch();
        let mut heard = Instant::now();
        loop {
            let is_reachable = matches!(*state.borrow_and_update(), State::Reachable);
            let pause = async {
                if is_reachable {
                    if has_returned {
                        mode.tell(ServingMode::Reconciling);
                        self.survey(heard.elapsed() + UNCERTAIN).await;
                    }
                    self.catch_up(&mode, std::mem::take(&mut has_returned)).await;
                    heard = Instant::now();
                } else {
                    has_returned = true;
                    mode.tell(ServingMode::Degraded);
                }
                self.wait(is_reachable).await;
            };
            tokio::select! {
                () = token.cancelled() => return,
                changed = state.changed() => if changed.is_err() { return },
                () = pause => {}
            }
        }
    }

    /// Returns when there may be something to merge.
    async fn wait(&self, is_reachable: bool) {
        let due = self.copies.lock().queue.next_due(Instant::now()).filter(|_| is_reachable);
        tokio::select! {
            () = self.copies.changed() => {}
            () = sleep(due.unwrap_or_default()), if due.is_some() => {}
        }
    }

    /// Merges all that can be merged now; `all` counts in what was put aside.
    async fn catch_up(&self, mode: &ModeSwitch, mut all: bool) {
        while self.reachability.is_reachable() {
            let due = self.copies.lock().queue.due(Instant::now(), std::mem::take(&mut all));
            if due.is_empty() {
                break;
            }
            if self.copies.is_pending() {
                mode.tell(ServingMode::Reconciling);
            }
            let (threads, began) = (due.len(), Instant::now());
            stream::iter(due).for_each_concurrent(AT_ONCE, |runs| self.replay_all(runs)).await;
            let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            debug!(threads, elapsed_ms, "replayed what was accepted without redis");
        }
        if !self.copies.is_pending() && self.reachability.is_reachable() {
            mode.tell(ServingMode::Shared);
        }
    }

    /// After an outage: tells the shared store of the threads that were renewed here, and looks whether what it had
    /// acknowledged shortly before is still there.
    async fn survey(&self, uncertain: Duration) {
        let call = &Call::default();
        let renewed = self.copies.renewed().into_iter().map(|id| (id, true));
        let written = self.copies.written_within(uncertain).into_iter().map(|id| (id, false));
        let looked_at: Vec<(ThreadId, bool)> = renewed.chain(written).collect();
        let look = |(id, renew): (ThreadId, bool)| async move {
            if let Err(error) = self.get(call, &id, renew).await {
                debug!(thread = %id, %error, "could not look at a thread after an outage");
            }
        };
        stream::iter(looked_at).for_each_concurrent(AT_ONCE, look).await;
    }

    /// Replays the batches of one thread, one after the other.
    async fn replay_all(&self, batches: Vec<BatchId>) {
        for batch in batches {
            for attempt in 1.. {
                let Err(error) = self.replay_batch(batch).await else { break };
                if !self.reachability.is_reachable() {
                    return;
                }
                // Redis answers the probe, so this is no outage. One connection may have been lost; but a step that is refused,
                // or times out again and again, must not keep this process from serving.
                if !error.allows_fallback() || attempt == ATTEMPTS {
                    self.copies.lock().queue.park(batch, &error.to_string(), Instant::now());
                    break;
                }
            }
        }
    }

    /// Replays a batch step by step, until nothing of it is left, or it is parked, or Redis is lost.
    async fn replay_batch(&self, batch: BatchId) -> Result<()> {
        let (call, copies) = (&Call::default(), &self.copies);
        loop {
            let Some(step) = copies.lock().queue.step(batch) else { return Ok(()) };
            let replayed = match self.reachability.guard(self.shared.replay(call, &step)).await {
                Guarded::Answered(replayed) => replayed?,
                Guarded::Lost => return Ok(()),
            };
            let id = &step.origin.thread.id;
            let handled = match replayed {
                Replayed::Done(done) => {
                    if copies.settle(batch, &step, &done) {
                        self.read_back(id).await;
                    }
                    Ok(())
                }
                Replayed::Absent => {
                    copies.create_anew(batch, id);
                    Ok(())
                }
                Replayed::Deleted => {
                    copies.give_up(batch, id);
                    Ok(())
                }
                Replayed::Behind(thread) => {
                    copies.restore_lost(batch, id);
                    self.go_on_in_another_epoch(batch, &step, *thread).await?;
                    Ok(())
                }
                Replayed::OtherOwner => copies.move_to_another_thread(batch, id),
                Replayed::Reused(used) => copies.rename_message(batch, id, &used),
            };
            if let Err(reason) = handled {
                copies.lock().queue.park(batch, &reason, Instant::now());
                return Ok(());
            }
        }
    }

    /// Reads a thread's newest messages and its instructions, so that memory can answer for it in the next outage, too.
    async fn read_back(&self, id: &ThreadId) {
        let budget = Budget { max_messages: READ_BACK, max_tokens: 0 };
        let query = ContextQuery { id: id.clone(), budget, renew: false };
        if let Err(error) = self.context(&Call::default(), &query).await {
            debug!(thread = %id, %error, "could not read a thread back after its merge");
        }
    }

    /// Gives a thread that lost writes another epoch, unless somebody has done so.
    async fn go_on_in_another_epoch(&self, batch: BatchId, step: &Replay, mut thread: Thread) -> Result<()> {
        if thread.epoch == step.origin.thread.epoch {
            warn!(thread = %thread.id, "redis lost acknowledged writes: the thread gets a new epoch");
            thread = self.shared.reincarnate(&Call::default(), &thread).await?.value;
        }
        self.copies.lock().queue.rebase(batch, &thread);
        Ok(())
    }

    /// The writes that wait to be merged, for people.
    pub fn journal(&self) -> JournalStatus {
        self.copies.journal()
    }
}
