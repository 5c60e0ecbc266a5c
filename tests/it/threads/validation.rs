//! Bad values: each is told with the path of its field, and nothing is written; the largest good ones pass.

use std::{collections::BTreeMap, future::Future};

use fusewire::grpc::proto::{
    AppendMessagesRequest, ConversationThread, CreateThreadRequest, DeleteThreadRequest, ForkThreadRequest,
    GetContextRequest, ListMessagesRequest, Media, Message, Opaque, Part, Reasoning, ToolCall, ToolResult,
    TrimPolicy, TruncateThreadRequest, UpdateMessageRequest, UpdateThreadRequest, media::Source, part::Kind,
};
use prost_types::{Duration, Timestamp};
use tonic::{Code, Status};

use crate::support::{
    deployment::{Deployment, on_every_store},
    threads::{
        appending, assert_refused, changing, cut_after, forking, keep_last, listing, mask, message, numbered,
        part, revising, thread, user, violated,
    },
};

on_every_store!(
    every_bad_field_of_a_message_is_told,
    every_bad_field_of_a_creation_is_told,
    every_bad_field_of_an_update_is_told,
    every_bad_field_of_other_requests_is_told,
    all_violations_of_a_request_are_told_up_to_32,
    batches_have_limits,
    a_request_of_5_mib_is_refused_by_us,
    the_largest_values_are_accepted,
);

const LONG: usize = 101;

fn x(length: usize) -> String {
    "x".repeat(length)
}

fn pairs(count: usize, key: impl Fn(usize) -> String, value: &str) -> BTreeMap<String, String> {
    (0..count).map(|n| (key(n), value.to_owned())).collect()
}

async fn refused<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Status>>, fields: &[&str]) {
    let status = assert_refused(call.await, Code::InvalidArgument, "INVALID_FIELDS");
    assert_eq!(violated(&status), fields);
    let details = tonic_types::StatusExt::get_details_bad_request(&status).unwrap();
    assert!(details.field_violations.iter().all(|violation| !violation.description.is_empty()));
}

fn of(kind: Kind) -> Message {
    Message { parts: vec![part(kind)], ..user("p", "") }
}

fn bad_messages() -> Vec<(Message, &'static str)> {
    let base = || user("bad", "x");
    let time = |seconds, nanos| Message { create_time: Some(Timestamp { seconds, nanos }), ..base() };
    let labels = |labels| Message { labels, ..base() };
    let extra = |extra| Message { extra, ..base() };
    let in_result =
        |inner: Part| of(Kind::ToolResult(ToolResult { parts: vec![inner], ..Default::default() }));
    vec![
        (Message { id: x(LONG), ..base() }, "id"),
        (Message { id: "two words".into(), ..base() }, "id"),
        (Message { id: "{brace}".into(), ..base() }, "id"),
        (Message { id: "ü".into(), ..base() }, "id"),
        (Message { role: 0, ..base() }, "role"),
        (Message { role: 6, ..base() }, "role"),
        (Message { role: -1, ..base() }, "role"),
        (Message { name: x(129), ..base() }, "name"),
        (Message { status: 4, ..base() }, "status"),
        (Message { status: -1, ..base() }, "status"),
        (Message { token_count: -1, ..base() }, "token_count"),
        (Message { model: x(257), ..base() }, "model"),
        (Message { turn_id: x(129), ..base() }, "turn_id"),
        (Message { finish_reason: x(65), ..base() }, "finish_reason"),
        (labels(pairs(17, |n| format!("{n}"), "")), "labels"),
        (labels(pairs(1, |_| String::new(), "")), "labels[\"\"]"),
        (labels(pairs(1, |_| "k".into(), &x(513))), "labels[\"k\"]"),
        (labels(pairs(1, |_| "a\"b".into(), &x(513))), "labels[\"a\\\"b\"]"),
        (time(-62_135_596_801, 0), "create_time"),
        (time(253_402_300_800, 0), "create_time"),
        (time(0, -1), "create_time"),
        (time(0, 1_000_000_000), "create_time"),
        (extra(pairs(9, |n| format!("{n}"), "")), "extra"),
        (extra(pairs(1, |_| String::new(), "")), "extra[\"\"]"),
        (Message { parts: vec![part(Kind::Text(String::new())), Part::default()], ..base() }, "parts[1]"),
        (
            Message {
                parts: vec![Part { extra: pairs(9, |n| format!("{n}"), ""), ..part(Kind::Text("x".into())) }],
                ..base()
            },
            "parts[0].extra",
        ),
        (of(Kind::Media(Media { mime_type: "a/b".into(), ..Default::default() })), "parts[0].media"),
        (
            of(Kind::Media(Media { source: Some(Source::Data(vec![1].into())), ..Default::default() })),
            "parts[0].media.mime_type",
        ),
        (
            of(Kind::Opaque(Opaque { data: vec![1].into(), ..Default::default() })),
            "parts[0].opaque.mime_type",
        ),
        (
            of(Kind::ToolResult(ToolResult {
                text: "x".into(),
                parts: vec![part(Kind::Text("x".into()))],
                ..Default::default()
            })),
            "parts[0].tool_result",
        ),
        (in_result(part(Kind::Reasoning(Reasoning::default()))), "parts[0].tool_result.parts[0]"),
        (in_result(part(Kind::ToolCall(ToolCall::default()))), "parts[0].tool_result.parts[0]"),
        (in_result(part(Kind::ToolResult(ToolResult::default()))), "parts[0].tool_result.parts[0]"),
        (in_result(Part::default()), "parts[0].tool_result.parts[0]"),
        (in_result(part(Kind::Media(Media::default()))), "parts[0].tool_result.parts[0].media"),
        (user("bad", &x(2 << 20)), ""),
    ]
}

fn at(prefix: &str, field: &str) -> String {
    if field.is_empty() { prefix.to_owned() } else { format!("{prefix}.{field}") }
}

async fn every_bad_field_of_a_message_is_told(on: &Deployment) {
    let threads = on.threads();
    let before = threads.create("messages").await;
    for (bad, field) in bad_messages() {
        let batch = vec![user("good", "x"), user("good-too", "x"), bad.clone()];
        refused(threads.try_append(appending("messages", batch)), &[&at("messages[2]", field)]).await;
        let request = CreateThreadRequest {
            thread: Some(thread("messages-new")),
            messages: vec![bad],
            ..Default::default()
        };
        refused(threads.client.clone().create_thread(request), &[&at("messages[0]", field)]).await;
    }
    assert_eq!(threads.peek("messages").await.unwrap().etag, before.etag, "nothing was written");
    assert_refused(threads.peek("messages-new").await, Code::NotFound, "THREAD_NOT_FOUND");
}

fn bad_ttls() -> [Option<Duration>; 7] {
    [(0, 0), (-1, 0), (0, 999_000_000), (31_536_000, 1), (i64::MAX, 0), (5, -1), (5, 1_000_000_000)]
        .map(|(seconds, nanos)| Some(Duration { seconds, nanos }))
}

fn trimming(max_messages: i32, max_bytes: i64) -> ConversationThread {
    ConversationThread { trim: Some(TrimPolicy { max_messages, max_bytes }), ..Default::default() }
}

fn bad_profiles() -> Vec<(ConversationThread, &'static str, &'static str)> {
    let labels = |labels| ConversationThread { labels, ..Default::default() };
    let mut bad = vec![
        (ConversationThread { title: x(513), ..Default::default() }, "title", "thread.title"),
        (labels(pairs(17, |n| format!("{n}"), "")), "labels", "thread.labels"),
        (
            labels(pairs(1, |_| x(65), "")),
            "labels",
            "thread.labels[\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…\"]",
        ),
        (labels(pairs(1, |_| "k".into(), &x(513))), "labels", "thread.labels[\"k\"]"),
        (trimming(-1, 0), "trim", "thread.trim.max_messages"),
        (trimming(0, i64::MIN), "trim", "thread.trim.max_bytes"),
    ];
    bad.extend(bad_ttls().map(|ttl| (ConversationThread { ttl, ..Default::default() }, "ttl", "thread.ttl")));
    bad
}

async fn every_bad_field_of_a_creation_is_told(on: &Deployment) {
    let threads = on.threads();
    for (bad, _, field) in bad_profiles() {
        refused(threads.try_create(ConversationThread { id: "create".into(), ..bad }), &[field]).await;
    }
    for bad in [&x(LONG), "two words", "a{b}", "a\n", "ü", "a*b"] {
        refused(threads.try_create(thread(bad)), &["thread.id"]).await;
        let owned = ConversationThread { owner: bad.into(), ..thread("create") };
        refused(threads.try_create(owned), &["thread.owner"]).await;
        let request = CreateThreadRequest {
            thread: Some(thread("create")),
            request_id: bad.into(),
            ..Default::default()
        };
        refused(threads.client.clone().create_thread(request), &["request_id"]).await;
        let request = AppendMessagesRequest {
            owner: bad.into(),
            request_id: bad.into(),
            create_if_missing: true,
            ..appending(bad, numbered(1, 1))
        };
        refused(threads.try_append(request), &["thread_id", "owner", "request_id"]).await;
    }
    assert_refused(threads.peek("create").await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn every_bad_field_of_an_update_is_told(on: &Deployment) {
    let threads = on.threads();
    threads.create("update").await;
    let before = threads.append("update", numbered(1, 1)).await.thread.unwrap();
    for (bad, path, field) in bad_profiles() {
        let request = changing(ConversationThread { id: "update".into(), ..bad.clone() }, &[path]);
        refused(threads.update(request), &[field]).await;
        let unmasked = if path == "title" { "pinned" } else { "title" };
        let bad = ConversationThread { id: "update-none".into(), ..bad };
        assert_refused(threads.update(changing(bad, &[unmasked])).await, Code::NotFound, "THREAD_NOT_FOUND");
    }
    let masked = |update_mask| UpdateThreadRequest { update_mask, ..changing(thread("update"), &[]) };
    refused(threads.update(masked(None)), &["update_mask"]).await;
    refused(threads.update(masked(Some(mask(&[])))), &["update_mask"]).await;
    let paths = Some(mask(&["title", "owner", "*", "", "trim.max_bytes"]));
    let fields =
        ["update_mask.paths[1]", "update_mask.paths[2]", "update_mask.paths[3]", "update_mask.paths[4]"];
    refused(threads.update(masked(paths)), &fields).await;
    refused(
        threads.update(UpdateThreadRequest { thread: None, ..masked(Some(mask(&["title"]))) }),
        &["thread.id"],
    )
    .await;

    let masked =
        |update_mask| UpdateMessageRequest { update_mask, ..revising("update", user("m1", "x"), &[]) };
    refused(threads.update_message(masked(None)), &["update_mask"]).await;
    refused(
        threads.update_message(masked(Some(mask(&["role", "id", "parts[0]"])))),
        &["update_mask.paths[0]", "update_mask.paths[1]", "update_mask.paths[2]"],
    )
    .await;
    let bad = Message {
        status: 9,
        token_count: -1,
        model: x(257),
        finish_reason: x(65),
        labels: pairs(17, |n| format!("{n}"), ""),
        extra: pairs(9, |n| format!("{n}"), ""),
        parts: vec![Part::default()],
        ..user("m1", "")
    };
    let paths = ["status", "token_count", "model", "finish_reason", "labels", "extra"];
    for path in paths {
        let request = revising("update", bad.clone(), &[path]);
        refused(threads.update_message(request), &[&at("message", path)]).await;
    }
    refused(threads.update_message(revising("update", bad, &["parts"])), &["message.parts[0]"]).await;
    refused(threads.update_message(revising("update", user("", "x"), &["parts"])), &["message.id"]).await;
    assert_eq!(threads.peek("update").await.unwrap().etag, before.etag, "nothing was written");
}

async fn every_bad_field_of_other_requests_is_told(on: &Deployment) {
    let threads = on.threads();
    threads.create("others").await;
    let before = threads.append("others", numbered(1, 3)).await.thread.unwrap();
    let client = || threads.client.clone();
    for bad in ["", "two words", "{}", &x(129)] {
        refused(threads.peek(bad), &["thread_id"]).await;
        refused(threads.delete(bad), &["thread_id"]).await;
        refused(threads.touch(bad, None), &["thread_id"]).await;
        refused(threads.try_append(appending(bad, numbered(1, 1))), &["thread_id"]).await;
        refused(threads.page(listing(bad)), &["thread_id"]).await;
        refused(threads.truncate(cut_after(bad, 0)), &["thread_id"]).await;
        refused(threads.fork(forking(bad, "others-copy")), &["thread_id"]).await;
        refused(threads.update_message(revising(bad, user("m1", "x"), &["parts"])), &["thread_id"]).await;
        let request = GetContextRequest { thread_id: bad.into(), ..Default::default() };
        refused(client().get_context(request), &["thread_id"]).await;
    }
    // 101 to 128 characters may exist: ids of ours are longer.
    assert_refused(threads.peek(&x(128)).await, Code::NotFound, "THREAD_NOT_FOUND");
    for ttl in bad_ttls() {
        let request = fusewire::grpc::proto::TouchThreadRequest { thread_id: "others".into(), ttl };
        refused(client().touch_thread(request), &["ttl"]).await;
    }
    let request =
        ListMessagesRequest { after_seq: -1, before_seq: i64::MIN, page_size: -1, ..listing("others") };
    refused(threads.page(request), &["after_seq", "before_seq", "page_size"]).await;
    let request = GetContextRequest {
        thread_id: "others".into(),
        max_messages: -1,
        max_tokens: -1,
        ..Default::default()
    };
    refused(client().get_context(request), &["max_messages", "max_tokens"]).await;
    refused(threads.truncate(cut_after("others", -1)), &["after_seq"]).await;
    refused(threads.truncate(keep_last("others", -1)), &["keep_last"]).await;
    refused(threads.truncate(TruncateThreadRequest { cut: None, ..cut_after("others", 0) }), &["cut"]).await;
    refused(threads.fork(ForkThreadRequest { at_seq: -1, ..forking("others", "x") }), &["at_seq"]).await;
    for bad in [&x(LONG), "two words"] {
        refused(threads.fork(forking("others", bad)), &["new_thread_id"]).await;
        let request_id = || bad.to_owned();
        let request = ForkThreadRequest { request_id: request_id(), ..forking("others", "others-copy") };
        refused(threads.fork(request), &["request_id"]).await;
        let request = TruncateThreadRequest { request_id: request_id(), ..cut_after("others", 0) };
        refused(threads.truncate(request), &["request_id"]).await;
        let request = DeleteThreadRequest {
            thread_id: "others".into(),
            request_id: request_id(),
            ..Default::default()
        };
        refused(client().delete_thread(request), &["request_id"]).await;
    }
    refused(threads.try_append(appending("others", Vec::new())), &["messages"]).await;
    assert_eq!(threads.peek("others").await.unwrap().etag, before.etag, "nothing was written");
    assert_refused(threads.peek("others-copy").await, Code::NotFound, "THREAD_NOT_FOUND");
}

async fn all_violations_of_a_request_are_told_up_to_32(on: &Deployment) {
    let threads = on.threads();
    for (count, told) in [(31, 31), (32, 32), (33, 32), (100, 32)] {
        let bad: Vec<Message> =
            (0..count).map(|n| Message { role: 0, ..user(&format!("b{n}"), "x") }).collect();
        let expected: Vec<String> = (0..told).map(|n| format!("messages[{n}].role")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        refused(threads.try_append(appending("many", bad)), &expected).await;
    }
}

async fn batches_have_limits(on: &Deployment) {
    let threads = on.threads();
    let before = threads.create("batch").await;
    refused(threads.try_append(appending("batch", numbered(1, 101))), &["messages"]).await;
    let heavy = |count: usize, length: usize| -> Vec<Message> {
        (0..count).map(|n| user(&format!("h{n}"), &x(length))).collect()
    };
    refused(threads.try_append(appending("batch", heavy(4, 800 << 10))), &["messages"]).await;
    assert_eq!(threads.peek("batch").await.unwrap().etag, before.etag);
    threads.append("batch", heavy(3, (1 << 20) - 100)).await;
    threads.append("batch", numbered(1, 100)).await;
    threads.append("batch", vec![user("large", &x((2 << 20) - 100))]).await;
    assert_eq!(threads.recount("batch").await.len(), 104);
}

async fn a_request_of_5_mib_is_refused_by_us(on: &Deployment) {
    let threads = on.threads();
    threads.create("heavy").await;
    let one = appending("heavy", vec![user("one", &x(5 << 20))]);
    refused(threads.try_append(one), &["messages[0]", "messages"]).await;
    let many = (0..5).map(|n| user(&format!("m{n}"), &x(1 << 20))).collect();
    refused(threads.try_append(appending("heavy", many)), &["messages"]).await;
    // Beyond what is decoded at all it is still ours to say so.
    let status = threads.try_append(appending("heavy", vec![user("one", &x(9 << 20))])).await.unwrap_err();
    assert_eq!((status.code(), violated(&status)), (Code::InvalidArgument, vec!["request".to_owned()]));
    assert_eq!(threads.recount("heavy").await, []);
}

async fn the_largest_values_are_accepted(on: &Deployment) {
    let threads = on.threads();
    let largest = ConversationThread {
        owner: x(100),
        title: x(512),
        labels: pairs(16, |n| format!("{n:064}"), &x(512)),
        ttl: Some(Duration { seconds: 31_536_000, nanos: 0 }),
        trim: Some(TrimPolicy { max_messages: i32::MAX, max_bytes: i64::MAX }),
        ..thread(&x(100))
    };
    let made = threads.try_create(largest.clone()).await.unwrap().thread.unwrap();
    assert_eq!(
        (made.title, made.labels, made.ttl, made.trim),
        (largest.title, largest.labels, largest.ttl, largest.trim)
    );
    let least = ConversationThread { ttl: Some(Duration { seconds: 1, nanos: 0 }), ..thread("least") };
    threads.try_create(least).await.unwrap();
    let sent = Message {
        name: x(128),
        token_count: i32::MAX,
        model: x(256),
        turn_id: x(128),
        finish_reason: x(64),
        labels: pairs(16, |n| format!("{n:064}"), &x(512)),
        extra: pairs(8, |n| format!("{n:064}"), &x(10_000)),
        create_time: Some(Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 }),
        status: 3,
        ..message(&x(100), fusewire::grpc::proto::Role::Tool, "")
    };
    let request = AppendMessagesRequest {
        request_id: x(100),
        ..appending(&x(100), vec![sent.clone(), user("", "derived")])
    };
    let appended = threads.try_append(request).await.unwrap();
    assert_eq!(appended.messages[1].id, format!("{}~1", x(100)));
    let read = threads.recount(&x(100)).await.remove(0);
    assert_eq!(Message { seq: 0, commit_time: None, ..read }, sent);
    // Ids of ours are longer than callers' and can be named.
    let derived = revising(&x(100), user(&appended.messages[1].id, "new"), &["parts"]);
    threads.update_message(derived).await.unwrap();
}
