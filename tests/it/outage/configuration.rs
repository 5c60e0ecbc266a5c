//! A configuration that Redis refuses is never hidden behind local answers, and heals when it is corrected there.

use fusewire::grpc::proto::Authority;
use tokio::time::timeout;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{SOON, assert_unavailable};
use crate::support::{
    behind_proxy::{BACK, LOST},
    breakers::Breakers,
    eventually::eventually,
    fusewire::{Fusewire, FusewireOptions},
    health::check,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    threads::{Threads, appending, numbered, thread},
    watch::all,
};

const REFUSED: &str = "redis refuses this configuration: calls fail until it is corrected";

async fn started(url: &str) -> (Fusewire, Threads) {
    let service = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", url)).await;
    let threads = Threads::on(service.channel().await);
    (service, threads)
}

/// Checks that nothing is answered from memory, and that callers are told what is wrong.
async fn assert_refused_for_configuration(service: &Fusewire, threads: &Threads) {
    let status = assert_unavailable("create", threads.try_create(thread("new")).await);
    assert!(status.message().contains("configuration"), "{status:?}");
    let status = assert_unavailable("append", threads.try_append(appending("t", numbered(9, 9))).await);
    assert!(status.message().contains("configuration"), "{status:?}");
    let status = assert_unavailable("get", threads.peek("t").await);
    assert!(status.message().contains("configuration"), "{status:?}");
    let channel = service.channel().await;
    let mut breakers = Breakers::on([channel.clone()]).client();
    let watch = timeout(SOON, breakers.watch_breakers(all())).await.expect("it is refused at once");
    let status = assert_unavailable("watch", watch);
    assert!(status.message().contains("configuration"), "{status:?}");
    assert_eq!(check(&channel, "redis").await.unwrap(), ServingStatus::NotServing);
    assert_eq!(check(&channel, "").await.unwrap(), ServingStatus::Serving);
    assert!(service.logged(REFUSED) == 1 && service.logged(LOST) == 0, "{:#?}", service.log());
}

async fn assert_heals(service: &Fusewire, threads: &Threads) {
    eventually("calls are answered", SOON, async || threads.try_create(thread("healed")).await.is_ok()).await;
    assert_eq!(threads.append("healed", numbered(1, 1)).await.authority(), Authority::Shared);
    service.wait_for_log(BACK, SOON).await;
}

#[tokio::test]
async fn a_wrong_password_at_start() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("right")).await;
    let (service, threads) = started(&redis.url_as("", "wrong")).await;
    assert_refused_for_configuration(&service, &threads).await;
    redis.raw().await.run(&["ACL", "SETUSER", "default", ">wrong"]).await;
    assert_heals(&service, &threads).await;
}

#[tokio::test]
async fn no_password_at_start() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("right")).await;
    let (service, threads) = started(&format!("redis://{}", redis.addr())).await;
    assert_refused_for_configuration(&service, &threads).await;
    redis.raw().await.run(&["ACL", "SETUSER", "default", "nopass"]).await;
    assert_heals(&service, &threads).await;
}

#[tokio::test]
async fn an_unknown_user_at_start() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let (service, threads) = started(&redis.url_as("nobody", "pw")).await;
    assert_refused_for_configuration(&service, &threads).await;
    redis.raw().await.run(&["ACL", "SETUSER", "nobody", "on", ">pw", "~*", "+@all"]).await;
    assert_heals(&service, &threads).await;
}

#[tokio::test]
async fn a_user_without_rights() {
    for rules in ["~* +ping", "~* +ping +info +time", "~other:* +@all"] {
        eprintln!("rules {rules}");
        let redis = RedisServer::start(RedisOptions::tcp().acl_user("poor", "pw", rules)).await;
        let (service, threads) = started(&redis.url_as("poor", "pw")).await;
        assert_refused_for_configuration(&service, &threads).await;
        redis.raw().await.run(&["ACL", "SETUSER", "poor", "~*", "+@all"]).await;
        assert_heals(&service, &threads).await;
    }
}

#[tokio::test]
async fn a_password_changed_while_the_service_runs() {
    let redis = RedisServer::start(RedisOptions::tcp().acl_user("app", "old", "~* +@all")).await;
    let (service, threads) = started(&redis.url_as("app", "old")).await;
    threads.create("t").await;
    threads.append("t", numbered(1, 2)).await;
    let raw = redis.raw().await;
    raw.run(&["ACL", "SETUSER", "app", "resetpass", ">new"]).await;
    raw.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    // Whoever calls first must not be answered from the copy either.
    assert_unavailable("the call that notices", threads.peek("t").await);
    service.wait_for_log(REFUSED, SOON).await;
    assert_refused_for_configuration(&service, &threads).await;
    raw.run(&["ACL", "SETUSER", "app", ">old"]).await;
    assert_heals(&service, &threads).await;
    assert_eq!(threads.peek("t").await.unwrap().message_count, 2);
}

#[tokio::test]
async fn rights_taken_away_while_the_service_runs() {
    let redis = RedisServer::start(RedisOptions::tcp().acl_user("app", "pw", "~* +@all")).await;
    let (service, threads) = started(&redis.url_as("app", "pw")).await;
    threads.create("t").await;
    threads.append("t", numbered(1, 2)).await;
    let raw = redis.raw().await;
    raw.run(&["ACL", "SETUSER", "app", "resetkeys", "~other:*"]).await;
    assert_unavailable("the call that notices", threads.peek("t").await);
    service.wait_for_log(REFUSED, SOON).await;
    assert_refused_for_configuration(&service, &threads).await;
    raw.run(&["ACL", "SETUSER", "app", "~*"]).await;
    assert_heals(&service, &threads).await;
}
