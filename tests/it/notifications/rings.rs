//! What rings: states of breakers and watched threads, of one database and behind one prefix.

use fusewire::redis::Ring;

use super::{SOON, Subscriber, breaker, thread, thread_id};
use crate::support::{eventually::eventually, redis_options::RedisOptions, redis_server::RedisServer};

async fn server() -> RedisServer {
    RedisServer::start(RedisOptions::unix_socket()).await
}

/// All that rang but what made sure that nothing was missed.
fn told(subscriber: &Subscriber) -> Vec<Ring> {
    subscriber.heard().into_iter().filter(|ring| *ring != Ring::Everything).collect()
}

#[tokio::test]
async fn states_of_breakers_ring_and_nothing_else_does() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let raw = redis.raw().await;
    for key in
        ["{circuit_breaker:m}:window", "circuit_breaker:{m}", "circuit_breakers", "conversation_thread:{t}"]
    {
        raw.run(&["HSET", key, "x", "1"]).await;
    }
    raw.run(&["HSET", "circuit_breaker:openai:gpt-5", "state", "OPEN"]).await;
    raw.run(&["DEL", "circuit_breaker:openai:gpt-5"]).await;
    subscriber.rang_beyond(&breaker("openai:gpt-5"), 1).await;
    assert_eq!(told(&subscriber), [breaker("openai:gpt-5"), breaker("openai:gpt-5")]);
}

#[tokio::test]
async fn a_state_that_expires_rings() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let raw = redis.raw().await;
    raw.run(&["HSET", "circuit_breaker:m", "state", "OPEN"]).await;
    raw.run(&["PEXPIRE", "circuit_breaker:m", "20"]).await;
    // Written, given an expiry, expired.
    subscriber.rang_beyond(&breaker("m"), 2).await;
}

#[tokio::test]
async fn a_prefix_is_taken_literally() {
    let redis = server().await;
    let prefix = "a*[b]?";
    let subscriber = Subscriber::behind(&redis.url(), prefix);
    let _bell = subscriber.bells.listen(&thread_id("t"));
    subscriber.rings().await;
    subscriber.rang(&thread("t")).await;
    let raw = redis.raw().await;
    for other in ["axxbycircuit_breaker:m", "circuit_breaker:m", "axxbyconversation_thread:{t}"] {
        raw.run(&["HSET", other, "state", "OPEN"]).await;
    }
    raw.run(&["HSET", &format!("{prefix}conversation_thread:{{t}}"), "title", "x"]).await;
    raw.run(&["HSET", &format!("{prefix}circuit_breaker:m"), "state", "OPEN"]).await;
    subscriber.rang(&breaker("m")).await;
    assert_eq!(told(&subscriber), [thread("t"), thread("t"), breaker("m")]);
}

#[tokio::test]
async fn another_database_does_not_ring() {
    let redis = RedisServer::start(RedisOptions::tcp()).await;
    let subscriber = Subscriber::on(&format!("{}/3", redis.url()));
    subscriber.rings().await;
    let raw = redis.raw().await;
    raw.run(&["HSET", "circuit_breaker:other", "state", "OPEN"]).await;
    raw.run(&["SELECT", "3"]).await;
    raw.run(&["HSET", "circuit_breaker:m", "state", "OPEN"]).await;
    subscriber.rang(&breaker("m")).await;
    assert_eq!(told(&subscriber), [breaker("m")]);
}

#[tokio::test]
async fn a_thread_rings_once_when_it_is_heard_of_and_at_each_change() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    subscriber.rings().await;
    let raw = redis.raw().await;
    let write = async || raw.run(&["HSET", "conversation_thread:{t}", "title", "x"]).await;
    write().await;
    let bell = subscriber.bells.listen(&thread_id("t"));
    subscriber.rang(&thread("t")).await;
    write().await;
    subscriber.rang_beyond(&thread("t"), 1).await;
    assert_eq!(told(&subscriber), [thread("t"), thread("t")]);
    drop(bell);
    eventually("the thread is left", SOON, async || {
        let channel = "__keyspace@0__:conversation_thread:{t}";
        raw.get::<(String, u32)>(&["PUBSUB", "NUMSUB", channel]).await.1 == 0
    })
    .await;
}

#[tokio::test]
async fn many_threads_ring_also_after_the_connection_was_lost() {
    let redis = server().await;
    let subscriber = Subscriber::on(&redis.url());
    let bells: Vec<_> = (0..700).map(|n| subscriber.bells.listen(&thread_id(&format!("t{n}")))).collect();
    let all_rang = |times| {
        let subscriber = &subscriber;
        async move {
            let heard = subscriber.heard();
            (0..700).all(|n| heard.iter().filter(|ring| **ring == thread(&format!("t{n}"))).count() >= times)
        }
    };
    eventually("each thread rings", SOON, async || all_rang(1).await).await;
    let raw = redis.raw().await;
    raw.run(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("each thread rings again", SOON, async || all_rang(2).await).await;
    drop(bells);
    eventually("all are left", SOON, async || {
        raw.get::<Vec<String>>(&["PUBSUB", "CHANNELS", "*conversation_thread*"]).await.is_empty()
    })
    .await;
    subscriber.rings().await;
}
