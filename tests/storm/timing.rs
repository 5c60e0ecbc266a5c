//! How long calls take, and how long this machine lets everybody wait.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

/// What the design bounds at 250 ms, on a machine that is shared, with a server that is not optimised.
const BOUND: Duration = Duration::from_secs(2);
/// A call that takes so long is not waited for any more.
const HANGS: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Timing {
    calls: Mutex<BTreeMap<&'static str, Calls>>,
    /// The longest by which a tick of the machine's was late, in microseconds.
    late: Arc<AtomicU64>,
    _ticking: JoinSet<()>,
}

/// Calls of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    pub(crate) count: u64,
    pub(crate) slowest: Duration,
}

impl Timing {
    /// Begins to watch the machine.
    pub(super) fn start() -> Self {
        let late = Arc::new(AtomicU64::new(0));
        let mut ticking = JoinSet::new();
        let seen = Arc::clone(&late);
        ticking.spawn(async move {
            loop {
                let began = Instant::now();
                sleep(TICK).await;
                let late = began.elapsed().saturating_sub(TICK);
                seen.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { calls: Mutex::default(), late, _ticking: ticking }
    }

    /// Makes a call and notes how long it took; one that hangs is ended.
    pub(super) async fn call<T>(
        &self,
        kind: &'static str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let began = Instant::now();
        let outcome = timeout(HANGS, call).await;
        let took = began.elapsed();
        let mut calls = self.calls.lock().expect("nobody panics with it");
        let of = calls.entry(kind).or_default();
        of.count += 1;
        of.slowest = of.slowest.max(took);
        drop(calls);
        outcome.unwrap_or_else(|_| Err(Status::unavailable("the storm gave up")))
    }

    pub(super) fn calls(&self) -> BTreeMap<&'static str, Calls> {
        self.calls.lock().expect("nobody panics with it").clone()
    }

    /// What no call may take longer than: the bound, and what the machine added, which every hop of a call may meet.
    pub(super) fn bound(&self) -> Duration {
        BOUND + 5 * Duration::from_micros(self.late.load(Ordering::Relaxed))
    }
}
