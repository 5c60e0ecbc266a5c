//! What the service tells of itself, with Redis, without it, and in an outage.

use std::time::Duration;

use fusewire::grpc::proto::{
    GetStatusResponse, JournalStatus, NotificationMode, Outcome, RedisKind, ServingMode,
};

use crate::support::{
    behind_proxy::BehindProxy,
    breakers::Breakers,
    fusewire::{Fusewire, FusewireOptions},
    redis_options::RedisOptions,
    redis_server::RedisServer,
    status::{status, status_when},
    threads::{Threads, millis},
};

#[tokio::test]
async fn with_redis_it_tells_which_one_and_that_notifications_ring() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("s3cr3t")).await;
    let service = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &redis.url())).await;
    let channel = service.channel().await;
    let rings = |told: &GetStatusResponse| told.notifications() == NotificationMode::Keyspace;
    let told = status_when(&channel, "notifications ring", rings).await;
    assert_eq!((told.version.as_str(), told.instance_id.len()), (env!("CARGO_PKG_VERSION"), 26));
    assert!(service.logged(&told.instance_id) > 0);
    assert_eq!((told.mode(), told.notifications_detail.as_str()), (ServingMode::Shared, ""));
    assert!(millis(told.start_time) > 0 && millis(told.since) >= millis(told.start_time));
    assert_eq!((told.local_threads, told.local_breakers, told.open_streams), (0, 0, 0));
    assert_eq!(told.journal, Some(JournalStatus::default()));
    let seen = told.redis.unwrap();
    assert_eq!(seen.url, format!("redis://default:***@{}/0", redis.addr()));
    assert_eq!((seen.kind(), seen.last_error.as_str()), (RedisKind::Standalone, ""));
    let info: String = redis.raw().await.get(&["INFO", "server"]).await;
    assert!(info.contains(&format!("redis_version:{}\r\n", seen.server_version)), "{}", seen.server_version);
    let round_trip = Duration::try_from(seen.round_trip.unwrap()).unwrap();
    assert!((Duration::from_micros(1)..Duration::from_secs(1)).contains(&round_trip), "{round_trip:?}");
}

#[tokio::test]
async fn a_cluster_is_told_as_one() {
    let redis = RedisServer::start(RedisOptions::cluster()).await;
    let service = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &redis.url())).await;
    let told = status(&service.channel().await).await;
    assert_eq!(told.redis.unwrap().kind(), RedisKind::Cluster);
}

#[tokio::test]
async fn without_redis_it_tells_nothing_of_it() {
    let service = Fusewire::start(FusewireOptions::unix_socket().var("USE_REDIS", "false")).await;
    let channel = service.channel().await;
    let told = status(&channel).await;
    assert_eq!((told.mode(), told.since), (ServingMode::Local, told.start_time));
    assert_eq!((told.redis, told.notifications_detail.as_str()), (None, ""));
    assert_eq!(NotificationMode::try_from(told.notifications), Ok(NotificationMode::Unspecified));

    let threads = Threads::on(channel.clone());
    threads.create("one").await;
    threads.create("two").await;
    Breakers::on([channel.clone()]).tell_all("m", &[Outcome::Failure]).await;
    let told = status(&channel).await;
    assert_eq!((told.local_threads, told.local_breakers), (2, 1));
}

#[tokio::test]
async fn copies_of_threads_and_breakers_of_an_outage_are_counted() {
    let on = BehindProxy::start().await;
    on.threads().create("t").await;
    let told = status(&on.channel).await;
    assert_eq!((told.local_threads, told.local_breakers), (1, 0));
    on.lose().await;
    on.breakers().tell_all("m", &[Outcome::Failure]).await;
    assert_eq!(status(&on.channel).await.local_breakers, 1);
}

#[tokio::test]
async fn an_outage_is_told_with_its_cause_and_over_when_it_is() {
    let mut on = BehindProxy::start().await;
    let before = status(&on.channel).await;
    on.proxy.freeze().await;
    on.is_lost().await;
    let told = status_when(&on.channel, "notifications do not ring", |told| {
        told.notifications() == NotificationMode::Polling
    })
    .await;
    assert_eq!(told.mode(), ServingMode::Degraded);
    assert!(millis(told.since) > millis(before.since), "{told:#?}");
    assert!(!told.notifications_detail.is_empty(), "{told:#?}");
    let seen = told.redis.unwrap();
    assert!(seen.last_error.contains("redis did not answer"), "{seen:#?}");
    assert_eq!(seen.server_version, before.redis.unwrap().server_version);

    on.redis.restart().await;
    on.restore().await;
    let told = status_when(&on.channel, "notifications ring again", |told| {
        told.notifications() == NotificationMode::Keyspace
    })
    .await;
    assert_eq!((told.mode(), told.redis.unwrap().last_error.as_str()), (ServingMode::Shared, ""));
}

#[tokio::test]
async fn a_redis_that_was_not_there_at_the_start_is_recognised_later() {
    let mut redis = RedisServer::start(RedisOptions::tcp()).await;
    redis.kill();
    let service = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &redis.url())).await;
    let channel = service.channel().await;
    let seen = status(&channel).await.redis.unwrap();
    assert_eq!((seen.server_version.as_str(), seen.round_trip), ("", None));
    assert!(seen.last_error.contains("redis cannot be used"), "{seen:#?}");
    redis.restart().await;
    let is_known = |told: &GetStatusResponse| {
        told.redis.as_ref().is_some_and(|seen| !seen.server_version.is_empty() && seen.last_error.is_empty())
    };
    status_when(&channel, "the server is recognised", is_known).await;
}

#[tokio::test]
async fn polling_is_told_with_what_an_operator_must_do() {
    let redis = RedisServer::start(RedisOptions::tcp().acl_user("app", "pw", "~* &* +@all -config")).await;
    let url = redis.url_as("app", "pw");
    let service = Fusewire::start(FusewireOptions::unix_socket().var("REDIS_URL", &url)).await;
    let told = status_when(&service.channel().await, "the reason is known", |told| {
        told.notifications_detail.contains("CONFIG GET was refused")
    })
    .await;
    assert_eq!((told.notifications(), told.mode()), (NotificationMode::Polling, ServingMode::Shared));
    let detail = told.notifications_detail;
    assert!(detail.contains("notify-keyspace-events must contain K g h x e"), "{detail}");
}
