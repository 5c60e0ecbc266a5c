//! Callers of models, who ask a circuit breaker before and report afterwards; some die in between.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use fusewire::grpc::proto::{
    AcquireResponse, Authority, BreakerSettings, Outcome, Permit, RejectionReason, State,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::{
    Shared,
    script::Script,
    world::{Clients, World},
};
use crate::support::{
    breakers::{asking, configuring, telling},
    eventually::POLL,
    threads::wire,
};

const KEYS: [&str; 2] = ["storm:sound", "storm:sick"];
const OPEN: Duration = Duration::from_millis(300);
const LEASE: Duration = Duration::from_secs(1);
const PERMITS: i32 = 2;
/// Far above the open time and a lease.
const ADMITS: Duration = Duration::from_secs(30);

/// A breaker's trial: its model, epoch and generation.
type Trial = (String, String, i64);

/// Since when and until when a permit was certainly live.
type Span = (Instant, Instant);

/// Permits of trials that Redis gave.
#[derive(Debug, Default)]
pub(super) struct Leases {
    spans: Mutex<BTreeMap<Trial, Vec<Span>>>,
}

impl Leases {
    fn note(&self, permit: &Permit, span: Span) {
        let trial = (permit.model_key.clone(), permit.epoch.clone(), permit.generation);
        self.spans.lock().expect("nobody panics with it").entry(trial).or_default().push(span);
    }

    /// The trials in which more permits were live at once than there are, and how many.
    pub(super) fn excesses(&self) -> Vec<(Trial, usize)> {
        let spans = self.spans.lock().expect("nobody panics with it");
        let most = |spans: &[Span]| {
            let live_at = |moment| spans.iter().filter(|(from, to)| *from <= moment && moment < *to).count();
            spans.iter().map(|(from, _)| live_at(*from)).max().unwrap_or_default()
        };
        let counted = spans.iter().map(|(trial, spans)| (trial.clone(), most(spans)));
        counted.filter(|(_, live)| i32::try_from(*live).is_ok_and(|live| live > PERMITS)).collect()
    }

    /// Permits of trials.
    pub(super) fn count(&self) -> usize {
        self.spans.lock().expect("nobody panics with it").values().map(Vec::len).sum()
    }
}

/// Gives the breakers settings under which they open, try and close all the time.
pub(super) async fn prepare(world: &World) {
    let breakers = &world.clients().breakers[0];
    for key in KEYS {
        let settings = BreakerSettings {
            consecutive_failures: 2,
            open_duration: Some(wire(OPEN)),
            half_open_permits: Some(PERMITS),
            permit_lease: Some(wire(LEASE)),
            ..Default::default()
        };
        // Configuring is safe to repeat, and is refused while a busy machine passes for an outage.
        let configured = timeout(ADMITS, async {
            while breakers.configure_breaker(configuring(key, settings)).await.is_err() {
                sleep(POLL).await;
            }
        });
        configured.await.expect("the settings are taken");
        // An instance goes on from what it saw of a breaker: without that, under the settings of its own file.
        for breakers in &world.clients().breakers {
            let seen = timeout(ADMITS, async {
                let is_shared = async || {
                    let answer = breakers.acquire(asking(key)).await;
                    answer.is_ok_and(|answer| answer.authority == i32::from(Authority::Shared))
                };
                while !is_shared().await {
                    sleep(POLL).await;
                }
            });
            seen.await.expect("both instances have seen the settings");
        }
    }
}

pub(super) async fn run(clients: Clients, shared: Arc<Shared>, mut script: Script, side: usize) {
    let breakers = clients.breakers[side].clone();
    while shared.goes_on() {
        let which = script.pick(0..KEYS.len());
        let key = KEYS[which];
        let asked = Instant::now();
        match shared.timing.call("acquire", breakers.acquire(asking(key))).await {
            Ok(answer) => {
                judge(&shared, &answer);
                if let Some(permit) = answer.permit {
                    let is_trial =
                        answer.authority == i32::from(Authority::Shared) && !permit.lease_id.is_empty();
                    let answered = Instant::now();
                    script.pause(1..30).await;
                    let dies = script.happens(10);
                    let end = asked + LEASE;
                    if is_trial {
                        let end = if dies { end } else { end.min(Instant::now()) };
                        shared.leases.note(&permit, (answered, end));
                    }
                    if !dies {
                        let outcome =
                            if script.happens([5, 50][which]) { Outcome::Failure } else { Outcome::Success };
                        let report = breakers.report(telling(&permit, outcome));
                        if let Err(status) = shared.timing.call("report", report).await {
                            refused(&shared, key, &status);
                        }
                    }
                }
            }
            Err(status) => refused(&shared, key, &status),
        }
        script.pause(5..50).await;
    }
}

/// Who is not admitted is told why, and to come back when the breaker may be due.
fn judge(shared: &Shared, answer: &AcquireResponse) {
    let wait = answer.retry_after.map(|wait| Duration::try_from(wait).unwrap_or(Duration::MAX));
    let is_right = match (answer.state(), answer.reason()) {
        (_, RejectionReason::Unspecified) => answer.admitted && answer.permit.is_some(),
        (State::Open, RejectionReason::Open) => wait.is_some_and(|wait| wait <= OPEN),
        (State::HalfOpen, RejectionReason::NoPermitLeft) => true,
        _ => false,
    };
    if !is_right {
        shared.books.wrong(format!("not an answer of a breaker like this: {answer:?}"));
    }
}

fn refused(shared: &Shared, key: &str, status: &Status) {
    shared.books.refused();
    if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
        shared.books.wrong(format!("{key}: {status}"));
    }
}

/// Checks that no breaker stays OPEN or in a trial once Redis serves.
pub(super) async fn close(world: &World, shared: &Shared) {
    for (side, breakers) in world.clients().breakers.iter().enumerate() {
        for key in KEYS {
            let admitted = timeout(ADMITS, async {
                loop {
                    if let Ok(answer) = breakers.acquire(asking(key)).await
                        && answer.authority() == Authority::Shared
                        && let Some(permit) = answer.permit
                    {
                        // What it comes to is checked by the next answer.
                        let _ = breakers.report(telling(&permit, Outcome::Success)).await;
                        return;
                    }
                    sleep(POLL).await;
                }
            });
            if admitted.await.is_err() {
                shared.books.wrong(format!("{key} admits nobody through instance {side}"));
            }
        }
    }
    for (trial, live) in shared.leases.excesses() {
        shared.books.wrong(format!("{live} permits of {PERMITS} were live in {trial:?}"));
    }
}
