//! Times to live: sliding, the same for all keys of a thread, and what the sweep leaves and removes.

use std::time::Duration;

use fusewire::grpc::proto::{
    AppendMessagesRequest, ConversationThread, GetContextRequest, ListMessagesRequest, Role,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{
    deployment::{Deployment, Store, on_every_store, on_stores},
    eventually::eventually,
    fusewire::Fusewire,
    raw::Raw,
    threads::{
        Threads, appending, assert_refused, changing, cut_after, forking, listing, message, millis, numbered,
        revising, thread, user, wire,
    },
};

on_every_store!(
    a_thread_expires_after_its_ttl,
    a_thread_active_for_three_ttls_still_has_its_first_message,
    a_compare_and_set_on_an_expired_thread_is_not_found,
    a_pinned_thread_never_expires_until_it_is_unpinned,
    a_write_that_does_not_mention_the_ttl_keeps_it,
    a_truncation_keeps_the_remaining_time,
    a_shorter_ttl_counts_at_once,
);

// Needs Redis itself, but no server of its own.
mod all_keys {
    use super::{every_write_and_read_leaves_one_expiry, on_stores};

    on_stores!(
        [redis: Redis, cluster: Cluster, prefixed: Prefixed],
        [every_write_and_read_leaves_one_expiry]
    );
}

const SECOND: Duration = Duration::from_secs(1);

async fn short_lived(on: &Deployment, id: &str) -> (Threads, ConversationThread) {
    let threads = on.threads();
    let new = ConversationThread { ttl: Some(wire(SECOND)), ..thread(id) };
    let made = threads.try_create(new).await.unwrap().thread.unwrap();
    (threads, made)
}

async fn gone(threads: &Threads, id: &str) {
    eventually("the thread expires", 10 * SECOND, async || threads.peek(id).await.is_err()).await;
    assert_refused(threads.peek(id).await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn a_thread_expires_after_its_ttl(on: &Deployment) {
    let (threads, made) = short_lived(on, "short").await;
    assert_eq!(millis(made.expire_time), millis(made.create_time) + 1000);
    threads.fill("short", 1, 3).await;
    gone(&threads, "short").await;
    assert_refused(threads.page(listing("short")).await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_refused(threads.touch("short", None).await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_refused(
        threads.try_append(appending("short", numbered(4, 4))).await,
        Code::NotFound,
        "THREAD_NOT_FOUND",
    );
    // Expired is not deleted: an append may create it anew, and nothing of the old is left.
    let again = AppendMessagesRequest { create_if_missing: true, ..appending("short", numbered(1, 1)) };
    let again = threads.try_append(again).await.unwrap();
    assert_eq!((again.messages[0].seq, again.messages[0].duplicate), (1, false));
    assert_ne!(again.thread.unwrap().etag, made.etag);
    assert_eq!(threads.recount("short").await.len(), 1);
}

async fn a_thread_active_for_three_ttls_still_has_its_first_message(on: &Deployment) {
    let (threads, _) = short_lived(on, "active").await;
    threads.append("active", vec![message("first", Role::System, "here")]).await;
    let began = millis(threads.messages("active").await[0].commit_time);
    let mut turn = 0;
    eventually("three times to live pass", 20 * SECOND, async || {
        turn += 1;
        match turn % 4 {
            0 => drop(threads.touch("active", None).await.unwrap()),
            1 => drop(threads.get("active").await.unwrap()),
            2 => drop(threads.page(ListMessagesRequest { peek: false, ..listing("active") }).await.unwrap()),
            _ => {
                let newest = threads.append("active", vec![user("", "tick")]).await;
                return millis(newest.thread.unwrap().update_time) >= began + 3100;
            }
        }
        false
    })
    .await;
    let held = threads.recount("active").await;
    assert_eq!(held[0].id, "first");
    assert!(
        threads.append("active", vec![message("first", Role::System, "here")]).await.messages[0].duplicate
    );
}

async fn a_compare_and_set_on_an_expired_thread_is_not_found(on: &Deployment) {
    let (threads, made) = short_lived(on, "cas").await;
    gone(&threads, "cas").await;
    let request = AppendMessagesRequest {
        etag: made.etag,
        create_if_missing: true,
        ..appending("cas", numbered(1, 1))
    };
    assert_refused(threads.try_append(request).await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_refused(threads.peek("cas").await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn a_pinned_thread_never_expires_until_it_is_unpinned(on: &Deployment) {
    let threads = on.threads();
    let pinned = ConversationThread { pinned: true, ttl: Some(wire(SECOND)), ..thread("pinned") };
    let made = threads.try_create(pinned).await.unwrap().thread.unwrap();
    assert_eq!(made.expire_time, None);
    threads.fill("pinned", 1, 2).await;
    let (_, _) = short_lived(on, "pinned-not").await;
    gone(&threads, "pinned-not").await;
    assert_eq!(threads.recount("pinned").await.len(), 2);
    let unpinned = threads.update(changing(thread("pinned"), &["pinned"])).await.unwrap();
    assert_eq!(millis(unpinned.expire_time), millis(unpinned.update_time) + 1000);
    gone(&threads, "pinned").await;
    // And the other way round.
    let (threads, _) = short_lived(on, "pinned-later").await;
    let pin = ConversationThread { pinned: true, ..thread("pinned-later") };
    assert_eq!(threads.update(changing(pin, &["pinned"])).await.unwrap().expire_time, None);
    let (_, _) = short_lived(on, "pinned-not").await;
    gone(&threads, "pinned-not").await;
    assert_eq!(threads.peek("pinned-later").await.unwrap().ttl, Some(wire(SECOND)), "kept for later");
}

async fn a_write_that_does_not_mention_the_ttl_keeps_it(on: &Deployment) {
    let threads = on.threads();
    let ttl = Some(prost_types::Duration { seconds: 3600, nanos: 7_000_000 });
    threads.try_create(ConversationThread { ttl, ..thread("kept") }).await.unwrap();
    let writes = [
        threads.append("kept", numbered(1, 2)).await.thread.unwrap(),
        threads.update(changing(thread("kept"), &["title"])).await.unwrap(),
        threads.update(changing(thread("kept"), &["ttl", "labels"])).await.unwrap(),
        threads.update_message(revising("kept", user("m1", "x"), &["parts"])).await.unwrap().thread.unwrap(),
        threads.fork(forking("kept", "kept-copy")).await.unwrap(),
    ];
    for thread in writes {
        assert_eq!(thread.ttl, ttl);
        assert_eq!(millis(thread.expire_time), millis(thread.update_time) + 3_600_007);
    }
}

async fn a_truncation_keeps_the_remaining_time(on: &Deployment) {
    let threads = on.threads();
    threads.create("cut").await;
    let before = threads.append("cut", numbered(1, 5)).await.thread.unwrap();
    threads.create("cut-clock").await;
    eventually("time passes", 5 * SECOND, async || {
        millis(threads.get("cut-clock").await.unwrap().expire_time) > millis(before.expire_time) + 50
    })
    .await;
    for request in [cut_after("cut", 3), cut_after("cut", 0)] {
        let after = threads.truncate(request).await.unwrap();
        assert!(millis(after.update_time) > millis(before.update_time));
        let change = millis(after.expire_time) - millis(before.expire_time);
        assert!((-5..=0).contains(&change), "{change}");
    }
}

async fn a_shorter_ttl_counts_at_once(on: &Deployment) {
    let threads = on.threads();
    for (id, by_update) in [("shorter-update", true), ("shorter-touch", false)] {
        threads.create(id).await;
        if by_update {
            let new = ConversationThread { ttl: Some(wire(SECOND)), ..thread(id) };
            threads.update(changing(new, &["ttl"])).await.unwrap();
        } else {
            threads.touch(id, Some(SECOND)).await.unwrap();
        }
        gone(&threads, id).await;
    }
}

fn keys(on: &Deployment, id: &str) -> [String; 6] {
    ["", ":messages", ":system", ":ids", ":ids:old", ":changes"]
        .map(|part| on.key(&format!("conversation_thread:{{{id}}}{part}")))
}

/// The one expiry of all keys of a thread; -1 for none.
async fn one_expiry(on: &Deployment, raw: &Raw, id: &str, after: &str) -> i64 {
    let mut seen = Vec::new();
    for key in keys(on, id) {
        let at: i64 = raw.get(&["PEXPIRETIME", &key]).await;
        if at != -2 {
            seen.push(at);
        }
    }
    assert!(!seen.is_empty() && seen.iter().all(|at| *at == seen[0]), "after {after}: {seen:?}");
    seen[0]
}

async fn every_write_and_read_leaves_one_expiry(on: &Deployment) {
    let (threads, raw) = (on.threads(), on.raw().await);
    let id = "one";
    threads.create(id).await;
    one_expiry(on, &raw, id, "create").await;
    threads.append(id, vec![message("sys", Role::System, "x"), user("a", "x")]).await;
    one_expiry(on, &raw, id, "append").await;
    // An older generation of ids, as after 10,000 messages.
    raw.run(&["HSET", &keys(on, id)[4], "older", "1 00"]).await;
    threads.append(id, vec![user("a", "x")]).await;
    one_expiry(on, &raw, id, "an append of duplicates").await;
    threads.get(id).await.unwrap();
    one_expiry(on, &raw, id, "get").await;
    threads.touch(id, None).await.unwrap();
    one_expiry(on, &raw, id, "touch").await;
    threads.touch(id, Some(Duration::from_secs(77))).await.unwrap();
    one_expiry(on, &raw, id, "touch with a ttl").await;
    threads.page(ListMessagesRequest { peek: false, ..listing(id) }).await.unwrap();
    one_expiry(on, &raw, id, "list").await;
    let context = GetContextRequest { thread_id: id.into(), ..Default::default() };
    threads.client.clone().get_context(context).await.unwrap();
    one_expiry(on, &raw, id, "context").await;
    threads.update(changing(thread(id), &["title"])).await.unwrap();
    one_expiry(on, &raw, id, "update").await;
    threads.update_message(revising(id, user("a", "new"), &["parts"])).await.unwrap();
    let before = one_expiry(on, &raw, id, "update of a message").await;
    threads.peek(id).await.unwrap();
    assert_eq!(one_expiry(on, &raw, id, "peek").await, before);
    threads.append(id, numbered(1, 3)).await;
    let before = one_expiry(on, &raw, id, "append").await;
    threads.truncate(cut_after(id, 3)).await.unwrap();
    assert!(one_expiry(on, &raw, id, "truncate").await <= before);
    threads.fork(forking(id, "one-copy")).await.unwrap();
    one_expiry(on, &raw, id, "fork, of its source").await;
    one_expiry(on, &raw, "one-copy", "fork, of the copy").await;
    let pinned = ConversationThread { pinned: true, ..thread(id) };
    threads.update(changing(pinned, &["pinned"])).await.unwrap();
    assert_eq!(one_expiry(on, &raw, id, "pin").await, -1);
    threads.append(id, vec![message("sys-2", Role::System, "x")]).await;
    threads.truncate(cut_after(id, 0)).await.unwrap();
    assert_eq!(one_expiry(on, &raw, id, "truncate while pinned").await, -1);
    threads.append(id, vec![message("sys-3", Role::System, "x")]).await;
    threads.update(changing(thread(id), &["pinned"])).await.unwrap();
    assert!(one_expiry(on, &raw, id, "unpin").await > 0);
}

const SWEEPS_OFTEN: &[(&str, &str)] = &[("FUSEWIRE__THREADS__SWEEP_INTERVAL", "1s")];

/// Sums up what the log says was removed and repaired.
fn swept(service: &Fusewire) -> (u64, u64) {
    let number = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}="))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    };
    let lines = service.log();
    let sum = |name| lines.iter().filter(|l| l.contains("swept")).filter_map(|line| number(line, name)).sum();
    (sum("removed"), sum("repaired"))
}

/// How many entries of threads whose id contains `text` the indexes hold.
async fn indexed(on: &Deployment, raw: &Raw, owner: &str, text: &str) -> usize {
    let mut indexes = vec![on.key(&format!("conversation_threads:owner:{{{owner}}}"))];
    indexes.extend((0..16).map(|shard| on.key(&format!("conversation_threads:expiring:{{{shard}}}"))));
    let mut count = 0;
    for index in indexes {
        let members: Vec<String> = raw.get(&["ZRANGE", &index, "0", "-1"]).await;
        count += members.iter().filter(|member| member.contains(text)).count();
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sweeping_instances_remove_each_expired_thread_once_and_none_that_lives() {
    let on = Deployment::start_with(Store::Redis, SWEEPS_OFTEN).await;
    let other = on.another(SWEEPS_OFTEN).await;
    let (threads, raw) = (on.threads(), on.raw().await);
    let owned =
        |id: &str, ttl| ConversationThread { owner: "swept".into(), ttl: Some(wire(ttl)), ..thread(id) };
    // More than a sweep looks at in one round trip, in most shards.
    let mut lanes = JoinSet::new();
    for lane in 0..4 {
        let threads = threads.clone();
        lanes.spawn(async move {
            for n in 0..500 {
                threads.try_create(owned(&format!("dead-{lane}-{n}"), SECOND)).await.unwrap();
            }
        });
    }
    lanes.join_all().await;
    threads.try_create(owned("alive", 3 * SECOND)).await.unwrap();
    threads.fill("alive", 1, 2).await;
    let pinned = ConversationThread { owner: "swept".into(), pinned: true, ..thread("alive-pinned") };
    threads.try_create(pinned).await.unwrap();
    assert_eq!(indexed(&on, &raw, "swept", "dead-").await, 4000);
    eventually("the indexes forget what expired", 60 * SECOND, async || {
        threads.touch("alive", None).await.unwrap();
        indexed(&on, &raw, "swept", "dead-").await == 0
    })
    .await;
    // A sweep is told when it is over.
    eventually("the sweeps are told", 10 * SECOND, async || {
        threads.touch("alive", None).await.unwrap();
        swept(&on.service).0 + swept(&other).0 >= 2000
    })
    .await;
    assert_eq!(swept(&on.service).0 + swept(&other).0, 2000, "each once");
    assert_eq!(threads.recount("alive").await.len(), 2);
    assert_eq!(indexed(&on, &raw, "swept", "alive").await, 4);
    assert_eq!(threads.owned("swept", 0).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_lost_its_expiry_gets_it_back() {
    let on = Deployment::start_with(Store::Redis, SWEEPS_OFTEN).await;
    let (threads, raw) = (on.threads(), on.raw().await);
    for id in ["lost", "half-lost"] {
        let new = ConversationThread { ttl: Some(wire(2 * SECOND)), ..thread(id) };
        threads.try_create(new).await.unwrap();
        threads.append(id, vec![message("sys", Role::System, "x")]).await;
        threads.update(changing(thread(id), &["title"])).await.unwrap();
    }
    for key in keys(&on, "lost").iter().chain(&keys(&on, "half-lost")[1..2]) {
        raw.run(&["PERSIST", key]).await;
    }
    assert_eq!(one_expiry(&on, &raw, "lost", "PERSIST").await, -1);
    eventually("the expiry is repaired", 30 * SECOND, async || {
        raw.get::<i64>(&["PTTL", &keys(&on, "lost")[0]]).await > 0
    })
    .await;
    eventually("no key is left", 30 * SECOND, async || {
        let mut left = 0;
        for key in keys(&on, "lost").iter().chain(&keys(&on, "half-lost")) {
            left += raw.get::<i64>(&["EXISTS", key]).await;
        }
        left == 0
    })
    .await;
    eventually("the repair is told", 10 * SECOND, async || swept(&on.service).1 >= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_swept_by_the_same_schedule() {
    let on = Deployment::start_with(Store::Memory, SWEEPS_OFTEN).await;
    for n in 0..3 {
        drop(short_lived(&on, &format!("swept-{n}")).await);
    }
    let kept = ConversationThread { pinned: true, ..thread("kept") };
    on.threads().try_create(kept).await.unwrap();
    eventually("the sweep is told", 20 * SECOND, async || swept(&on.service).0 == 3).await;
    on.threads().peek("kept").await.unwrap();
}
