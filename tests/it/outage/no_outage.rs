//! What looks like an outage and is none: calls are answered by Redis, or its own refusal is told.

use std::sync::atomic::{AtomicBool, Ordering};

use fusewire::grpc::proto::Authority;
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

use crate::support::{
    behind_proxy::BehindProxy,
    fusewire::FusewireOptions,
    redis_options::RedisOptions,
    threads::{appending, assert_refused, numbered, user},
};

#[tokio::test]
async fn a_slow_command_is_waited_for_when_the_probe_is_answered() {
    let redis = RedisOptions::tcp().config("enable-debug-command", "yes");
    let on = BehindProxy::start_with(redis, FusewireOptions::unix_socket()).await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    let sleeping = AtomicBool::new(true);
    let sleep = async {
        raw.run(&["DEBUG", "SLEEP", "0.15"]).await;
        sleeping.store(false, Ordering::Relaxed);
    };
    let calls = async {
        let mut slowest = std::time::Duration::ZERO;
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
    assert!(slowest.as_millis() > 100, "{slowest:?}");
    on.assert_told(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_connections_fail_no_call() {
    let on = BehindProxy::start().await;
    let raw = on.redis.raw().await;
    on.threads().create("t").await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let threads = on.threads();
        writers.spawn(async move {
            for n in 0..200 {
                let made =
                    threads.try_append(appending("t", vec![user(&format!("{writer}-{n}"), "x")])).await;
                assert_eq!(made.unwrap().authority(), Authority::Shared);
            }
        });
    }
    let mut kills = 0;
    while writers.try_join_next().is_none_or(|ended| ended.is_ok()) && !writers.is_empty() {
        raw.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        kills += 1;
        // Not waiting for anything: so often that connections are killed under calls, and dialled between.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    writers.join_all().await;
    eprintln!("all connections were killed {kills} times");
    assert_eq!(on.threads().peek("t").await.unwrap().message_count, 1600);
    on.assert_told(0);
}

#[tokio::test]
async fn idle_connections_that_were_killed_are_not_noticed_by_callers() {
    let on = BehindProxy::start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    for n in 0..20 {
        raw.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        assert_eq!(threads.append("t", numbered(n, n)).await.authority(), Authority::Shared);
    }
    on.assert_told(0);
}

#[tokio::test]
async fn a_redis_at_its_maxmemory_refuses_writes_and_goes_on() {
    let on = BehindProxy::start().await;
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
    on.assert_told(0);
}

#[tokio::test]
async fn forgotten_scripts_are_sent_again() {
    let on = BehindProxy::start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("t").await;
    for n in 1..=3 {
        raw.run(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(threads.append("t", numbered(n, n)).await.authority(), Authority::Shared);
    }
    on.assert_told(0);
}
