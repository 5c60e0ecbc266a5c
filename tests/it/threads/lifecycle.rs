//! Creating, changing and deleting threads, each safe to repeat.

use std::time::Duration;

use fusewire::grpc::proto::{
    ConversationThread, CreateThreadRequest, DeleteThreadRequest, ThreadParent, TrimPolicy,
    UpdateThreadRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{
        Threads, appending, assert_refused, changing, ids, millis, numbered, reason, thread, told, user, wire,
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
    assert_eq!(made.ttl, Some(wire(Duration::from_hours(2))));
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
        ttl: Some(wire(Duration::from_mins(1))),
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
