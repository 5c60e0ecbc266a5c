//! What looks like an outage and is none: calls are answered by Redis, or its own refusal is told.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fusewire::grpc::proto::Authority;
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

use super::SOON;
use crate::support::{
    behind_proxy::BehindProxy,
    eventually::eventually,
    redis_options::RedisOptions,
    threads::{appending, assert_refused, numbered, user},
};

#[tokio::test]
async fn a_slow_command_is_waited_for_when_the_probe_is_answered() {
    let redis = RedisOptions::tcp().config("enable-debug-command", "yes");
    let on = BehindProxy::start_patient(redis).await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    let sleeping = AtomicBool::new(true);
    let sleep = async {
        // Long enough to raise a doubt, which comes after 1 s, with time left until the verdict after 2 s.
        raw.run(&["DEBUG", "SLEEP", "1.3"]).await;
        sleeping.store(false, Ordering::Relaxed);
    };
    let calls = async {
        let mut slowest = Duration::ZERO;
        let mut n = 0;
        while sleeping.load(Ordering::Relaxed) {
            n += 1;
            let began = Instant::now();
            assert_eq!(threads.append("t", numbered(n, n)).await.authority(), Authority::Shared);
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let ((), slowest) = tokio::join!(sleep, calls);
    eprintln!("the call that met the sleep took {slowest:?}");
    // Longer than what raises a doubt: else this shows nothing.
    assert!(slowest.as_millis() > 1000, "{slowest:?}");
    on.assert_told(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_fail_no_call() {
    let on = BehindProxy::start_patient(RedisOptions::tcp()).await;
    let raw = on.redis.raw().await;
    on.threads().create("t").await;
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let threads = on.threads();
        writers.spawn(async move {
            for n in 0..200 {
                let made =
                    threads.try_append(appending("t", vec![user(&format!("{writer}-{n}"), "x")])).await;
                assert_eq!(made.expect("no call fails").authority(), Authority::Shared);
            }
        });
    }
    let written = async || raw.get::<i64>(&["HGET", "conversation_thread:{t}", "last_seq"]).await;
    // Under calls that go on: each time that some more are answered.
    for kill in 1..=15 {
        raw.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        eventually("calls go on", SOON, async || {
            if let Some(ended) = writers.try_join_next() {
                ended.expect("no call fails");
            }
            written().await >= kill * 50
        })
        .await;
    }
    writers.join_all().await;
    assert_eq!(on.threads().peek("t").await.unwrap().message_count, 800);
    on.assert_told(0).await;
}

#[tokio::test]
async fn idle_connections_that_were_killed_are_not_noticed_by_callers() {
    let on = BehindProxy::start_patient(RedisOptions::tcp()).await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    for n in 0..20 {
        raw.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert_eq!(threads.append("t", numbered(n, n)).await.authority(), Authority::Shared);
    }
    on.assert_told(0).await;
}

#[tokio::test]
async fn a_redis_at_its_maxmemory_refuses_writes_and_goes_on() {
    let on = BehindProxy::start_patient(RedisOptions::tcp()).await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    threads.append("t", numbered(1, 2)).await;
    raw.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for _ in 0..5 {
        let refused = threads.try_append(appending("t", numbered(3, 3))).await;
        let status = assert_refused(refused, Code::ResourceExhausted, "REDIS_OUT_OF_MEMORY");
        assert!(tonic_types::StatusExt::get_details_quota_failure(&status).is_some(), "{status:?}");
    }
    let page = threads.page(crate::support::threads::listing("t")).await.unwrap();
    assert_eq!((page.authority(), page.messages.len()), (Authority::Shared, 2));
    raw.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(threads.append("t", numbered(3, 3)).await.authority(), Authority::Shared);
    on.assert_told(0).await;
}

#[tokio::test]
async fn a_slow_network_is_waited_for() {
    let on = BehindProxy::start_patient(RedisOptions::tcp()).await;
    let threads = on.threads();
    threads.create("t").await;
    let delay = Duration::from_millis(20);
    on.proxy.delay(delay).await;
    for n in 1..=10 {
        let began = Instant::now();
        assert_eq!(threads.append("t", numbered(n, n)).await.authority(), Authority::Shared);
        assert!(began.elapsed() >= delay);
    }
    on.assert_told(0).await;
}

#[tokio::test]
async fn calls_open_no_connections() {
    let on = BehindProxy::start_patient(RedisOptions::tcp()).await;
    let threads = on.threads();
    threads.create("t").await;
    // The pool fills itself behind the first calls: as many as are configured, the probe's own and
    // the subscriber's.
    eventually("the pool is full", SOON, async || on.proxy.accepted() == 6).await;
    for n in 0..200 {
        threads.append("t", numbered(n, n)).await;
    }
    assert_eq!(on.proxy.accepted(), 6);
}

#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let on = BehindProxy::start_patient(RedisOptions::tcp()).await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    for n in 1..=3 {
        raw.run(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(threads.append("t", numbered(n, n)).await.authority(), Authority::Shared);
    }
    on.assert_told(0).await;
}
