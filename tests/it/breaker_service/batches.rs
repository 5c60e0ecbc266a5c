//! Reports on one key that travel together: what they cost, and that each one counts once.

use std::{sync::Arc, time::Duration};

use fusewire::grpc::proto::{
    Authority, Disposition,
    Outcome::{Failure, Success},
    State,
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::support::{
    behind_proxy::BehindProxy,
    breakers::{Breakers, SOON, after, assert_stands, in_a_row, unpermitted},
    deployment::{Deployment, Store},
    eventually::eventually,
    raw::Raw,
    redis_options::RedisOptions,
};

/// Scripts that Redis ran so far.
async fn scripts(raw: &Raw) -> usize {
    let info: String = raw.get(&["INFO", "commandstats"]).await;
    let calls = |line: &str| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok();
    info.lines().find_map(calls).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_of_a_crowd_share_scripts_and_each_is_answered_after_its_own() {
    let on = BehindProxy::start_patient(RedisOptions::tcp()).await;
    let (breakers, raw) = (on.breakers(), on.redis.raw().await);
    breakers.set("crowd", in_a_row(1_000_000)).await;
    breakers.tell_all("crowd", &[Success]).await;
    // A round trip that dwarfs what a busy machine adds.
    on.proxy.delay(Duration::from_millis(20)).await;
    let before = scripts(&raw).await;
    let start = Arc::new(Barrier::new(100));
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        let (breakers, start) = (breakers.clone(), Arc::clone(&start));
        callers.spawn(async move {
            start.wait().await;
            let mut seen = 1;
            for _ in 0..20 {
                let answer =
                    breakers.report(unpermitted("crowd", Failure)).await.expect("the report is taken");
                assert_eq!(answer.disposition(), Disposition::Applied);
                let calls = after(answer).calls;
                assert!(calls > seen, "{calls} after {seen}: an answer tells its own report and all before");
                seen = calls;
            }
            seen
        });
    }
    let seen = callers.join_all().await;
    let cost = scripts(&raw).await - before;
    on.proxy.forward().await;
    let all = breakers.get("crowd").await;
    assert_eq!((all.calls, all.failures, all.consecutive_failures), (2001, 2000, 2000));
    assert_eq!(seen.into_iter().max(), Some(2001));
    eprintln!("2,000 reports took {cost} scripts");
    assert!(cost <= 200, "{cost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_on_an_idle_key_is_one_script() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    breakers.tell_all("idle", &[Success]).await;
    for _ in 0..5 {
        let before = scripts(&raw).await;
        breakers.tell_all("idle", &[Success]).await;
        assert_eq!(scripts(&raw).await - before, 1);
    }
    // So is a permit, in every state where nothing is due.
    breakers.trip("idle-open", Duration::from_hours(1)).await;
    for key in ["idle", "idle-open", "idle-new"] {
        breakers.ask(key).await;
        let before = scripts(&raw).await;
        breakers.ask(key).await;
        assert_eq!(scripts(&raw).await - before, 1, "{key}");
    }
}

/// Holds every write of clients but the test's own until `CLIENT UNPAUSE`.
async fn pause(raw: &Raw) {
    raw.run(&["CLIENT", "PAUSE", "9000", "WRITE"]).await;
}

async fn is_held(raw: &Raw) -> bool {
    let clients: String = raw.get(&["CLIENT", "LIST"]).await;
    clients.lines().any(|client| client.contains(" cmd=evalsha") && client.contains(" flags=b"))
}

/// Sends a report and goes away before it is answered.
async fn report_and_leave(breakers: &Breakers, raw: &Raw) {
    let (caller, report) = (breakers.clone(), unpermitted("left", Failure));
    let mut call = JoinSet::new();
    call.spawn(async move { caller.report(report).await });
    eventually("the report is at Redis", SOON, async || is_held(raw).await).await;
    assert!(call.try_join_next().is_none(), "it waits");
    call.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_of_a_caller_that_left_counts() {
    let on = Deployment::start(Store::Redis).await;
    let (breakers, raw) = (on.breakers(), on.raw().await);
    breakers.set("left", in_a_row(3)).await;
    breakers.tell_all("left", &[Failure]).await;
    pause(&raw).await;
    report_and_leave(&breakers, &raw).await;
    // One that waits behind it is not taken away with it.
    let (caller, report) = (breakers.clone(), unpermitted("left", Failure));
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { caller.report(report).await });
    raw.run(&["CLIENT", "UNPAUSE"]).await;
    let answer = waiting.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!((answer.disposition(), answer.authority()), (Disposition::Applied, Authority::Shared));
    let open = after(answer);
    assert_stands(&open, State::Open, 1);
    assert_eq!((open.calls, open.failures), (3, 3));
}
