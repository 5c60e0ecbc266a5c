//! The caller's deadline: kept to the store call, told as what it is, and a bound for what a frozen Redis may still do.

use std::time::Duration;

use fusewire::grpc::proto::{AppendMessagesResponse, Authority, GetThreadRequest, GetThreadResponse};
use tokio::time::Instant;
use tonic::Code;

use crate::support::{
    behind_proxy::BehindProxy,
    eventually::eventually,
    fusewire::FusewireOptions,
    raw::Raw,
    raw_call::RawCall,
    redis_options::RedisOptions,
    threads::{appending, assert_refused, ids, numbered},
};

const SOON: Duration = Duration::from_secs(15);
/// A test's bound for calls with 50 ms to go: machines are shared.
const ANSWERED: Duration = Duration::from_secs(1);

/// Time enough for a write to be sent, and less than it takes to find out that Redis is frozen.
const SENT: &str = "90m";

async fn started() -> BehindProxy {
    BehindProxy::start_with(RedisOptions::tcp(), FusewireOptions::tcp()).await
}

async fn redis_now(raw: &Raw) -> i64 {
    let (seconds, micros): (i64, i64) = raw.get(&["TIME"]).await;
    seconds * 1000 + micros / 1000
}

async fn scripts_run(raw: &Raw) -> usize {
    let stats: String = raw.get(&["INFO", "commandstats"]).await;
    let Some(line) = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")) else { return 0 };
    let calls = line.split("calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.expect("calls=…").parse().expect("a number")
}

#[tokio::test]
async fn a_call_past_its_deadline_is_told_so_and_not_cancelled() {
    let on = started().await;
    on.threads().create("t").await;
    on.proxy.freeze().await;
    for method in ["GetThread", "AppendMessages"] {
        let call = RawCall::begin(&on.service, method, Some("50m")).await;
        let began = Instant::now();
        let status = if method == "GetThread" {
            let request = GetThreadRequest { thread_id: "t".into(), ..Default::default() };
            assert_refused(
                call.finish::<GetThreadResponse>(&request).await,
                Code::DeadlineExceeded,
                "DEADLINE",
            )
        } else {
            let request = appending("t", numbered(1, 1));
            assert_refused(
                call.finish::<AppendMessagesResponse>(&request).await,
                Code::DeadlineExceeded,
                "DEADLINE",
            )
        };
        let took = began.elapsed();
        eprintln!("{method} with 50 ms to go was answered after {took:?}: {}", status.message());
        assert!(took < ANSWERED, "{took:?}");
    }
}

#[tokio::test]
async fn a_deadline_that_is_kept_changes_nothing() {
    let on = started().await;
    on.threads().create("t").await;
    let call = RawCall::begin(&on.service, "AppendMessages", Some("10S")).await;
    let made: AppendMessagesResponse = call.finish(&appending("t", numbered(1, 1))).await.unwrap();
    assert_eq!((made.authority(), made.messages[0].seq), (Authority::Shared, 1));
}

#[tokio::test]
async fn a_write_given_up_is_not_made_when_redis_thaws_long_after() {
    let on = started().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    threads.append("t", numbered(1, 1)).await;
    raw.run(&["CONFIG", "RESETSTAT"]).await;
    on.proxy.freeze().await;
    let call = RawCall::begin(&on.service, "AppendMessages", Some(SENT)).await;
    let given_up = call.finish::<AppendMessagesResponse>(&appending("t", numbered(2, 2))).await;
    assert_refused(given_up, Code::DeadlineExceeded, "DEADLINE");
    // The write may begin until a second after the deadline, by the clock of Redis.
    let latest = redis_now(&raw).await + 1_000;
    eventually("the write is too late", SOON, async || redis_now(&raw).await > latest).await;
    on.proxy.forward().await;
    eventually("the write has arrived", SOON, async || scripts_run(&raw).await >= 1).await;
    on.is_back().await;
    assert_eq!(ids(&threads.messages("t").await), ["m1"]);
    let made = threads.append("t", numbered(2, 2)).await;
    assert_eq!((made.messages[0].seq, made.messages[0].duplicate), (2, false));
}

#[tokio::test]
async fn a_write_given_up_may_be_made_by_a_redis_that_thaws_at_once_and_is_then_a_duplicate() {
    let on = started().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    raw.run(&["CONFIG", "RESETSTAT"]).await;
    on.proxy.freeze().await;
    let call = RawCall::begin(&on.service, "AppendMessages", Some(SENT)).await;
    let given_up = call.finish::<AppendMessagesResponse>(&appending("t", numbered(1, 1))).await;
    assert_refused(given_up, Code::DeadlineExceeded, "DEADLINE");
    on.proxy.forward().await;
    eventually("the write has arrived", SOON, async || scripts_run(&raw).await >= 1).await;
    on.is_back().await;
    threads.append("t", numbered(1, 1)).await;
    assert_eq!(ids(&threads.messages("t").await), ["m1"]);
}
