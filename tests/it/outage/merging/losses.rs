//! Threads that Redis lost, whole or in part, while an instance remembers them.

use std::time::Duration;

use fusewire::grpc::proto::{ConversationThread, JournalStatus, TrimPolicy};
use tonic::Code;

use super::{SOON, append_locally, assert_numbered, assert_thread, merge_all, start};
use crate::support::{
    eventually::eventually,
    failover::Replica,
    raw::Raw,
    status::journal,
    threads::{Threads, assert_refused, numbered, thread, wire},
};

#[tokio::test]
async fn a_redis_that_came_back_empty_gets_the_thread_and_the_run() {
    let mut on = start().await;
    let threads = on.threads();
    let trim = TrimPolicy { max_messages: 100, max_bytes: 0 };
    let with_all = ConversationThread {
        owner: "ann".into(),
        title: "Weather".into(),
        ttl: Some(wire(Duration::from_hours(3))),
        trim: Some(trim),
        ..thread("t")
    };
    threads.try_create(with_all).await.unwrap();
    threads.append("t", numbered(1, 3)).await;
    let (before, first) = (threads.peek("t").await.unwrap(), threads.messages("t").await);
    on.lose().await;
    append_locally(&threads, "t", numbered(4, 5)).await;
    on.redis.restart_empty().await;
    merge_all(&on).await;
    let messages = assert_thread(&threads, "t", &["m1", "m2", "m3", "m4", "m5"]).await;
    let time = |message: &fusewire::grpc::proto::Message| message.commit_time;
    assert_eq!(
        messages.iter().take(3).map(time).collect::<Vec<_>>(),
        first.iter().map(time).collect::<Vec<_>>()
    );
    let after = threads.peek("t").await.unwrap();
    assert_eq!(
        (&after.owner, &after.title, after.ttl, after.trim, after.create_time),
        (&before.owner, &before.title, before.ttl, before.trim, before.create_time)
    );
    assert_eq!(threads.owned("ann", 10).await, ["t"]);
}

#[tokio::test]
async fn a_thread_that_expired_meanwhile_comes_back_with_what_was_appended() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    let short = ConversationThread { ttl: Some(wire(Duration::from_secs(3))), ..thread("t") };
    threads.try_create(short).await.unwrap();
    threads.append("t", numbered(1, 3)).await;
    on.lose().await;
    let mut last = 3;
    // Each append renews the copy, and so it outlives the thread.
    eventually("the thread expires", SOON, async || {
        last += 1;
        append_locally(&threads, "t", numbered(last, last)).await;
        raw.get::<i64>(&["EXISTS", "conversation_thread:{t}"]).await == 0
    })
    .await;
    threads.touch("t", Some(Duration::from_hours(1))).await.unwrap();
    merge_all(&on).await;
    assert_numbered(&threads, "t", last).await;
}

/// Waits until what a failover lost is there again.
async fn repaired(on: &crate::support::behind_proxy::BehindProxy, count: i64) -> JournalStatus {
    let mut told = JournalStatus::default();
    eventually("what was lost is appended again", SOON, async || {
        told = journal(&on.channel).await;
        told.lost_writes_repaired >= count && told.entries == 0
    })
    .await;
    assert_eq!((told.lost_writes_repaired, &told.parked[..]), (count, &[][..]), "{told:?}");
    told
}

/// A thread of five messages, and a replica that has only three of them.
async fn ahead_of_its_replica(threads: &Threads, raw: &Raw) -> Replica {
    threads.create("f").await;
    threads.append("f", numbered(1, 3)).await;
    let replica = Replica::of(raw, "f").await;
    threads.append("f", numbered(4, 5)).await;
    replica
}

#[tokio::test]
async fn writes_that_a_failover_lost_are_appended_again_when_the_thread_is_written_to() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    threads.create("f").await;
    threads.append("f", numbered(1, 3)).await;
    let replica = Replica::of(&raw, "f").await;
    threads.append("f", numbered(4, 4)).await;
    let lost = threads.append("f", numbered(5, 5)).await.thread.unwrap();
    replica.promote(&raw).await;
    threads.append("f", numbered(6, 6)).await;
    repaired(&on, 2).await;
    let messages = threads.recount("f").await;
    let mut found = crate::support::threads::ids(&messages);
    // The write that found it out may be before or behind them; they keep their own order.
    found.retain(|id| *id != "m6");
    assert_eq!((found, messages.len()), (vec!["m1", "m2", "m3", "m4", "m5"], 6));
    assert_ne!(threads.peek("f").await.unwrap().etag, lost.etag);
}

#[tokio::test]
async fn writes_that_a_failover_lost_are_appended_again_when_the_thread_is_read() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    let replica = ahead_of_its_replica(&threads, &raw).await;
    replica.promote(&raw).await;
    threads.get("f").await.unwrap();
    repaired(&on, 2).await;
    assert_numbered(&threads, "f", 5).await;
}

#[tokio::test]
async fn a_failover_in_an_outage_loses_nothing_though_nobody_asks_for_the_thread() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    let replica = ahead_of_its_replica(&threads, &raw).await;
    on.lose().await;
    replica.promote(&raw).await;
    on.proxy.forward().await;
    repaired(&on, 2).await;
    assert_numbered(&threads, "f", 5).await;
}

#[tokio::test]
async fn what_a_failover_lost_comes_before_what_the_outage_brought() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    let replica = ahead_of_its_replica(&threads, &raw).await;
    on.lose().await;
    append_locally(&threads, "f", numbered(6, 7)).await;
    replica.promote(&raw).await;
    on.proxy.forward().await;
    repaired(&on, 2).await;
    assert_numbered(&threads, "f", 7).await;
}

#[tokio::test]
async fn a_thread_that_is_deleted_before_it_could_be_repaired_stays_deleted() {
    let on = start().await;
    let (threads, raw) = (on.threads(), on.redis.raw().await);
    let replica = ahead_of_its_replica(&threads, &raw).await;
    replica.promote(&raw).await;
    raw.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let mut told = JournalStatus::default();
    for calls in 1..=3 {
        eventually("the repair is put off", SOON, async || {
            threads.get("f").await.unwrap_err();
            told = journal(&on.channel).await;
            told.parked.len() == 1
        })
        .await;
        assert_eq!(told.entries, 5, "the same messages wait once after {calls} calls: {told:?}");
    }
    raw.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    threads.get("f").await.unwrap();
    threads.delete("f").await.unwrap();
    eventually("nothing waits", SOON, async || journal(&on.channel).await.entries == 0).await;
    assert_refused(threads.peek("f").await, Code::NotFound, "THREAD_NOT_FOUND");
}

#[tokio::test]
async fn each_instance_makes_good_what_it_was_told_though_another_found_the_loss_first() {
    let on = start().await;
    let (one, raw) = (on.threads(), on.redis.raw().await);
    let other_service = on.another_patient().await;
    let other = Threads::on(other_service.channel().await);
    one.create("f").await;
    one.append("f", numbered(1, 3)).await;
    let replica = Replica::of(&raw, "f").await;
    one.append("f", numbered(4, 4)).await;
    other.append("f", numbered(5, 6)).await;
    replica.promote(&raw).await;
    one.get("f").await.unwrap();
    repaired(&on, 1).await;
    let before = one.peek("f").await.unwrap().etag;
    other.get("f").await.unwrap();
    eventually("the other appends again, too", SOON, async || one.messages("f").await.len() == 6).await;
    assert_numbered(&one, "f", 6).await;
    let epoch = |etag: &str| etag.rsplit_once('-').unwrap().0.to_owned();
    assert_eq!(epoch(&one.peek("f").await.unwrap().etag), epoch(&before), "one loss is one new epoch");
}
