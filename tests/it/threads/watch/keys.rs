//! The log of changes in Redis: what is in it, and that it lives and dies with its thread.

use std::time::Duration;

use fusewire::grpc::proto::{AppendMessagesRequest, ConversationThread};

use crate::support::{
    deployment::{Deployment, on_stores},
    raw::Raw,
    threads::{
        Threads, appending, changing, cut_after, forking, keep_last, numbered, revising, thread, user, wire,
    },
};

on_stores!(
    [redis: Redis, cluster: Cluster, prefixed: Prefixed],
    [
        every_change_that_is_no_append_is_noted_under_its_revision,
        the_log_keeps_256_changes,
        a_log_that_begins_with_a_truncation_expires_with_its_thread,
        a_deletion_takes_the_log_along_and_a_new_thread_begins_without,
        a_log_that_was_lost_is_a_resync_and_goes_on,
        a_log_from_the_future_is_given_up,
        a_thread_of_before_there_was_a_log_is_watched_like_any
    ]
);

fn name(on: &Deployment, id: &str, part: &str) -> String {
    on.key(&format!("conversation_thread:{{{id}}}{part}"))
}

async fn made(on: &Deployment, id: &str) -> (Threads, Raw) {
    let threads = on.threads();
    threads.create(id).await;
    threads.append(id, numbered(1, 5)).await;
    (threads, on.raw().await)
}

async fn retitle(threads: &Threads, id: &str, title: &str) {
    let new = ConversationThread { title: title.into(), ..thread(id) };
    threads.update(changing(new, &["title"])).await.unwrap();
}

type Entries = Vec<(String, Vec<String>)>;

async fn every_change_that_is_no_append_is_noted_under_its_revision(on: &Deployment) {
    let (threads, raw) = made(on, "noted").await;
    let key = name(on, "noted", ":changes");
    assert_eq!(raw.get::<i64>(&["EXISTS", &key]).await, 0, "appends are none");
    retitle(&threads, "noted", "x").await;
    threads.append("noted", numbered(6, 6)).await;
    threads.update_message(revising("noted", user("m3", "y"), &["parts"])).await.unwrap();
    threads.truncate(cut_after("noted", 4)).await.unwrap();
    threads.touch("noted", Some(Duration::from_mins(5))).await.unwrap();
    let entries: Entries = raw.get(&["XRANGE", &key, "-", "+"]).await;
    let told: Vec<_> = entries.iter().map(|(id, fields)| (id.as_str(), fields.join(" "))).collect();
    let truncation = "after 5 first_seq 1 last_seq 4 listed_from 1".to_owned();
    assert_eq!(
        told,
        [("3-0", "after 0 thread ".to_owned()), ("5-0", "after 3 message 3".to_owned()), ("6-0", truncation),]
    );
    let changed: String = raw.get(&["HGET", &name(on, "noted", ""), "changed"]).await;
    assert_eq!(changed, "6");
}

async fn the_log_keeps_256_changes(on: &Deployment) {
    let (threads, raw) = made(on, "full").await;
    for n in 0..300 {
        retitle(&threads, "full", &n.to_string()).await;
    }
    assert_eq!(raw.get::<i64>(&["XLEN", &name(on, "full", ":changes")]).await, 256);
}

async fn a_log_that_begins_with_a_truncation_expires_with_its_thread(on: &Deployment) {
    let (threads, raw) = made(on, "cut").await;
    threads.truncate(keep_last("cut", 2)).await.unwrap();
    let mut expiries = Vec::new();
    for part in ["", ":messages", ":ids", ":changes"] {
        expiries.push(raw.get::<i64>(&["PEXPIRETIME", &name(on, "cut", part)]).await);
    }
    assert!(expiries[0] > 0 && expiries.iter().all(|at| *at == expiries[0]), "{expiries:?}");
}

async fn a_deletion_takes_the_log_along_and_a_new_thread_begins_without(on: &Deployment) {
    let (threads, raw) = made(on, "deleted").await;
    let key = name(on, "deleted", ":changes");
    let exists = async || raw.get::<i64>(&["EXISTS", &key]).await;
    retitle(&threads, "deleted", "x").await;
    threads.fork(forking("deleted", "deleted-copy")).await.unwrap();
    assert_eq!(raw.get::<i64>(&["EXISTS", &name(on, "deleted-copy", ":changes")]).await, 0);
    threads.delete("deleted").await.unwrap();
    assert_eq!(exists().await, 0);
    // What an eviction of the thread alone left behind.
    for makes in ["create", "append", "fork"] {
        raw.run(&["XADD", &key, "99-0", "after", "0", "thread", ""]).await;
        match makes {
            "create" => drop(threads.create("deleted").await),
            "append" => {
                raw.run(&["DEL", &name(on, "deleted", ":tombstone")]).await;
                let request =
                    AppendMessagesRequest { create_if_missing: true, ..appending("deleted", numbered(1, 1)) };
                threads.try_append(request).await.unwrap();
            }
            _ => drop(threads.fork(forking("deleted-copy", "deleted")).await.unwrap()),
        }
        assert_eq!(exists().await, 0, "{makes}");
        threads.delete("deleted").await.unwrap();
    }
}

async fn a_log_that_was_lost_is_a_resync_and_goes_on(on: &Deployment) {
    let (threads, raw) = made(on, "evicted").await;
    let watch = threads.watch_live("evicted").await;
    let told = watch.position.clone();
    drop(watch);
    retitle(&threads, "evicted", "1").await;
    raw.run(&["DEL", &name(on, "evicted", ":changes")]).await;
    threads.resume("evicted", &told).await.resynced().await;
    // Also where it goes on with later changes.
    retitle(&threads, "evicted", "2").await;
    let mut watch = threads.resume("evicted", &told).await;
    watch.resynced().await;
    watch.synced().await;
    retitle(&threads, "evicted", "3").await;
    assert_eq!(watch.updated().await.0.title, "3");
}

async fn a_log_from_the_future_is_given_up(on: &Deployment) {
    let (threads, raw) = made(on, "future").await;
    let key = name(on, "future", ":changes");
    raw.run(&["XADD", &key, "900-0", "after", "0", "thread", ""]).await;
    retitle(&threads, "future", "x").await;
    let entries: Entries = raw.get(&["XRANGE", &key, "-", "+"]).await;
    assert_eq!(entries.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["3-0"]);
    let new = ConversationThread { ttl: Some(wire(Duration::from_mins(1))), ..thread("future") };
    threads.update(changing(new, &["ttl"])).await.unwrap();
    let entries: Entries = raw.get(&["XRANGE", &key, "-", "+"]).await;
    assert_eq!(entries.len(), 2);
}

async fn a_thread_of_before_there_was_a_log_is_watched_like_any(on: &Deployment) {
    let (threads, raw) = made(on, "old").await;
    retitle(&threads, "old", "1").await;
    raw.run(&["HDEL", &name(on, "old", ""), "changed"]).await;
    raw.run(&["DEL", &name(on, "old", ":changes")]).await;
    let mut watch = threads.watch_live("old").await;
    retitle(&threads, "old", "2").await;
    assert_eq!(watch.updated().await.0.title, "2");
}
