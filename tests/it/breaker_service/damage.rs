//! Values of the wrong type, and a Redis that takes no more: what is refused is not done in part either.

use std::{collections::BTreeMap, time::Duration};

use fusewire::grpc::proto::{
    GetBreakerRequest, ListBreakersRequest, ListTransitionsRequest, Mode,
    Outcome::{Cancelled, Failure, InvalidRequest, Success},
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
    raw::Raw,
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_breaker_does_not_hide_the_others_from_a_list() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    for key in ["a", "b", "c"] {
        breakers.tell_all(key, &[Success]).await;
    }
    raw.run(&["HSET", "circuit_breaker:a", "state", "AJAR"]).await;
    raw.run(&["ZADD", "circuit_breakers", "1", "no key of ours"]).await;
    let listed = breakers.list_breakers(ListBreakersRequest::default()).await.expect("a list").breakers;
    assert_eq!(listed.iter().map(|breaker| breaker.model_key.as_str()).collect::<Vec<_>>(), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_read_leave_the_policy_in_force_and_can_be_set_anew() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    let stored = &names(&on, "unreadable")[3];
    raw.run(&["HSET", stored, "revision", "by hand", "open_duration", "0ms"]).await;
    assert!(breakers.ask("unreadable").await.admitted);
    let policy = breakers.get("unreadable").await.settings.expect("settings");
    assert_eq!(policy.consecutive_failures, 5, "of the policy llm");
    breakers.set("unreadable", in_a_row(1)).await;
    assert_stands(&after(breakers.tell_all("unreadable", &[Failure]).await), State::Open, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neutral_reports_leave_no_seconds_in_the_window() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    breakers.tell_all("neutral", &[Cancelled, InvalidRequest]).await;
    let window = &names(&on, "neutral")[1];
    let seconds = async |raw: &Raw| {
        let fields: Vec<String> = raw.get(&["HKEYS", window]).await;
        fields.into_iter().filter(|field| field.parse::<u64>().is_ok()).count()
    };
    assert_eq!(seconds(&raw).await, 0);
    breakers.tell_all("neutral", &[Success]).await;
    assert_eq!(seconds(&raw).await, 1);
}
