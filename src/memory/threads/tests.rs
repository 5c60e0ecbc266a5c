use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    call::Source,
    clock::ManualClock,
    memory::samples::{
        LIMITS, START, TTL, append, append_or_create, call, message_id, new_thread, owner, pages, profile,
        request, said, shared_only, sized, thread_id, ttl,
    },
    threads::{MessageId, MessagesCursor, Parent, Role, TOMBSTONE_TTL, ThreadsCursor},
};

type Store = MemoryThreads<Arc<ManualClock>>;

fn store(max_bytes: u64) -> (Arc<ManualClock>, Store) {
    let clock = Arc::new(ManualClock::at(START));
    (Arc::clone(&clock), MemoryThreads::new(clock, LIMITS, max_bytes))
}

fn endless() -> (Arc<ManualClock>, Store) {
    store(u64::MAX)
}

fn requested(id: &str) -> Guard {
    Guard { request_id: Some(request(id)), etag: None }
}

fn owned(query_limit: usize) -> ThreadsQuery {
    ThreadsQuery { owner: owner("ada"), limit: query_limit, cursor: None }
}

async fn listed(store: &Store) -> Vec<String> {
    let page = store.list(&call(), &owned(100)).await.unwrap().value;
    page.threads.iter().map(|thread| thread.id.to_string()).collect()
}

/// Whether the accounts agree with a recount.
fn is_balanced(store: &Store) -> bool {
    lock(&store.stock).is_balanced()
}

#[tokio::test]
async fn answers_are_local_with_real_etags() {
    let (_, store) = endless();
    let answer = store.create(&call(), &new_thread("t", vec![said("a")])).await.unwrap();
    assert_eq!(answer.source, Source::Local { as_of: None });
    let thread = answer.value.thread;
    assert_eq!((thread.revision, thread.local, thread.epoch.len()), (1, false, 26));
    let mut compare = append("t", vec![said("b")]);
    compare.etag = Some(thread.etag());
    assert_eq!(store.append(&call(), &compare).await.unwrap().value.messages[0].seq, 2);
}

#[tokio::test]
async fn what_must_be_shared_is_refused() {
    let (_, store) = endless();
    let refused = store.create(&shared_only(), &new_thread("t", Vec::new())).await;
    assert!(matches!(refused, Err(Error::NeedsShared("this call"))));
    assert_eq!(store.len(), 0);
}

#[tokio::test]
async fn an_append_creates_only_where_it_may() {
    let (_, store) = endless();
    let absent = store.append(&call(), &append("t", vec![said("a")])).await;
    assert!(matches!(absent, Err(Error::ThreadNotFound { .. })));
    let mut compare = append_or_create("t", vec![said("a")]);
    compare.etag = Some("\"E-1\"".to_owned());
    assert!(matches!(store.append(&call(), &compare).await, Err(Error::ThreadNotFound { .. })));
    let mut create = append_or_create("t", vec![said("a")]);
    create.owner = Some(owner("ada"));
    let thread = store.append(&call(), &create).await.unwrap().value.thread;
    assert_eq!((thread.revision, thread.profile.owner.clone()), (1, Some(owner("ada"))));
    create.owner = Some(owner("eve"));
    assert!(matches!(store.append(&call(), &create).await, Err(Error::OwnerMismatch { .. })));
    store.append(&call(), &append("t", vec![said("b")])).await.unwrap();
}

#[tokio::test]
async fn only_the_same_request_may_create_a_thread_again() {
    let (_, store) = endless();
    let mut new = new_thread("t", vec![said("a"), said("b")]);
    new.request_id = Some(request("r"));
    store.create(&call(), &new).await.unwrap();
    store.append(&call(), &append("t", vec![said("c")])).await.unwrap();
    let again = store.create(&call(), &new).await.unwrap().value;
    assert_eq!((again.thread.revision, again.thread.message_count), (2, 3));
    assert_eq!(
        again.messages.iter().map(|m| (m.seq, m.duplicate)).collect::<Vec<_>>(),
        [(1, true), (2, true)]
    );

    let unknown = NewThread { messages: vec![said("x")], ..new.clone() };
    assert!(matches!(store.create(&call(), &unknown).await, Err(Error::ThreadExists { .. })));
    let other = NewThread { messages: vec![sized("a", Role::User, 1)], ..new.clone() };
    assert!(matches!(store.create(&call(), &other).await, Err(Error::MessageIdReused { .. })));
    let another = NewThread { request_id: Some(request("q")), ..new.clone() };
    assert!(matches!(store.create(&call(), &another).await, Err(Error::ThreadExists { .. })));
    let unnamed = NewThread { request_id: None, ..new };
    assert!(matches!(store.create(&call(), &unnamed).await, Err(Error::ThreadExists { .. })));
}

#[tokio::test]
async fn a_late_retry_of_a_deletion_does_not_delete_the_thread_that_came_after() {
    let (clock, store) = endless();
    let id = thread_id("t");
    store.create(&call(), &new_thread("t", Vec::new())).await.unwrap();
    store.delete(&call(), &id, &requested("d")).await.unwrap();
    store.delete(&call(), &id, &requested("d")).await.unwrap();
    assert!(matches!(store.delete(&call(), &id, &requested("e")).await, Err(Error::ThreadNotFound { .. })));
    let revived = store.append(&call(), &append_or_create("t", vec![said("a")])).await;
    assert!(matches!(revived, Err(Error::ThreadDeleted { .. })));
    store.create(&call(), &new_thread("t", Vec::new())).await.unwrap();
    store.delete(&call(), &id, &requested("d")).await.unwrap();
    store.get(&call(), &id, false).await.unwrap();
    let stale = Guard { etag: Some("\"E-1\"".to_owned()), request_id: None };
    assert!(matches!(store.delete(&call(), &id, &stale).await, Err(Error::EtagMismatch { .. })));
    store.delete(&call(), &id, &Guard::default()).await.unwrap();

    clock.advance(TOMBSTONE_TTL);
    store.append(&call(), &append_or_create("t", vec![said("a")])).await.unwrap();
    assert!(is_balanced(&store));
}

#[tokio::test]
async fn the_last_8_deletions_are_remembered() {
    let (_, store) = endless();
    let id = thread_id("t");
    for n in 0..9 {
        store.create(&call(), &new_thread("t", Vec::new())).await.unwrap();
        store.delete(&call(), &id, &requested(&format!("d{n}"))).await.unwrap();
    }
    store.delete(&call(), &id, &requested("d1")).await.unwrap();
    assert!(matches!(store.delete(&call(), &id, &requested("d0")).await, Err(Error::ThreadNotFound { .. })));
}

#[tokio::test]
async fn an_expired_thread_is_gone_everywhere() {
    let (clock, store) = endless();
    store.create(&call(), &new_thread("t", vec![said("a")])).await.unwrap();
    clock.advance(TTL.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(listed(&store).await, ["t"]);
    clock.advance(Duration::from_millis(1));
    assert!(listed(&store).await.is_empty());
    let id = thread_id("t");
    assert!(matches!(store.get(&call(), &id, true).await, Err(Error::ThreadNotFound { .. })));
    assert!(matches!(store.touch(&call(), &id, None).await, Err(Error::ThreadNotFound { .. })));
    assert!(matches!(store.delete(&call(), &id, &Guard::default()).await, Err(Error::ThreadNotFound { .. })));
    assert_eq!(store.sweep().await.unwrap(), Swept { removed: 1, repaired: 0 }, "counted though gone before");
    assert_eq!(store.sweep().await.unwrap().removed, 0);
    let anew = store.create(&call(), &new_thread("t", Vec::new())).await.unwrap().value.thread;
    assert_eq!((anew.revision, anew.last_seq), (1, 0));
}

#[tokio::test]
async fn activity_renews_but_peeks_lists_and_truncations_do_not() {
    let (clock, store) = endless();
    let id = thread_id("t");
    store.create(&call(), &new_thread("t", vec![said("a")])).await.unwrap();
    clock.advance(Duration::from_mins(1));
    store.get(&call(), &id, false).await.unwrap();
    store.messages(&call(), &pages("t", 9)).await.unwrap();
    listed(&store).await;
    let thread = store.truncate(&call(), &id, Cut::KeepLast(1), &Guard::default()).await.unwrap().value;
    assert_eq!(thread.expire_time, Some(START.plus(TTL)));
    let renewed = Some(START.plus(TTL + Duration::from_mins(1)));
    assert_eq!(store.get(&call(), &id, true).await.unwrap().value.expire_time, renewed);
    let touched = store.touch(&call(), &id, Some(ttl(Duration::from_secs(5)))).await.unwrap().value;
    assert_eq!((touched.expire_time, touched.revision), (Some(START.plus(Duration::from_secs(65))), 2));
    let pin = ThreadChange { pinned: Some(true), ..ThreadChange::default() };
    let pinned = store.update(&call(), &id, &pin, &Guard::default()).await.unwrap().value;
    assert_eq!((pinned.expire_time, pinned.profile.ttl), (None, ttl(Duration::from_secs(5))));
    clock.advance(Duration::from_hours(9000));
    store.get(&call(), &id, true).await.unwrap();
}

#[tokio::test]
async fn threads_are_listed_newest_activity_first_and_ids_decide_ties() {
    let (clock, store) = endless();
    for id in ["a", "c", "b"] {
        store.create(&call(), &new_thread(id, Vec::new())).await.unwrap();
    }
    let mut foreign = new_thread("x", Vec::new());
    foreign.profile.owner = Some(owner("eve"));
    store.create(&call(), &foreign).await.unwrap();
    assert_eq!(listed(&store).await, ["c", "b", "a"]);
    clock.advance(Duration::from_secs(1));
    store.append(&call(), &append("a", vec![said("m")])).await.unwrap();
    store.touch(&call(), &thread_id("b"), None).await.unwrap();
    assert_eq!(listed(&store).await, ["a", "c", "b"]);

    let first = store.list(&call(), &owned(2)).await.unwrap().value;
    assert!(first.more);
    let last = &first.threads[1];
    let cursor = Some(ThreadsCursor { update_time: last.update_time, id: last.id.clone() });
    let rest = store.list(&call(), &ThreadsQuery { cursor, ..owned(2) }).await.unwrap().value;
    assert_eq!((rest.threads[0].id.as_str(), rest.threads.len(), rest.more), ("b", 1, false));
}

#[tokio::test]
async fn a_full_store_refuses_growth_and_nothing_else() {
    let (clock, store) = store(40_000);
    let id = thread_id("t");
    store.create(&call(), &new_thread("t", Vec::new())).await.unwrap();
    let mut count = 0;
    let refused = loop {
        let batch = append("t", vec![sized(&format!("m{count}"), Role::User, 1000)]);
        match store.append(&call(), &batch).await {
            Ok(_) => count += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Error::StoreFull { what: "bytes", limit: 40_000 }));
    assert!((20..39).contains(&count), "{count}");
    assert!(matches!(
        store.create(&call(), &new_thread("u", vec![sized("m", Role::User, 2000)])).await,
        Err(Error::StoreFull { .. })
    ));
    let fork = Fork { source: id.clone(), at_seq: 0, id: thread_id("f"), request_id: None };
    assert!(matches!(store.fork(&call(), &fork).await, Err(Error::StoreFull { .. })));
    let grow = ThreadChange { title: Some("x".repeat(2000)), ..ThreadChange::default() };
    assert!(matches!(
        store.update(&call(), &id, &grow, &Guard::default()).await,
        Err(Error::StoreFull { .. })
    ));

    let all = store.append(&call(), &append("t", vec![sized("m0", Role::User, 1000)])).await.unwrap();
    assert!(all.value.messages[0].duplicate);
    store.touch(&call(), &id, None).await.unwrap();
    let shrink = ThreadChange { title: Some(String::new()), ..ThreadChange::default() };
    store.update(&call(), &id, &shrink, &requested("r")).await.unwrap();
    assert_eq!(store.get(&call(), &id, true).await.unwrap().value.message_count, count);
    store.truncate(&call(), &id, Cut::KeepLast(1), &Guard::default()).await.unwrap();
    store.append(&call(), &append("t", vec![sized("new", Role::User, 1000)])).await.unwrap();
    assert!(is_balanced(&store));

    store.create(&call(), &new_thread("u", vec![sized("m", Role::User, 20_000)])).await.unwrap();
    assert!(matches!(
        store.create(&call(), &new_thread("v", vec![sized("m", Role::User, 30_000)])).await,
        Err(Error::StoreFull { .. })
    ));
    clock.advance(TTL);
    store.create(&call(), &new_thread("v", vec![sized("m", Role::User, 30_000)])).await.unwrap();
    assert_eq!(store.len(), 1, "what had expired made room");
    assert!(is_balanced(&store));
}

#[tokio::test]
async fn a_deletion_frees_more_than_its_tombstone_takes() {
    let (_, store) = store(100_000);
    for n in 0..40 {
        store.create(&call(), &new_thread(&format!("t{n}"), Vec::new())).await.unwrap();
    }
    let used = lock(&store.stock).used();
    for n in 0..40 {
        let guard = requested(&"d".repeat(100));
        store.delete(&call(), &thread_id(&format!("t{n}")), &guard).await.unwrap();
    }
    assert!(lock(&store.stock).used() < used / 3);
    assert!(is_balanced(&store));
}

#[tokio::test]
async fn a_fork_and_its_source_outlive_each_other() {
    let (_, store) = endless();
    store.create(&call(), &new_thread("t", vec![said("a"), said("b")])).await.unwrap();
    let fork = Fork { source: thread_id("t"), at_seq: 1, id: thread_id("f"), request_id: Some(request("r")) };
    let copy = store.fork(&call(), &fork).await.unwrap().value;
    assert_eq!((copy.message_count, copy.last_seq, copy.profile.clone()), (1, 1, profile()));
    assert_eq!(copy.parent, Some(Parent { thread_id: thread_id("t"), seq: 1 }));
    store.delete(&call(), &thread_id("t"), &Guard::default()).await.unwrap();
    let again = store.fork(&call(), &fork).await.unwrap().value;
    assert_eq!(again, copy, "a repeat answers even when the source is gone");
    let other = Fork { request_id: Some(request("q")), ..fork.clone() };
    assert!(matches!(store.fork(&call(), &other).await, Err(Error::ThreadExists { .. })));
    let lost = Fork { id: thread_id("g"), ..fork };
    assert!(matches!(store.fork(&call(), &lost).await, Err(Error::ThreadNotFound { id }) if id == "t"));
    assert!(is_balanced(&store));
}

#[tokio::test]
async fn a_token_made_in_an_outage_is_stale() {
    let (_, store) = endless();
    let thread = store.create(&call(), &new_thread("t", vec![said("a")])).await.unwrap().value.thread;
    let mut query = pages("t", 9);
    query.cursor = Some(MessagesCursor { epoch: thread.epoch, seq: 1, local: true });
    assert!(matches!(store.messages(&call(), &query).await, Err(Error::TokenStale)));
}

#[tokio::test]
async fn writers_on_many_threads_lose_nothing() {
    let (_, store) = endless();
    let store = Arc::new(store);
    store.create(&call(), &new_thread("t", Vec::new())).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for n in 0..100 {
                let batch = append("t", vec![said(&format!("{writer}-{n}"))]);
                store.append(&call(), &batch).await.unwrap();
                assert!(store.append(&call(), &batch).await.unwrap().value.messages[0].duplicate);
            }
        });
    }
    writers.join_all().await;
    let page = store.messages(&call(), &pages("t", 1000)).await.unwrap().value;
    assert_eq!(page.messages.iter().map(|m| m.seq).collect::<Vec<_>>(), (1..=800).collect::<Vec<_>>());
    let of_writer = |writer: &str| {
        let ids: Vec<MessageId> = page
            .messages
            .iter()
            .map(|m| m.message.id.clone())
            .filter(|id| id.as_str().starts_with(writer))
            .collect();
        (0..100).map(|n| message_id(&format!("{writer}{n}"))).eq(ids)
    };
    assert!(of_writer("0-") && of_writer("7-"));
}

mod watch;
