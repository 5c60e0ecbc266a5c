//! What may have been missed: noticed within two seconds, and looked at again.

use std::time::Duration;

use fusewire::redis::Ring;
use tokio::time::Instant;

use super::{SOON, Subscriber, breaker, flags_of, set_flags};
use crate::support::{
    chaos_proxy::ChaosProxy,
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    redis_options::RedisOptions,
    redis_server::RedisServer,
};

/// What the design bounds at 2 s, with room for a loaded machine.
const NOTICED: Duration = Duration::from_millis(2500);

const RINGS: &str = "keyspace notifications ring";
const DEAF: &str = "keyspace notifications do not ring";
const LOST: &str = "not subscribed to keyspace notifications";

async fn server() -> RedisServer {
    RedisServer::start(RedisOptions::unix_socket()).await
}

#[tokio::test]
async fn everything_is_looked_at_when_listening_begins() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    assert_eq!(subscriber.heard(), [Ring::Everything]);
}

#[tokio::test]
async fn flags_switched_off_by_hand_are_noticed_and_not_fought_over() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let (raw, began) = (redis.raw().await, Instant::now());
    set_flags(&raw, "").await;
    subscriber.is_silent_because("it was changed to \"\"").await;
    let took = began.elapsed();
    eprintln!("noticed after {took:?}");
    assert!(took < NOTICED + Duration::from_secs(1), "{took:?}");
    assert_eq!(flags_of(&raw).await, "");
    let times = subscriber.count(&Ring::Everything);
    set_flags(&raw, "Kghxe").await;
    subscriber.rings().await;
    assert_eq!(subscriber.count(&Ring::Everything), times + 1);
}

#[tokio::test]
async fn where_only_changes_of_hashes_ring_deletions_would_go_unheard() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let raw = redis.raw().await;
    set_flags(&raw, "Kh").await;
    subscriber.is_silent_because("lacks g").await;
    set_flags(&raw, "Kghxe").await;
    subscriber.rings().await;
}

#[tokio::test]
async fn a_killed_connection_is_replaced_and_everything_looked_at() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let raw = redis.raw().await;
    for times in 1..4 {
        let killed: u32 = raw.get(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(killed, 1);
        subscriber.rang_beyond(&Ring::Everything, times).await;
        subscriber.rings().await;
    }
    raw.run(&["HSET", "circuit_breaker:m", "state", "OPEN"]).await;
    subscriber.rang(&breaker("m")).await;
}

#[tokio::test]
async fn a_restarted_redis_has_forgotten_the_flags_and_gets_them_again() {
    let mut redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    redis.kill();
    subscriber.is_silent_because("redis cannot be used").await;
    redis.restart_empty().await;
    subscriber.rings().await;
    assert_eq!(flags_of(&redis.raw().await).await, "Keghx");
    assert!(subscriber.count(&Ring::Everything) >= 2);
}

#[tokio::test]
async fn a_subscriber_that_began_without_redis_listens_once_it_is_there() {
    let mut redis = server().await;
    redis.kill();
    let subscriber = Subscriber::on(&redis.url());
    subscriber.is_silent_because("redis cannot be used").await;
    redis.restart().await;
    subscriber.rings().await;
}

#[tokio::test]
async fn flushed_data_rings_nothing_and_is_noticed() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let raw = redis.raw().await;
    for (times, command) in ["FLUSHALL", "FLUSHDB"].into_iter().enumerate() {
        let began = Instant::now();
        raw.run(&[command]).await;
        subscriber.rang_beyond(&Ring::Everything, times + 1).await;
        eprintln!("{command} noticed after {:?}", began.elapsed());
        subscriber.rings().await;
    }
}

#[tokio::test]
async fn nothing_is_looked_at_again_while_all_is_well() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let raw = redis.raw().await;
    let probes = async || raw.get::<u32>(&["HEXISTS", "fusewire:doorbell:me", "rings"]).await;
    assert_eq!(probes().await, 1);
    // The key is written anew each second: several beats of it pass here.
    let beats = async || {
        let stats: String = raw.get(&["INFO", "commandstats"]).await;
        let hset = stats.lines().find(|line| line.starts_with("cmdstat_hset:")).unwrap_or_default();
        hset.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u32>().ok()).unwrap_or_default()
    };
    eventually("the subscriber rings itself", SOON, async || beats().await >= 4).await;
    assert_eq!(subscriber.heard(), [Ring::Everything]);
    let left: u32 = raw.get(&["TTL", "fusewire:doorbell:me"]).await;
    assert!((50..=60).contains(&left), "{left}");
}

#[tokio::test]
async fn a_frozen_server_is_not_trusted() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let proxy = ChaosProxy::start(redis.addr());
    let subscriber = Subscriber::on(&format!("redis://{}", proxy.addr()));
    subscriber.rings().await;
    proxy.freeze().await;
    let began = Instant::now();
    eventually("the doorbell is not trusted", SOON, async || !subscriber.doorbell.is_trusted()).await;
    let took = began.elapsed();
    eprintln!("not trusted after {took:?}");
    assert!(took < NOTICED, "{took:?}");
    // Had it thawed at this very moment, nothing would have been lost.
    subscriber.is_silent_because("timed out").await;
    let times = subscriber.count(&Ring::Everything);
    proxy.forward().await;
    subscriber.rang_beyond(&Ring::Everything, times).await;
    subscriber.rings().await;
}

#[tokio::test]
async fn each_change_is_logged_once() {
    let mut redis = server().await;
    let options = FusewireOptions::unix_socket().var("REDIS_URL", &redis.url());
    let service = Fusewire::start(options).await;
    service.wait_for_log(RINGS, SOON).await;
    set_flags(&redis.raw().await, "").await;
    let line = service.wait_for_log(DEAF, SOON).await;
    assert!(line.contains("WARN") && line.contains("lacks K g h x e"), "{line}");
    redis.kill();
    service.wait_for_log(LOST, SOON).await;
    redis.restart().await;
    eventually("they ring again", SOON, async || service.logged(RINGS) == 2).await;
    assert_eq!((service.logged(DEAF), service.logged(LOST)), (1, 1), "{:#?}", service.log());
}
