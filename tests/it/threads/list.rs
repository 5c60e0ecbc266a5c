//! `ListThreads`: newest activity first, exactly, and nothing that has expired.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fusewire::grpc::proto::{
    AppendMessagesRequest, ConversationThread, ListThreadsRequest, ListThreadsResponse, TrimPolicy,
};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::support::{
    deployment::{Deployment, on_every_store},
    eventually::eventually,
    threads::{
        Threads, appending, assert_refused, changing, forking, millis, numbered, thread, user, violated, wire,
    },
};

on_every_store!(
    the_newest_activity_comes_first_exactly,
    every_kind_of_write_is_activity_and_reads_are_none,
    pages_hold_every_thread_once_in_order,
    threads_that_rest_appear_exactly_once_while_others_come_and_go,
    only_the_owners_threads_are_listed,
    an_expired_thread_is_never_listed,
    a_new_thread_is_listed_at_once,
    listing_renews_nothing,
    page_sizes_and_tokens_are_checked,
    a_listed_thread_is_told_whole,
);

async fn create(threads: &Threads, id: &str, owner: &str) -> ConversationThread {
    let new = ConversationThread { owner: owner.into(), ..thread(id) };
    threads.try_create(new).await.unwrap().thread.unwrap()
}

async fn page(
    threads: &Threads,
    owner: &str,
    page_size: i32,
    page_token: &str,
) -> Result<ListThreadsResponse, Status> {
    let request = ListThreadsRequest { owner: owner.into(), page_size, page_token: page_token.into() };
    Ok(threads.client.clone().list_threads(request).await?.into_inner())
}

/// Waits until the server's clock has left this millisecond, so that two activities are not at the same time.
async fn next_millisecond(threads: &Threads, after: i64) {
    threads.try_create(ConversationThread { pinned: true, ..thread("clock") }).await.ok();
    eventually("a millisecond passes", Duration::from_secs(5), async || {
        let tick = threads.append("clock", vec![user("", "tick")]).await.thread.unwrap();
        millis(tick.update_time) > after
    })
    .await;
}

async fn the_newest_activity_comes_first_exactly(on: &Deployment) {
    let threads = on.threads();
    let mut expected: Vec<String> = Vec::new();
    for n in 0..5 {
        let made = create(&threads, &format!("act-{n}"), "active").await;
        expected.insert(0, made.id);
        next_millisecond(&threads, millis(made.update_time)).await;
    }
    assert_eq!(threads.owned("active", 0).await, expected);
    for n in [0, 2, 4, 0, 1] {
        let id = format!("act-{n}");
        let now = threads.append(&id, vec![user("", "again")]).await.thread.unwrap();
        expected.retain(|other| *other != id);
        expected.insert(0, id);
        assert_eq!(threads.owned("active", 0).await, expected);
        assert_eq!(threads.owned("active", 1).await, expected);
        next_millisecond(&threads, millis(now.update_time)).await;
    }
}

async fn every_kind_of_write_is_activity_and_reads_are_none(on: &Deployment) {
    use crate::support::threads::{keep_last, revising};
    let threads = on.threads();
    let ids = ["kind-a", "kind-b"];
    for id in ids {
        create(&threads, id, "kinds").await;
        threads.append(id, numbered(1, 3)).await;
    }
    let mut turn = 0;
    for kind in ["append", "update", "update message", "truncate", "fork"] {
        let before = millis(page(&threads, "kinds", 1, "").await.unwrap().threads[0].update_time);
        next_millisecond(&threads, before).await;
        turn += 1;
        let id = ids[turn % 2];
        let active = match kind {
            "append" => threads.append(id, vec![user("", "x")]).await.thread.unwrap().id,
            "update" => threads.update(changing(thread(id), &["title"])).await.unwrap().id,
            "update message" => {
                threads.update_message(revising(id, user("m3", "new"), &["parts"])).await.unwrap();
                id.to_owned()
            }
            "truncate" => threads.truncate(keep_last(id, 1)).await.unwrap().id,
            _ => threads.fork(forking(id, "kind-copy")).await.unwrap().id,
        };
        assert_eq!(threads.owned("kinds", 0).await[0], active, "{kind}");
        for other in ids {
            threads.get(other).await.unwrap();
            threads.touch(other, None).await.unwrap();
            threads.context(other, 0, 0).await;
        }
        assert_eq!(threads.owned("kinds", 0).await[0], active, "reads after {kind}");
    }
}

async fn pages_hold_every_thread_once_in_order(on: &Deployment) {
    let threads = on.threads();
    let mut tasks = JoinSet::new();
    for lane in 0..5 {
        let threads = threads.clone();
        tasks.spawn(async move {
            for n in 0..50 {
                create(&threads, &format!("many-{lane}-{n}"), "many").await;
            }
        });
    }
    tasks.join_all().await;
    // Their index lags behind by then.
    for n in (0..50).step_by(7) {
        threads.append(&format!("many-3-{n}"), vec![user("", "late")]).await;
    }
    let mut times = Vec::new();
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let page = page(&threads, "many", 1000, &token).await.unwrap();
        times.extend(page.threads.iter().map(|thread| millis(thread.update_time)));
        all.extend(page.threads.into_iter().map(|thread| thread.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert!(times.is_sorted_by(|a, b| a >= b));
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 250);
    assert_eq!(all.len(), 250);
    for page_size in [20, 50, 125, 249, 250, 251] {
        assert_eq!(threads.owned("many", page_size).await, all, "{page_size}");
    }
    assert_eq!(page(&threads, "many", 0, "").await.unwrap().threads.len(), 50);
    assert_eq!(page(&threads, "many", 250, "").await.unwrap().next_page_token, "");
}

async fn threads_that_rest_appear_exactly_once_while_others_come_and_go(on: &Deployment) {
    let threads = on.threads();
    let mut expected = Vec::new();
    for n in 0..250 {
        expected.push(create(&threads, &format!("rest-{n:03}"), "rest").await.id);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (writer, stopped) = (threads.clone(), Arc::clone(&stop));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        for n in 0.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            create(&writer, &format!("hasty-{n}"), "rest").await;
            if n % 3 > 0 {
                writer.delete(&format!("hasty-{n}")).await.unwrap();
            }
        }
    });
    for page_size in [1000, 1000, 240, 60] {
        let mut resting = threads.owned("rest", page_size).await;
        resting.retain(|id| id.starts_with("rest-"));
        resting.sort();
        assert_eq!(resting, expected, "{page_size}");
    }
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
}

async fn only_the_owners_threads_are_listed(on: &Deployment) {
    let threads = on.threads();
    create(&threads, "own-1", "own").await;
    create(&threads, "own-2", "own-other").await;
    threads.create("own-3").await;
    assert_eq!(threads.owned("own", 0).await, ["own-1"]);
    assert_eq!(threads.owned("own-other", 0).await, ["own-2"]);
    assert_eq!(threads.owned("own-nobody", 0).await, [""; 0]);
    // An id that changes hands.
    threads.delete("own-1").await.unwrap();
    assert_eq!(threads.owned("own", 0).await, [""; 0]);
    create(&threads, "own-1", "own-other").await;
    assert_eq!(threads.owned("own", 0).await, [""; 0]);
    assert_eq!(threads.owned("own-other", 0).await.len(), 2);
}

async fn an_expired_thread_is_never_listed(on: &Deployment) {
    let threads = on.threads();
    for n in 0..3 {
        let ttl = Some(wire(Duration::from_secs(if n == 1 { 3600 } else { 1 })));
        let new = ConversationThread { owner: "expiring".into(), ttl, ..thread(&format!("exp-{n}")) };
        threads.try_create(new).await.unwrap();
    }
    assert_eq!(threads.owned("expiring", 0).await.len(), 3);
    eventually("the last of the short-lived is gone", Duration::from_secs(10), async || {
        let listed = threads.owned("expiring", 1).await;
        let is_gone = threads.peek("exp-2").await.is_err();
        // Listed after it was gone, it would be wrong.
        assert!(!is_gone || !threads.owned("expiring", 1).await.contains(&"exp-2".to_owned()), "{listed:?}");
        is_gone
    })
    .await;
    assert_eq!(threads.owned("expiring", 0).await, ["exp-1"]);
}

async fn a_new_thread_is_listed_at_once(on: &Deployment) {
    let threads = on.threads();
    for n in 0..30 {
        let id = format!("new-{n}");
        match n % 3 {
            0 => drop(create(&threads, &id, "new").await),
            1 => {
                let append = AppendMessagesRequest {
                    create_if_missing: true,
                    owner: "new".into(),
                    ..appending(&id, numbered(1, 2))
                };
                threads.try_append(append).await.unwrap();
            }
            _ => drop(threads.fork(forking("new-0", &id)).await.unwrap()),
        }
        assert_eq!(threads.owned("new", 0).await.len(), n + 1);
    }
}

async fn listing_renews_nothing(on: &Deployment) {
    let threads = on.threads();
    let made = create(&threads, "still", "still").await;
    next_millisecond(&threads, millis(made.update_time) + 20).await;
    let listed = page(&threads, "still", 0, "").await.unwrap().threads.remove(0);
    assert!(millis(listed.expire_time) <= millis(made.expire_time));
    assert_eq!((listed.revision, listed.etag), (made.revision, made.etag));
}

async fn page_sizes_and_tokens_are_checked(on: &Deployment) {
    let threads = on.threads();
    for n in 0..3 {
        create(&threads, &format!("tok-{n}"), "tok").await;
    }
    for page_size in [-1, i32::MIN] {
        let status = assert_refused(
            page(&threads, "tok", page_size, "").await,
            Code::InvalidArgument,
            "INVALID_FIELDS",
        );
        assert_eq!(violated(&status), ["page_size"]);
    }
    for owner in ["", "two words", &"x".repeat(129)] {
        let status =
            assert_refused(page(&threads, owner, 0, "").await, Code::InvalidArgument, "INVALID_FIELDS");
        assert_eq!(violated(&status), ["owner"]);
    }
    let token = page(&threads, "tok", 1, "").await.unwrap().next_page_token;
    for (owner, token) in [("tik", token.as_str()), ("tok", "x"), ("tok", &token[1..]), ("tok", "\u{1f600}")]
    {
        assert_refused(page(&threads, owner, 1, token).await, Code::InvalidArgument, "TOKEN_MISMATCH");
    }
    assert_eq!(page(&threads, "tok", 5, &token).await.unwrap().threads.len(), 2, "the size may change");
}

async fn a_listed_thread_is_told_whole(on: &Deployment) {
    let threads = on.threads();
    let new = ConversationThread {
        owner: "whole".into(),
        title: "Title".into(),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        trim: Some(TrimPolicy { max_messages: 5, max_bytes: 0 }),
        pinned: true,
        ..thread("whole")
    };
    threads.try_create(new).await.unwrap();
    threads.fill("whole", 1, 9).await;
    let listed = page(&threads, "whole", 0, "").await.unwrap().threads;
    assert_eq!(listed, [threads.peek("whole").await.unwrap()]);
}
