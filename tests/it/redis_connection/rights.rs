//! The rights that the service needs, and no others.

use fusewire::grpc::proto::{ConversationThread, GetContextRequest};

use super::{options, serves};
use crate::support::{
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
    +lrange +lset +ltrim +persist +pexpire +pexpireat +pttl +rename +rpush +setex +strlen +unlink +zadd +zrem";

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
    assert_eq!(threads.owned("ann", 1).await.len(), 2);
    threads.delete("rights").await.unwrap();
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
    let denied: Vec<Vec<redis::Value>> = raw.get(&["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:#?}");
}

#[tokio::test]
async fn keys_of_threads_suffice() {
    suffices("~conversation_thread* +@all", "").await;
}

#[tokio::test]
async fn keys_of_threads_behind_the_prefix_suffice() {
    suffices("~prod:conversation_thread* +@all", "prod:").await;
}

#[tokio::test]
async fn a_short_list_of_commands_suffices() {
    suffices(&format!("~conversation_thread* {LEAST}"), "").await;
}

#[tokio::test]
async fn the_commands_that_the_readme_names_suffice() {
    let readme = include_str!("../../../README.md");
    let rules =
        readme.split('`').find(|code| code.starts_with("+@connection ")).expect("the rules in README.md");
    suffices(&format!("~conversation_thread* -@all {}", rules.replace('\n', " ")), "").await;
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
        "select",
        "get",
    ];
    for command in LEAST.split(" +").skip(1).map(str::trim) {
        let call = format!("redis.call('{}'", command.to_uppercase());
        assert!(own.contains(&command) || scripts.contains(&call), "{command}");
    }
}
