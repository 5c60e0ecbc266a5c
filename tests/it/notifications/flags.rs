//! Which events Redis publishes: completed where we may, never taken away, and told where we may not.

use super::{Subscriber, breaker, flags_of, set_flags};
use crate::support::{redis_options::RedisOptions, redis_server::RedisServer};

const FLAGS: &str = "notify-keyspace-events";
/// A user who may do everything but what follows.
const ALL: &str = "~* &* +@all";

async fn server(flags: &str) -> RedisServer {
    RedisServer::start(RedisOptions::unix_socket().config(FLAGS, flags)).await
}

#[tokio::test]
async fn missing_flags_are_added_and_none_is_taken_away() {
    for (given, expected) in
        [("", "Keghx"), ("Elx", "EKeghlx"), ("Kg", "Keghx"), ("KEA", "AEK"), ("Em", "EKeghmx")]
    {
        let redis = server(given).await;
        let subscriber = Subscriber::on(&redis.url());
        subscriber.rings().await;
        assert_eq!(flags_of(&redis.raw().await).await, expected, "{given:?}");
    }
}

#[tokio::test]
async fn a_refused_config_is_told_with_what_the_operator_must_set() {
    let options = RedisOptions::unix_socket().acl_user("app", "pw", &format!("{ALL} -config"));
    let redis = RedisServer::start(options).await;
    let subscriber = Subscriber::on(&redis.url_as("app", "pw"));
    let reason = subscriber.is_silent_because("CONFIG GET was refused").await;
    assert!(reason.contains("notify-keyspace-events must contain K g h x e"), "{reason}");
    // As soon as someone does.
    set_flags(&redis.raw().await, "Kghxe").await;
    subscriber.rings().await;
}

#[tokio::test]
async fn a_config_that_may_be_read_but_not_set_is_told_with_what_is_missing() {
    let options = RedisOptions::unix_socket()
        .acl_user("app", "pw", &format!("{ALL} -config +config|get"))
        .config(FLAGS, "Kgx");
    let redis = RedisServer::start(options).await;
    let subscriber = Subscriber::on(&redis.url_as("app", "pw"));
    let reason = subscriber.is_silent_because("CONFIG SET was refused").await;
    assert!(reason.contains("lacks h e"), "{reason}");
    assert_eq!(flags_of(&redis.raw().await).await, "Kgx");
}

#[tokio::test]
async fn an_unknown_config_command_is_no_hindrance_where_the_flags_are_set() {
    let options = RedisOptions::unix_socket().config("rename-command", r#"CONFIG """#).config(FLAGS, "AKE");
    let redis = RedisServer::start(options).await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    redis.raw().await.run(&["HSET", "circuit_breaker:m", "state", "OPEN"]).await;
    subscriber.rang(&breaker("m")).await;
}

#[tokio::test]
async fn events_of_expiry_alone_do_not_count_as_ringing() {
    // The probe's expiry rings with these flags, its write does not.
    let options =
        RedisOptions::unix_socket().acl_user("app", "pw", &format!("{ALL} -config")).config(FLAGS, "Kgxe");
    let redis = RedisServer::start(options).await;
    let subscriber = Subscriber::on(&redis.url_as("app", "pw"));
    subscriber.is_silent_because("CONFIG GET was refused").await;
}

#[tokio::test]
async fn a_user_without_channels_polls_and_is_told_why() {
    let options = RedisOptions::unix_socket().acl_user("app", "pw", "~* resetchannels +@all");
    let redis = RedisServer::start(options).await;
    let subscriber = Subscriber::on(&redis.url_as("app", "pw"));
    subscriber.is_silent_because("channel").await;
}
