//! Merges what memory accepted once the shared store serves again, and tells how this process serves meanwhile.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Fallback, Guarded, Progress, State, ThreadCopies};
use crate::{
    call::{Call, Serving, ServingMode},
    clock::Clock,
    error::Result,
    threads::{
        ContextQuery, Thread, ThreadId, ThreadStore,
        context::Budget,
        replay::{JournalStatus, RunId},
    },
};

/// Threads that are looked at or replayed at once.
const AT_ONCE: usize = 16;
/// A run whose replay is not answered is tried so often before it is put aside.
const ATTEMPTS: u32 = 3;
/// What was acknowledged so long before an outage may not have reached the replica that is the primary after it.
const UNCERTAIN: Duration = Duration::from_mins(1);

/// Messages that are read back of a thread whose copy was forgotten.
const READ_BACK: i64 = 100;

/// Tells how this process serves.
struct Mode {
    serving: watch::Sender<Serving>,
    clock: Arc<dyn Clock>,
}

impl Mode {
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

impl<S: ThreadStore, C: ThreadCopies> Fallback<S, C> {
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
        let mode = Mode { serving, clock };
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
        let due = self.copies.next_due().filter(|_| is_reachable);
        tokio::select! {
            () = self.copies.stirred() => {}
            () = sleep(due.unwrap_or_default()), if due.is_some() => {}
        }
    }

    /// Merges all that can be merged now; `all` counts in what was put aside.
    async fn catch_up(&self, mode: &Mode, mut all: bool) {
        while self.reachability.is_reachable() {
            let due = self.copies.due(std::mem::take(&mut all));
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

    /// Replays the runs of one thread, one after the other.
    async fn replay_all(&self, runs: Vec<RunId>) {
        for run in runs {
            for attempt in 1.. {
                let Err(error) = self.replay_run(run).await else { break };
                if !self.reachability.is_reachable() {
                    return;
                }
                // Redis answers the probe, so this is no outage. One connection may have been lost; but what is refused, or
                // times out again and again, must not keep this process from serving.
                if !error.allows_fallback() || attempt == ATTEMPTS {
                    self.copies.park(run, &error.to_string());
                    break;
                }
            }
        }
    }

    async fn replay_run(&self, run: RunId) -> Result<()> {
        let call = &Call::default();
        while let Some(step) = self.copies.step(run) {
            let replayed = match self.reachability.guard(self.shared.replay(call, &step)).await {
                Guarded::Answered(replayed) => replayed?,
                Guarded::Lost => return Ok(()),
            };
            match self.copies.settle(run, &step, replayed) {
                Progress::Step => {}
                Progress::Reincarnate(thread) if thread.epoch != step.origin.thread.epoch => {
                    self.copies.rebase(run, &thread);
                }
                Progress::Reincarnate(thread) => self.reincarnate_for(run, &thread).await?,
                Progress::Over => return Ok(()),
                Progress::Forgotten => return self.read_back(&step.origin.thread.id).await,
            }
        }
        Ok(())
    }

    /// Reads a thread's newest messages and its instructions, so that memory can answer for it in the next outage, too.
    async fn read_back(&self, id: &ThreadId) -> Result<()> {
        let budget = Budget { max_messages: READ_BACK, max_tokens: 0 };
        let query = ContextQuery { id: id.clone(), budget, renew: false };
        if let Err(error) = self.context(&Call::default(), &query).await {
            debug!(thread = %id, %error, "could not read a thread back after its merge");
        }
        Ok(())
    }

    async fn reincarnate_for(&self, run: RunId, thread: &Thread) -> Result<()> {
        warn!(thread = %thread.id, "redis lost acknowledged writes: the thread gets a new epoch");
        let thread = self.shared.reincarnate(&Call::default(), thread).await?.value;
        self.copies.rebase(run, &thread);
        Ok(())
    }

    /// What waits to be merged.
    pub fn journal(&self) -> JournalStatus {
        self.copies.journal()
    }
}
