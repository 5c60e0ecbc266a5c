//! Whatever callers, operators and people with `redis-cli` do to a few breakers at once, by chance but the same each time:
//! no watcher is left with anything else than what the store says.

use std::time::Duration;

use fusewire::grpc::proto::{
    Mode,
    Outcome::{Failure, Success},
    TripBreakerRequest,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use super::watchers;
use crate::support::{
    breakers::{Breakers, in_a_row, unpermitted},
    deployment::{Deployment, Store, on_stores},
    raw::Raw,
    threads::{reason, wire},
    watch::{all, beginning, keys},
};

on_stores!(
    [memory: Memory, redis: Redis, pair: Pair],
    [nobody_is_left_with_anything_else_than_what_is_so]
);

const MINUTE: Duration = Duration::from_mins(1);
const NAMES: [&str; 4] = ["churn-a", "churn-b", "churn-c", "churn-d"];
const WRITERS: u64 = 4;
const ACTS: usize = 120;
const SEED: u64 = 0xc4u64;

/// Opens a breaker, unless an operator decides or others keep changing it.
async fn trip(breakers: &Breakers, key: &str, open_for: Duration) {
    let open_for = Some(wire(open_for));
    let request = TripBreakerRequest { model_key: key.to_owned(), open_for, ..Default::default() };
    if let Err(status) = breakers.trip_breaker(request).await {
        assert!(["ILLEGAL_TRANSITION", "BREAKER_CHANGED"].contains(&reason(&status).as_str()), "{status:?}");
    }
}

async fn act(rng: &mut StdRng, breakers: &Breakers, raw: Option<&Raw>) {
    let key = NAMES[rng.random_range(0..NAMES.len())];
    let state = format!("circuit_breaker:{key}");
    match (rng.random_range(0..14), raw) {
        (0..3, _) => trip(breakers, key, MINUTE).await,
        (3..5, _) => drop(breakers.reset(key).await),
        (5, _) => drop(breakers.put(key, Mode::Disabled).await),
        (6, _) => drop(breakers.put(key, Mode::Automatic).await),
        (7, _) => breakers.delete(key).await,
        (8, _) => trip(breakers, key, Duration::from_millis(1)).await,
        (9, _) => drop(breakers.ask(key).await),
        (10, Some(raw)) => drop(raw.run(&["HSET", &state, "state", "OPEN"]).await),
        (11, Some(raw)) => drop(raw.run(&["HSET", &state, "state", "CLOSED"]).await),
        (12, Some(raw)) => drop(raw.run(&["DEL", &state]).await),
        (n, _) => {
            let outcome = if n % 2 == 0 { Failure } else { Success };
            breakers.report(unpermitted(key, outcome)).await.expect("the report is taken");
        }
    }
}

async fn nobody_is_left_with_anything_else_than_what_is_so(on: &Deployment) {
    let breakers = on.breakers();
    for name in NAMES {
        breakers.set(name, in_a_row(2)).await;
    }
    let mut opened = Vec::new();
    for request in [all(), keys(NAMES), beginning("churn-a")] {
        opened.push((request.prefix.clone(), watchers(on, &request).await));
    }
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let breakers = on.breakers();
        let raw = match on.store {
            Store::Memory => None,
            _ => Some(on.raw().await),
        };
        writers.spawn(async move {
            let mut rng = StdRng::seed_from_u64(SEED + writer);
            for _ in 0..ACTS {
                act(&mut rng, &breakers, raw.as_ref()).await;
            }
        });
    }
    writers.join_all().await;
    for (prefix, watchers) in opened {
        let names = NAMES.iter().filter(|name| name.starts_with(&prefix));
        let names: Vec<_> = names.map(|name| (*name).to_owned()).collect();
        for watcher in watchers {
            let account = watcher.agrees_in_the_end(&breakers, &names).await;
            let (transitions, resyncs) = (account.transitions, account.resyncs.len());
            eprintln!("{transitions} changes, {resyncs} resyncs, {} removed", account.removed);
        }
    }
}
