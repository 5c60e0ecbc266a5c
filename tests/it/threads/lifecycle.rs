//! Creating, changing, renewing and deleting threads, each safe to repeat.

use std::time::Duration;

use fusewire::grpc::proto::{
    Authority, ConversationThread, CreateThreadRequest, DeleteThreadRequest, GetThreadRequest, ThreadParent,
    TouchThreadRequest, TrimPolicy, UpdateThreadRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    deployment::{Deployment, Store, on_every_store},
    eventually::eventually,
    threads::{
        Threads, appending, assert_refused, changing, ids, millis, numbered, reason, thread, told, user,
        violated, wire,
    },
};

on_every_store!(
    a_thread_created_with_everything_set_comes_back,
    a_thread_created_with_nothing_set_has_the_defaults,
    creating_twice_is_refused,
    a_repeated_creation_answers_the_present_state,
    an_absent_id_is_derived_from_owner_and_request,
    masked_fields_change_and_others_stay,
    an_update_is_a_compare_and_set_if_it_names_an_etag,
    a_repeated_update_changes_nothing_and_is_checked_before_the_etag,
    the_last_16_requests_are_remembered,
    a_deleted_thread_is_gone,
    a_deletion_is_a_compare_and_set_if_it_names_an_etag,
    a_late_retry_of_a_deletion_leaves_what_came_after,
    a_touch_renews_and_keeps_the_revision,
    a_touch_with_a_ttl_gives_a_new_one,
    reads_renew_unless_they_peek,
    every_answer_says_where_it_came_from,
);

fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn delete(threads: &Threads, id: &str, etag: &str, request: &str) -> Result<(), Status> {
    let request = DeleteThreadRequest {
        thread_id: id.into(),
        etag: etag.into(),
        request_id: request.into(),
        ..Default::default()
    };
    threads.client.clone().delete_thread(request).await.map(drop)
}

async fn a_thread_created_with_everything_set_comes_back(on: &Deployment) {
    let threads = on.threads();
    let asked = ConversationThread {
        id: "everything.~:@/+=-_".into(),
        owner: "ada@example.org".into(),
        title: "Füße & \"Hände\" 😀".into(),
        labels: labels(&[("a", ""), ("b c", "{\"x\":[]}"), ("ü", "\0")]),
        ttl: Some(prost_types::Duration { seconds: 90, nanos: 500_000_000 }),
        pinned: true,
        trim: Some(TrimPolicy { max_messages: 7, max_bytes: 1 << 20 }),
        ..Default::default()
    };
    // What the server alone decides is ignored.
    let request = ConversationThread {
        etag: "\"mine-1\"".into(),
        revision: 99,
        message_count: 5,
        first_seq: 3,
        last_seq: 8,
        token_count: 9,
        size_bytes: 10,
        parent: Some(ThreadParent { thread_id: "x".into(), seq: 1 }),
        create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        update_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        expire_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..asked.clone()
    };
    let request = CreateThreadRequest {
        thread: Some(request),
        messages: numbered(1, 3),
        request_id: "everything".into(),
        ..Default::default()
    };
    let made = threads.client.clone().create_thread(request).await.unwrap().into_inner();
    assert_eq!(
        made.messages.iter().map(|m| (m.seq, m.duplicate)).collect::<Vec<_>>(),
        [(1, false), (2, false), (3, false)]
    );
    let made = made.thread.unwrap();
    let expected = ConversationThread {
        etag: made.etag.clone(),
        revision: 1,
        message_count: 3,
        first_seq: 1,
        last_seq: 3,
        token_count: 6,
        size_bytes: made.size_bytes,
        create_time: made.update_time,
        update_time: made.update_time,
        ..asked
    };
    assert_eq!(made, expected);
    assert_eq!(threads.peek(&made.id).await.unwrap(), made);
    assert_eq!(ids(&threads.recount(&made.id).await), ["m1", "m2", "m3"]);
}

async fn a_thread_created_with_nothing_set_has_the_defaults(on: &Deployment) {
    let made = on.threads().create("defaults").await;
    assert_eq!(made.ttl, Some(wire(Duration::from_secs(7200))));
    assert_eq!((made.owner.as_str(), made.title.as_str(), made.pinned, made.trim), ("", "", false, None));
    assert_eq!(millis(made.expire_time), millis(made.create_time) + 7_200_000);
    assert!(made.etag.starts_with('"') && made.etag.ends_with('"'), "{}", made.etag);
}

async fn creating_twice_is_refused(on: &Deployment) {
    let threads = on.threads();
    let made = threads.create("twice").await;
    let again = ConversationThread { title: "other".into(), ..thread("twice") };
    assert_refused(threads.try_create(again).await, Code::AlreadyExists, "THREAD_EXISTS");
    assert_eq!(threads.peek("twice").await.unwrap().etag, made.etag);
}

async fn a_repeated_creation_answers_the_present_state(on: &Deployment) {
    let threads = on.threads();
    let request = CreateThreadRequest {
        thread: Some(thread("repeated")),
        messages: vec![user("a", "1"), user("", "2")],
        request_id: "create-1".into(),
        ..Default::default()
    };
    let create = async |request: CreateThreadRequest| {
        Ok(threads.client.clone().create_thread(request).await?.into_inner())
    };
    let first = create(request.clone()).await.unwrap();
    let now = threads.append("repeated", vec![user("b", "3")]).await.thread.unwrap();
    let again = create(request.clone()).await.unwrap();
    assert_eq!(
        again.messages.iter().map(|m| (m.id.as_str(), m.seq, m.duplicate)).collect::<Vec<_>>(),
        first.messages.iter().map(|m| (m.id.as_str(), m.seq, true)).collect::<Vec<_>>()
    );
    let thread = again.thread.unwrap();
    assert_eq!((thread.etag, thread.last_seq, thread.message_count), (now.etag, 3, 3));
    let other = CreateThreadRequest { request_id: "create-2".into(), ..request.clone() };
    assert_refused::<()>(create(other).await.map(drop), Code::AlreadyExists, "THREAD_EXISTS");
    let changed = CreateThreadRequest { messages: vec![user("a", "changed")], ..request };
    let status: Status = create(changed).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::AlreadyExists, "MESSAGE_ID_REUSED"));
    assert_eq!(threads.recount("repeated").await.len(), 3);
}

async fn an_absent_id_is_derived_from_owner_and_request(on: &Deployment) {
    let threads = on.threads();
    let create = async |owner: &str, request_id: &str| {
        let thread = ConversationThread { owner: owner.into(), ..Default::default() };
        let request =
            CreateThreadRequest { thread: Some(thread), request_id: request_id.into(), ..Default::default() };
        threads.client.clone().create_thread(request).await.unwrap().into_inner().thread.unwrap()
    };
    let first = create("derived", "d-1").await;
    let again = create("derived", "d-1").await;
    assert_eq!((&first.id, &first.etag), (&again.id, &again.etag));
    let others = [
        create("derived", "d-2").await,
        create("derived-other", "d-1").await,
        create("", "d-1").await,
        create("derived", "").await,
        create("derived", "").await,
    ];
    for (n, other) in others.iter().enumerate() {
        assert_ne!(other.id, first.id);
        assert!(others[..n].iter().all(|before| before.id != other.id));
    }
    assert_eq!(threads.owned("derived", 0).await.len(), 4);
}

async fn masked_fields_change_and_others_stay(on: &Deployment) {
    let threads = on.threads();
    let full = |id: &str| ConversationThread {
        title: "title".into(),
        labels: labels(&[("a", "1"), ("b", "2")]),
        ttl: Some(wire(Duration::from_secs(60))),
        pinned: true,
        trim: Some(TrimPolicy { max_messages: 5, max_bytes: 6 }),
        ..thread(id)
    };
    let other = |id: &str| ConversationThread {
        title: "other".into(),
        labels: labels(&[("c", "3")]),
        ttl: Some(wire(Duration::from_secs(61))),
        pinned: false,
        trim: Some(TrimPolicy { max_messages: 0, max_bytes: 9 }),
        // Not the caller's to say.
        owner: "someone".into(),
        etag: "\"ignored-1\"".into(),
        last_seq: 9,
        ..thread(id)
    };
    let own = |thread: &ConversationThread| {
        let ConversationThread { title, labels, ttl, pinned, trim, .. } = thread.clone();
        ConversationThread { title, labels, ttl, pinned, trim, ..Default::default() }
    };
    for paths in
        [&["title"][..], &["labels"], &["ttl"], &["pinned"], &["trim"], &["trim", "title", "labels", "title"]]
    {
        let id = &format!("masked-{}", paths.join("-"));
        let before = threads.try_create(full(id)).await.unwrap().thread.unwrap();
        let after = threads.update(changing(other(id), paths)).await.unwrap();
        let mut expected = own(&full(""));
        for path in paths {
            match *path {
                "title" => expected.title = other("").title,
                "labels" => expected.labels = other("").labels,
                "ttl" => expected.ttl = other("").ttl,
                "pinned" => expected.pinned = false,
                _ => expected.trim = other("").trim,
            }
        }
        assert_eq!(own(&after), expected, "{id}");
        assert_eq!((after.revision, after.owner.as_str(), after.last_seq), (2, "", 0));
        assert_ne!(after.etag, before.etag);
        assert_eq!(after.expire_time.is_none(), after.pinned);
        assert_eq!(own(&threads.peek(id).await.unwrap()), expected);
        // Masked and absent is cleared.
        let cleared = threads.update(changing(thread(id), &["title", "labels", "trim"])).await.unwrap();
        assert_eq!((cleared.title.as_str(), cleared.labels.len(), cleared.trim), ("", 0, None));
    }
    let missing = threads.update(changing(thread("masked-not-there"), &["title"])).await;
    assert_refused(missing, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn an_update_is_a_compare_and_set_if_it_names_an_etag(on: &Deployment) {
    let threads = on.threads();
    let stale = threads.create("update-etag").await.etag;
    let titled = |title: &str, etag: &str| UpdateThreadRequest {
        etag: etag.into(),
        ..changing(ConversationThread { title: title.into(), ..thread("update-etag") }, &["title"])
    };
    let current = threads.update(titled("one", &stale)).await.unwrap().etag;
    let status = assert_refused(threads.update(titled("two", &stale)).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(told(&status, "etag"), current);
    assert_refused(threads.update(titled("two", "never issued")).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(threads.peek("update-etag").await.unwrap().title, "one");
    assert_eq!(threads.update(titled("two", &current)).await.unwrap().title, "two");
}

async fn a_repeated_update_changes_nothing_and_is_checked_before_the_etag(on: &Deployment) {
    let threads = on.threads();
    let etag = threads.create("update-twice").await.etag;
    let titled = |title: &str| ConversationThread { title: title.into(), ..thread("update-twice") };
    let request =
        UpdateThreadRequest { etag, request_id: "u-1".into(), ..changing(titled("one"), &["title"]) };
    threads.update(request.clone()).await.unwrap();
    let now = threads.update(changing(titled("two"), &["title"])).await.unwrap();
    let again = threads.update(request).await.unwrap();
    assert_eq!((again.title.as_str(), again.revision, again.etag), ("two", now.revision, now.etag));
}

async fn the_last_16_requests_are_remembered(on: &Deployment) {
    let threads = on.threads();
    threads.create("sixteen").await;
    let update = async |n: i32| {
        let titled = ConversationThread { title: format!("{n}"), ..thread("sixteen") };
        let request = UpdateThreadRequest { request_id: format!("s-{n}"), ..changing(titled, &["title"]) };
        threads.update(request).await.unwrap()
    };
    for n in 0..16 {
        update(n).await;
    }
    for n in 0..16 {
        assert_eq!(update(n).await.title, "15", "{n} is remembered");
    }
}

async fn a_deleted_thread_is_gone(on: &Deployment) {
    let threads = on.threads();
    threads.create("deleted").await;
    threads.fill("deleted", 1, 5).await;
    threads.delete("deleted").await.unwrap();
    let status = assert_refused(threads.peek("deleted").await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "deleted");
    assert_refused(
        threads.try_append(appending("deleted", numbered(6, 6))).await,
        Code::NotFound,
        "THREAD_NOT_FOUND",
    );
    assert_refused(threads.touch("deleted", None).await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_refused(threads.delete("deleted").await, Code::NotFound, "THREAD_NOT_FOUND");
    assert_refused(threads.delete("never-there").await, Code::NotFound, "THREAD_NOT_FOUND");
    for id in ["deleted", "never-there"] {
        let request = DeleteThreadRequest { thread_id: id.into(), allow_missing: true, ..Default::default() };
        threads.client.clone().delete_thread(request).await.unwrap();
    }
    let again = threads.create("deleted").await;
    assert_eq!((again.revision, again.message_count, again.last_seq), (1, 0, 0));
    assert!(
        !threads.append("deleted", numbered(1, 1)).await.messages[0].duplicate,
        "nothing is left of the old"
    );
}

async fn a_deletion_is_a_compare_and_set_if_it_names_an_etag(on: &Deployment) {
    let threads = on.threads();
    let stale = threads.create("delete-etag").await.etag;
    let current = threads.append("delete-etag", numbered(1, 1)).await.thread.unwrap().etag;
    let status =
        assert_refused(delete(&threads, "delete-etag", &stale, "").await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(told(&status, "etag"), current);
    delete(&threads, "delete-etag", &current, "").await.unwrap();
    assert_refused(delete(&threads, "delete-etag", &current, "").await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn a_late_retry_of_a_deletion_leaves_what_came_after(on: &Deployment) {
    let threads = on.threads();
    let first = threads.create("late").await.etag;
    delete(&threads, "late", &first, "d-1").await.unwrap();
    delete(&threads, "late", &first, "d-1").await.unwrap();
    let second = threads.create("late").await.etag;
    delete(&threads, "late", &first, "d-1").await.unwrap();
    assert_eq!(threads.peek("late").await.unwrap().etag, second);
    delete(&threads, "late", "", "d-2").await.unwrap();
    let third = threads.create("late").await.etag;
    for request in ["d-1", "d-2"] {
        delete(&threads, "late", "", request).await.unwrap();
        assert_eq!(threads.peek("late").await.unwrap().etag, third, "the retry of {request}");
    }
}

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
    let expire_time = threads.touch("touch-ttl", Some(Duration::from_secs(60))).await.unwrap().expire_time;
    let now = threads.peek("touch-ttl").await.unwrap();
    assert_eq!((now.ttl, now.etag.as_str()), (Some(wire(Duration::from_secs(60))), made.etag.as_str()));
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
        threads.page(crate::support::threads::listing("reads")).await.unwrap().thread.unwrap(),
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
