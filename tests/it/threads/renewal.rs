//! Renewal: by touches, by reads unless they peek; and what every answer tells about itself.

use std::time::Duration;

use fusewire::grpc::proto::{Authority, ConversationThread, GetThreadRequest, TouchThreadRequest};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    deployment::{Deployment, Store, on_every_store},
    eventually::eventually,
    threads::{assert_refused, listing, millis, numbered, reason, thread, violated, wire},
};

on_every_store!(
    a_touch_renews_and_keeps_the_revision,
    a_touch_with_a_ttl_gives_a_new_one,
    reads_renew_unless_they_peek,
    every_answer_says_where_it_came_from,
);

/// Waits until `look` tells an expiry later than `before`: the clock moves on.
async fn renews(what: &str, before: i64, mut look: impl AsyncFnMut() -> i64) {
    eventually(what, Duration::from_secs(5), async || look().await > before).await;
}

async fn a_touch_renews_and_keeps_the_revision(on: &Deployment) {
    let threads = on.threads();
    let made = threads.create("touch").await;
    let touch = async || millis(threads.touch("touch", None).await.unwrap().expire_time);
    renews("a touch renews", millis(made.expire_time), touch).await;
    let now = threads.peek("touch").await.unwrap();
    assert_eq!((now.revision, now.etag, now.update_time), (1, made.etag, made.update_time));
    let pinned = ConversationThread { pinned: true, ..thread("touch-pinned") };
    threads.try_create(pinned).await.unwrap();
    assert_eq!(threads.touch("touch-pinned", None).await.unwrap().expire_time, None);
}

async fn a_touch_with_a_ttl_gives_a_new_one(on: &Deployment) {
    let threads = on.threads();
    let made = threads.create("touch-ttl").await;
    let expire_time = threads.touch("touch-ttl", Some(Duration::from_mins(1))).await.unwrap().expire_time;
    let now = threads.peek("touch-ttl").await.unwrap();
    assert_eq!((now.ttl, now.etag.as_str()), (Some(wire(Duration::from_mins(1))), made.etag.as_str()));
    assert!(millis(expire_time) < millis(made.expire_time));
    assert!(millis(expire_time) >= millis(made.create_time) + 60_000);
    let after = threads.append("touch-ttl", numbered(1, 1)).await.thread.unwrap();
    assert_eq!(millis(after.expire_time), millis(after.update_time) + 60_000);
    let request = TouchThreadRequest { thread_id: "touch-ttl".into(), ttl: Some(wire(Duration::ZERO)) };
    let outcome = threads.client.clone().touch_thread(request).await;
    assert_eq!(violated(&assert_refused(outcome, Code::InvalidArgument, "INVALID_FIELDS")), ["ttl"]);
}

async fn reads_renew_unless_they_peek(on: &Deployment) {
    use fusewire::grpc::proto::{GetContextRequest, ListMessagesRequest};
    let threads = on.threads();
    let made = threads.create("reads").await;
    let last = millis(made.expire_time);
    let get = async || millis(threads.get("reads").await.unwrap().expire_time);
    renews("get renews", last, get).await;
    let id = || "reads".to_owned();
    let last = get().await;
    renews("list messages renews", last, async || {
        let request = ListMessagesRequest { thread_id: id(), ..Default::default() };
        millis(threads.page(request).await.unwrap().thread.unwrap().expire_time)
    })
    .await;
    let last = get().await;
    renews("get context renews", last, async || {
        let request = GetContextRequest { thread_id: id(), ..Default::default() };
        let context = threads.client.clone().get_context(request).await.unwrap().into_inner();
        millis(context.thread.unwrap().expire_time)
    })
    .await;

    // While another thread is renewed, the clock moves on for sure.
    let last = get().await;
    let other = threads.create("reads-other").await;
    renews("time passes", millis(other.expire_time) + 20, async || {
        millis(threads.get("reads-other").await.unwrap().expire_time)
    })
    .await;
    let peeks = [
        threads.peek("reads").await.unwrap(),
        threads.context("reads", 0, 0).await.thread.unwrap(),
        threads.page(listing("reads")).await.unwrap().thread.unwrap(),
    ];
    for peek in peeks {
        assert!(millis(peek.expire_time) <= last, "a peek does not renew");
    }
}

async fn every_answer_says_where_it_came_from(on: &Deployment) {
    let threads = on.threads();
    let shared = on.store != Store::Memory;
    let expected = i32::from(if shared { Authority::Shared } else { Authority::Local });
    assert_eq!(threads.try_create(thread("authority")).await.unwrap().authority, expected);
    assert_eq!(threads.append("authority", numbered(1, 1)).await.authority, expected);
    assert_eq!(threads.touch("authority", None).await.unwrap().authority, expected);
    let request =
        GetThreadRequest { thread_id: "authority".into(), require_shared: true, ..Default::default() };
    let outcome = threads.client.clone().get_thread(request).await;
    if shared {
        assert_eq!(outcome.unwrap().into_inner().as_of, None);
    } else {
        let status = outcome.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "REDIS_UNREACHABLE"));
        assert!(status.get_details_retry_info().is_some());
    }
}
