//! Faults that are outages: the call that notices is answered from memory in time, later ones do not wait.

use fusewire::grpc::proto::Authority;
use tokio::{task::JoinSet, time::Instant};

use super::{ANSWERED, SOON};
use crate::support::{
    behind_proxy::{BehindProxy, quick},
    eventually::eventually,
    redis_options::RedisOptions,
    threads::{ids, numbered},
};

/// Breaks and mends a way to Redis, with calls before, meanwhile and afterwards.
async fn assert_outage(
    mut on: BehindProxy,
    fail: impl AsyncFnOnce(&mut BehindProxy),
    mend: impl AsyncFnOnce(&mut BehindProxy),
) {
    let threads = on.threads();
    threads.create("held").await;
    threads.append("held", numbered(1, 3)).await;

    fail(&mut on).await;
    let began = Instant::now();
    let noticed = threads.append("held", numbered(4, 4)).await;
    let took = began.elapsed();
    eprintln!("the call that noticed took {took:?}");
    assert_eq!((noticed.authority(), noticed.messages[0].provisional), (Authority::Local, true));
    assert!(took < ANSWERED, "{took:?}");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(threads.peek("held").await.unwrap().message_count, 4);
    }
    let took = began.elapsed();
    eprintln!("20 later calls took {took:?}");
    // Had each of them waited for Redis, it would be 4 s at least.
    assert!(took < ANSWERED, "{took:?}");
    on.is_lost().await;

    mend(&mut on).await;
    on.is_back().await;
    // The append that memory accepted may have reached Redis as well; the retry makes that no difference.
    let again = threads.append("held", numbered(4, 4)).await;
    assert_eq!(again.authority(), Authority::Shared);
    assert_eq!(ids(&threads.messages("held").await), ["m1", "m2", "m3", "m4"]);
    on.assert_told(1).await;
}

#[tokio::test]
async fn connections_cut_and_refused() {
    assert_outage(
        BehindProxy::start().await,
        async |on| {
            on.proxy.refuse().await;
            on.proxy.cut().await;
        },
        async |on| on.proxy.forward().await,
    )
    .await;
}

#[tokio::test]
async fn a_network_that_moves_nothing() {
    let fail = async |on: &mut BehindProxy| on.proxy.freeze().await;
    let mend = async |on: &mut BehindProxy| on.proxy.forward().await;
    assert_outage(BehindProxy::start().await, fail, mend).await;
}

#[tokio::test]
async fn replies_that_never_arrive() {
    let fail = async |on: &mut BehindProxy| on.proxy.drop_replies().await;
    let mend = async |on: &mut BehindProxy| on.proxy.forward().await;
    assert_outage(BehindProxy::start().await, fail, mend).await;
}

#[tokio::test]
async fn a_killed_redis_that_comes_back_with_its_data() {
    let on = BehindProxy::start_with(RedisOptions::tcp().append_only(), quick()).await;
    assert_outage(on, async |on| on.redis.kill(), async |on| on.redis.restart().await).await;
}

#[tokio::test]
async fn a_stopped_redis() {
    let fail = async |on: &mut BehindProxy| on.redis.stop_signal();
    let mend = async |on: &mut BehindProxy| on.redis.continue_signal();
    assert_outage(BehindProxy::start().await, fail, mend).await;
}

#[tokio::test]
async fn a_primary_that_became_a_replica() {
    let fail = async |on: &mut BehindProxy| {
        on.redis.raw().await.run(&["REPLICAOF", "127.0.0.1", "1"]).await;
    };
    let mend = async |on: &mut BehindProxy| {
        on.redis.raw().await.run(&["REPLICAOF", "NO", "ONE"]).await;
    };
    assert_outage(BehindProxy::start().await, fail, mend).await;
}

#[tokio::test]
async fn a_replica_too_few() {
    let fail = async |on: &mut BehindProxy| {
        on.redis.raw().await.run(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    };
    let mend = async |on: &mut BehindProxy| {
        on.redis.raw().await.run(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    };
    assert_outage(BehindProxy::start().await, fail, mend).await;
}

#[tokio::test]
async fn a_disk_that_takes_no_snapshot() {
    let redis = RedisOptions::tcp().config("save", "3600 1").config("enable-protected-configs", "yes");
    let on = BehindProxy::start_with(redis, quick()).await;
    let fail = async |on: &mut BehindProxy| {
        let raw = on.redis.raw().await;
        // Where nobody can make a file.
        raw.run(&["CONFIG", "SET", "dir", "/proc"]).await;
        raw.run(&["BGSAVE"]).await;
        eventually("the snapshot failed", SOON, async || {
            raw.get::<String>(&["INFO", "persistence"]).await.contains("rdb_last_bgsave_status:err")
        })
        .await;
    };
    let mend = async |on: &mut BehindProxy| {
        on.redis.raw().await.run(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await;
    };
    assert_outage(on, fail, mend).await;
}

#[tokio::test]
async fn a_script_of_another_that_does_not_end() {
    let redis = RedisOptions::tcp().config("lua-time-limit", "10");
    let on = BehindProxy::start_with(redis, quick()).await;
    let mut running = JoinSet::new();
    let fail = async |on: &mut BehindProxy| {
        let raw = on.redis.raw().await;
        running.spawn(async move {
            let _: redis::RedisResult<()> = raw.try_get(&["EVAL", "while true do end", "0"]).await;
        });
        let raw = on.redis.raw().await;
        eventually("redis is busy", SOON, async || {
            raw.try_get::<()>(&["GET", "x"]).await.is_err_and(|error| error.code() == Some("BUSY"))
        })
        .await;
    };
    let mend = async |on: &mut BehindProxy| {
        on.redis.raw().await.run(&["SCRIPT", "KILL"]).await;
    };
    assert_outage(on, fail, mend).await;
}

#[tokio::test]
async fn many_calls_at_once_when_redis_freezes_are_all_answered_in_time() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("held").await;
    on.proxy.freeze().await;
    let mut calls = JoinSet::new();
    for n in 0..40 {
        let threads = threads.clone();
        calls.spawn(async move {
            let began = Instant::now();
            let made = threads.append("held", numbered(n, n)).await;
            (made.authority(), began.elapsed())
        });
    }
    let answers = calls.join_all().await;
    let slowest = answers.iter().map(|(_, took)| *took).max().unwrap();
    eprintln!("the slowest of 40 took {slowest:?}");
    assert!(answers.iter().all(|(authority, _)| *authority == Authority::Local));
    assert!(slowest < ANSWERED, "{slowest:?}");
    assert_eq!(threads.peek("held").await.unwrap().message_count, 40);
    on.proxy.forward().await;
    on.is_back().await;
    on.assert_told(1).await;
}

#[tokio::test]
async fn later_calls_do_not_try_redis_at_all() {
    let on = BehindProxy::start().await;
    let threads = on.threads();
    threads.create("held").await;
    let raw = on.redis.raw().await;
    raw.run(&["CONFIG", "RESETSTAT"]).await;
    on.proxy.freeze().await;
    threads.append("held", numbered(1, 1)).await;
    for n in 2..50 {
        threads.append("held", numbered(n, n)).await;
        threads.peek("held").await.unwrap();
    }
    // What was sent into the freeze arrives now.
    on.proxy.forward().await;
    on.is_back().await;
    let stats: String = raw.get(&["INFO", "commandstats"]).await;
    let scripts = stats.lines().find(|line| line.starts_with("cmdstat_evalsha")).unwrap_or("calls=0,");
    assert!(scripts.contains("calls=0,") || scripts.contains("calls=1,"), "{scripts}");
}
