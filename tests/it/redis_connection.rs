//! Every way to name and reach a Redis, against real servers.

use std::{fmt::Write, time::Duration};

use fusewire::grpc::proto::Authority;

use crate::support::{
    fusewire::{Fusewire, FusewireOptions},
    raw::Raw,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    threads::{Threads, numbered, thread},
};

mod rights;
mod tls;

const SOON: Duration = Duration::from_secs(15);
const KEY: &str = "conversation_thread:{t}";

fn options() -> FusewireOptions {
    FusewireOptions::unix_socket()
}

/// Starts a service, which must serve from Redis, and writes the thread `t`.
async fn serves(options: FusewireOptions) -> Fusewire {
    let service = Fusewire::start(options).await;
    let threads = Threads::on(service.channel().await);
    let made = threads.try_create(thread("t")).await;
    let made = made.unwrap_or_else(|status| panic!("{status:?}\n{:#?}", service.log()));
    assert_eq!(made.authority(), Authority::Shared, "{:#?}", service.log());
    assert_eq!(threads.append("t", numbered(1, 1)).await.authority(), Authority::Shared);
    service
}

async fn has(raw: &Raw, key: &str) -> bool {
    raw.get::<u64>(&["EXISTS", key]).await == 1
}

/// Everything but letters and digits as `%XX`.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").unwrap();
        }
    }
    encoded
}

#[tokio::test]
async fn a_url_without_credentials() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let service = serves(options().var("REDIS_URL", &redis.url())).await;
    service.wait_for_log(&format!("redis=redis://{}/0", redis.addr()), SOON).await;
    assert!(has(&redis.raw().await, KEY).await);
}

#[tokio::test]
async fn a_url_with_a_password_alone() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("s3cr3t")).await;
    for url in [redis.url(), redis.url_as("default", "s3cr3t")] {
        redis.raw().await.run(&["FLUSHALL"]).await;
        let service = serves(options().var("REDIS_URL", &url)).await;
        service.wait_for_log(&format!("***@{}/0", redis.addr()), SOON).await;
        assert_eq!(service.logged("s3cr3t"), 0);
    }
}

#[tokio::test]
async fn user_and_password_are_percent_decoded() {
    let (user, password) = ("w:e@i/rd%us?er#é", "p@s:s/w%o?r#dé+&=");
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let rule = format!(">{password}");
    redis.raw().await.run(&["ACL", "SETUSER", user, "on", &rule, "~*", "+@all"]).await;
    let url = redis.url_as(&encoded(user), &encoded(password));
    let service = serves(options().var("REDIS_URL", &url)).await;
    let who: String = redis.raw().await.get(&["CLIENT", "LIST"]).await;
    assert!(who.contains(&format!("user={user}")), "{who}");
    service.wait_for_log("using redis", SOON).await;
    assert!(service.logged(password) == 0 && service.logged(&encoded(password)) == 0);
}

#[tokio::test]
async fn a_number_of_a_database() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let _service = serves(options().var("REDIS_URL", &format!("{}/3", redis.url()))).await;
    let raw = redis.raw().await;
    assert!(!has(&raw, KEY).await);
    raw.run(&["SELECT", "3"]).await;
    assert!(has(&raw, KEY).await);
    let keyspace: String = raw.get(&["INFO", "keyspace"]).await;
    assert!(!keyspace.contains("db0:"), "{keyspace}");
}

#[tokio::test]
async fn a_unix_socket_by_each_of_its_names() {
    let redis = RedisServer::start(RedisOptions::unix_socket().acl_user("app", "pw", "~* +@all")).await;
    let with_user = redis.url_as("app", "pw");
    for url in [redis.url(), redis.url().replace("redis+unix://", "unix://"), with_user + "&db=2"] {
        redis.raw().await.run(&["FLUSHALL"]).await;
        let service = serves(options().var("REDIS_URL", &url)).await;
        assert_eq!(service.logged("pass=pw"), 0);
        let raw = redis.raw().await;
        raw.run(&["SELECT", if url.contains("db=2") { "2" } else { "0" }]).await;
        assert!(has(&raw, KEY).await, "{url}");
    }
}

#[tokio::test]
async fn parts_are_taken_literally() {
    let password = "p@s:s/w%41rdé";
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let rule = format!(">{password}");
    redis.raw().await.run(&["ACL", "SETUSER", "app", "on", &rule, "~*", "&*", "+@all"]).await;
    let port = redis.addr().port().to_string();
    let parts = options()
        .var("REDIS_HOST", "127.0.0.1")
        .var("REDIS_PORT", &port)
        .var("REDIS_DB", "5")
        .var("REDIS_USERNAME", "app")
        .var("REDIS_PASSWORD", password)
        .var("REDIS_CONNECTION_POOL_SIZE", "2");
    let service = serves(parts).await;
    service.wait_for_log(&format!("redis=redis://app:***@127.0.0.1:{port}/5"), SOON).await;
    assert_eq!(service.logged(password), 0);
    let raw = redis.raw().await;
    raw.run(&["SELECT", "5"]).await;
    assert!(has(&raw, KEY).await);
    service.wait_for_log("keyspace notifications ring", SOON).await;
    // Two in the pool, the probe's own and the subscriber's.
    let clients: String = raw.get(&["CLIENT", "LIST"]).await;
    assert_eq!(clients.lines().filter(|line| line.contains("user=app")).count(), 4, "{clients}");
}

#[tokio::test]
async fn a_password_part_alone_is_the_default_users() {
    let redis = RedisServer::start(RedisOptions::tcp().require_password("s3cr3t")).await;
    let port = redis.addr().port().to_string();
    let parts =
        options().var("REDIS_HOST", "localhost").var("REDIS_PORT", &port).var("REDIS_PASSWORD", "s3cr3t");
    serves(parts).await;
}

#[tokio::test]
async fn a_url_wins_over_the_parts() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let options = options()
        .var("REDIS_URL", &redis.url())
        .var("REDIS_HOST", "no.such.host")
        .var("REDIS_PORT", "1")
        .var("REDIS_DB", "9")
        .var("REDIS_PASSWORD", "wrong");
    serves(options).await;
    assert!(has(&redis.raw().await, KEY).await);
}

#[tokio::test]
async fn redis_is_not_used_when_it_is_switched_off() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    for no in ["false", "0", "no"] {
        let service = Fusewire::start(options().var("USE_REDIS", no).var("REDIS_URL", &redis.url())).await;
        let threads = Threads::on(service.channel().await);
        let made = threads.try_create(thread("t")).await.unwrap();
        assert_eq!(made.authority(), Authority::Local);
    }
    for yes in ["true", "1", "yes"] {
        redis.raw().await.run(&["FLUSHALL"]).await;
        serves(options().var("USE_REDIS", yes).var("REDIS_URL", &redis.url())).await;
    }
    let stats: String = redis.raw().await.get(&["INFO", "clients"]).await;
    assert!(stats.contains("connected_clients:"), "{stats}");
}

#[tokio::test]
async fn a_prefix_is_put_before_every_key() {
    let redis = RedisServer::start(RedisOptions::unix_socket()).await;
    let service =
        serves(options().var("REDIS_URL", &redis.url()).var("FUSEWIRE__REDIS__KEY_PREFIX", "prod:")).await;
    let threads = Threads::on(service.channel().await);
    threads
        .try_create(fusewire::grpc::proto::ConversationThread { owner: "ann".into(), ..thread("o") })
        .await
        .unwrap();
    threads.fork(crate::support::threads::forking("t", "copy")).await.unwrap();
    threads.delete("o").await.unwrap();
    service.wait_for_log("keyspace notifications ring", SOON).await;
    let keys: Vec<String> = redis.raw().await.get(&["KEYS", "*"]).await;
    let names = ["prod:conversation_thread", "prod:fusewire:doorbell:"];
    let is_ours = |key: &String| names.iter().any(|name| key.starts_with(name));
    assert!(keys.len() >= 9 && keys.iter().all(is_ours), "{keys:?}");
}
