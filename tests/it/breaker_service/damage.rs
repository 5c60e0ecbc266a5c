//! Values of the wrong type, and a Redis that takes no more: what is refused is not done in part either.

use std::{collections::BTreeMap, time::Duration};

use fusewire::grpc::proto::{
    GetBreakerRequest, ListTransitionsRequest, Mode,
    Outcome::{Failure, Success},
    OverrideBreakerRequest, ResetBreakerRequest, State, TripBreakerRequest,
};
use tonic::{Code, Status};

use super::{
    contents,
    keys::{names, whole},
};
use crate::support::{
    breakers::{Breakers, after, asking, assert_stands, configuring, in_a_row, unpermitted},
    deployment::{Deployment, Store},
    threads::{assert_refused, told},
};

const CALLS: [&str; 8] = ["report", "trip", "reset", "override", "configure", "get", "acquire", "log"];

/// Makes one of the calls.
async fn make(breakers: &Breakers, call: &str, key: &str) -> Result<(), Status> {
    let model_key = key.to_owned();
    match call {
        "report" => breakers.report(unpermitted(key, Failure)).await.map(drop),
        "trip" => {
            breakers.trip_breaker(TripBreakerRequest { model_key, ..Default::default() }).await.map(drop)
        }
        "reset" => {
            breakers.reset_breaker(ResetBreakerRequest { model_key, ..Default::default() }).await.map(drop)
        }
        "override" => {
            let mode = Mode::Disabled.into();
            let request = OverrideBreakerRequest { model_key, mode, ..Default::default() };
            breakers.override_breaker(request).await.map(drop)
        }
        "configure" => breakers.configure_breaker(configuring(key, in_a_row(1))).await.map(drop),
        "get" => breakers.get_breaker(GetBreakerRequest { model_key, ..Default::default() }).await.map(drop),
        "acquire" => breakers.acquire(asking(key)).await.map(drop),
        "log" => {
            let request = ListTransitionsRequest { model_key, ..Default::default() };
            breakers.list_transitions(request).await.map(drop)
        }
        other => panic!("no call {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_the_wrong_type_under_any_key_is_data_loss_and_nothing_is_written() {
    let on = Deployment::start(Store::Redis).await;
    // What each call has to know; the other keys are none of its business.
    let needs = |call: &str, part: usize| match call {
        "trip" | "reset" | "override" => true,
        "get" => part != 2,
        "log" => part == 0 || part == 4,
        _ => part != 2 && part != 4,
    };
    // A breaker is listed before it changes.
    let without_list = |mut contents: BTreeMap<_, _>| {
        contents.remove("circuit_breakers");
        contents
    };
    for part in 0..5 {
        let key = &format!("typed-{part}");
        let (breakers, raw) = (on.breakers(), on.raw().await);
        breakers.tell_all(key, &[Success]).await;
        let name = &names(&on, key)[part];
        raw.run(&["DEL", name]).await;
        raw.run(&["SET", name, "of no type of ours"]).await;
        let before = without_list(contents(&raw).await);
        for call in CALLS.into_iter().filter(|call| needs(call, part)) {
            let status = assert_refused(make(&breakers, call, key).await, Code::DataLoss, "CORRUPT_ENTRY");
            assert_eq!(&told(&status, "key"), name, "{call}");
            assert_eq!(without_list(contents(&raw).await), before, "{call} with {name}");
        }
        // A deletion gets rid of it.
        breakers.delete(key).await;
        assert_stands(&after(breakers.tell_all(key, &[Success]).await), State::Closed, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_refuses_what_would_grow_and_writes_nothing() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = whole(&on, "full-trial").await;
    breakers.tell_all("full", &[Success]).await;
    breakers.trip("full-due", Duration::from_millis(1)).await;
    breakers.trip("full-open", Duration::from_hours(1)).await;
    raw.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    let before = contents(&raw).await;
    raw.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    for key in ["full", "full-new", "full-trial", "full-open"] {
        for call in CALLS {
            let outcome = make(&breakers, call, key).await;
            let grows = match call {
                "get" | "log" => false,
                // Without permit it counts in CLOSED alone.
                "report" => !["full-trial", "full-open"].contains(&key),
                // Where a lease is given.
                "acquire" => key == "full-trial",
                _ => true,
            };
            if grows {
                assert_refused(outcome, Code::ResourceExhausted, "REDIS_OUT_OF_MEMORY");
            } else {
                outcome.unwrap_or_else(|status| panic!("{call} of {key}: {status:?}"));
            }
        }
    }
    let outcome = breakers.acquire(asking("full-due")).await;
    assert_refused(outcome, Code::ResourceExhausted, "REDIS_OUT_OF_MEMORY");
    assert_eq!(contents(&raw).await, before, "nothing was written");
    breakers.delete("full-open").await;
    assert!(breakers.ask("full-open").await.admitted);

    raw.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert!(breakers.ask("full-due").await.admitted);
    assert_eq!(after(breakers.tell_all("full", &[Failure]).await).calls, 2);
}
