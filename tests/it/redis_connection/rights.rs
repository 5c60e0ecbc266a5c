//! The rights that the service needs, and no others.

use fusewire::grpc::proto::{
    BreakerSettings, ConversationThread, Disposition, GetContextRequest, ListBreakersRequest, Mode, Outcome,
    RenewPermitRequest,
};

use super::{options, serves};
use crate::support::{
    breakers::{Breakers, assert_did, half_of_the_last, trial_of},
    fusewire::Fusewire,
    redis_options::RedisOptions,
    redis_server::RedisServer,
    threads::{
        Threads, changing, cut_after, forking, keep_last, listing, message, numbered, revising, thread, user,
    },
};

/// What a user of the service may do at least: its own scripts and what those run. Connecting needs no right.
const LEAST: &str = "-@all +ping +info +time +set +evalsha +eval +script|load +zrevrangebyscore +zrangebyscore \
    +zscore +select +exists +expire +get +hdel +hexists +hget +hgetall +hlen +hmget +hset +lindex +llen +lpop \
    +lrange +lset +ltrim +persist +pexpire +pexpireat +pttl +rename +rpush +setex +strlen +unlink +zadd +zrem \
    +hkeys +xadd +xlen +xrange +xrevrange +zcard +zcount +zrange +zremrangebyscore +subscribe +psubscribe +unsubscribe \
    +config|get +config|set";

/// The keys and channels of the service behind a prefix, as the README names them.
fn keys(prefix: &str) -> String {
    let channel = format!("&__keyspace@0__:{prefix}");
    format!(
        "~{prefix}conversation_thread* ~{prefix}circuit_breaker* ~{{{prefix}circuit_breaker* \
         ~{prefix}fusewire:doorbell:* resetchannels {channel}circuit_breaker:* {channel}conversation_thread:* \
         {channel}fusewire:doorbell:*"
    )
}

/// Code of the README that begins so.
fn in_readme(begin: &str) -> String {
    let readme = include_str!("../../../README.md");
    let code = readme.split('`').find(|code| code.starts_with(begin));
    code.unwrap_or_else(|| panic!("README.md has no {begin}")).replace('\n', " ")
}

/// Runs what every rpc runs, and a sweep.
async fn use_everything(service: &Fusewire) {
    let threads = Threads::on(service.channel().await);
    let owned = ConversationThread { owner: "ann".into(), ..thread("rights") };
    threads.try_create(owned.clone()).await.unwrap();
    threads.append("rights", vec![message("sys", fusewire::grpc::proto::Role::System, "x")]).await;
    threads.append("rights", numbered(1, 9)).await;
    threads.get("rights").await.unwrap();
    threads.page(listing("rights")).await.unwrap();
    let context = GetContextRequest { thread_id: "rights".into(), max_tokens: 4, ..Default::default() };
    threads.client.clone().get_context(context).await.unwrap();
    threads
        .update(changing(ConversationThread { title: "x".into(), ..owned.clone() }, &["title"]))
        .await
        .unwrap();
    threads.update(changing(ConversationThread { pinned: true, ..owned }, &["pinned"])).await.unwrap();
    threads.update_message(revising("rights", user("m1", "y"), &["parts"])).await.unwrap();
    threads.fork(forking("rights", "rights-copy")).await.unwrap();
    threads.truncate(cut_after("rights", 8)).await.unwrap();
    threads.truncate(keep_last("rights", 2)).await.unwrap();
    threads.touch("rights", None).await.unwrap();
    threads.watch("rights", 0).await.appended().await;
    assert_eq!(threads.owned("ann", 1).await.len(), 2);
    threads.delete("rights").await.unwrap();
    use_breakers(&Breakers::on([service.channel().await])).await;
}

async fn use_breakers(breakers: &Breakers) {
    breakers.set("rights", BreakerSettings { min_reporters: 1, ..half_of_the_last(4) }).await;
    breakers.tell_all("rights", &[Outcome::Success, Outcome::Failure, Outcome::Failure]).await;
    breakers.set("rights", trial_of(2)).await;
    let permit = breakers.begin_trial("rights").await;
    let request = RenewPermitRequest { permit: Some(permit.clone()), lease: None };
    assert!(breakers.renew_permit(request).await.unwrap().renewed);
    assert_did(&breakers.tell(&permit, Outcome::Success).await, Disposition::Applied);
    breakers.put("rights", Mode::Disabled).await;
    breakers.reset("rights").await;
    assert_eq!(breakers.history("rights").await.len(), 4);
    assert_eq!(breakers.get("rights").await.generation, 4);
    assert_eq!(breakers.list_breakers(ListBreakersRequest::default()).await.unwrap().breakers.len(), 1);
    breakers.delete("rights").await;
}

async fn suffices(rules: &str, prefix: &str) {
    let redis = RedisServer::start(RedisOptions::tcp().acl_user("app", "pw", rules)).await;
    let raw = redis.raw().await;
    raw.run(&["ZADD", &format!("{prefix}conversation_threads:expiring:{{0}}"), "1000", "ann gone"]).await;
    let options = options()
        .var("REDIS_URL", &redis.url_as("app", "pw"))
        .var("FUSEWIRE__REDIS__KEY_PREFIX", prefix)
        .var("FUSEWIRE__THREADS__SWEEP_INTERVAL", "1s");
    let service = serves(options).await;
    use_everything(&service).await;
    service.wait_for_log("swept expired threads", super::SOON).await;
    service.wait_for_log("keyspace notifications ring", super::SOON).await;
    let denied: Vec<Vec<redis::Value>> = raw.get(&["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:#?}");
}

#[tokio::test]
async fn the_keys_that_the_readme_names_suffice() {
    suffices(&format!("{} +@all", keys("")), "").await;
}

#[tokio::test]
async fn these_keys_behind_the_prefix_suffice() {
    suffices(&format!("{} +@all", keys("prod:")), "prod:").await;
}

#[tokio::test]
async fn a_short_list_of_commands_suffices() {
    suffices(&format!("{} {LEAST}", keys("")), "").await;
}

#[tokio::test]
async fn the_commands_that_the_readme_names_suffice() {
    let rules = format!("{} {}", in_readme("+@connection "), in_readme("+subscribe "));
    suffices(&format!("{} -@all {rules}", keys("")), "").await;
}

#[tokio::test]
async fn without_the_rights_to_be_notified_the_service_polls_and_serves() {
    let keys = keys("").split(" resetchannels").next().unwrap().to_owned();
    let rules = format!("{keys} resetchannels -@all {}", in_readme("+@connection "));
    let redis = RedisServer::start(RedisOptions::tcp().acl_user("app", "pw", &rules)).await;
    let service = serves(options().var("REDIS_URL", &redis.url_as("app", "pw"))).await;
    use_everything(&service).await;
    service.wait_for_log("not subscribed to keyspace notifications", super::SOON).await;
}

#[tokio::test]
async fn no_command_of_the_list_is_superfluous() {
    // Each of them is run by the service itself or by a script; a list that grows stale would be noticed here.
    let scripts: String = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/redis/scripts"))
        .unwrap()
        .map(|script| std::fs::read_to_string(script.unwrap().path()).unwrap())
        .collect();
    let own = [
        "ping",
        "info",
        "time",
        "set",
        "evalsha",
        "eval",
        "script|load",
        "zrevrangebyscore",
        "zrangebyscore",
        "zscore",
        "zrange",
        "select",
        "get",
        "subscribe",
        "psubscribe",
        "unsubscribe",
        "config|get",
        "config|set",
    ];
    for command in LEAST.split(" +").skip(1).map(str::trim) {
        let call = format!("redis.call('{}'", command.to_uppercase());
        assert!(own.contains(&command) || scripts.contains(&call), "{command}");
    }
}
