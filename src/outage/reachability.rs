//! Is Redis reachable? One answer for the whole process, fed by results of calls and by a probe, never found out by a
//! waiting caller alone.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use rand::Rng;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{BoxError, Error, Result};

/// The grain in which a probe's wait is measured.
const TICK: Duration = Duration::from_millis(10);
/// Probes are at most this far apart.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// After an outage began, the first probe comes this soon; each further one after twice the time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// What is known of Redis.
#[derive(Debug, Clone)]
pub enum State {
    /// It answers, writes included.
    Reachable,
    /// It does not, since this happened: memory answers what it honestly can.
    Unreachable(Arc<str>),
    /// It refuses our configuration, for this reason. Memory does not hide that.
    Misconfigured(Arc<str>),
}

/// What a guarded call came to.
#[derive(Debug)]
pub enum Guarded<T> {
    /// Redis answered, or failed in a way that is no outage.
    Answered(Result<T>),
    /// Redis is unreachable.
    Lost,
}

/// Knows whether Redis is reachable, and runs calls under that knowledge.
#[derive(Debug)]
pub struct Reachability {
    state: watch::Sender<State>,
    doubt: Notify,
    /// How long Redis may be silent. A call that waited for half of it asks for a probe, which has the other half.
    silence: Duration,
}

impl Reachability {
    /// Begins with what the greeting at start found; `silence` is what Redis may take to answer.
    pub fn new(found: &Result<()>, silence: Duration) -> Self {
        Self { state: watch::Sender::new(judge(found)), doubt: Notify::new(), silence }
    }

    /// Whether calls go to Redis at the moment.
    pub fn is_reachable(&self) -> bool {
        matches!(*self.state.borrow(), State::Reachable)
    }

    /// Why Redis cannot be used; empty while it can.
    pub fn trouble(&self) -> Arc<str> {
        match &*self.state.borrow() {
            State::Reachable => "".into(),
            State::Unreachable(reason) | State::Misconfigured(reason) => Arc::clone(reason),
        }
    }

    /// Why no call can be served before an operator has corrected the configuration, if that is so.
    pub fn misconfiguration(&self) -> Option<Error> {
        match &*self.state.borrow() {
            State::Misconfigured(reason) => Some(misconfigured(reason)),
            State::Reachable | State::Unreachable(_) => None,
        }
    }

    /// Watches the state.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Runs a call of Redis. Returns as soon as it has an answer or Redis is known to be unreachable: that takes
    /// the configured silence for the calls that are under way when Redis falls silent, and no time for later ones.
    pub async fn guard<T>(&self, call: impl Future<Output = Result<T>>) -> Guarded<T> {
        let mut state = self.state.subscribe();
        match &*state.borrow_and_update() {
            State::Reachable => {}
            State::Unreachable(_) => return Guarded::Lost,
            State::Misconfigured(reason) => return Guarded::Answered(Err(misconfigured(reason))),
        }
        let mut call = pin!(call);
        let began = Instant::now();
        let mut has_doubt = false;
        loop {
            tokio::select! {
                result = &mut call => return self.settle(result, state).await,
                _ = state.changed() => match &*state.borrow_and_update() {
                    State::Reachable => {}
                    State::Unreachable(_) => return Guarded::Lost,
                    State::Misconfigured(reason) => return Guarded::Answered(Err(misconfigured(reason))),
                },
                () = sleep_until(began + self.silence / 2), if !has_doubt => {
                    has_doubt = true;
                    self.doubt.notify_one();
                }
            }
        }
    }

    /// Decides what a failed call means: an outage only if a probe fails as well.
    async fn settle<T>(&self, result: Result<T>, mut state: watch::Receiver<State>) -> Guarded<T> {
        match result {
            Err(error) if error.allows_fallback() => {
                self.doubt.notify_one();
                tokio::select! {
                    now = state.wait_for(|state| !matches!(state, State::Reachable)) => match now.as_deref() {
                        Ok(State::Misconfigured(reason)) => Guarded::Answered(Err(misconfigured(reason))),
                        Ok(State::Reachable | State::Unreachable(_)) | Err(_) => Guarded::Lost,
                    },
                    () = sleep(self.silence) => Guarded::Answered(Err(error)),
                }
            }
            result => Guarded::Answered(result),
        }
    }

    /// Probes for ever: by the clock while all is well, at once when a call has doubts, with growing pauses in an
    /// outage. Logs each change once and tells `on_change`: false before the first call goes to memory, true once calls
    /// go to Redis again.
    pub async fn run<P, F>(&self, token: CancellationToken, probe: P, on_change: impl Fn(bool))
    where
        P: Fn() -> F,
        F: Future<Output = Result<()>>,
    {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let is_up = matches!(*self.state.borrow(), State::Reachable);
            let jitter = rand::rng().random_range(0.8..1.0);
            let wait = if is_up { LONGEST_PAUSE } else { pause }.mul_f64(jitter);
            let asked = tokio::select! {
                () = token.cancelled() => return,
                () = self.doubt.notified() => true,
                () = sleep(wait) => false,
            };
            let found = self.bounded(probe(), asked).await;
            let next = judge(&found);
            pause = if is_up { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            self.change(next, &found, &on_change);
        }
    }

    /// Waits for a probe as long as Redis may be silent; a call that has doubts shortens that.
    async fn bounded(&self, probe: impl Future<Output = Result<()>>, asked: bool) -> Result<()> {
        let mut probe = pin!(probe);
        let mut limit = if asked { self.silence / 2 } else { self.silence };
        // A tick counts as one however late it comes: where this process did not get to run, on a machine that is too
        // busy, the silence was not that of Redis.
        let mut waited = Duration::ZERO;
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while waited < limit {
            tokio::select! {
                result = &mut probe => return result,
                _ = ticks.tick() => waited += TICK,
                () = self.doubt.notified() => limit = limit.min(waited + self.silence / 2),
            }
        }
        Err(Error::TimedOut(limit))
    }

    fn change(&self, next: State, found: &Result<()>, on_change: &impl Fn(bool)) {
        let was = self.state.borrow().clone();
        match (&was, &next, found) {
            (State::Reachable, State::Unreachable(_), Err(error)) => {
                warn!(%error, "redis is unreachable: serving from local memory");
            }
            (State::Reachable | State::Unreachable(_), State::Misconfigured(reason), _) => {
                warn!(%reason, "redis refuses this configuration: calls fail until it is corrected");
            }
            (State::Misconfigured(_), State::Unreachable(_), Err(error)) => {
                warn!(%error, "redis is unreachable: serving from local memory");
            }
            (State::Unreachable(_) | State::Misconfigured(_), State::Reachable, _) => {
                info!("redis is reachable again: reconciling");
            }
            _ => return,
        }
        let has_returned = matches!(next, State::Reachable);
        if !has_returned {
            on_change(false);
        }
        self.state.send_replace(next);
        if has_returned {
            on_change(true);
        }
    }
}

fn judge(found: &Result<()>) -> State {
    match found {
        Ok(()) => State::Reachable,
        Err(Error::Misconfigured(reason)) => State::Misconfigured(reason.to_string().into()),
        Err(error) => State::Unreachable(error.to_string().into()),
    }
}

pub(super) fn misconfigured(reason: &Arc<str>) -> Error {
    let reason: BoxError = reason.to_string().into();
    Error::Misconfigured(reason)
}
